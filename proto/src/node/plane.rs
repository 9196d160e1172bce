//! What a data plane is told, and what it tells: the frames that need no decision go by it without the node.
//!
//! ```text
//!   node ── Plane: links, their ways, the forwarding table ──▶ data plane
//!        ◀── datagrams that are no frames, chunks of control, frames that it does not know where to send ──
//! ```
//!
//! Without one (in the simulator) the node does everything itself, by the same parts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::{Node, Side};
use crate::link::plane::{LinkPort, Route};
use crate::link::{Link, Via};
use crate::switch::{Fib, PortNumber};
use crate::wire::ethernet::MacAddr;

/// All that a data plane needs to know at one moment.
#[derive(Clone, Debug, Default)]
pub struct Plane {
    /// Links that have keys, with the number of the port that each is on a hub's switch, once it is one.
    pub links: Vec<(LinkPort, Option<PortNumber>)>,
    /// Where frames go that programs send and that come by a link.
    pub forwarding: Forwarding,
    /// The relay's address, while we are registered.
    pub relay: Option<SocketAddr>,
}

/// Where frames go.
#[derive(Clone, Debug, Default)]
pub enum Forwarding {
    /// Nowhere, as far as the data plane knows.
    #[default]
    Unknown,
    /// (Member) from the card to this link, and from every link to the card.
    Uplink(u32),
    /// (Hub) by the table.
    Table(Table),
}

/// A hub's table, and which of its ports are no links.
#[derive(Clone, Debug)]
pub struct Table {
    /// Addresses and the ports behind which they are.
    pub fib: Arc<Fib>,
    /// The card's port, if there is one.
    pub card: Option<PortNumber>,
    /// The virtual host's port and address, while its NAT runs.
    pub nat: Option<(PortNumber, MacAddr)>,
}

/// What was told of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    route: Option<Route>,
    takes_open: bool,
    port: Option<PortNumber>,
}

/// What was told, to tell only what is new.
#[derive(Debug, Default)]
pub(super) struct Telling {
    links: BTreeMap<u32, Told>,
    uplink: Option<u32>,
    relay: Option<SocketAddr>,
    nat: bool,
    begun: bool,
}

impl Node {
    /// What a data plane must know from now on, if that is anything new. Drained like other outputs, by who has one.
    pub fn poll_plane(&mut self, now: Instant) -> Option<Plane> {
        let mut changed = !std::mem::replace(&mut self.telling.begun, true);
        for index in self.links.take_touched() {
            let told = self.links.get(index).and_then(|link| self.to_tell(link));
            let before = match told {
                Some(told) => self.telling.links.insert(index, told),
                None => self.telling.links.remove(&index),
            };
            changed |= before != told;
        }
        let (uplink, nat) = match &self.side {
            Side::Member(member) => (member.link(), false),
            Side::Hub(hub) => (None, hub.nat_is_on()),
        };
        let relay = self.client.relay();
        let telling = &mut self.telling;
        changed |= (uplink, relay, nat) != (telling.uplink, telling.relay, telling.nat);
        (telling.uplink, telling.relay, telling.nat) = (uplink, relay, nat);
        changed.then(|| self.plane(now))
    }

    /// A data plane opened a datagram of `size` bytes on a link; these of its chunks are no frames.
    pub fn handle_opened(&mut self, index: u32, chunks: &[u8], size: u16, via: Via, now: Instant) {
        if let Some(link) = self.links.get_mut(index) {
            link.handle_opened(chunks, size, via, now);
            self.settle_link(index, now);
        }
    }

    /// A data plane opened something on a link that came by another way than it was told.
    pub fn handle_heard(&mut self, index: u32, via: Via, now: Instant) {
        if let Some(link) = self.links.get_mut(index) {
            link.handle_heard(via, now);
            self.settle_link(index, now);
        }
    }

    /// A data plane opened a frame on a link and does not know where it goes.
    pub fn handle_opened_frame(&mut self, index: u32, frame: Vec<u8>, now: Instant) {
        if self.links.get(index).is_some() {
            self.handle_link_frame(index, frame, now);
        }
    }

    /// Takes up what a data plane has seen of all links: often while frames flow. Whether any waits for an answer.
    pub fn take_traffic(&mut self, now: Instant) -> bool {
        let mut waits = false;
        for index in self.links.indices() {
            if let Some(link) = self.links.get_mut(index) {
                waits |= link.take_traffic(now);
                self.links.refresh(index);
            }
        }
        waits
    }

    fn plane(&mut self, now: Instant) -> Plane {
        let links = self.links.iter().filter_map(|link| {
            let told = self.telling.links.get(&link.local_index())?;
            Some((link.port()?, told.port))
        });
        let links = links.collect();
        let forwarding = match &mut self.side {
            Side::Member(member) => member.link().map(Forwarding::Uplink).unwrap_or_default(),
            Side::Hub(hub) => hub.forwarding(now),
        };
        Plane {
            links,
            forwarding,
            relay: self.client.relay(),
        }
    }

    fn to_tell(&self, link: &Link) -> Option<Told> {
        link.is_established().then(|| Told {
            route: link.route(),
            takes_open: link.takes_open(),
            port: match &self.side {
                Side::Hub(hub) => hub.port_number(link.local_index()),
                Side::Member(_) => None,
            },
        })
    }
}
