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
use crate::rendezvous::observe::Observer;
use crate::traversal::budget::Entries;
use crate::traversal::survey::Servers;
use crate::traversal::{Budget, Survey};
use crate::wire::control::NatClass;
use crate::{SocketId, SocketRequest};

/// What a node is told about getting through NATs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReachConfig {
    /// What searches for ports may cost.
    pub budget: Budget,
    /// More STUN servers (RFC 8489), best at other addresses than the rendezvous': they show on what our NAT depends.
    pub stun: Vec<SocketAddr>,
}

/// Whom a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Survey,
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
    entries: Entries,
}

impl Reach {
    pub(super) fn new(config: ReachConfig, seed: [u8; 32], now: Instant) -> Self {
        Self {
            config,
            survey: Survey::new(seed),
            sockets: BTreeMap::new(),
            last_socket: 0,
            openings: Vec::new(),
            requests: VecDeque::new(),
            searching: None,
            waiting: VecDeque::new(),
            last: None,
            free_at: now,
            entries: Entries::default(),
        }
    }

    /// The next thing that the driver is to do with sockets.
    pub(super) fn poll_request(&mut self) -> Option<SocketRequest> {
        self.requests.pop_front()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let free = (self.searching.is_none() && !self.waiting.is_empty()).then_some(self.free_at);
        self.survey.poll_timeout().into_iter().chain(free).min()
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
        self.start_search_if_due(now);
    }

    /// The rendezvous answers STUN at these addresses, too.
    pub(super) fn set_stun_servers(&mut self, stun: &[SocketAddr], now: Instant) {
        let Some(main) = self.client.server() else {
            return;
        };
        let configured = self.reach.config.stun.iter();
        let others: Vec<SocketAddr> = stun.iter().chain(configured).copied().collect();
        let servers: Vec<SocketAddr> = std::iter::once(main).chain(others.clone()).collect();
        self.observer.set_servers(&servers, now);
        let same_family = |other: &&SocketAddr| other.is_ipv4() == main.is_ipv4();
        let mut others = others.iter().filter(same_family);
        let other_port = others.clone().find(|other| other.ip() == main.ip());
        let other_address = others.find(|other| other.ip() != main.ip());
        let servers = Servers {
            main: Some(main),
            other_port: other_port.copied(),
            other_address: other_address.copied(),
        };
        self.reach.survey.set_servers(servers, now);
    }

    pub(super) fn handle_socket(&mut self, id: SocketId, port: Option<u16>, now: Instant) {
        let Some(opening) = self.reach.settle_socket(id, port) else {
            return;
        };
        match opening.owner {
            Owner::Survey => self.reach.survey.handle_sockets(opening.opened, now),
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
        let mine = self.reach.survey.handle_message(socket, message, now);
        if mine {
            self.spread_class(now);
        }
        mine
    }

    pub(super) fn poll_survey(&mut self, now: Instant) -> Option<crate::Transmit> {
        let (socket, destination, contents) = self.reach.survey.poll_transmit(now)?;
        Some(crate::Transmit {
            socket,
            ..crate::Transmit::datagram(destination, contents)
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
/// A search with fewer entries left is not worth beginning.
const FEWEST: u32 = 16;
