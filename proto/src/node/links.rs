//! The node's links: found by the index that a datagram names, by peer, by deadline, and by whether they may have output.
//!
//! With a thousand links, an input that concerns one of them must not cost a walk over all.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::identity::PeerId;
use crate::link::Link;
use crate::rendezvous::Channel;

/// All links of a node.
#[derive(Default)]
pub(super) struct Links {
    by_index: BTreeMap<u32, Entry>,
    by_peer: BTreeMap<PeerId, u32>,
    /// Links that others opened, by who did and under which index of theirs.
    opened: BTreeMap<(PeerId, u32), u32>,
    /// Links whose handshake is not over.
    unfinished: BTreeSet<(PeerId, u32)>,
    /// Links by their relay channels.
    by_channel: BTreeSet<(Channel, u32)>,
    deadlines: BTreeSet<(Instant, u32)>,
    ready: BTreeSet<u32>,
    /// Links of which a data plane may have to be told something.
    touched: Option<BTreeSet<u32>>,
}

struct Entry {
    link: Link,
    deadline: Option<Instant>,
    /// As noted in [`Links::by_channel`].
    channel: Option<Channel>,
}

impl Links {
    pub(super) fn insert(&mut self, index: u32, link: Link) {
        let peer = link.peer();
        if let Some(remote) = link.remote_index().filter(|_| !link.is_starter()) {
            self.opened.insert((peer, remote), index);
        }
        self.unfinished.insert((peer, index));
        self.by_index.insert(
            index,
            Entry {
                link,
                deadline: None,
                channel: None,
            },
        );
        self.refresh(index);
    }

    pub(super) fn remove(&mut self, index: u32) -> Option<Link> {
        let entry = self.by_index.remove(&index)?;
        if let Some(deadline) = entry.deadline {
            self.deadlines.remove(&(deadline, index));
        }
        if let Some(channel) = entry.channel {
            self.by_channel.remove(&(channel, index));
        }
        self.ready.remove(&index);
        let peer = entry.link.peer();
        self.unfinished.remove(&(peer, index));
        if self.by_peer.get(&peer) == Some(&index) {
            self.by_peer.remove(&peer);
        }
        if let Some(remote) = entry.link.remote_index()
            && self.opened.get(&(peer, remote)) == Some(&index)
        {
            self.opened.remove(&(peer, remote));
        }
        self.touch(index);
        Some(entry.link)
    }

    /// The link that a datagram names.
    pub(super) fn get(&self, index: u32) -> Option<&Link> {
        self.by_index.get(&index).map(|entry| &entry.link)
    }

    /// The same, to change it; [`Self::refresh`] must follow.
    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut Link> {
        self.by_index.get_mut(&index).map(|entry| &mut entry.link)
    }

    /// The established link to a peer.
    pub(super) fn of_peer(&self, peer: &PeerId) -> Option<u32> {
        self.by_peer.get(peer).copied()
    }

    /// Makes a link the one to its peer; returns the one that was.
    pub(super) fn establish(&mut self, peer: PeerId, index: u32) -> Option<u32> {
        self.unfinished.remove(&(peer, index));
        self.by_peer
            .insert(peer, index)
            .filter(|&before| before != index)
    }

    /// The link that this peer opened under its own index `remote`.
    pub(super) fn opened_by(&self, peer: &PeerId, remote: u32) -> Option<u32> {
        self.opened.get(&(*peer, remote)).copied()
    }

    /// Whether one more unfinished handshake is taken, from anybody and from this peer.
    pub(super) fn has_room_for(&self, peer: &PeerId) -> bool {
        let of_peer = self.unfinished.range((*peer, 0)..=(*peer, u32::MAX));
        self.unfinished.len() < HANDSHAKES_MAX
            && of_peer.count() < HANDSHAKES_PER_PEER
            && self.by_index.len() < LINKS_MAX
    }

    /// Whether any link uses this relay channel.
    pub(super) fn uses(&self, channel: Channel) -> bool {
        self.on_channel(channel).next().is_some()
    }

    /// The links that use this relay channel.
    pub(super) fn on_channel(&self, channel: Channel) -> impl Iterator<Item = u32> {
        let links = self.by_channel.range((channel, 0)..=(channel, u32::MAX));
        links.map(|&(_, index)| index)
    }

    pub(super) fn indices(&self) -> Vec<u32> {
        self.by_index.keys().copied().collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Link> {
        self.by_index.values().map(|entry| &entry.link)
    }

    /// Takes note of a link's new deadline, and that it may have output, after any input to it.
    pub(super) fn refresh(&mut self, index: u32) {
        self.reschedule(index);
        self.ready.insert(index);
        self.touch(index);
    }

    /// The links that were changed or removed since the last call; at the first call, all.
    pub(super) fn take_touched(&mut self) -> BTreeSet<u32> {
        self.touched
            .replace(BTreeSet::new())
            .unwrap_or_else(|| self.by_index.keys().copied().collect())
    }

    fn touch(&mut self, index: u32) {
        if let Some(touched) = &mut self.touched {
            touched.insert(index);
        }
    }

    /// One of the links that may have output.
    pub(super) fn first_ready(&self) -> Option<u32> {
        self.ready.first().copied()
    }

    /// That link has no more output; sending may have set a new deadline.
    pub(super) fn drained(&mut self, index: u32) {
        self.reschedule(index);
        self.ready.remove(&index);
    }

    fn reschedule(&mut self, index: u32) {
        let Some(entry) = self.by_index.get_mut(&index) else {
            return;
        };
        let channel = entry.link.relay();
        if channel != entry.channel {
            let old = std::mem::replace(&mut entry.channel, channel);
            old.map(|old| self.by_channel.remove(&(old, index)));
            self.by_channel.extend(channel.map(|new| (new, index)));
        }
        let deadline = entry.link.poll_timeout();
        if deadline == entry.deadline {
            return;
        }
        if let Some(old) = entry.deadline {
            self.deadlines.remove(&(old, index));
        }
        if let Some(new) = deadline {
            self.deadlines.insert((new, index));
        }
        entry.deadline = deadline;
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(at, _)| at)
    }

    /// The links whose time has come.
    pub(super) fn due(&self, now: Instant) -> Vec<u32> {
        self.deadlines
            .iter()
            .take_while(|&&(at, _)| at <= now)
            .map(|&(_, index)| index)
            .collect()
    }
}

/// Links at most, handshakes included: what a hub of a thousand members needs, several times.
const LINKS_MAX: usize = 8192;
/// Unfinished handshakes at most; each holds some kilobytes until it times out.
const HANDSHAKES_MAX: usize = 256;
/// Unfinished handshakes of one peer at most.
const HANDSHAKES_PER_PEER: usize = 4;
