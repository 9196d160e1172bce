//! The loop of one peer: sockets, card, clock and questions on one side, `proto::node` on the other.
//!
//! ```text
//!            ┌──────────────── one turn ─────────────────┐
//!   wake ─▶ one batch in ─▶ due timeout ─▶ drain ─▶ sleep until the next wake
//!   data plane · timer ·                   transmits ─▶ udp
//!   question · address · stop              frames ────▶ card
//!                                          events ────▶ observer, who asked
//!                                          what is decided ─▶ data plane
//! ```
//!
//! Frames do not come here: the data plane moves them, and hands up what needs a decision. Everything else runs in one task. A turn takes one bounded batch, so nobody starves. It decides
//! nothing about the network: what is done is what the node says.

use std::collections::BTreeMap;
use std::future::pending;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use kuguri_proto::SocketId;
use kuguri_proto::node::{Command, Event, Node};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::admin::{Asked, Request};
use crate::config::hub::Token;
use crate::dataplane::{DataPlane, Up};
use crate::local;
use crate::output::{CardState, Saying, path, refusal_text};
use crate::punch_sockets::PunchSockets;
use crate::route::{Routes, Settings};
use crate::tap::Card;
use crate::udp::UdpSocket;
use crate::ways::{Told, Ways};
use crate::whereabouts::{Sleep, gateway};
use secure_nat::SecureNat;

mod find;
mod network;
pub mod secure_nat;
mod ways;

pub use find::find_peer;

/// What a loop is made of.
#[derive(Debug)]
pub struct Parts {
    /// The process's name for people: `hub-NAME` or `member-KEY`.
    pub name: String,
    /// The main socket.
    pub socket: UdpSocket,
    /// The ways to the rendezvous.
    pub ways: Ways,
    /// The virtual LAN card, when there is one.
    pub plug: Option<Plug>,
    /// What a hub's virtual host does; nothing for a member.
    pub secure_nat: Option<secure_nat::Wanted>,
    /// Questions from other processes.
    pub asked: mpsc::Receiver<Asked>,
    /// The user wants it to end; twice: at once.
    pub stop: mpsc::Receiver<()>,
}

/// A card and the right to set it.
#[derive(Debug)]
pub struct Plug {
    /// The card.
    pub card: Card,
    /// The kernel's routing socket.
    pub routes: Routes,
    /// Its MAC address, in text.
    pub mac: String,
    /// Whether the address that the hub gives is set on it.
    pub with_address: bool,
}

/// Who hears what happens; an error ends the loop.
pub trait Observe {
    /// Something has happened.
    ///
    /// # Errors
    /// When it cannot be kept or shown and the peer had better end.
    fn observe(&mut self, saying: &Saying<'_>) -> anyhow::Result<()>;
}

/// A peer that runs.
pub struct Driver<O> {
    node: Node,
    observer: O,
    parts: Parts,
    changes: mpsc::Receiver<()>,
    started: Instant,
    settings: Option<Settings>,
    secure_nat: Option<SecureNat>,
    network: network::Routed,
    told: Vec<SocketAddr>,
    gateway: Option<IpAddr>,
    sleep: Sleep,
    pings: BTreeMap<u64, oneshot::Sender<Value>>,
    next_ping: u64,
    end: End,
    more: bool,
    /// Whether the rendezvous has ever known us.
    registered: bool,
    plane: DataPlane,
    punch: PunchSockets,
    /// When to look at what the data plane has seen, while frames flow.
    look: Option<Instant>,
}

/// How far the end is.
#[derive(Debug)]
enum End {
    /// Not in sight.
    Running,
    /// The node says goodbye, until then at the latest.
    Stopping(Instant, Option<anyhow::Error>),
    /// All is said.
    Stopped(Option<anyhow::Error>),
}

/// What a turn begins with.
enum Wake {
    Up(Up),
    Active,
    Timer,
    Asked(Asked),
    Nat,
    Addresses,
    Way(Told),
    Stop,
}

impl<O: Observe> Driver<O> {
    /// A loop around `node`; needs a runtime.
    ///
    /// # Errors
    /// When the data plane's threads cannot be started.
    pub fn new(node: Node, mut parts: Parts, observer: O) -> std::io::Result<Self> {
        let now = Instant::now();
        let secure_nat = parts.secure_nat.take().map(SecureNat::new);
        let card = parts.plug.as_ref().map(|plug| plug.card.port());
        Ok(Self {
            plane: DataPlane::start(parts.socket.shared(), card)?,
            look: None,
            node,
            observer,
            parts,
            changes: local::changes(),
            started: now,
            settings: None,
            secure_nat,
            network: network::Routed::default(),
            told: Vec::new(),
            gateway: None,
            sleep: Sleep::new(),
            pings: BTreeMap::new(),
            next_ping: 0,
            end: End::Running,
            more: false,
            registered: false,
            punch: PunchSockets::default(),
        })
    }

    /// Runs until it is told to stop, or cannot go on.
    ///
    /// # Errors
    /// When the peer cannot go on: refused, a wrong key, or its card or files cannot be set.
    pub async fn run(mut self) -> anyhow::Result<()> {
        self.tell_addresses();
        self.turn_ways(Instant::now());
        self.apply_secure_nat();
        loop {
            self.drain().await;
            if let End::Stopped(problem) = &mut self.end {
                let problem = problem.take();
                self.end_secure_nat();
                self.plane.stop();
                drop(self.plane);
                if let Some(Plug { card, routes, .. }) = self.parts.plug {
                    card.close(&routes).await;
                }
                return problem.map_or(Ok(()), Err);
            }
            let wake = self.wake().await;
            self.take_in(wake);
            self.take_time();
        }
    }

    async fn wake(&mut self) -> Wake {
        let timer = self.next_timer();
        let Parts {
            asked, stop, ways, ..
        } = &mut self.parts;
        let plane = &mut self.plane;
        let active = plane.watch();
        tokio::select! {
            Some(up) = plane.recv() => Wake::Up(up),
            () = active.notified() => Wake::Active,
            () = nat_ready(self.secure_nat.as_ref()) => Wake::Nat,
            () = at(timer) => Wake::Timer,
            Some(()) = stop.recv() => Wake::Stop,
            Some(question) = asked.recv() => Wake::Asked(question),
            Some(()) = self.changes.recv() => Wake::Addresses,
            told = ways.next() => Wake::Way(told),
        }
    }

    fn next_timer(&self) -> Option<Instant> {
        if self.more {
            return Some(self.started);
        }
        let stop_by = match &self.end {
            End::Stopping(by, _) => Some(*by),
            End::Running | End::Stopped(_) => None,
        };
        let room = self.parts.socket.is_waiting();
        let room = room.then(|| Instant::now() + ROOM_AGAIN);
        let node = self.node.poll_timeout();
        let leases = self.secure_nat.as_ref().and_then(SecureNat::next_timer);
        let ways = self.parts.ways.next_timer(&self.node, Instant::now());
        let timers = [node, stop_by, self.look, room, leases, ways];
        timers.into_iter().flatten().min()
    }

    fn take_in(&mut self, wake: Wake) {
        match wake {
            Wake::Up(up) => self.take_up(up),
            Wake::Active => self.look = Some(Instant::now() + BETWEEN_LOOKS),
            Wake::Timer => {}
            Wake::Asked(asked) => self.take_question(asked),
            Wake::Nat => self.take_nat(),
            Wake::Addresses => {
                let before = self.told.clone();
                self.tell_addresses();
                self.addresses_changed();
                if before != self.told {
                    self.parts.ways.network_changed(Instant::now());
                }
            }
            Wake::Way(told) => self.take_way(told),
            Wake::Stop => self.take_stop(),
        }
    }

    /// What the data plane hands up, and more of it if there is.
    fn take_up(&mut self, first: Up) {
        let now = Instant::now();
        let mut next = Some(first);
        let mut left = UPS;
        while let Some(up) = next.take() {
            match up {
                Up::Datagram {
                    socket,
                    remote,
                    mut bytes,
                    ..
                } => self.node.handle_datagram(socket, remote, &mut bytes, now),
                Up::Opened {
                    index,
                    chunks,
                    size,
                    via,
                } => self.node.handle_opened(index, &chunks, size, via, now),
                Up::Heard { index, via } => self.node.handle_heard(index, via, now),
                Up::LinkFrame { index, frame } => self.node.handle_opened_frame(index, frame, now),
                Up::CardFrame(frame) => self.node.handle_frame(&frame, now),
                Up::Broken => self.begin_to_end(Some(anyhow!(
                    "a fault in this program has stopped the frames; please report what stands above, and start it again"
                ))),
            }
            left -= 1;
            next = if left > 0 {
                self.plane.try_recv()
            } else {
                None
            };
        }
    }

    /// Looks at what the data plane has seen; goes on as long as anything waits for an answer.
    fn look(&mut self, now: Instant) {
        self.look = None;
        let mut waits = self.node.take_traffic(now);
        if !waits {
            self.plane.park();
            // What left in between was told to nobody.
            waits = self.node.take_traffic(now);
        }
        if waits {
            self.look = Some(now + BETWEEN_LOOKS);
        }
    }

    fn take_stop(&mut self) {
        let again = !matches!(self.end, End::Running);
        let problem = (!self.registered).then(|| anyhow!(NEVER_REGISTERED));
        self.begin_to_end(problem);
        if again {
            self.give_up();
        }
    }

    fn take_question(&mut self, Asked { request, answer }: Asked) {
        let result = match request {
            Request::Status => Ok(self.report()),
            Request::Ping { peer } => return self.begin_ping(peer.as_deref(), answer),
            Request::AddToken { token } => self.add_token(token),
            Request::VirtualHost { ask } => return self.ask_virtual_host(ask, answer),
        };
        let value = result.unwrap_or_else(|problem| json!({ "error": problem }));
        // Who asked may have gone.
        let _ = answer.send(value);
    }

    fn begin_ping(&mut self, wanted: Option<&str>, answer: oneshot::Sender<Value>) {
        let now = Instant::now();
        let links = self.node.status(now).links;
        let peers = links
            .iter()
            .map(|link| (link.peer.as_str(), link.name.as_str()));
        let found = find_peer(peers, wanted)
            .and_then(|peer| {
                peer.parse()
                    .map_err(|_| "its key cannot be read".to_owned())
            })
            .and_then(|peer| {
                if self.pings.len() < PINGS {
                    Ok(peer)
                } else {
                    Err("too many pings at once; wait for their answers".to_owned())
                }
            });
        match found {
            Ok(peer) => {
                let id = self.next_ping;
                self.next_ping += 1;
                self.pings.insert(id, answer);
                self.node.handle_command(Command::Ping { peer, id }, now);
            }
            Err(problem) => {
                let _ = answer.send(json!({ "error": problem }));
            }
        }
    }

    fn add_token(&mut self, token: String) -> Result<Value, String> {
        let token = Token::try_from(token).map_err(ToOwned::to_owned)?;
        let command = Command::AddToken(token.0);
        self.node.handle_command(command, Instant::now());
        Ok(json!({}))
    }

    fn report(&self) -> Value {
        json!({
            "name": self.parts.name,
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "uptime_seconds": self.started.elapsed().as_secs_f64(),
            "port": self.parts.socket.port().ok(),
            "udp": self.parts.socket.counters(),
            "way": self.parts.ways.report(),
            "offload": self.plane.in_use(),
            "card": self.card_state(),
            "card_counters": self.parts.plug.as_ref().map(|plug| plug.card.counters()),
            "node": self.node.status(Instant::now()),
        })
    }

    fn tell_addresses(&mut self) {
        let Ok(port) = self.parts.socket.port() else {
            return;
        };
        let card = self.parts.plug.as_ref().map(|plug| plug.card.name());
        let mut addresses = local::addresses(port, card);
        addresses.retain(|address| address.is_ipv4() || self.parts.socket.has_ipv6());
        if addresses != self.told {
            self.told.clone_from(&addresses);
            let command = Command::LocalAddresses(addresses);
            self.node.handle_command(command, Instant::now());
        }
        let gateway = gateway();
        if gateway != self.gateway {
            self.gateway = gateway;
            let command = Command::Gateway(gateway);
            self.node.handle_command(command, Instant::now());
        }
    }

    /// After sleep every mapping is gone, though no address has changed.
    fn notice_sleep(&mut self) {
        if self.sleep.is_over() {
            let now = Instant::now();
            self.node.handle_command(Command::NetworkChanged, now);
            self.tell_addresses();
        }
    }

    fn take_time(&mut self) {
        self.notice_sleep();
        let now = Instant::now();
        if self.node.poll_timeout().is_some_and(|due| due <= now) {
            self.node.handle_timeout(now);
        }
        if self.look.is_some_and(|by| by <= now) {
            self.look(now);
        }
        self.turn_ways(now);
        self.keep_leases_if_due(now);
        if matches!(self.end, End::Stopping(by, _) if by <= now) {
            self.give_up();
        }
    }

    /// Sockets are there before anything goes by them.
    fn drain_socket_requests(&mut self) {
        while let Some(request) = self.node.poll_socket() {
            if let Some(command) = self.punch.apply(request, &mut self.plane) {
                self.node.handle_command(command, Instant::now());
            }
        }
    }

    async fn drain(&mut self) {
        self.drain_socket_requests();
        if let Some(secure_nat) = &mut self.secure_nat {
            secure_nat.give(&mut self.node);
        }
        self.drain_transmits();
        while let Some(frame) = self.node.poll_frame() {
            if let Some(plug) = &self.parts.plug {
                plug.card.send(&frame);
            }
        }
        while let Some(event) = self.node.poll_event() {
            self.take_event(event).await;
        }
        if let Some(plane) = self.node.poll_plane(Instant::now()) {
            self.plane.publish(plane);
        }
    }

    fn drain_transmits(&mut self) {
        self.more = false;
        if !self.parts.socket.resume() {
            return;
        }
        for _ in 0..TRANSMITS {
            let Some(transmit) = self.node.poll_transmit(Instant::now()) else {
                return;
            };
            if transmit.socket != SocketId::MAIN {
                self.punch.send(transmit);
            } else if !self.parts.socket.send(transmit) {
                return;
            }
        }
        self.more = true;
    }

    async fn take_event(&mut self, event: Event) {
        self.say(&Saying::Node(&event));
        match event {
            Event::Registered { .. } => self.registered = true,
            Event::RendezvousFailed { reason, fatal } => {
                if fatal {
                    self.begin_to_end(Some(anyhow!(reason)));
                }
            }
            Event::Refused(refusal) => self.begin_to_end(Some(anyhow!(refusal_text(refusal)))),
            Event::Joined {
                address,
                mtu,
                gateway,
                ..
            } => {
                self.set_card(Settings { mtu, address }).await;
                self.network.gateway = gateway;
                self.set_routes().await;
            }
            Event::Card { address, mtu } => {
                let address = Some(address);
                self.set_card(Settings { mtu, address }).await;
            }
            Event::Network {
                routes,
                own,
                dns,
                domain,
            } => {
                self.network.wanted = routes;
                self.set_routes().await;
                self.say_network(own, dns, domain);
            }
            Event::Pong {
                peer,
                id,
                round_trip,
                direct,
            } => {
                let ms = round_trip.as_secs_f64() * 1e3;
                self.end_ping(id, json!({ "peer": peer, "ms": ms, "path": path(direct) }));
            }
            Event::PingLost { peer, id } => {
                self.end_ping(id, json!({ "peer": peer, "lost": true }));
            }
            Event::LeasesChanged => self.leases_changed(),
            Event::Stopped => self.give_up(),
            Event::PeerAbsent { .. }
            | Event::LinkUp { .. }
            | Event::PathChanged { .. }
            | Event::LinkDown { .. }
            | Event::MemberJoined { .. }
            | Event::MemberRefused { .. }
            | Event::FirstFrame { .. }
            | Event::Dhcp(_) => {}
        }
    }

    fn end_ping(&mut self, id: u64, answer: Value) {
        if let Some(asker) = self.pings.remove(&id) {
            // Who asked may have gone.
            let _ = asker.send(answer);
        }
    }

    async fn set_card(&mut self, mut settings: Settings) {
        let Some(plug) = &self.parts.plug else {
            return;
        };
        if !plug.with_address {
            settings.address = None;
        }
        let before = self.settings.replace(settings);
        if before == Some(settings) {
            return;
        }
        let set = plug.routes.configure(plug.card.index(), before, settings);
        match set.await {
            Ok(()) => {
                if let Some(state) = self.card_state() {
                    self.say(&Saying::Card(&state));
                }
            }
            Err(error) => self.begin_to_end(Some(error.into())),
        }
        // The card's own address is not one to be reached at.
        self.tell_addresses();
    }

    fn card_state(&self) -> Option<CardState> {
        let plug = self.parts.plug.as_ref()?;
        let address = self.settings.and_then(|settings| settings.address);
        Some(CardState {
            interface: plug.card.name().to_owned(),
            address: address.map(|(address, prefix)| format!("{address}/{prefix}")),
            mac: plug.mac.clone(),
            mtu: self.settings.map(|settings| settings.mtu),
            kind: plug.card.kind(),
        })
    }

    fn say(&mut self, saying: &Saying<'_>) {
        if let Err(problem) = self.observer.observe(saying) {
            self.begin_to_end(Some(problem));
        }
    }

    /// The first reason to end is the one that is told.
    fn begin_to_end(&mut self, problem: Option<anyhow::Error>) {
        if matches!(self.end, End::Running) {
            let now = Instant::now();
            self.end = End::Stopping(now + GOODBYE, problem);
            self.node.handle_command(Command::Stop, now);
        }
    }

    fn give_up(&mut self) {
        let problem = match &mut self.end {
            End::Stopping(_, problem) | End::Stopped(problem) => problem.take(),
            End::Running => None,
        };
        self.end = End::Stopped(problem);
    }
}

async fn nat_ready(secure_nat: Option<&SecureNat>) {
    match secure_nat {
        Some(secure_nat) => secure_nat.ready().await,
        None => pending().await,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => pending().await,
    }
}

/// What a peer has done that was stopped too early.
pub(crate) const NEVER_REGISTERED: &str =
    "stopped before it was registered at the rendezvous; nobody was reached";
/// How long goodbyes may take.
const GOODBYE: Duration = Duration::from_secs(1);
/// Things from the data plane taken in one turn.
const UPS: usize = 64;
/// Between looks at what the data plane has seen.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);
/// When a full socket buffer is tried again.
const ROOM_AGAIN: Duration = Duration::from_millis(1);
/// Transmits sent in one turn.
const TRANSMITS: usize = 256;
/// Pings under way.
const PINGS: usize = 64;

#[cfg(test)]
mod tests;
