//! The part of a node through which the hub's NAT is reached, and what members are told of the network behind it.
//!
//! The NAT itself runs beside the node, with its sockets: here only frames pass, in both directions.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use super::hub::{GATEWAY, Hub};
use super::{Event, Node, Side};
use crate::gateway::{Dhcp, DhcpSettings, ForNat, KeptLease, is_for_nat};
use crate::identity::PeerId;
use crate::wire::control::{MAX_RESOLVERS, MAX_ROUTES, Network};
use crate::wire::ethernet::MacAddr;

/// The hub's side of the NAT.
#[derive(Debug, Default)]
pub(super) struct NatSide {
    on: bool,
    network: Network,
    frames: VecDeque<Vec<u8>>,
    dropped: u64,
}

impl Hub {
    /// Whether the NAT runs.
    pub(super) const fn nat_is_on(&self) -> bool {
        self.nat.on
    }

    /// What a member is told, when it understands it and there is something.
    pub(super) fn network_for(&self, index: u32) -> Option<Network> {
        let hears = self
            .seats
            .get(&index)
            .is_some_and(|seat| seat.hears_network);
        let something = self.nat.network != Network::default();
        (hears && something).then(|| self.nat.network.clone())
    }

    /// A frame for the virtual host: for its NAT, or for what it does itself.
    pub(super) fn give_gateway(&mut self, frame: &[u8], now: Instant) {
        let whose = if self.nat.on {
            is_for_nat(self.gateway.mac(), frame)
        } else {
            ForNat::No
        };
        if whose != ForNat::No {
            self.nat.push(frame);
        }
        if whose != ForNat::Only && !self.answer_dhcp(frame, now) {
            self.gateway.handle_frame(frame, now);
        }
    }

    /// Whether the frame was the DHCP server's.
    fn answer_dhcp(&mut self, frame: &[u8], now: Instant) -> bool {
        let Some(dhcp) = self.dhcp.as_mut().filter(|_| Dhcp::is_question(frame)) else {
            return false;
        };
        let seats = &self.seats;
        let member_of = |mac| {
            let mut members = seats.values();
            members.find(|seat| seat.mac == mac).map(|seat| seat.peer)
        };
        if let Some(answer) = dhcp.handle_frame(frame, &mut self.pool, member_of, now) {
            self.gateway.add_frame(answer);
        }
        true
    }

    /// Whether a station has its address by DHCP now.
    pub(super) fn has_lease(&self, client: &PeerId, now: Instant) -> bool {
        self.dhcp
            .as_ref()
            .is_some_and(|dhcp| dhcp.has_lease(client, now))
    }
}

impl NatSide {
    fn push(&mut self, frame: &[u8]) {
        if self.frames.len() < MAX_FRAMES {
            self.frames.push_back(frame.to_vec());
        } else {
            self.dropped += 1;
        }
    }
}

impl Node {
    /// (Hub) the virtual host's MAC address.
    #[must_use]
    pub const fn gateway_mac(&self) -> Option<MacAddr> {
        match &self.side {
            Side::Hub(hub) => Some(hub.gateway.mac()),
            Side::Member(_) => None,
        }
    }

    /// (Hub) the virtual host's IPv6 address, which it has while the NAT runs.
    #[must_use]
    pub const fn gateway_ipv6(&self) -> Option<Ipv6Addr> {
        match &self.side {
            Side::Hub(hub) => Some(hub.ipv6),
            Side::Member(_) => None,
        }
    }

    /// (Hub) the next frame for the NAT, if any; while it is on.
    pub fn poll_nat_frame(&mut self) -> Option<Vec<u8>> {
        match &mut self.side {
            Side::Hub(hub) => hub.nat.frames.pop_front(),
            Side::Member(_) => None,
        }
    }

    /// (Hub) the NAT sent a frame.
    pub fn handle_nat_frame(&mut self, frame: &[u8], now: Instant) {
        let Side::Hub(hub) = &mut self.side else {
            return;
        };
        let ports = hub.forward(GATEWAY, frame, now);
        for port in ports {
            self.send_frame(port.0, frame, now);
        }
    }

    /// (Hub) leases to be kept over a restart.
    #[must_use]
    pub fn kept_leases(&self, now: Instant) -> Vec<KeptLease> {
        self.dhcp().map_or_else(Vec::new, |dhcp| dhcp.kept(now))
    }

    /// (Hub) the virtual DHCP server, while it runs: for its tables.
    #[must_use]
    pub fn dhcp(&self) -> Option<&Dhcp> {
        match &self.side {
            Side::Hub(hub) => hub.dhcp.as_ref(),
            Side::Member(_) => None,
        }
    }

    /// What the DHCP server has to tell, after any frame or timer.
    pub(super) fn settle_dhcp(&mut self) {
        let Side::Hub(hub) = &mut self.side else {
            return;
        };
        let Some(dhcp) = &mut hub.dhcp else {
            return;
        };
        self.events
            .extend(std::iter::from_fn(|| dhcp.poll_event()).map(Event::Dhcp));
        if dhcp.take_changed() {
            self.events.push_back(Event::LeasesChanged);
        }
    }

    pub(super) fn set_dhcp(&mut self, settings: Option<DhcpSettings>) {
        let Side::Hub(hub) = &mut self.side else {
            return;
        };
        let Some(settings) = settings else {
            hub.dhcp = None;
            return;
        };
        if let Err(error) = hub.pool.set_range(settings.first, settings.last) {
            tracing::warn!(%error, "the range of addresses stays as it is");
        }
        match &mut hub.dhcp {
            Some(dhcp) => dhcp.set(settings),
            None => hub.dhcp = Some(Dhcp::new(settings, hub.subnet, hub.gateway.mac())),
        }
    }

    pub(super) fn restore_leases(&mut self, leases: Vec<KeptLease>, now: Instant) {
        if let Side::Hub(hub) = &mut self.side
            && let Some(dhcp) = &mut hub.dhcp
        {
            dhcp.restore(leases, &mut hub.pool, now);
        }
    }

    pub(super) fn set_nat(&mut self, on: bool, network: Network, now: Instant) {
        let Side::Hub(hub) = &mut self.side else {
            return;
        };
        if hub.nat.on != on {
            let ipv6 = on.then_some(hub.ipv6);
            hub.gateway.set_ipv6(ipv6, now);
        }
        hub.nat.on = on;
        if !on {
            hub.nat.frames.clear();
        }
        if hub.nat.network == network {
            return self.switch_gateway(now);
        }
        hub.nat.network = network.clone();
        let hearing = hub.seats.iter().filter(|(_, seat)| seat.hears_network);
        let indices: Vec<u32> = hearing.map(|(index, _)| *index).collect();
        for index in indices {
            if let Some(link) = self.links.get_mut(index) {
                link.tell_network(network.clone(), now);
            }
            self.settle_link(index, now);
        }
        self.switch_gateway(now);
    }

    /// The hub says what its network has: what is ours anyway is not routed through it.
    pub(super) fn network(&mut self, network: Network) {
        let is_own = |&(net, prefix): &(IpAddr, u8)| {
            let mut own = self.local_addresses.iter().map(std::net::SocketAddr::ip);
            own.any(|address| contains(net, prefix, address))
        };
        let plausible = network
            .routes
            .into_iter()
            .take(MAX_ROUTES)
            .filter(is_plausible);
        let (own, routes) = plausible.partition(is_own);
        let dns = network.dns.into_iter().take(MAX_RESOLVERS).collect();
        let domain = network
            .domain
            .chars()
            .filter(|c| c.is_ascii_graphic())
            .take(253);
        self.events.push_back(Event::Network {
            routes,
            own,
            dns,
            domain: domain.collect(),
        });
    }
}

/// A hub may not lead its members' whole traffic, or their own machine's, through itself: that is the user's choice.
fn is_plausible((net, prefix): &(IpAddr, u8)) -> bool {
    let lengths = if net.is_ipv4() { 8..=32 } else { 16..=128 };
    lengths.contains(prefix) && !net.is_loopback() && !net.is_multicast()
}

fn contains(net: IpAddr, prefix: u8, address: IpAddr) -> bool {
    crate::gateway::access::Net::new(net, prefix).is_ok_and(|net| net.contains(address))
}

/// Frames that wait for the NAT.
const MAX_FRAMES: usize = 4096;
