//! For tests: one rendezvous and some peers joined by a pipe of datagrams with a clock of its own, delay, loss and reordering.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::client::{Client, ClientEvent};
use super::server::{Config, Limits, Server, ServerEvent};
use super::{Channel, KEEP_ALIVE};
use crate::identity::{Identity, PeerId};
use crate::wire::{Kind, classify, stun};
use crate::{SocketId, Transmit};

/// Some moment: tests count from it, and never ask what it is.
#[allow(
    clippy::disallowed_methods,
    reason = "an Instant cannot be made otherwise"
)]
pub(super) fn start() -> Instant {
    Instant::now()
}

pub(super) fn identity(number: u8) -> Identity {
    Identity::from_seed(&[number; 32])
}

pub(super) fn address(text: &str) -> SocketAddr {
    text.parse().expect("a test's own address")
}

pub(super) const SERVER: &str = "203.0.113.1:7777";

/// A peer and the address that its NAT gives it.
pub(super) struct End {
    pub(super) client: Client,
    pub(super) address: SocketAddr,
    pub(super) events: Vec<ClientEvent>,
    /// Inner datagrams that came, with their senders.
    pub(super) received: Vec<(PeerId, Channel, Vec<u8>)>,
}

pub(super) struct Pipe {
    pub(super) now: Instant,
    pub(super) server: Server,
    pub(super) ends: Vec<End>,
    pub(super) server_events: Vec<ServerEvent>,
    pub(super) delay: Duration,
    /// Up to this much more, drawn for each datagram: so they overtake each other.
    pub(super) jitter: Duration,
    /// Of 100.
    pub(super) loss: u32,
    /// Everything that was sent: when, from, to, what.
    pub(super) sent: Vec<(Duration, SocketAddr, SocketAddr, Vec<u8>)>,
    pub(super) begin: Instant,
    in_flight: BTreeMap<(Instant, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    sequence: u64,
    rng: StdRng,
}

impl Pipe {
    pub(super) fn new(seed: u64) -> Self {
        Self::with_limits(seed, Limits::default())
    }

    pub(super) fn with_limits(seed: u64, limits: Limits) -> Self {
        let now = start();
        Self {
            now,
            begin: now,
            server: new_server(200, seed, limits, now),
            ends: Vec::new(),
            server_events: Vec::new(),
            delay: Duration::from_millis(10),
            jitter: Duration::ZERO,
            loss: 0,
            sent: Vec::new(),
            in_flight: BTreeMap::new(),
            sequence: 0,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// Adds a peer with the key `number` behind 198.51.100.`number`.
    pub(super) fn add(&mut self, number: u8) -> usize {
        let client = self.client(number, Some(identity(200).id()));
        self.add_client(client, &format!("198.51.100.{number}:4000"))
    }

    pub(super) fn client(&mut self, number: u8, key: Option<PeerId>) -> Client {
        let seed = self.rng.random();
        let addresses = vec![address(SERVER)];
        Client::new(&identity(number), addresses, key, seed, self.now)
    }

    pub(super) fn add_client(&mut self, client: Client, at: &str) -> usize {
        self.ends.push(End {
            client,
            address: address(at),
            events: Vec::new(),
            received: Vec::new(),
        });
        self.ends.len() - 1
    }

    /// Adds peers with keys from 1 on and lets them register.
    pub(super) fn registered(&mut self, count: u8) {
        for number in 1..=count {
            self.add(number);
        }
        self.run(Duration::from_secs(20));
        assert!(self.ends.iter().all(|end| end.client.is_registered()));
    }

    /// Puts a datagram on the wire.
    pub(super) fn send(&mut self, from: SocketAddr, to: SocketAddr, contents: Vec<u8>) {
        let age = self.now - self.begin;
        self.sent.push((age, from, to, contents.clone()));
        if self.rng.random_range(0..100) < self.loss {
            return;
        }
        let extra = self.jitter.mul_f64(self.rng.random());
        let due = self.now + self.delay + extra;
        self.sequence += 1;
        self.in_flight
            .insert((due, self.sequence), (from, to, contents));
    }

    /// Sends `inner` from one peer on a channel, after what its client has to say.
    pub(super) fn say(&mut self, end: usize, channel: Channel, inner: &[u8]) {
        self.drain();
        let from = self.ends[end].address;
        let wrapped = self.ends[end].client.wrap(channel, inner);
        let Transmit {
            destination,
            contents,
            ..
        } = wrapped.expect("a connection");
        self.send(from, destination, contents);
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.drain();
        while let Some(next) = self.next().filter(|next| *next <= end) {
            self.now = next.max(self.now);
            self.deliver();
            self.time_out();
            self.drain();
        }
        self.now = end;
    }

    /// What the peers and the rendezvous told, in words: the log that a seed must give twice.
    pub(super) fn log(&self) -> String {
        let events = self.ends.iter().map(|end| &end.events).collect::<Vec<_>>();
        let sent = self.sent.iter().map(|(at, from, to, contents)| {
            let kind = classify(contents);
            format!("{at:?} {from} {to} {kind:?} {}\n", contents.len())
        });
        let sent: String = sent.collect();
        format!("{events:#?}{:#?}{sent}", self.server_events)
    }

    fn next(&self) -> Option<Instant> {
        let flight = self.in_flight.keys().next().map(|key| key.0);
        let ends = self.ends.iter().filter_map(|it| it.client.poll_timeout());
        ends.chain(flight).chain(self.server.poll_timeout()).min()
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.in_flight.first_entry() {
            if entry.key().0 > self.now {
                return;
            }
            let (from, to, contents) = entry.remove();
            if to == address(SERVER) {
                self.server_receives(from, contents);
            } else if let Some(end) = self.ends.iter_mut().find(|end| end.address == to) {
                end.receive(from, &contents, self.now);
            }
            self.drain();
        }
    }

    fn server_receives(&mut self, from: SocketAddr, mut contents: Vec<u8>) {
        let socket = SocketId::MAIN;
        let forward = self
            .server
            .handle_datagram(socket, from, &mut contents, self.now);
        self.drain();
        if let Some(to) = forward {
            self.send(address(SERVER), to, contents);
        }
    }

    fn time_out(&mut self) {
        let now = self.now;
        if self.server.poll_timeout().is_some_and(|due| due <= now) {
            self.server.handle_timeout(now);
        }
        for end in &mut self.ends {
            if end.client.poll_timeout().is_some_and(|due| due <= now) {
                end.client.handle_timeout(now);
            }
        }
    }

    pub(super) fn drain(&mut self) {
        let now = self.now;
        while let Some(transmit) = self.server.poll_transmit(now) {
            self.send(address(SERVER), transmit.destination, transmit.contents);
        }
        while let Some(event) = self.server.poll_event() {
            self.server_events.push(event);
        }
        for index in 0..self.ends.len() {
            while let Some(transmit) = self.ends[index].client.poll_transmit(now) {
                let from = self.ends[index].address;
                self.send(from, transmit.destination, transmit.contents);
            }
            let end = &mut self.ends[index];
            while let Some(event) = end.client.poll_event() {
                end.events.push(event);
            }
        }
    }

    /// Bytes that the rendezvous sent to addresses from which it had fewer.
    pub(super) fn answered_more_than_asked(&self) -> BTreeSet<SocketAddr> {
        let mut balance: BTreeMap<SocketAddr, i64> = BTreeMap::new();
        let server = address(SERVER);
        for (_, from, to, contents) in &self.sent {
            let size = i64::try_from(contents.len()).expect("small");
            if *from == server {
                *balance.entry(*to).or_default() -= size;
            } else {
                *balance.entry(*from).or_default() += size;
            }
        }
        balance.retain(|_, balance| *balance < 0);
        balance.into_keys().collect()
    }
}

impl End {
    fn receive(&mut self, from: SocketAddr, contents: &[u8], now: Instant) {
        match classify(contents) {
            Some(Kind::Quic) => {
                self.client.handle_datagram(from, contents, now);
            }
            Some(Kind::Relayed) => {
                if let Some((peer, channel, inner)) = self.client.unwrap(from, contents) {
                    self.received
                        .push((peer, channel, contents[inner].to_vec()));
                }
            }
            _ => {}
        }
    }

    /// The addresses at which the rendezvous said it sees us.
    pub(super) fn observed(&self) -> Vec<SocketAddr> {
        let mut seen = Vec::new();
        for event in &self.events {
            if let ClientEvent::Registered { observed, .. } = event {
                seen.push(*observed);
            }
        }
        seen
    }

    pub(super) fn failures(&self) -> Vec<(&str, bool)> {
        let mut failures = Vec::new();
        for event in &self.events {
            if let ClientEvent::Failed { reason, fatal } = event {
                failures.push((reason.as_str(), *fatal));
            }
        }
        failures
    }
}

/// A rendezvous that answers STUN clients of other makers too.
pub(super) fn compatible_server(limits: Limits, now: Instant) -> Server {
    let config = Config {
        stun: stun::Policy::Compatible,
        ..config(limits)
    };
    Server::new(&identity(200), config, [1; 32], now)
}

/// A rendezvous with the key `number`.
pub(super) fn new_server(number: u8, seed: u64, limits: Limits, now: Instant) -> Server {
    let seed = StdRng::seed_from_u64(seed).random();
    Server::new(&identity(number), config(limits), seed, now)
}

fn config(limits: Limits) -> Config {
    Config {
        addresses: vec![address(SERVER).ip()],
        port: 7777,
        alternate_port: Some(7778),
        second_address: None,
        stun: stun::Policy::Strict,
        limits,
    }
}

/// Long enough for a keep-alive and its consequences.
pub(super) const A_WHILE: Duration = Duration::from_secs(KEEP_ALIVE.as_secs() + 5);
