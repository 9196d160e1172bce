//! What came of an input: events and frames of links, events of the rendezvous client and the observer.

use std::time::Instant;

use super::{Event, Node, Side, status};
use crate::identity::PeerId;
use crate::link::{Link, LinkEvent};
use crate::rendezvous::client::ClientEvent;
use crate::rendezvous::observe::Observation;
use crate::rendezvous::{Channel, CloseReason};

impl Node {
    /// Takes up events and frames of a link, and whether it has output.
    pub(super) fn settle_link(&mut self, index: u32, now: Instant) {
        let Some(link) = self.links.get_mut(index) else {
            return;
        };
        let events: Vec<LinkEvent> = std::iter::from_fn(|| link.poll_event()).collect();
        let frames: Vec<Vec<u8>> = std::iter::from_fn(|| link.poll_frame()).collect();
        let (peer, in_doubt) = (link.peer(), link.is_in_doubt());
        if in_doubt {
            self.look_again(now);
        }
        self.links.refresh(index);
        for event in events {
            self.handle_link_event(index, peer, event, now);
        }
        for frame in frames {
            self.handle_link_frame(index, frame, now);
        }
    }

    pub(super) fn handle_link_event(
        &mut self,
        index: u32,
        peer: PeerId,
        event: LinkEvent,
        now: Instant,
    ) {
        match event {
            LinkEvent::Established { cipher } => {
                self.establish(index, peer, now);
                self.events.push_back(Event::LinkUp { peer, cipher });
            }
            LinkEvent::Join(join) => self.admit(index, peer, &join, now),
            LinkEvent::Welcome(welcome) => self.joined(index, welcome, now),
            LinkEvent::Network(network) => self.network(network),
            LinkEvent::Refused(refusal) => self.refused(refusal),
            LinkEvent::PathChanged(direct) => {
                if direct.is_none() {
                    // Perhaps UDP has ended altogether.
                    self.client.doubt(now);
                    self.look_again(now);
                }
                self.events.push_back(Event::PathChanged { peer, direct })
            }
            LinkEvent::WantSearch { sockets } => self.want_search(index, sockets, now),
            LinkEvent::SearchEnded { entries } => self.search_ended(index, entries, now),
            LinkEvent::Unneeded(sockets) => self.close_sockets(&sockets),
            LinkEvent::Pong {
                id,
                round_trip,
                direct,
            } => {
                self.events.push_back(Event::Pong {
                    peer,
                    id,
                    round_trip,
                    direct,
                });
            }
            LinkEvent::PingLost { id } => self.events.push_back(Event::PingLost { peer, id }),
            LinkEvent::Silent => self.link_silent(index, now),
            LinkEvent::Closed { reason } => self.link_closed(index, peer, reason, now),
        }
    }

    /// A link has keys: the one before it to the same peer ends.
    pub(super) fn establish(&mut self, index: u32, peer: PeerId, now: Instant) {
        let before = self.links.establish(peer, index);
        if let Some(before) = before {
            self.drop_link(before, now);
        }
        if let Side::Member(member) = &mut self.side {
            member.link_established(index);
            if before.is_some() {
                let reason = "the hub did not answer on it any more and was linked anew".to_owned();
                self.events.push_back(Event::LinkDown { peer, reason });
            }
            let join = member.join(&self.host_name);
            if let Some(link) = self.links.get_mut(index) {
                link.join(join, now);
            }
            self.settle_link(index, now);
        }
    }

    /// Nothing comes on a link any more. When it is relayed, perhaps our own way to the rendezvous is what has ended; when it is
    /// the one to the hub, perhaps the hub has forgotten it.
    fn link_silent(&mut self, index: u32, now: Instant) {
        if self.links.get(index).is_some_and(|link| !link.is_direct()) {
            self.client.doubt(now);
        }
        if matches!(&self.side, Side::Member(member) if member.link() == Some(index)) {
            self.renew(now);
        }
    }

    pub(super) fn link_closed(&mut self, index: u32, peer: PeerId, reason: String, now: Instant) {
        let current = self.links.of_peer(&peer);
        let was_established = self.links.get(index).is_some_and(Link::is_established);
        self.drop_link(index, now);
        if let Side::Member(member) = &mut self.side {
            member.link_closed(index, now);
        }
        // A handshake that fails beside a running link to the same peer is nothing to tell.
        if current == Some(index) || (current.is_none() && !was_established) {
            self.events.push_back(Event::LinkDown { peer, reason });
        }
    }

    pub(super) fn drop_link(&mut self, index: u32, now: Instant) {
        let Some(link) = self.links.remove(index) else {
            return;
        };
        let peer = link.peer();
        let lost = link.unanswered_pings();
        self.events
            .extend(lost.map(|id| Event::PingLost { peer, id }));
        // Whoever opened the channel: one that carries no link is a place in the rendezvous's table that others may need.
        if let Some(channel) = link.relay().filter(|&channel| !self.links.uses(channel)) {
            self.client.close(channel, now);
        }
        self.forget_reach_of(index, now);
        if let Side::Hub(hub) = &mut self.side {
            hub.remove(index);
        }
    }

    pub(super) fn settle_rendezvous(&mut self, now: Instant) {
        while let Some(event) = self.client.poll_event() {
            self.handle_client_event(event, now);
        }
        self.connect_if_due(now);
    }

    pub(super) fn handle_client_event(&mut self, event: ClientEvent, now: Instant) {
        match event {
            ClientEvent::Registered {
                key,
                observed,
                stun,
            } => {
                let for_others = self.observed_for_others(observed);
                let seen = for_others.first().copied();
                let before = std::mem::replace(&mut self.rendezvous.observed, seen);
                if before.is_some() && seen.is_some() && before != seen {
                    self.blame_openers();
                }
                self.rendezvous = status::RendezvousStatus {
                    state: "registered".to_owned(),
                    address: self.client.server(),
                    key: Some(key.to_string()),
                    observed: seen,
                    problem: None,
                };
                self.set_stun(stun, now);
                self.set_reflexive(for_others, now);
                self.events.push_back(Event::Registered { key, observed });
                self.connect_now(now);
                self.show_relays(now);
            }
            ClientEvent::Failed { reason, fatal } => {
                self.rendezvous.state = if fatal { "failed" } else { "connecting" }.to_owned();
                self.rendezvous.problem = Some(reason.clone());
                self.events
                    .push_back(Event::RendezvousFailed { reason, fatal });
            }
            ClientEvent::Incoming { .. } | ClientEvent::Stopped => {}
            ClientEvent::Closed {
                channel,
                peer,
                reason,
            } => self.channel_closed(channel, peer, reason, now),
        }
    }

    /// The rendezvous knows us anew, or at another address: links that we relay are to be heard from at once, since the other
    /// end learns from a datagram by which channel it can answer.
    fn show_relays(&mut self, now: Instant) {
        let relayed = |link: &&Link| link.is_starter() && link.relay().is_some();
        let relayed: Vec<u32> = self
            .links
            .iter()
            .filter(relayed)
            .map(Link::local_index)
            .collect();
        for index in relayed {
            if let Some(link) = self.links.get_mut(index) {
                link.check_alive(now);
            }
            self.settle_link(index, now);
        }
    }

    /// A relay channel is gone. A link whose handshake went over it cannot go on; one with keys lives on its direct path, or
    /// comes back with the next channel.
    pub(super) fn channel_closed(
        &mut self,
        channel: Channel,
        peer: PeerId,
        reason: CloseReason,
        now: Instant,
    ) {
        let on_channel: Vec<u32> = self.links.on_channel(channel).collect();
        for index in on_channel {
            let Some(link) = self.links.get_mut(index) else {
                continue;
            };
            link.set_relay(None);
            let established = link.is_established();
            if let Side::Member(member) = &mut self.side {
                match (established, reason) {
                    (true, _) => member.relay_lost(reason, now),
                    (false, CloseReason::NotRegistered) => member.hub_absent(index, now),
                    (false, _) => member.link_closed(index, now),
                }
            }
            if established {
                self.settle_link(index, now);
            } else {
                self.drop_link(index, now);
            }
        }
        let wanted = matches!(&self.side, Side::Member(member) if member.hub() == peer);
        if !wanted {
            return;
        }
        // Whoever is linked is there, whatever the rendezvous knows of it at the moment; and needs no channel when it is direct.
        let link = self.links.of_peer(&peer).and_then(|it| self.links.get(it));
        if reason == CloseReason::NotRegistered && link.is_none() {
            self.events.push_back(Event::PeerAbsent { peer });
        }
        if reason == CloseReason::Limit && link.is_none_or(|link| !link.is_direct()) {
            let (reason, fatal) = (NO_CHANNEL.to_owned(), false);
            self.events
                .push_back(Event::RendezvousFailed { reason, fatal });
        }
    }

    pub(super) fn settle_observer(&mut self, now: Instant) {
        let mut seen = self.reflexive.clone();
        while let Some(Observation { mapped, .. }) = self.observer.poll_event() {
            if !seen.contains(&mapped) {
                seen.insert(0, mapped);
            }
        }
        seen.truncate(REFLEXIVE_MAX);
        self.set_reflexive(seen, now);
        self.spread_class(now);
    }
}

/// Said when the rendezvous gives no channel.
const NO_CHANNEL: &str = "the rendezvous gives no more relay channels to this hub now, because it or somebody at your address \
    has as many as it may; it is asked again by and by";
/// Reflexive addresses kept, newest first.
const REFLEXIVE_MAX: usize = 4;
