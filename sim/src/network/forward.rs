//! A packet's way: over a link, across a segment, through a router, over the next link. The functions stand in the order
//! in which a packet meets them.

use std::cmp::Reverse;
use std::time::Instant;

use super::{
    CORE_REPORTERS, Cause, Event, HostId, InFlight, Network, Place, RouterId, SegmentId, Station,
    Summary, Wire,
};
use crate::link::{Fate, Link};
use crate::nat::{DropReason, Verdict};
use crate::packet::{IcmpError, Packet};
use crate::rules::Action;

impl Network {
    /// Puts a packet on a link, in pieces if it is too large and may be cut.
    pub(super) fn cross(&mut self, wire: Wire, packet: Packet, now: Instant) {
        let config = self.link(wire).config();
        let (mtu, black_hole) = (usize::from(config.mtu), config.black_hole);
        if packet.len() <= mtu || packet.dont_fragment || packet.is_ipv6() || black_hole {
            return self.cross_whole(wire, packet, now);
        }
        self.identification = self.identification.wrapping_add(1);
        for piece in packet.fragments(mtu, self.identification.into()) {
            self.cross_whole(wire, piece, now);
        }
    }

    fn cross_whole(&mut self, wire: Wire, packet: Packet, now: Instant) {
        match self.link(wire).send(&packet, now) {
            Fate::Arrives { at, copy } => {
                if let Some(at) = copy {
                    self.note(Event::Duplicated(self.place(wire)), &packet, now);
                    self.fly(wire, packet.clone(), at);
                }
                self.fly(wire, packet, at);
            }
            Fate::Lost(drop) => self.lose(self.place(wire), Cause::Link(drop), &packet, now),
            Fate::TooBig { mtu } => {
                self.lose(self.place(wire), Cause::TooBig, &packet, now);
                self.too_big(wire, &packet, mtu, now);
            }
        }
    }

    fn fly(&mut self, wire: Wire, packet: Packet, at: Instant) {
        self.sequence += 1;
        self.flight.push(Reverse(InFlight {
            at,
            sequence: self.sequence,
            wire,
            packet,
        }));
    }

    /// A packet comes off a link.
    pub(super) fn arrive(&mut self, wire: Wire, packet: Packet, now: Instant) {
        match wire {
            Wire::HostUp(id) | Wire::HostDown(id) if self.attachments[id].gone => {
                self.lose(self.place(wire), Cause::Detached, &packet, now);
            }
            Wire::HostUp(id) => self.route(self.attachments[id].segment, packet, false, now),
            Wire::HostDown(id) => self.receive(self.attachments[id].host, packet, now),
            Wire::RouterUp(router) => {
                self.route(self.routers[router.0].outside, packet, false, now);
            }
            Wire::RouterDown(router) => self.enter(router, packet, now),
        }
    }

    fn receive(&mut self, host: HostId, packet: Packet, now: Instant) {
        self.note(Event::Received(host), &packet, now);
        self.arrived.push_back((host, packet));
    }

    /// A packet is on a segment; `entered`: it came in by the segment's gateway, and does not leave by it again.
    fn route(&mut self, id: SegmentId, mut packet: Packet, entered: bool, now: Instant) {
        let at = now.saturating_duration_since(self.start);
        let segment = &mut self.segments[id.0];
        if let Some(capture) = &mut segment.capture {
            capture.push(at, &packet);
        }
        let (hops, gateway, default) = (segment.hops, segment.gateway, segment.default);
        if packet.ttl <= hops {
            return self.exceed(id, &packet, now);
        }
        packet.ttl -= hops;
        match (segment.stations.get(&packet.destination), gateway) {
            (Some(&Station::Host(to)), _) => self.cross(Wire::HostDown(to), packet, now),
            (Some(&Station::Router(to)), _) => self.cross(Wire::RouterDown(to), packet, now),
            (None, Some(router)) if !entered => self.leave(router, packet, now),
            (None, _) if default.is_some() => {
                if let Some(to) = default {
                    self.cross(Wire::HostDown(to), packet, now);
                }
            }
            (Some(Station::Gateway), Some(router)) if !entered => self.serve(router, &packet, now),
            (Some(Station::Gateway) | None, _) => {
                self.lose(Place::Segment(id), Cause::Unroutable, &packet, now);
            }
        }
    }

    /// A packet from inside is for the router itself.
    fn serve(&mut self, id: RouterId, packet: &Packet, now: Instant) {
        let router = &mut self.routers[id.0];
        let inside = router.inside;
        match router.nat_for_mut(packet.source).serve(packet, now) {
            Some(answer) => {
                self.note(Event::Served(id), &answer, now);
                self.route(inside, answer, true, now);
            }
            None => self.lose(Place::Segment(inside), Cause::Unroutable, packet, now),
        }
    }

    /// A packet reaches a router from inside.
    fn leave(&mut self, id: RouterId, mut packet: Packet, now: Instant) {
        let router = &mut self.routers[id.0];
        let inside = router.inside;
        if packet.ttl <= 1 {
            return self.exceed(inside, &packet, now);
        }
        if let Some(mtu) = router.up.too_big(&packet) {
            self.lose(Place::Router(id), Cause::TooBig, &packet, now);
            return self.report(inside, &packet, IcmpError::TooBig { mtu }, now);
        }
        packet.ttl -= 1;
        match router.rules.judge(&packet, true) {
            Action::Pass => {}
            action @ (Action::Drop | Action::Reject) => {
                return self.forbid(id, action, &packet, now);
            }
        }
        let before = self.log.is_on().then(|| Summary::of(&packet));
        match router.nat_for_outbound(&packet).outbound(packet, now) {
            Verdict::Forward(packet) => {
                self.note(Event::Outbound(id), &packet, now);
                self.cross(Wire::RouterUp(id), packet, now);
            }
            Verdict::Hairpin(packet) => {
                self.note(Event::Hairpin(id), &packet, now);
                self.route(inside, packet, true, now);
            }
            Verdict::Drop(reason) => self.refuse(id, reason, before, now),
            Verdict::Held => {}
            Verdict::Reply(packet) => {
                self.note(Event::Reported(Place::Router(id)), &packet, now);
                self.route(inside, packet, true, now);
            }
        }
    }

    /// A packet reaches a router from outside.
    fn enter(&mut self, id: RouterId, mut packet: Packet, now: Instant) {
        let router = &mut self.routers[id.0];
        let (inside, outside) = (router.inside, router.outside);
        if packet.ttl <= 1 {
            return self.exceed(outside, &packet, now);
        }
        packet.ttl -= 1;
        if router.rules.judge(&packet, false) != Action::Pass {
            return self.lose(Place::Router(id), Cause::Forbidden, &packet, now);
        }
        let before = self.log.is_on().then(|| Summary::of(&packet));
        match router.nat_for_mut(packet.source).inbound(packet, now) {
            Verdict::Forward(packet) | Verdict::Hairpin(packet) => {
                self.note(Event::Inbound(id), &packet, now);
                self.route(inside, packet, true, now);
            }
            Verdict::Drop(reason) => self.refuse(id, reason, before, now),
            Verdict::Held => {}
            Verdict::Reply(packet) => {
                self.note(Event::Reported(Place::Router(id)), &packet, now);
                self.cross(Wire::RouterUp(id), packet, now);
            }
        }
    }

    /// A rule keeps a packet from inside.
    fn forbid(&mut self, id: RouterId, action: Action, packet: &Packet, now: Instant) {
        self.lose(Place::Router(id), Cause::Forbidden, packet, now);
        if action == Action::Reject {
            let inside = self.routers[id.0].inside;
            self.report(inside, packet, IcmpError::Prohibited, now);
        }
    }

    /// The NAT kept the packet; `before` is what the log keeps of it.
    fn refuse(&mut self, id: RouterId, reason: DropReason, before: Option<Summary>, now: Instant) {
        if let Some(packet) = before {
            let at = now.saturating_duration_since(self.start);
            let event = Event::Dropped(Place::Router(id), Cause::Nat(reason));
            self.log.push(at, event, packet);
        }
    }

    fn exceed(&mut self, segment: SegmentId, packet: &Packet, now: Instant) {
        self.lose(Place::Segment(segment), Cause::TimeExceeded, packet, now);
        self.report(segment, packet, IcmpError::TimeExceeded, now);
    }

    /// The sender of a packet that a link could not take is told by the router at the link's near end.
    fn too_big(&mut self, wire: Wire, packet: &Packet, mtu: u16, now: Instant) {
        let error = IcmpError::TooBig { mtu };
        match wire {
            // The host's own interface: it tells itself.
            Wire::HostUp(id) => {
                if let Some(error) = packet.error(packet.source, error) {
                    self.receive(self.attachments[id].host, error, now);
                }
            }
            Wire::HostDown(id) => self.report(self.attachments[id].segment, packet, error, now),
            Wire::RouterDown(id) | Wire::RouterUp(id) => {
                self.report(self.routers[id.0].outside, packet, error, now);
            }
        }
    }

    /// Sends an ICMP error from a segment's router to the sender of `packet`.
    fn report(&mut self, segment: SegmentId, packet: &Packet, error: IcmpError, now: Instant) {
        let reporters = &self.segments[segment.0].reporters;
        let reporter = reporters
            .iter()
            .chain(&CORE_REPORTERS)
            .find(|address| address.is_ipv6() == packet.is_ipv6());
        let error = reporter.and_then(|&reporter| packet.error(reporter, error));
        if let Some(error) = error {
            self.note(Event::Reported(Place::Segment(segment)), &error, now);
            self.route(segment, error, false, now);
        }
    }

    const fn link(&mut self, wire: Wire) -> &mut Link {
        match wire {
            Wire::HostUp(id) => &mut self.attachments.as_mut_slice()[id].up,
            Wire::HostDown(id) => &mut self.attachments.as_mut_slice()[id].down,
            Wire::RouterUp(id) => &mut self.routers.as_mut_slice()[id.0].up,
            Wire::RouterDown(id) => &mut self.routers.as_mut_slice()[id.0].down,
        }
    }

    fn place(&self, wire: Wire) -> Place {
        match wire {
            Wire::HostUp(id) | Wire::HostDown(id) => Place::Host(self.attachments[id].host),
            Wire::RouterUp(id) | Wire::RouterDown(id) => Place::Router(id),
        }
    }
}
