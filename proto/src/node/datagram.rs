//! From a datagram to the link that it is for, or to a new one.

use std::net::SocketAddr;
use std::time::Instant;

use super::{Node, Side};
use crate::SocketId;
use crate::identity::PeerId;
use crate::link::{Link, Via, path};
use crate::rendezvous::Channel;
use crate::wire::clear::Indices;
use crate::wire::{self, Kind, sealed, stun};

impl Node {
    pub(super) fn handle_relayed(&mut self, remote: SocketAddr, payload: &mut [u8], now: Instant) {
        let Some((peer, channel, inner)) = self.client.unwrap(remote, payload) else {
            self.refused_datagrams += 1;
            return;
        };
        let inner = &mut payload[inner];
        match wire::classify(inner) {
            Some(Kind::Sealed) => self.handle_sealed(inner, Via::Relay(channel), Some(peer), now),
            Some(Kind::Segment) => self.handle_segment(peer, channel, inner, now),
            _ => self.refused_datagrams += 1,
        }
    }

    pub(super) fn handle_sealed(
        &mut self,
        datagram: &mut [u8],
        via: Via,
        relayed_for: Option<PeerId>,
        now: Instant,
    ) {
        let header = sealed::Header::parse(datagram).ok();
        let link = header.and_then(|header| self.links.get_mut(header.receiver));
        let Some(link) = link.filter(|link| relayed_for.is_none_or(|peer| peer == link.peer()))
        else {
            self.refused_datagrams += 1;
            return;
        };
        link.handle_sealed(datagram, via, now);
        let index = link.local_index();
        self.settle_link(index, now);
    }

    /// A handshake's segment: of a link that we know, or the first of a new one.
    pub(super) fn handle_segment(
        &mut self,
        peer: PeerId,
        channel: Channel,
        datagram: &[u8],
        now: Instant,
    ) {
        let Some((indices, body)) = Indices::parse(datagram) else {
            self.refused_datagrams += 1;
            return;
        };
        let known = if indices.receiver == 0 {
            self.links.opened_by(&peer, indices.sender)
        } else {
            Some(indices.receiver).filter(|index| {
                self.links
                    .get(*index)
                    .is_some_and(|link| link.peer() == peer)
            })
        };
        let Some(index) = known.or_else(|| self.accept(peer, channel, indices, now)) else {
            self.refused_datagrams += 1;
            return;
        };
        if let Some(link) = self.links.get_mut(index) {
            link.handle_clear(indices, body, now);
        }
        self.settle_link(index, now);
    }

    /// A new link that a peer opens; hubs take it, up to a number of unfinished handshakes.
    pub(super) fn accept(
        &mut self,
        peer: PeerId,
        channel: Channel,
        indices: Indices,
        now: Instant,
    ) -> Option<u32> {
        let willing =
            matches!(self.side, Side::Hub(_)) && self.stopping.is_none() && indices.receiver == 0;
        if !willing || !self.links.has_room_for(&peer) {
            return None;
        }
        let index = self.fresh_index();
        let setup = self.setup(peer, channel, index);
        let link = Link::accept(&setup, indices.sender, now);
        self.add_link(index, link, now);
        Some(index)
    }

    pub(super) fn handle_stun(
        &mut self,
        socket: SocketId,
        remote: SocketAddr,
        payload: &[u8],
        now: Instant,
    ) {
        let Ok(message) = stun::parse(payload) else {
            self.refused_datagrams += 1;
            return;
        };
        if socket != SocketId::MAIN && self.handle_survey(socket, &message, now) {
            return;
        }
        if self.observer.handle_response(remote, &message, now) {
            self.note_udp_answer(now);
            self.settle_observer(now);
            return;
        }
        // A request names its link. An answer is for the link that asked.
        let asked = stun::receiver_index(&message).or_else(|| {
            let index = path::asking_link(message.transaction);
            let link = self.links.get(index)?;
            link.awaits(message.transaction).then_some(index)
        });
        let mine = asked.filter(|&index| {
            let link = self.links.get_mut(index);
            link.is_some_and(|link| link.handle_stun(socket, remote, payload, now))
        });
        match mine {
            Some(index) => self.settle_link(index, now),
            None => self.refused_datagrams += 1,
        }
    }
}
