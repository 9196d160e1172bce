//! The part of a node that hosts a hub: who may join, and to which port a frame goes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::nat::NatSide;
use super::status::MacStatus;
use super::{Event, HubConfig, Node, Side, plane};
use crate::auth::Admission;
use crate::gateway::pool::Pool;
use crate::gateway::subnet::Subnet;
use crate::gateway::{Dhcp, Gateway, ipv6_from_seed, mac_from_seed};
use crate::identity::PeerId;
use crate::switch::{self, Forwarding, PortId, PortNumber, Row, Switch};
use crate::wire::control::{FEATURE_NETWORK, Join, OPEN_FRAMES, Refusal, Welcome};
use crate::wire::ethernet::{self, MacAddr};

/// The gateway's port on the switch; links have their index's.
pub(super) const GATEWAY: PortId = PortId(0);
/// The port of this machine's card, when it has one; no link has this index.
const CARD: PortId = PortId(u32::MAX);
/// MTU of the virtual network in bytes of IP packet: an ordinary Ethernet's.
const MTU: u16 = 1500;

/// A hosted hub.
pub(super) struct Hub {
    name: String,
    pub(super) subnet: Subnet,
    pub(super) ipv6: Ipv6Addr,
    switch: Switch,
    pub(super) gateway: Gateway,
    pub(super) nat: NatSide,
    pub(super) dhcp: Option<Dhcp>,
    pub(super) pool: Pool,
    admission: Admission,
    members_max: usize,
    /// The members that are here, by their links' indices.
    pub(super) seats: BTreeMap<u32, Seat>,
    /// Who we are, and the address of this machine's card.
    own: (PeerId, Option<Ipv4Addr>),
}

/// A member that is let in.
pub(super) struct Seat {
    pub(super) peer: PeerId,
    pub(super) mac: MacAddr,
    /// It understands what else the network has.
    pub(super) hears_network: bool,
    host_name: String,
    heard: bool,
}

impl Hub {
    pub(super) fn new(config: HubConfig, id: PeerId, seed: [u8; 32], now: Instant) -> Self {
        let mut switch = Switch::new(switch::Config::default(), &mut StdRng::from_seed(seed));
        switch.add_port(GATEWAY, now);
        let mut admission = Admission::new();
        for token in &config.tokens {
            // The file that they come from holds fewer than the limit.
            let _ = admission.add_token(token);
        }
        let mut pool = Pool::new(config.subnet);
        let own = config.card.then(|| pool.assign(id)).flatten();
        if config.card {
            switch.add_port(CARD, now);
        }
        Self {
            own: (id, own),
            name: config.name,
            subnet: config.subnet,
            ipv6: ipv6_from_seed(&id.0),
            switch,
            gateway: Gateway::new(mac_from_seed(&id.0), config.subnet, MTU),
            pool,
            nat: NatSide::default(),
            dhcp: None,
            admission,
            members_max: config.members_max,
            seats: BTreeMap::new(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn host_name(&self, index: u32) -> String {
        self.seats
            .get(&index)
            .map(|seat| seat.host_name.clone())
            .unwrap_or_default()
    }

    pub(super) fn add_token(&mut self, token: [u8; 16]) {
        if let Err(error) = self.admission.add_token(&token) {
            tracing::warn!(%error, "an invite was not added");
        }
    }

    /// Lets a peer in, or says why not.
    fn admit(
        &mut self,
        index: u32,
        peer: PeerId,
        join: &Join,
        now: Instant,
    ) -> Result<Welcome, Refusal> {
        self.admission.admit(peer, &join.credential, now)?;
        let mut others = self.seats.values().filter(|seat| seat.peer != peer);
        if others.nth(self.members_max.saturating_sub(1)).is_some() || self.members_max == 0 {
            return Err(Refusal::Full);
        }
        let address = self.address_for(peer, now).ok_or(Refusal::NoAddress)?;
        self.switch.add_port(PortId(index), now);
        let host_name = join
            .host_name
            .chars()
            .filter(|letter| !letter.is_control())
            .take(63)
            .collect();
        let seat = Seat {
            peer,
            mac: join.mac,
            hears_network: join.features & FEATURE_NETWORK != 0,
            host_name,
            heard: false,
        };
        self.seats.insert(index, seat);
        Ok(Welcome {
            hub_name: self.name.clone(),
            address: Some((IpAddr::V4(address), self.subnet.prefix())),
            gateway: Some(IpAddr::V4(self.subnet.address())),
            mtu: MTU,
            features: OPEN_FRAMES,
        })
    }

    /// A member keeps its address while it is away, until somebody else needs one and there is no other.
    fn address_for(&mut self, peer: PeerId, now: Instant) -> Option<Ipv4Addr> {
        if let Some(address) = self.pool.assign(peer) {
            return Some(address);
        }
        let seats = self.seats.values().map(|seat| seat.peer);
        let here: BTreeSet<PeerId> = seats.chain([self.own.0]).collect();
        let (_, away) = self
            .pool
            .iter()
            .find(|(_, peer)| !here.contains(peer) && !self.has_lease(peer, now))?;
        self.pool.release(away);
        self.pool.assign(peer)
    }

    /// What this machine's card is to have, if there is one.
    pub(super) fn card_ready(&self) -> Option<Event> {
        Some(Event::Card {
            address: (IpAddr::V4(self.own.1?), self.subnet.prefix()),
            mtu: MTU,
        })
    }

    /// The table for a data plane.
    pub(super) fn forwarding(&mut self, now: Instant) -> plane::Forwarding {
        let nat = self.switch.number(GATEWAY).filter(|_| self.nat_is_on());
        plane::Forwarding::Table(plane::Table {
            fib: self.switch.fib(now),
            card: self.switch.number(CARD),
            nat: nat.map(|number| (number, self.gateway.mac())),
        })
    }

    /// The port of a member's link in that table.
    pub(super) fn port_number(&self, index: u32) -> Option<PortNumber> {
        self.switch.number(PortId(index))
    }

    /// A link is gone.
    pub(super) fn remove(&mut self, index: u32) {
        self.switch.remove_port(PortId(index));
        self.seats.remove(&index);
    }

    /// The member behind a link, when this is the first frame from it.
    fn first_frame(&mut self, index: u32) -> Option<PeerId> {
        let seat = self.seats.get_mut(&index).filter(|seat| !seat.heard)?;
        seat.heard = true;
        Some(seat.peer)
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.switch.handle_timeout(now);
        self.gateway.handle_timeout(now);
        if let Some(dhcp) = &mut self.dhcp {
            dhcp.handle_timeout(&mut self.pool, now);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let dhcp = self.dhcp.as_ref().and_then(Dhcp::poll_timeout);
        let gateway = self.gateway.poll_timeout();
        let all = [self.switch.poll_timeout(), dhcp, gateway];
        all.into_iter().flatten().min()
    }

    pub(super) fn table(&self, now: Instant) -> Vec<MacStatus> {
        let port = |port: PortId| {
            let seat = self.seats.get(&port.0);
            match seat {
                Some(seat) => seat.peer.to_string(),
                None if port == CARD => "card".to_owned(),
                None => "gateway".to_owned(),
            }
        };
        let row = |row: Row| MacStatus {
            mac: row.mac.to_string(),
            port: port(row.port),
            age_seconds: row.age.as_secs(),
        };
        self.switch.table(now).into_iter().map(row).collect()
    }

    /// The ports that a frame goes to. No member can take the virtual host's place.
    pub(super) fn forward(&mut self, from: PortId, frame: &[u8], now: Instant) -> Vec<PortId> {
        let source = ethernet::addresses(frame).map(|(_, source)| source);
        if from != GATEWAY && source == Some(self.gateway.mac()) {
            return Vec::new();
        }
        match self.switch.forward(from, frame, now) {
            Forwarding::To(port) => vec![port],
            Forwarding::Flood => self.switch.flood_ports(from).collect(),
            Forwarding::Filtered(_) => Vec::new(),
        }
    }
}

impl Node {
    pub(super) fn admit(&mut self, index: u32, peer: PeerId, join: &Join, now: Instant) {
        let Some(link) = self.links.get_mut(index) else {
            return;
        };
        let Side::Hub(hub) = &mut self.side else {
            link.refuse(Refusal::NotAHub, now);
            return;
        };
        if hub.seats.contains_key(&index) {
            return; // It is in; asking again changes nothing.
        }
        match hub.admit(index, peer, join, now) {
            Ok(welcome) => {
                let address = welcome.address.map(|(address, _)| address);
                link.welcome(welcome, hub.network_for(index), now);
                self.events.push_back(Event::MemberJoined {
                    peer,
                    host_name: hub.host_name(index),
                    address,
                });
            }
            Err(refusal) => {
                link.refuse(refusal, now);
                self.events
                    .push_back(Event::MemberRefused { peer, refusal });
            }
        }
        self.settle_link(index, now);
    }

    /// A frame came out of a link: to the card on a member, to the switch on a hub.
    pub(super) fn handle_link_frame(&mut self, index: u32, frame: Vec<u8>, now: Instant) {
        match &mut self.side {
            // A link that is not the one to the hub any more, or not yet, has nothing for the card.
            Side::Member(member) if member.link() != Some(index) => {}
            Side::Member(member) => {
                if self.frames.len() < super::CARD_QUEUE {
                    self.frames.push_back(frame);
                }
                if let Some(peer) = member.first_frame() {
                    self.note_first_frame(index, peer);
                }
            }
            Side::Hub(hub) => {
                let first = hub.first_frame(index);
                self.switch_frame(PortId(index), &frame, now);
                if let Some(peer) = first {
                    self.note_first_frame(index, peer);
                }
            }
        }
    }

    fn note_first_frame(&mut self, index: u32, peer: PeerId) {
        let direct = self
            .links
            .get(index)
            .is_some_and(crate::link::Link::is_direct);
        self.events.push_back(Event::FirstFrame { peer, direct });
    }

    /// A frame from a port to the ports that it is for.
    fn switch_frame(&mut self, from: PortId, frame: &[u8], now: Instant) {
        let Side::Hub(hub) = &mut self.side else {
            return;
        };
        let ports = hub.forward(from, frame, now);
        if ports.contains(&GATEWAY) {
            hub.give_gateway(frame, now);
        }
        self.send_to(&ports, frame, now);
        self.switch_gateway(now);
    }

    /// A frame from this machine's card.
    pub(super) fn handle_card_frame(&mut self, frame: &[u8], now: Instant) {
        self.switch_frame(CARD, frame, now);
    }

    /// A frame to ports, but not to the gateway.
    fn send_to(&mut self, ports: &[PortId], frame: &[u8], now: Instant) {
        for port in ports.iter().filter(|port| **port != GATEWAY) {
            if *port != CARD {
                self.send_frame(port.0, frame, now);
            } else if self.frames.len() < super::CARD_QUEUE {
                self.frames.push_back(frame.to_vec());
            }
        }
    }

    pub(super) fn switch_gateway(&mut self, now: Instant) {
        loop {
            let Side::Hub(hub) = &mut self.side else {
                return;
            };
            let Some(frame) = hub.gateway.poll_frame() else {
                return self.settle_dhcp();
            };
            let ports = hub.forward(GATEWAY, &frame, now);
            self.send_to(&ports, &frame, now);
        }
    }
}
