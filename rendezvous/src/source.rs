//! From which of our own addresses we answer whom: from the one that was asked.
//!
//! A socket that listens at all addresses lets the system choose the source of what it sends. On a machine with several
//! addresses that may be another than the peer sent to, and neither its NAT nor its QUIC takes such an answer.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

/// Remembers who came in by which address: the latest ones, in two generations, so that old ones fall out by themselves.
#[derive(Default)]
pub(crate) struct Sources {
    young: HashMap<SocketAddr, IpAddr>,
    old: HashMap<SocketAddr, IpAddr>,
}

impl Sources {
    /// `remote` sent to our address `local`.
    pub(crate) fn note(&mut self, remote: SocketAddr, local: IpAddr) {
        if self.young.get(&remote) == Some(&local) {
            return;
        }
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(remote, local);
    }

    /// Our address that `remote` knows; `None` lets the system choose.
    pub(crate) fn get(&self, remote: SocketAddr) -> Option<IpAddr> {
        let found = self.young.get(&remote).or_else(|| self.old.get(&remote));
        found.copied()
    }
}

/// So many sources at least are remembered, and twice as many at most: ten MiB.
const GENERATION: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_remembered_and_no_more_than_two_generations() {
        let mut sources = Sources::default();
        let local = IpAddr::from([192, 0, 2, 1]);
        let remote = |n: usize| {
            let bits = u32::try_from(n).expect("small");
            SocketAddr::new(std::net::Ipv4Addr::from_bits(bits).into(), 1)
        };
        for n in 0..3 * GENERATION {
            sources.note(remote(n), local);
            sources.note(remote(n), local);
        }
        assert_eq!(sources.get(remote(3 * GENERATION - 1)), Some(local));
        assert_eq!(sources.get(remote(2 * GENERATION)), Some(local));
        assert_eq!(sources.get(remote(0)), None);
        assert!(sources.young.len() + sources.old.len() <= 2 * GENERATION);
    }
}
