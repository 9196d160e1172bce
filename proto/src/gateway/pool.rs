//! Addresses of the virtual network for members, by their keys.
//!
//! A member's place follows from its key, so that it gets the same address again whenever nobody else has taken it:
//!
//! ```text
//!   first ─────────────●hash(key)──▶ taken? the next ──▶ … ──▶ last ──▶ on from first
//! ```
//!
//! In memory only; leases that outlive the process are DHCP's business.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use aws_lc_rs::digest::{SHA256, digest};

use super::Subnet;
use crate::identity::PeerId;

/// The addresses of one network that are free, and who has the others.
#[derive(Clone, Debug)]
pub struct Pool {
    host: Ipv4Addr,
    first: u32,
    size: u32,
    by_peer: BTreeMap<PeerId, Ipv4Addr>,
    by_address: BTreeMap<Ipv4Addr, PeerId>,
}

impl Pool {
    /// The pool of a network. Of 256 addresses or more it leaves out the first ten and the last 55, as 192.168.30.10 to
    /// .200 of /24 do (REQUIREMENTS E15), for stations with fixed addresses; of smaller ones it takes all.
    /// It is never larger than 65,536 addresses.
    #[must_use]
    pub const fn new(subnet: Subnet) -> Self {
        let (below, above) = if subnet.prefix() <= 24 {
            (10, 55)
        } else {
            (1, 1)
        };
        let first = subnet.network().to_bits() + below;
        let size = subnet.broadcast().to_bits() - above - first + 1;
        Self {
            host: subnet.address(),
            first,
            size: if size < MAX_SIZE { size } else { MAX_SIZE },
            by_peer: BTreeMap::new(),
            by_address: BTreeMap::new(),
        }
    }

    /// The same with another range: addresses outside of it stay with whom they have.
    ///
    /// # Errors
    /// When it is empty, or larger than a pool may be.
    pub const fn set_range(&mut self, first: Ipv4Addr, last: Ipv4Addr) -> Result<(), NotARange> {
        let (first, last) = (first.to_bits(), last.to_bits());
        if last < first || last - first >= MAX_SIZE {
            return Err(NotARange);
        }
        self.first = first;
        self.size = last - first + 1;
        Ok(())
    }

    /// Its first and its last address.
    #[must_use]
    pub const fn range(&self) -> (Ipv4Addr, Ipv4Addr) {
        let last = self.first + (self.size - 1);
        (Ipv4Addr::from_bits(self.first), Ipv4Addr::from_bits(last))
    }

    /// The address of a member: the one that it has, or a free one; `None` when none is free.
    pub fn assign(&mut self, peer: PeerId) -> Option<Ipv4Addr> {
        self.assign_but(peer, |_| false)
    }

    /// The same, but none that `not` refuses.
    pub fn assign_but(&mut self, peer: PeerId, not: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
        if let Some(address) = self.by_peer.get(&peer) {
            return Some(*address);
        }
        let start = self.start(peer);
        let free = |address: &Ipv4Addr| {
            *address != self.host && !self.by_address.contains_key(address) && !not(*address)
        };
        let address = (0..self.size)
            .map(|step| self.place(start + u64::from(step)))
            .find(free)?;
        self.by_peer.insert(peer, address);
        self.by_address.insert(address, peer);
        Some(address)
    }

    /// Gives a peer just this address, in place of what it has; false when it is somebody else's or the host's.
    pub fn assign_exactly(&mut self, peer: PeerId, address: Ipv4Addr) -> bool {
        if let Some(owner) = self.by_address.get(&address) {
            return *owner == peer;
        }
        if address == self.host || self.by_address.len() >= MAX_TAKEN {
            return false;
        }
        self.release(peer);
        self.by_peer.insert(peer, address);
        self.by_address.insert(address, peer);
        true
    }

    /// Takes a member's address back, and says which it was.
    pub fn release(&mut self, peer: PeerId) -> Option<Ipv4Addr> {
        let address = self.by_peer.remove(&peer)?;
        self.by_address.remove(&address);
        Some(address)
    }

    /// The address that a member has.
    #[must_use]
    pub fn address_of(&self, peer: PeerId) -> Option<Ipv4Addr> {
        self.by_peer.get(&peer).copied()
    }

    /// The member that has an address.
    #[must_use]
    pub fn peer_at(&self, address: Ipv4Addr) -> Option<PeerId> {
        self.by_address.get(&address).copied()
    }

    /// Who has which address, by address.
    pub fn iter(&self) -> impl Iterator<Item = (Ipv4Addr, PeerId)> + '_ {
        self.by_address
            .iter()
            .map(|(address, peer)| (*address, *peer))
    }

    /// A number that follows from the key alone and says nothing of it.
    fn start(&self, peer: PeerId) -> u64 {
        let hash = digest(&SHA256, &[PLACE_CONTEXT, &peer.0].concat());
        let word = hash.as_ref().first_chunk();
        let word = u64::from_be_bytes(*word.expect("SHA-256 has 32 bytes"));
        word % u64::from(self.size)
    }

    fn place(&self, step: u64) -> Ipv4Addr {
        let offset = u32::try_from(step % u64::from(self.size)).expect("less than a u32");
        Ipv4Addr::from_bits(self.first + offset)
    }
}

/// No range of addresses that could be given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a range goes from a lower to a higher address, of at most 65,536")]
pub struct NotARange;

/// Separates this use of a key from every other.
const PLACE_CONTEXT: &[u8] = b"kuguri pool place";
/// No pool is larger, in addresses: it bounds what a full one holds and how long a search in it takes.
const MAX_SIZE: u32 = 65_536;
/// Addresses taken at once, those outside of the range included.
const MAX_TAKEN: usize = 2 * 65_536;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peer(number: u16) -> PeerId {
        let [high, low] = number.to_be_bytes();
        let mut id = [0; 32];
        (id[0], id[1]) = (high, low);
        PeerId(id)
    }

    fn whole(subnet: Subnet) -> Vec<Ipv4Addr> {
        let mut pool = Pool::new(subnet);
        let mut all: Vec<Ipv4Addr> = (0..=u16::MAX).map_while(|n| pool.assign(peer(n))).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn the_default_network_gives_10_to_200() {
        let all = whole(Subnet::default());
        let expected: Vec<_> = (10..=200).map(|n| Ipv4Addr::new(192, 168, 30, n)).collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn a_small_network_gives_every_address_but_the_three() {
        let subnet = Subnet::new(Ipv4Addr::new(10, 0, 0, 6), 29).expect("a host");
        let expected: Vec<_> = (1..=5).map(|n| Ipv4Addr::new(10, 0, 0, n)).collect();
        assert_eq!(whole(subnet), expected);
        let smallest = Subnet::new(Ipv4Addr::new(10, 0, 0, 1), 30).expect("a host");
        assert_eq!(whole(smallest), [Ipv4Addr::new(10, 0, 0, 2)]);
    }

    #[test]
    fn a_full_pool_gives_none_until_one_is_released() {
        let mut pool = Pool::new(Subnet::default());
        let members: Vec<PeerId> = (0..191).map(peer).collect();
        assert!(members.iter().all(|member| pool.assign(*member).is_some()));
        assert_eq!(pool.assign(peer(500)), None);
        let freed = pool.release(members[7]);
        assert!(freed.is_some());
        assert_eq!(pool.assign(peer(500)), freed);
        assert_eq!(pool.release(peer(501)), None);
    }

    proptest! {
        #[test]
        fn nobody_shares_an_address_and_all_are_of_the_network(
            address: u32, prefix in 1u8..=30, acts in prop::collection::vec((any::<bool>(), 0u16..40), 0..100),
        ) {
            let Ok(subnet) = Subnet::new(Ipv4Addr::from_bits(address), prefix) else {
                return Ok(());
            };
            let mut pool = Pool::new(subnet);
            let mut model: Vec<(PeerId, Ipv4Addr)> = vec![];
            for (join, number) in acts {
                let member = peer(number);
                let had = model.iter().find(|(peer, _)| *peer == member).map(|(_, address)| *address);
                if !join {
                    prop_assert_eq!(pool.release(member), had);
                    model.retain(|(peer, _)| *peer != member);
                } else if let Some(address) = pool.assign(member) {
                    prop_assert!(subnet.contains(address));
                    prop_assert!(![subnet.address(), subnet.network(), subnet.broadcast()].contains(&address));
                    prop_assert!(had.is_none_or(|had| had == address));
                    prop_assert!(model.iter().all(|(peer, taken)| *peer == member || *taken != address));
                    model.retain(|(peer, _)| *peer != member);
                    model.push((member, address));
                }
            }
            prop_assert_eq!(pool.iter().count(), model.len());
        }

        #[test]
        fn whoever_comes_back_to_its_free_place_has_the_same_address(number: u16) {
            let mut pool = Pool::new(Subnet::default());
            let first = pool.assign(peer(number));
            pool.release(peer(number));
            prop_assert_eq!(pool.assign(peer(number)), first);
            prop_assert_eq!(Pool::new(Subnet::default()).assign(peer(number)), first);
        }
    }
}
