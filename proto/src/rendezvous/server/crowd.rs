//! How many connections one source has: those that have not registered yet, which are in a hurry, and those that have.
//!
//! ```text
//!   proven address ──▶ half open ──Register──▶ registered
//!                        │ too many of this source, or of all: the oldest of the largest crowd goes
//! ```
//!
//! Without it one host could hold all places for handshakes and for peers. It knows connections by number and sources by
//! network, and never looks into either. There is nothing here of a source that has not proved its address.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::limits::Network;
use crate::rendezvous::quic::Id;

/// The crowds, by network.
#[derive(Default)]
pub(super) struct Crowds {
    half_open: BTreeMap<Network, BTreeSet<(Instant, Id)>>,
    /// The same, by size.
    sizes: BTreeSet<(usize, Network)>,
    total: usize,
    registered: BTreeMap<Network, usize>,
}

impl Crowds {
    /// A connection begins to be half open; it must come to something until `deadline`.
    pub(super) fn enter(&mut self, network: Network, deadline: Instant, id: Id) {
        let crowd = self.half_open.entry(network).or_default();
        let before = crowd.len();
        if crowd.insert((deadline, id)) {
            self.total += 1;
            self.resize(network, before, before + 1);
        }
    }

    /// It is half open no more.
    pub(super) fn leave(&mut self, network: Network, deadline: Instant, id: Id) {
        let Some(crowd) = self.half_open.get_mut(&network) else {
            return;
        };
        let before = crowd.len();
        if crowd.remove(&(deadline, id)) {
            self.total -= 1;
            self.resize(network, before, before - 1);
        }
        if self.half_open.get(&network).is_some_and(BTreeSet::is_empty) {
            self.half_open.remove(&network);
        }
    }

    /// Who has to go after somebody of `network` has come: the oldest of that network when it has more than `per_source`, the
    /// oldest of the largest crowd when all are more than `all`.
    pub(super) fn surplus(&self, network: Network, per_source: usize, all: usize) -> Option<Id> {
        let of_source = self.half_open.get(&network).map_or(0, BTreeSet::len);
        let crowded = if of_source > per_source {
            network
        } else if self.total > all {
            self.sizes.last()?.1
        } else {
            return None;
        };
        let (_, id) = self.half_open.get(&crowded)?.first()?;
        Some(*id)
    }

    /// Counts one more registered peer of a source; `false` when it has `limit` already.
    pub(super) fn register(&mut self, network: Network, limit: usize) -> bool {
        let count = self.registered.entry(network).or_insert(0);
        let room = *count < limit;
        *count += usize::from(room);
        room
    }

    /// A registered peer of a source is one no more.
    pub(super) fn unregister(&mut self, network: Network) {
        if let Some(count) = self.registered.get_mut(&network) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.registered.remove(&network);
            }
        }
    }

    /// Connections that are half open.
    pub(super) const fn half_open(&self) -> usize {
        self.total
    }

    fn resize(&mut self, network: Network, before: usize, after: usize) {
        self.sizes.remove(&(before, network));
        if after > 0 {
            self.sizes.insert((after, network));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::rendezvous::pipe::start;

    fn network(number: u32) -> Network {
        Network::of(Ipv4Addr::from_bits(number).into())
    }

    #[test]
    fn the_oldest_of_the_source_and_then_of_the_largest_crowd_goes() {
        let (now, mut crowds) = (start(), Crowds::default());
        let at = |n: u64| now + Duration::from_secs(n);
        for (id, source) in [(0, 1), (1, 2), (2, 2), (3, 1), (4, 2)] {
            crowds.enter(network(source), at(id), usize::try_from(id).expect("small"));
        }
        assert_eq!(crowds.surplus(network(2), 3, 5), None);
        assert_eq!(crowds.surplus(network(1), 1, 9), Some(0));
        assert_eq!(crowds.surplus(network(1), 3, 4), Some(1));
        crowds.leave(network(2), at(1), 1);
        crowds.leave(network(2), at(1), 1);
        assert_eq!(
            (crowds.half_open(), crowds.surplus(network(3), 3, 3)),
            (4, Some(2))
        );
    }

    #[test]
    fn registrations_of_a_source_are_counted() {
        let mut crowds = Crowds::default();
        let one = network(1);
        assert_eq!(
            [(); 3].map(|()| crowds.register(one, 2)),
            [true, true, false]
        );
        assert!(crowds.register(network(2), 2));
        crowds.unregister(one);
        assert_eq!([(); 2].map(|()| crowds.register(one, 2)), [true, false]);
    }

    proptest! {
        /// Nothing is left of a source that has left.
        #[test]
        fn what_is_kept_is_what_is_there(steps in prop::collection::vec((any::<bool>(), 0u32..4, 0usize..6), 0..100)) {
            let (now, mut crowds) = (start(), Crowds::default());
            let mut model = BTreeSet::new();
            for (enter, source, id) in steps {
                if enter {
                    crowds.enter(network(source), now, id);
                    model.insert((network(source), id));
                } else {
                    crowds.leave(network(source), now, id);
                    model.remove(&(network(source), id));
                }
                let sources: BTreeSet<Network> = model.iter().map(|it| it.0).collect();
                prop_assert_eq!(crowds.half_open(), model.len());
                prop_assert!(crowds.half_open.keys().eq(sources.iter()));
                prop_assert_eq!(crowds.sizes.len(), sources.len());
                for (size, source) in &crowds.sizes {
                    prop_assert_eq!(*size, model.iter().filter(|it| it.0 == *source).count());
                }
            }
        }
    }
}
