//! What the links of a node share to get through NATs: sockets beside the main one, the survey of our own NAT, and the one
//! permit to search.
//!
//! ```text
//!   survey ─┐ wants sockets   Open ─▶ driver ─▶ SocketOpened ─┐
//!   link ───┘─▶ Reach ────────────────────────────────────────┴─▶ survey: asks · link: granted
//!                 └─ one search at a time, entries left, a pause between two
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::Node;
use super::status::NatStatus;
use crate::link::path::Grant;
use crate::portmap::{self, Portmap};
use crate::rendezvous::observe::Observer;
use crate::traversal::budget::Entries;
use crate::traversal::{Budget, Survey};
use crate::wire::control::NatClass;
use crate::{SocketId, SocketRequest, Transmit};

/// What a node is told about getting through NATs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReachConfig {
    /// What searches for ports may cost.
    pub budget: Budget,
    /// Whether to ask the gateway for a port that everybody may send to (PCP, NAT-PMP).
    pub portmap: bool,
    /// More STUN servers (RFC 8489), best at other addresses than the rendezvous': they show on what our NAT depends.
    pub stun: Vec<SocketAddr>,
}

impl Default for ReachConfig {
    fn default() -> Self {
        Self {
            budget: Budget::default(),
            portmap: true,
            stun: Vec::new(),
        }
    }
}

/// Whom a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Survey,
    Rotation,
    Portmap,
    Link(u32),
}

/// Sockets that are being opened.
#[derive(Debug)]
struct Opening {
    owner: Owner,
    waited_for: Vec<SocketId>,
    opened: Vec<(SocketId, u16)>,
}

/// See above.
#[derive(Debug)]
pub(super) struct Reach {
    pub(super) config: ReachConfig,
    survey: Survey,
    portmap: Portmap,
    /// The socket that asks the gateway.
    portmap_socket: Option<SocketId>,
    sockets: BTreeMap<SocketId, Owner>,
    last_socket: u16,
    openings: Vec<Opening>,
    requests: VecDeque<SocketRequest>,
    /// The link that searches.
    searching: Option<u32>,
    waiting: VecDeque<(u32, u16)>,
    /// The link that searched last, and when another one may.
    last: Option<u32>,
    free_at: Instant,
    /// When a search was slowed down last.
    eased_at: Option<Instant>,
    entries: Entries,
    openers: Openers,
}

/// What is known of packets that die on their way to open our NAT: some NATs end a mapping when one does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Openers {
    /// None was sent yet.
    Untried,
    /// The first were; whether we look the same afterwards is asked then.
    Sent(Instant),
    /// It was asked; a change until then is their fault.
    Asked(Instant),
    /// Our NAT bears them.
    Borne,
    /// It does not.
    Harmful,
}

impl Reach {
    pub(super) fn new(config: ReachConfig, seed: [u8; 32], now: Instant) -> Self {
        Self {
            config,
            survey: Survey::new(seed),
            portmap: Portmap::new(seed.map(|byte| !byte)),
            portmap_socket: None,
            sockets: BTreeMap::new(),
            last_socket: 0,
            openings: Vec::new(),
            requests: VecDeque::new(),
            searching: None,
            waiting: VecDeque::new(),
            last: None,
            free_at: now,
            eased_at: None,
            entries: Entries::default(),
            openers: Openers::Untried,
        }
    }

    /// The next thing that the driver is to do with sockets.
    pub(super) fn poll_request(&mut self) -> Option<SocketRequest> {
        self.requests.pop_front()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let free = (self.searching.is_none() && !self.waiting.is_empty()).then_some(self.free_at);
        let portmap = self.portmap.poll_timeout();
        let survey = self.survey.poll_timeout();
        let openers = match self.openers {
            Openers::Sent(at) | Openers::Asked(at) => Some(at),
            Openers::Untried | Openers::Borne | Openers::Harmful => None,
        };
        let free = free.into_iter().chain(openers);
        survey.into_iter().chain(portmap).chain(free).min()
    }

    /// Our NAT, by what the observer and the survey have found.
    pub(super) fn class(&self, observer: &Observer) -> NatClass {
        let report = self.survey.report();
        NatClass {
            mapping: observer.mapping(),
            filtering: report.filtering,
            allocation: report.allocation,
        }
    }

    /// A link wants to search: it waits for its turn.
    fn wants(&mut self, link: u32, sockets: u16) {
        self.waiting.retain(|(waiting, _)| *waiting != link);
        self.waiting.push_back((link, sockets));
    }

    /// A link does not search any more.
    fn ended(&mut self, link: u32, entries: u32, now: Instant) {
        self.waiting.retain(|(waiting, _)| *waiting != link);
        self.entries.add(entries, now);
        if self.searching == Some(link) {
            self.searching = None;
            self.last = Some(link);
            self.free_at = now + BETWEEN_SEARCHES;
        }
    }

    fn open(&mut self, owner: Owner, count: u16) {
        let mut waited_for = Vec::new();
        for _ in 0..count {
            let id = self.fresh_id();
            self.sockets.insert(id, owner);
            self.requests.push_back(SocketRequest::Open(id));
            waited_for.push(id);
        }
        self.openings.push(Opening {
            owner,
            waited_for,
            opened: Vec::new(),
        });
    }

    fn close(&mut self, sockets: &[SocketId]) {
        for id in sockets {
            if self.sockets.remove(id).is_some() {
                self.requests.push_back(SocketRequest::Close(*id));
            }
        }
    }

    /// Takes note of what became of a socket; gives the sockets of an opening that is complete.
    fn settle_socket(&mut self, id: SocketId, port: Option<u16>) -> Option<Opening> {
        let at = self
            .openings
            .iter()
            .position(|opening| opening.waited_for.contains(&id))?;
        let opening = self.openings.get_mut(at)?;
        opening.waited_for.retain(|waited| *waited != id);
        match port {
            Some(port) => opening.opened.push((id, port)),
            None => drop(self.sockets.remove(&id)),
        }
        opening
            .waited_for
            .is_empty()
            .then(|| self.openings.remove(at))
    }

    fn fresh_id(&mut self) -> SocketId {
        loop {
            self.last_socket = self.last_socket.wrapping_add(1);
            let id = SocketId(self.last_socket);
            if id != SocketId::MAIN && !self.sockets.contains_key(&id) {
                return id;
            }
        }
    }
}

impl Node {
    /// The next thing that the driver is to do with sockets, if any; to be asked before [`Self::poll_transmit`].
    pub fn poll_socket(&mut self) -> Option<SocketRequest> {
        self.reach.poll_request()
    }

    pub(super) fn handle_reach_timeout(&mut self, now: Instant) {
        if let Some(count) = self.reach.survey.wants_sockets(now) {
            self.reach.open(Owner::Survey, count);
        }
        let done = self.reach.survey.handle_timeout(now);
        if !done.is_empty() {
            self.reach.close(&done);
            self.spread_class(now);
        }
        if self.reach.portmap.handle_timeout(now) {
            self.spread_candidates(now);
        }
        self.ease_search(now);
        self.start_search_if_due(now);
        self.watch_openers(now);
    }

    /// This goes out: if it is to die on its way, it is seen whether our NAT bears that.
    pub(super) fn note_opener(&mut self, transmit: &Transmit, now: Instant) {
        let opener = transmit.ttl.is_some() && transmit.socket == SocketId::MAIN;
        if opener && self.reach.openers == Openers::Untried {
            self.reach.openers = Openers::Sent(now + OPENER_DIES);
        }
    }

    fn watch_openers(&mut self, now: Instant) {
        match self.reach.openers {
            Openers::Sent(at) if at <= now => {
                self.reach.openers = Openers::Asked(now + OPENER_BLAME);
                self.client.doubt(now);
            }
            Openers::Asked(until) if until <= now => self.reach.openers = Openers::Borne,
            Openers::Untried
            | Openers::Sent(_)
            | Openers::Asked(_)
            | Openers::Borne
            | Openers::Harmful => {}
        }
    }

    /// We look different to the rendezvous than a moment ago.
    pub(super) fn blame_openers(&mut self) {
        if matches!(self.reach.openers, Openers::Asked(_)) {
            self.reach.openers = Openers::Harmful;
            self.spread_may_open();
        }
    }

    fn spread_may_open(&mut self) {
        let may_open = self.may_open();
        for index in self.links.indices() {
            if let Some(link) = self.links.get_mut(index) {
                link.set_may_open(may_open);
            }
        }
    }

    pub(super) fn may_open(&self) -> bool {
        self.reach.openers != Openers::Harmful
    }

    /// A search that hurts the way to the rendezvous goes on at half its rate.
    fn ease_search(&mut self, now: Instant) {
        let Some(index) = self.reach.searching else {
            return self.observer.watch(false, now);
        };
        self.observer.watch(true, now);
        let strained =
            self.reach.eased_at.is_none_or(|at| at + EASE <= now) && self.observer.is_strained(now);
        if strained {
            self.reach.eased_at = Some(now);
            if let Some(link) = self.links.get_mut(index) {
                link.ease_search();
            }
        }
    }

    /// A link doubts its path: perhaps we look different now.
    pub(super) fn look_again(&mut self, now: Instant) {
        self.observer.refresh(now);
    }

    /// The gateway is there, or there is none to ask: whether it gives a port to our main socket.
    pub(super) fn set_gateway(&mut self, gateway: Option<IpAddr>, now: Instant) {
        let wanted = self.reach.config.portmap && !self.relay_only;
        self.gateway = gateway.filter(|_| wanted);
        self.wish_for_port(now);
    }

    /// What the gateway is asked for follows our address.
    pub(super) fn wish_for_port(&mut self, now: Instant) {
        let inside = self
            .local_addresses
            .iter()
            .find(|address| address.is_ipv4() && !address.ip().is_loopback());
        let wish = self
            .gateway
            .zip(inside)
            .and_then(|(gateway, &inside)| portmap::wish(gateway, inside));
        if wish.is_some() && self.reach.portmap_socket.is_none() {
            self.reach.open(Owner::Portmap, 1);
        }
        self.reach.portmap.set_wish(wish, now);
    }

    /// Whether a datagram is the gateway's.
    pub(super) fn handle_gateway(
        &mut self,
        socket: SocketId,
        remote: SocketAddr,
        payload: &[u8],
        now: Instant,
    ) -> bool {
        if socket == SocketId::MAIN || self.reach.portmap_socket != Some(socket) {
            return false;
        }
        if self.reach.portmap.handle_datagram(remote, payload, now) {
            self.spread_candidates(now);
        }
        true
    }

    fn poll_portmap(&mut self) -> Option<Transmit> {
        let socket = self.reach.portmap_socket?;
        let (destination, contents) = self.reach.portmap.poll_transmit()?;
        Some(Transmit {
            socket,
            ..Transmit::datagram(destination, contents)
        })
    }

    pub(super) fn mapped_address(&self) -> Option<SocketAddr> {
        let mapped = self.reach.portmap.mapped()?;
        if !mapped.ip().is_unspecified() {
            return Some(mapped);
        }
        // NAT-PMP's answer about the address was lost: it is the one that the rendezvous sees.
        Some(SocketAddr::new(self.outside_address()?, mapped.port()))
    }

    pub(super) fn stop_reach(&mut self) {
        self.reach.portmap.stop();
    }

    /// The rendezvous answers STUN at these addresses, too.
    pub(super) fn set_stun_servers(&mut self, stun: &[SocketAddr], now: Instant) {
        let Some(main) = self.client.server() else {
            return;
        };
        // Who wants no direct path has no use for it.
        if self.relay_only {
            return self.observer.set_servers(&[main], now);
        }
        let configured = self.reach.config.stun.iter();
        let others = stun.iter().chain(configured).copied();
        let servers: Vec<SocketAddr> = std::iter::once(main).chain(others).collect();
        self.observer.set_servers(&servers, now);
        let alike = |other: &&SocketAddr| other.is_ipv4() == main.is_ipv4();
        let mut second = stun.iter().filter(alike).copied();
        let second = second.find(|other| other.ip() != main.ip());
        self.reach.survey.set_server(Some(main), second, now);
    }

    pub(super) fn handle_socket(&mut self, id: SocketId, port: Option<u16>, now: Instant) {
        let Some(opening) = self.reach.settle_socket(id, port) else {
            return;
        };
        match opening.owner {
            Owner::Survey => self.reach.survey.handle_sockets(opening.opened, now),
            Owner::Rotation => {
                let socket = opening.opened.first().map(|&(id, _)| id);
                self.rotation_socket(socket, now);
            }
            Owner::Portmap => {
                self.reach.portmap_socket = opening.opened.first().map(|&(id, _)| id);
            }
            Owner::Link(index) => self.grant_search(index, opening.opened, now),
        }
    }

    /// Whether the survey of our NAT is on with this message.
    pub(super) fn handle_survey(
        &mut self,
        socket: SocketId,
        message: &crate::wire::stun::Message,
        now: Instant,
    ) -> bool {
        if self.handle_rotation_answer(message, now) {
            return true;
        }
        let mine = self.reach.survey.handle_message(socket, message, now);
        if mine {
            self.spread_class(now);
        }
        mine
    }

    pub(super) fn open_for_rotation(&mut self) {
        self.reach.open(Owner::Rotation, 1);
    }

    /// What goes out beside links and registration.
    pub(super) fn poll_reach(&mut self, now: Instant) -> Option<Transmit> {
        self.poll_survey(now)
            .or_else(|| self.poll_portmap())
            .or_else(|| self.poll_rotation(now))
    }

    fn poll_survey(&mut self, now: Instant) -> Option<Transmit> {
        let (socket, destination, contents) = self.reach.survey.poll_transmit(now)?;
        Some(Transmit {
            socket,
            ..Transmit::datagram(destination, contents)
        })
    }

    /// Tells every link what is known of our NAT.
    pub(super) fn spread_class(&mut self, now: Instant) {
        let class = self.reach.class(&self.observer);
        if self.class == class {
            return;
        }
        self.class = class;
        for index in self.links.indices() {
            if let Some(link) = self.links.get_mut(index) {
                link.set_class(class, now);
            }
            self.settle_link(index, now);
        }
    }

    pub(super) fn reach_network_changed(&mut self, now: Instant) {
        self.reach.survey.network_changed(now);
        self.reach.openers = Openers::Untried;
        self.spread_may_open();
        self.forget_rotation(now);
    }

    pub(super) fn want_search(&mut self, index: u32, sockets: u16, now: Instant) {
        self.reach.wants(index, sockets);
        self.start_search_if_due(now);
    }

    pub(super) fn search_ended(&mut self, index: u32, entries: u32, now: Instant) {
        self.reach.ended(index, entries, now);
    }

    pub(super) fn close_sockets(&mut self, sockets: &[SocketId]) {
        self.reach.close(sockets);
    }

    /// A link is gone, and with it what it had.
    pub(super) fn forget_reach_of(&mut self, index: u32, now: Instant) {
        self.reach.ended(index, 0, now);
        let owned = |(_, owner): &(&SocketId, &Owner)| **owner == Owner::Link(index);
        let owned: Vec<SocketId> = self
            .reach
            .sockets
            .iter()
            .filter(owned)
            .map(|(id, _)| *id)
            .collect();
        self.reach.close(&owned);
    }

    pub(super) fn nat_status(&self) -> NatStatus {
        let report = self.reach.survey.report();
        NatStatus {
            class: self.class,
            hairpin: report.hairpin,
            portmap: self.reach.portmap.status(),
            search_enabled: self.reach.config.budget.enabled,
            sockets: self.reach.sockets.len(),
            waiting_searches: self.reach.waiting.len(),
        }
    }

    fn start_search_if_due(&mut self, now: Instant) {
        if self.reach.searching.is_some() {
            return;
        }
        let is_free = |index: u32| now >= self.reach.free_at || self.reach.last == Some(index);
        let first = self.reach.waiting.front().copied();
        let Some((index, sockets)) = first.filter(|&(index, _)| is_free(index)) else {
            return;
        };
        self.reach.waiting.pop_front();
        let budget = self.reach.config.budget;
        let left = budget.entries.saturating_sub(self.reach.entries.held(now));
        if !budget.enabled || sockets > budget.sockets || left < u32::from(sockets) + FEWEST {
            if let Some(link) = self.links.get_mut(index) {
                link.refuse_search(now);
            }
            return self.settle_link(index, now);
        }
        self.reach.searching = Some(index);
        if sockets == 0 {
            self.grant_search(index, Vec::new(), now);
        } else {
            self.reach.open(Owner::Link(index), sockets);
        }
    }

    fn grant_search(&mut self, index: u32, sockets: Vec<(SocketId, u16)>, now: Instant) {
        let budget = self.reach.config.budget;
        let grant = Grant {
            server: self.client.server(),
            address: self.outside_address(),
            entries: budget.entries.saturating_sub(self.reach.entries.held(now)),
            sockets,
            budget,
        };
        let Some(link) = self.links.get_mut(index) else {
            let ids: Vec<SocketId> = grant.sockets.iter().map(|&(id, _)| id).collect();
            self.reach.close(&ids);
            return self.reach.ended(index, 0, now);
        };
        link.grant_search(grant, now);
        self.settle_link(index, now);
    }

    fn outside_address(&self) -> Option<IpAddr> {
        let mut outside = self.reflexive.iter().map(SocketAddr::ip);
        outside.find(IpAddr::is_ipv4)
    }
}

/// So that the packets of two searches never meet in one second.
const BETWEEN_SEARCHES: Duration = Duration::from_secs(1);
/// Between two times that a search is slowed down.
const EASE: Duration = Duration::from_secs(1);
/// A search with fewer entries left is not worth beginning.
const FEWEST: u32 = 16;
/// When what dies on its way has died, and its death is known.
const OPENER_DIES: Duration = Duration::from_millis(100);
/// How long a change of our address is taken for the work of openers.
const OPENER_BLAME: Duration = Duration::from_secs(3);
