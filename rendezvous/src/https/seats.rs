//! How many may be connected, in all and of one source; and which loopback address stands for whom.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Places for connections of one kind.
#[derive(Clone, Debug)]
pub(super) struct Seats {
    all: usize,
    of_source: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_source: BTreeMap<u128, usize>,
}

/// One place, until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    source: u128,
    taken: Arc<Mutex<Taken>>,
}

impl Seats {
    /// So many in all, and so many of one IPv4 address or IPv6 /64.
    pub(super) fn new(all: usize, of_source: usize) -> Self {
        Self {
            all,
            of_source,
            taken: Arc::default(),
        }
    }

    /// A place for `source`, if there is one.
    pub(super) fn take(&self, source: IpAddr) -> Option<Seat> {
        let source = network(source);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let of_source = taken.by_source.get(&source).copied().unwrap_or(0);
        if taken.all >= self.all || of_source >= self.of_source {
            return None;
        }
        taken.all += 1;
        taken.by_source.insert(source, of_source + 1);
        let taken = Arc::clone(&self.taken);
        Some(Seat { source, taken })
    }

    /// How many are taken.
    pub(super) fn taken(&self) -> usize {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        if let Some(count) = taken.by_source.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                taken.by_source.remove(&self.source);
            }
        }
    }
}

/// Loopback addresses for sources: the rendezvous shares out what it has by source, and sees only the carrier's socket.
#[derive(Clone, Debug, Default)]
pub(super) struct Masks(RandomState);

impl Masks {
    /// The address that stands for this one: the same for the same source, and nobody outside can tell or choose which.
    pub(super) fn of(&self, source: IpAddr) -> Ipv4Addr {
        let [_, a, b, c, ..] = self.0.hash_one(network(source)).to_be_bytes();
        // 127.0.x.x is where programs of this machine are, and no host ends with 0 or 255.
        Ipv4Addr::new(127, a.clamp(1, 254), b, c.clamp(1, 254))
    }
}

/// Whom an address counts for: an IPv4 address, or the /64 of an IPv6 one, which one host may own whole.
const fn network(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_bits() as u128,
        IpAddr::V6(address) => (address.to_bits() >> 64) | (1 << 64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn nobody_has_more_than_a_share_and_what_is_left_is_free_again() {
        let seats = Seats::new(3, 2);
        let first = seats.take(ip("192.0.2.1")).expect("room");
        let second = seats.take(ip("::ffff:192.0.2.1")).expect("room");
        assert!(seats.take(ip("192.0.2.1")).is_none(), "its share");
        let third = seats.take(ip("2001:db8::1")).expect("room");
        assert!(seats.take(ip("198.51.100.1")).is_none(), "all are taken");
        drop(second);
        assert!(seats.take(ip("192.0.2.1")).is_some());
        drop((first, third));
        assert_eq!(seats.taken(), 0);
        let taken = seats.taken.lock().expect("not poisoned");
        assert!(taken.by_source.is_empty());
    }

    #[test]
    fn a_source_has_one_loopback_address_and_others_have_others() {
        let masks = Masks::default();
        let of = |text| masks.of(ip(text));
        assert_eq!(of("2001:db8::1"), of("2001:db8::2"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        let mut all: Vec<_> = (0..100).map(|n| masks.of([192, 0, 2, n].into())).collect();
        assert!(
            all.iter()
                .all(|mask| mask.is_loopback() && mask.octets()[1] != 0)
        );
        all.sort_unstable();
        all.dedup();
        assert!(all.len() > 95, "{}", all.len());
    }
}
