//! Who is here, at which proven address, and which channels join whom: the rendezvous' memory, without a connection in it.
//!
//! ```text
//!   peer A (slot 0) ── channel 2 ◀──────────▶ channel 1 ── peer B (slot 1)
//!   by key    ─▶ slot                 each end holds: own number → other slot, other number
//!   by address ─▶ slot                so a datagram finds its way by one hash and one binary search
//! ```
//!
//! A datagram is forwarded only from a proven address of a registered peer, on one of its channels, to the proven address
//! of the other end; never to an address that a datagram or a message names.
//!
//! Places for channels to a peer that many want are shared: one opener has few of them, and when all are taken the network
//! that holds the most gives one to a network that holds fewer. So nobody can keep others from a hub by taking all its places.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Instant;

use super::limits::{Bucket, Network, Rate, SourceBuckets};
use crate::identity::PeerId;
use crate::rendezvous::{Channel, CloseReason};

/// A registered peer's place in the table; used again after it has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(u32);

/// The limits that the registry keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegistryLimits {
    /// Peers that are registered at once.
    pub peers: usize,
    /// Channels of all at once.
    pub channels: usize,
    /// Channels at once that one peer has opened.
    pub outbound_per_peer: usize,
    /// Channels at once that others have opened to one peer: how many members a hub can have that are relayed.
    pub inbound_per_peer: usize,
    /// Channels at once that one peer has opened to one other; one more takes the place of the oldest.
    pub per_pair: usize,
    /// Requests of one peer.
    pub requests: Rate,
    /// Channels that others open to one peer.
    pub introductions: Rate,
    /// Channels that peers of one source (an IPv4 address, an IPv6 /64) open to one peer.
    pub introductions_per_source: Rate,
    /// Bytes that are relayed for one peer, counted where they come from.
    pub relayed_bytes: Rate,
}

/// Somebody must be told that a channel of theirs has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) connection: usize,
    pub(super) channel: Channel,
}

/// The other end of a channel that was opened just now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) connection: usize,
    pub(super) channel: Channel,
    /// The ends of a channel that had to give its place.
    pub(super) displaced: Vec<Notice>,
}

/// Why a datagram is not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRoute {
    /// It comes from no registered peer's proven address.
    UnknownSource,
    /// The sender has no such channel.
    UnknownChannel,
    /// The other end's address is not known at the moment.
    NoAddress,
    /// The sender has used up its rate.
    Limit,
}

/// Everybody who is registered.
pub(super) struct Registry {
    limits: RegistryLimits,
    slots: Vec<Option<Presence>>,
    free: Vec<Slot>,
    /// Looked up, never iterated.
    by_id: HashMap<PeerId, Slot>,
    /// Looked up, never iterated.
    by_address: HashMap<SocketAddr, Slot>,
    channels: usize,
    /// Channels opened so far: the age of each.
    opened: u64,
    by_source: SourceBuckets,
}

struct Presence {
    id: PeerId,
    connection: usize,
    /// Where it registered from.
    network: Network,
    /// `None` after another peer proved the same one.
    address: Option<SocketAddr>,
    /// Sorted by own number.
    channels: Vec<End>,
    /// Those of them that it opened itself.
    outbound: usize,
    next_number: u32,
    requests: Bucket,
    introductions: Bucket,
    relayed_bytes: Bucket,
}

#[derive(Clone, Copy)]
struct End {
    number: Channel,
    other: Slot,
    other_number: Channel,
    /// Counts up with every channel that is opened.
    age: u64,
}

impl Registry {
    /// Nobody is here. `seed` makes its shared buckets unguessable.
    pub(super) fn new(limits: RegistryLimits, seed: [u8; 32], now: Instant) -> Self {
        Self {
            limits,
            slots: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::new(),
            by_address: HashMap::new(),
            channels: 0,
            opened: 0,
            by_source: SourceBuckets::new(seed, now),
        }
    }

    /// Enters a peer that is not here. `None` when the house is full.
    pub(super) fn register(
        &mut self,
        id: PeerId,
        connection: usize,
        address: SocketAddr,
        now: Instant,
    ) -> Option<Slot> {
        if self.by_id.len() >= self.limits.peers || self.by_id.contains_key(&id) {
            return None;
        }
        let slot = self.free.pop().or_else(|| {
            self.slots.push(None);
            Some(Slot(u32::try_from(self.slots.len() - 1).ok()?))
        })?;
        *self.slots.get_mut(slot.0 as usize)? = Some(Presence {
            id,
            connection,
            network: Network::of(address.ip()),
            address: None,
            channels: Vec::new(),
            outbound: 0,
            next_number: 1,
            requests: Bucket::full(now),
            introductions: Bucket::full(now),
            relayed_bytes: Bucket::full(now),
        });
        self.by_id.insert(id, slot);
        self.set_address(slot, address);
        Some(slot)
    }

    /// Notes a peer's new proven address. Whoever had it before has none until it proves another.
    pub(super) fn set_address(&mut self, slot: Slot, address: SocketAddr) {
        if let Some(former) = self.by_address.insert(address, slot)
            && former != slot
            && let Some(presence) = self.presence_mut(former)
        {
            presence.address = None;
        }
        let old = self
            .presence_mut(slot)
            .and_then(|it| it.address.replace(address));
        if let Some(old) = old
            && old != address
        {
            self.by_address.remove(&old);
        }
    }

    /// Takes a peer out; the other ends of its channels are to be told.
    pub(super) fn remove(&mut self, slot: Slot) -> Vec<Notice> {
        let Some(presence) = self.slots.get_mut(slot.0 as usize).and_then(Option::take) else {
            return Vec::new();
        };
        self.by_id.remove(&presence.id);
        if let Some(address) = presence.address {
            self.by_address.remove(&address);
        }
        self.free.push(slot);
        self.channels -= presence.channels.len();
        let ends = presence.channels.iter();
        ends.filter_map(|end| self.remove_end(end.other, end.other_number))
            .collect()
    }

    /// Joins two peers by a channel that the opener has numbered.
    pub(super) fn open(
        &mut self,
        slot: Slot,
        number: Channel,
        peer: PeerId,
        now: Instant,
    ) -> Result<Opened, CloseReason> {
        let other = self.by_id.get(&peer).copied();
        if !number.is_openers() || other == Some(slot) || self.end(slot, number).is_some() {
            return Err(CloseReason::Invalid);
        }
        let other = other.ok_or(CloseReason::NotRegistered)?;
        self.take_introduction(slot, other, now)
            .ok_or(CloseReason::Limit)?;
        let displaced = self.make_room(slot, other).ok_or(CloseReason::Limit)?;
        let target = self.presence_mut(other).ok_or(CloseReason::NotRegistered)?;
        let other_number = target.draw_number();
        let connection = target.connection;
        self.opened += 1;
        self.insert_end(slot, number, other, other_number);
        self.insert_end(other, other_number, slot, number);
        Ok(Opened {
            connection,
            channel: other_number,
            displaced,
        })
    }

    /// Counts that `slot` wants to be introduced to `other`; `None` when it, or all together, have wanted that too often.
    fn take_introduction(&mut self, slot: Slot, other: Slot, now: Instant) -> Option<()> {
        let towards = self.presence(slot)?.network.towards(other.0);
        let rate = self.limits.introductions_per_source;
        let all = self.limits.introductions;
        let allowed = self.by_source.take(towards, 1, rate, now)
            && self.presence_mut(other)?.introductions.take(1, all, now);
        allowed.then_some(())
    }

    /// Sees to it that `slot` may open one more channel to `other`: the ends of the channel that had to go for it, if one had
    /// to. `None` when there is no room.
    fn make_room(&mut self, slot: Slot, other: Slot) -> Option<Vec<Notice>> {
        let opener = self.presence(slot)?;
        let outbound = opener.outbound;
        let to_other = opener.channels.iter();
        let to_other = to_other.filter(|end| end.other == other && end.number.is_openers());
        let (mine, oldest) = (to_other.clone().count(), to_other.min_by_key(|it| it.age));
        if mine >= self.limits.per_pair {
            let oldest = oldest.map(|end| end.number)?;
            return Some(self.cut(slot, oldest));
        }
        if outbound >= self.limits.outbound_per_peer || self.channels / 2 >= self.limits.channels {
            return None;
        }
        let target = self.presence(other)?;
        if target.channels.len() - target.outbound < self.limits.inbound_per_peer {
            return Some(Vec::new());
        }
        let crowding = self.crowding(slot, other)?;
        Some(self.cut(other, crowding))
    }

    /// The channel to `other` that gives its place to a newcomer: the oldest one of whoever holds the most in the network that
    /// holds the most. `None` when the newcomer's network would then hold as many as that one.
    fn crowding(&self, newcomer: Slot, other: Slot) -> Option<Channel> {
        let (mut networks, mut peers) = (BTreeMap::new(), BTreeMap::new());
        let inbound = || {
            let ends = self.presence(other).into_iter().flat_map(|it| &it.channels);
            ends.filter(|end| !end.number.is_openers())
                .filter_map(|end| Some((end, self.presence(end.other)?.network)))
        };
        for (end, network) in inbound() {
            *networks.entry(network).or_insert(0_usize) += 1;
            *peers.entry(end.other).or_insert(0_usize) += 1;
        }
        let held = |network| networks.get(&network).copied().unwrap_or(0);
        let (end, network) = inbound().min_by_key(|(end, network)| {
            let peer = peers.get(&end.other).copied().unwrap_or(0);
            (Reverse(held(*network)), Reverse(peer), end.age)
        })?;
        let mine = held(self.presence(newcomer)?.network);
        (held(network) > mine + 1).then_some(end.number)
    }

    /// Ends a channel; both ends are to be told.
    fn cut(&mut self, slot: Slot, number: Channel) -> Vec<Notice> {
        let Some(&end) = self.end(slot, number) else {
            return Vec::new();
        };
        let near = self.remove_end(slot, number);
        let far = self.remove_end(end.other, end.other_number);
        near.into_iter().chain(far).collect()
    }

    /// Ends a channel; its other end is to be told.
    pub(super) fn close(&mut self, slot: Slot, number: Channel) -> Option<Notice> {
        let end = *self.end(slot, number)?;
        self.remove_end(slot, number);
        self.remove_end(end.other, end.other_number)
    }

    /// Where a datagram from `source` on `channel` goes, and on which channel.
    pub(super) fn route(
        &mut self,
        source: SocketAddr,
        channel: Channel,
        size: usize,
        now: Instant,
    ) -> Result<(SocketAddr, Channel), NoRoute> {
        let slot = *self.by_address.get(&source).ok_or(NoRoute::UnknownSource)?;
        let end = *self.end(slot, channel).ok_or(NoRoute::UnknownChannel)?;
        let other = self.presence(end.other).ok_or(NoRoute::UnknownChannel)?;
        let destination = other.address.ok_or(NoRoute::NoAddress)?;
        let rate = self.limits.relayed_bytes;
        let sender = self.presence_mut(slot).ok_or(NoRoute::UnknownSource)?;
        if sender.relayed_bytes.take(size, rate, now) {
            Ok((destination, end.other_number))
        } else {
            Err(NoRoute::Limit)
        }
    }

    /// Whether a peer may ask once more.
    pub(super) fn take_request(&mut self, slot: Slot, now: Instant) -> bool {
        let rate = self.limits.requests;
        self.presence_mut(slot)
            .is_some_and(|it| it.requests.take(1, rate, now))
    }

    /// The connection and place of a registered key.
    pub(super) fn find(&self, id: PeerId) -> Option<(Slot, usize)> {
        let slot = *self.by_id.get(&id)?;
        Some((slot, self.presence(slot)?.connection))
    }

    /// Whether a registered peer proved this address.
    pub(super) fn knows(&self, address: SocketAddr) -> bool {
        self.by_address.contains_key(&address)
    }

    pub(super) fn peers(&self) -> usize {
        self.by_id.len()
    }

    /// Channels, each counted once.
    pub(super) fn channels(&self) -> usize {
        self.channels / 2
    }

    fn presence(&self, slot: Slot) -> Option<&Presence> {
        self.slots.get(slot.0 as usize)?.as_ref()
    }

    fn presence_mut(&mut self, slot: Slot) -> Option<&mut Presence> {
        self.slots.get_mut(slot.0 as usize)?.as_mut()
    }

    fn end(&self, slot: Slot, number: Channel) -> Option<&End> {
        let channels = &self.presence(slot)?.channels;
        let index = channels
            .binary_search_by_key(&number, |end| end.number)
            .ok()?;
        channels.get(index)
    }

    fn insert_end(&mut self, slot: Slot, number: Channel, other: Slot, other_number: Channel) {
        let age = self.opened;
        let Some(presence) = self.presence_mut(slot) else {
            return;
        };
        let channels = &mut presence.channels;
        if let Err(index) = channels.binary_search_by_key(&number, |end| end.number) {
            let end = End {
                number,
                other,
                other_number,
                age,
            };
            channels.insert(index, end);
            presence.outbound += usize::from(number.is_openers());
            self.channels += 1;
        }
    }

    fn remove_end(&mut self, slot: Slot, number: Channel) -> Option<Notice> {
        let presence = self.presence_mut(slot)?;
        let channels = &mut presence.channels;
        let index = channels
            .binary_search_by_key(&number, |end| end.number)
            .ok()?;
        channels.remove(index);
        presence.outbound -= usize::from(number.is_openers());
        let connection = presence.connection;
        self.channels -= 1;
        Some(Notice {
            connection,
            channel: number,
        })
    }
}

impl Presence {
    /// The next odd number that is not in use. There is one: a peer has fewer channels than there are numbers.
    fn draw_number(&mut self) -> Channel {
        loop {
            let number = Channel(self.next_number);
            self.next_number = (self.next_number + 2) & Channel::MAX;
            let used = self
                .channels
                .binary_search_by_key(&number, |end| end.number);
            if used.is_err() {
                return number;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rendezvous::pipe::start;

    const LIMITS: RegistryLimits = RegistryLimits {
        peers: 2_000_000,
        channels: 2_000_000,
        outbound_per_peer: 4,
        inbound_per_peer: 4,
        per_pair: 2,
        requests: WIDE,
        introductions: WIDE,
        introductions_per_source: WIDE,
        relayed_bytes: WIDE,
    };
    const WIDE: Rate = Rate {
        burst: 1_000_000,
        per_second: 1_000_000,
    };

    fn id(number: u32) -> PeerId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        PeerId(bytes)
    }

    fn address(number: u32) -> SocketAddr {
        SocketAddr::new(std::net::Ipv4Addr::from_bits(number).into(), 4000)
    }

    fn with_peers(count: u32, now: Instant) -> (Registry, Vec<Slot>) {
        let mut registry = Registry::new(LIMITS, [1; 32], now);
        let slots = (0..count)
            .map(|n| {
                let place = registry.register(id(n), n as usize, address(n), now);
                place.expect("room for all")
            })
            .collect();
        (registry, slots)
    }

    #[test]
    fn datagrams_pass_between_the_two_ends_of_a_channel_and_nowhere_else() {
        let now = start();
        let (mut registry, slots) = with_peers(3, now);
        let opened = registry.open(slots[0], Channel(2), id(1), now);
        let theirs = opened.expect("both are here").channel;
        let mut route = |from, channel| registry.route(address(from), channel, 100, now);
        assert_eq!(route(0, Channel(2)), Ok((address(1), theirs)));
        assert_eq!(route(1, theirs), Ok((address(0), Channel(2))));
        assert_eq!(route(0, theirs), Err(NoRoute::UnknownChannel));
        assert_eq!(route(2, Channel(2)), Err(NoRoute::UnknownChannel));
        assert_eq!(route(2, theirs), Err(NoRoute::UnknownChannel));
        assert_eq!(route(9, Channel(2)), Err(NoRoute::UnknownSource));
    }

    #[test]
    fn what_is_against_the_rules_is_refused() {
        let now = start();
        let (mut registry, slots) = with_peers(7, now);
        let mut open = |n: usize, number, to| {
            let opened = registry.open(slots[n], Channel(number), id(to), now);
            opened.map(|_| ())
        };
        assert_eq!(open(0, 1, 1), Err(CloseReason::Invalid));
        assert_eq!(open(0, 0, 1), Err(CloseReason::Invalid));
        assert_eq!(open(0, 2, 0), Err(CloseReason::Invalid));
        assert_eq!(open(0, 2, 99), Err(CloseReason::NotRegistered));
        assert_eq!(open(0, 2, 1), Ok(()));
        assert_eq!(open(0, 2, 3), Err(CloseReason::Invalid));
        for n in 2..5 {
            assert_eq!(open(n, 2, 1), Ok(()));
        }
        assert_eq!(open(5, 2, 1), Err(CloseReason::Limit));
    }

    #[test]
    fn one_more_channel_to_the_same_peer_takes_the_place_of_the_oldest() {
        let now = start();
        let (mut registry, slots) = with_peers(3, now);
        let mut open = |number| registry.open(slots[0], Channel(number), id(1), now);
        let first = open(8).expect("room");
        assert_eq!(open(2).expect("room").displaced, []);
        let third = open(4).expect("room in place of the first");
        let (near, far) = (0, 1);
        let notices = [(near, Channel(8)), (far, first.channel)];
        let notices = notices.map(|(connection, channel)| Notice {
            connection,
            channel,
        });
        assert_eq!(third.displaced, notices);
        assert_eq!(registry.channels(), 2);
        for _ in 0..100 {
            for number in [6, 2, 4] {
                let _ = registry.open(slots[0], Channel(number), id(1), now);
            }
        }
        assert_eq!(registry.channels(), 2);
        assert!(registry.open(slots[2], Channel(2), id(1), now).is_ok());
    }

    #[test]
    fn nobody_takes_all_channels_to_a_hub() {
        let now = start();
        let mut registry = Registry::new(LIMITS, [1; 32], now);
        // The hub, two peers of one hostile host, two others.
        let places = [(0, 1), (1, 1), (1, 2), (2, 1), (3, 1)];
        let slots: Vec<Slot> = (0..)
            .zip(places)
            .map(|(n, (host, port))| {
                let mut at = address(host);
                at.set_port(port);
                registry.register(id(n), 0, at, now).expect("room")
            })
            .collect();
        let mut open = |n: usize, number| registry.open(slots[n], Channel(number), id(0), now);
        for (n, number) in [(1, 2), (1, 4), (2, 2), (2, 4)] {
            assert_eq!(open(n, number).expect("room").displaced, []);
        }
        for n in [3, 4] {
            assert_eq!(open(n, 2).expect("a fair share").displaced.len(), 2);
        }
        for (n, number) in [(1, 6), (2, 6), (3, 4)] {
            assert_eq!(open(n, number), Err(CloseReason::Limit), "{n}");
        }
        assert_eq!(registry.channels(), 4);
        assert!(registry.end(slots[3], Channel(2)).is_some());
        assert!(registry.end(slots[4], Channel(2)).is_some());
    }

    #[test]
    fn one_source_cannot_use_up_the_introductions_of_a_peer() {
        let now = start();
        let narrow = |burst| Rate {
            burst,
            per_second: 1,
        };
        let limits = RegistryLimits {
            introductions: narrow(4),
            introductions_per_source: narrow(3),
            ..LIMITS
        };
        let mut registry = Registry::new(limits, [1; 32], now);
        let slots: Vec<Slot> = (0..3)
            .map_while(|n| registry.register(id(n), 0, address(n), now))
            .collect();
        let mut asked = |n: usize| {
            let opened = registry.open(slots[n], Channel(2), id(0), now);
            registry.close(slots[n], Channel(2));
            opened.is_ok()
        };
        assert_eq!([(); 5].map(|()| asked(1)), [true, true, true, false, false]);
        assert!(asked(2), "others are still introduced");
    }

    #[test]
    fn introductions_and_bytes_are_rationed() {
        let now = start();
        let narrow = Rate {
            burst: 2,
            per_second: 1,
        };
        let limits = RegistryLimits {
            peers: 3,
            introductions: narrow,
            relayed_bytes: narrow,
            ..LIMITS
        };
        let mut registry = Registry::new(limits, [1; 32], now);
        let mut register = |n: u32| registry.register(id(n), 0, address(n), now);
        let slots: Vec<Slot> = (0..3).map_while(&mut register).collect();
        assert_eq!(register(3), None);
        assert!(registry.open(slots[0], Channel(2), id(1), now).is_ok());
        assert!(registry.open(slots[2], Channel(2), id(1), now).is_ok());
        let third = registry.open(slots[2], Channel(4), id(1), now);
        assert_eq!(third, Err(CloseReason::Limit));
        assert!(registry.route(address(0), Channel(2), 2, now).is_ok());
        let more = registry.route(address(0), Channel(2), 1, now);
        assert_eq!(more, Err(NoRoute::Limit));
        assert!(registry.route(address(2), Channel(2), 1, now).is_ok());
    }

    #[test]
    fn an_address_belongs_to_who_proved_it_last() {
        let now = start();
        let (mut registry, slots) = with_peers(2, now);
        registry
            .open(slots[0], Channel(2), id(1), now)
            .expect("open");
        registry.set_address(slots[0], address(1));
        let back = registry.route(address(1), Channel(2), 1, now);
        assert_eq!(back, Err(NoRoute::NoAddress));
        registry.set_address(slots[1], address(7));
        assert!(!registry.knows(address(0)));
        let back = registry.route(address(1), Channel(2), 1, now);
        assert_eq!(back, Ok((address(7), Channel(1))));
        registry.remove(slots[1]);
        assert!(registry.knows(address(1)));
    }

    #[test]
    fn very_many_peers_come_talk_and_go() {
        let now = start();
        let count = 200_000;
        let (mut registry, slots) = with_peers(count, now);
        for (n, &slot) in slots.iter().enumerate().step_by(2) {
            let other = id(u32::try_from(n + 1).expect("small"));
            registry.open(slot, Channel(2), other, now).expect("open");
        }
        assert_eq!(registry.channels(), slots.len() / 2);
        for n in (0..count).step_by(1000) {
            let there = registry.route(address(n), Channel(2), 1, now);
            assert_eq!(there, Ok((address(n + 1), Channel(1))));
        }
        for slot in slots {
            registry.remove(slot);
        }
        assert_eq!((registry.peers(), registry.channels()), (0, 0));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Register(u32),
        Remove(u32),
        Open(u32, u32, u32),
        Close(u32, u32),
        Move(u32, u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        let peer = 0..6u32;
        prop_oneof![
            peer.clone().prop_map(Step::Register),
            peer.clone().prop_map(Step::Remove),
            (peer.clone(), 0..8u32, peer.clone()).prop_map(|(a, n, b)| Step::Open(a, n, b)),
            (peer.clone(), 0..8u32).prop_map(|(a, n)| Step::Close(a, n)),
            (peer, 0..9u32).prop_map(|(a, to)| Step::Move(a, to)),
        ]
    }

    proptest! {
        /// Whatever happens, a channel has two ends that point at each other, and an address leads to who has it.
        #[test]
        fn both_ends_always_agree(steps in prop::collection::vec(step(), 1..200)) {
            let now = start();
            let mut registry = Registry::new(LIMITS, [1; 32], now);
            for step in steps {
                let slot = |registry: &Registry, n| registry.find(id(n)).map(|(slot, _)| slot);
                match step {
                    Step::Register(n) => { registry.register(id(n), n as usize, address(n), now); }
                    Step::Remove(n) => if let Some(slot) = slot(&registry, n) { registry.remove(slot); },
                    Step::Open(a, n, b) => if let Some(slot) = slot(&registry, a) { let _ = registry.open(slot, Channel(n), id(b), now); },
                    Step::Close(a, n) => if let Some(slot) = slot(&registry, a) { registry.close(slot, Channel(n)); },
                    Step::Move(a, to) => if let Some(slot) = slot(&registry, a) { registry.set_address(slot, address(to)); },
                }
                let mut ends = 0;
                for n in 0..6 {
                    let Some(slot) = slot(&registry, n) else { continue };
                    let presence = registry.presence(slot).expect("found");
                    let outbound = presence.channels.iter().filter(|end| end.number.is_openers()).count();
                    prop_assert_eq!(presence.outbound, outbound);
                    prop_assert!(outbound <= LIMITS.outbound_per_peer);
                    prop_assert!(presence.channels.len() - outbound <= LIMITS.inbound_per_peer);
                    for end in &presence.channels {
                        let alike = presence.channels.iter().filter(|it| it.other == end.other && it.number.is_openers());
                        prop_assert!(alike.count() <= LIMITS.per_pair);
                    }
                    for end in &presence.channels {
                        let back = registry.end(end.other, end.other_number).expect("other end");
                        prop_assert_eq!((back.other, back.other_number), (slot, end.number));
                        ends += 1;
                    }
                    if let Some(address) = presence.address {
                        prop_assert_eq!(registry.by_address.get(&address), Some(&slot));
                    }
                }
                prop_assert_eq!(ends, registry.channels);
                prop_assert!(registry.by_address.len() <= registry.peers());
            }
        }
    }
}
