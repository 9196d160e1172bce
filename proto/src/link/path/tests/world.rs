//! Two ends, a NAT before each, a relay beside them and a virtual clock: just enough Internet for the tests here.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::*;
use crate::wire::control::CandidateKind;

/// How a NAT's mapping or filtering depends on the destination (RFC 4787).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dependent {
    Endpoint,
    Address,
    AddressAndPort,
}

use Dependent::{Address, AddressAndPort, Endpoint};

impl Dependent {
    pub(super) const ALL: [Self; 3] = [Endpoint, Address, AddressAndPort];

    fn same(self, a: SocketAddr, b: SocketAddr) -> bool {
        match self {
            Endpoint => true,
            Address => a.ip() == b.ip(),
            AddressAndPort => a == b,
        }
    }
}

/// A NAT for one inside host; ports are random.
#[derive(Clone, Debug)]
pub(super) struct Nat {
    pub(super) mapping: Dependent,
    pub(super) filtering: Dependent,
    /// Its public address; the port is not used.
    pub(super) public: SocketAddr,
    /// Outside port, and the destinations that it was used for.
    mappings: Vec<(u16, Vec<SocketAddr>)>,
}

impl Nat {
    pub(super) fn new(mapping: Dependent, filtering: Dependent, public: &str) -> Self {
        let public = format!("{public}:0").parse().expect("an address");
        Self {
            mapping,
            filtering,
            public,
            mappings: Vec::new(),
        }
    }

    fn outbound(&mut self, to: SocketAddr, rng: &mut StdRng) -> SocketAddr {
        let known = self
            .mappings
            .iter_mut()
            .find(|(_, used)| self.mapping.same(used[0], to));
        let port = match known {
            Some((port, used)) => {
                used.push(to);
                *port
            }
            None => {
                let port = rng.random_range(1024..=u16::MAX);
                self.mappings.push((port, vec![to]));
                port
            }
        };
        SocketAddr::new(self.public.ip(), port)
    }

    fn admits(&self, from: SocketAddr, to: SocketAddr) -> bool {
        let open = |(port, used): &(u16, Vec<SocketAddr>)| {
            *port == to.port() && used.iter().any(|&used| self.filtering.same(used, from))
        };
        self.public.ip() == to.ip() && self.mappings.iter().any(open)
    }
}

/// One end.
pub(super) struct End {
    pub(super) paths: Paths,
    pub(super) hosts: Vec<SocketAddr>,
    pub(super) nat: Option<Nat>,
    pub(super) events: Vec<(Instant, PathEvent)>,
    /// Checks and answers sent when the first path was found.
    pub(super) spent: Option<u64>,
    /// Sends data all the time.
    pub(super) busy: bool,
}

#[derive(Clone, Debug)]
enum Payload {
    Stun(Vec<u8>),
    Ping(u64, usize),
    Pong(u64, usize),
    Data,
    Candidates(Candidates),
}

struct Packet {
    /// Source and destination as the receiver's NAT sees them; `None` by the relay.
    direct: Option<(SocketAddr, SocketAddr)>,
    to: usize,
    payload: Payload,
}

/// Everything.
pub(super) struct World {
    pub(super) ends: [End; 2],
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) rng: StdRng,
    pub(super) loss: f64,
    pub(super) cut: bool,
    /// What is sent now dies between the NATs.
    short_lived: bool,
    /// The largest UDP payload that direct datagrams get through with.
    pub(super) limit: usize,
    /// Extra one-way delay to an address.
    pub(super) detours: BTreeMap<SocketAddr, Duration>,
    pub(super) log: Vec<String>,
    flying: BTreeMap<(Instant, u64), Packet>,
    count: u64,
}

pub(super) const DELAY: Duration = Duration::from_millis(20);
pub(super) const RELAY_DELAY: Duration = Duration::from_millis(50);
const BUSY: Duration = Duration::from_millis(20);
const STUN_SERVER: &str = "203.0.113.1:3478";

pub(super) fn config(end: usize) -> PathsConfig {
    let (ours, theirs) = if end == 0 { (1, 2) } else { (2, 1) };
    PathsConfig {
        local_index: u32::from(ours) * 0x1111_1111,
        remote_index: u32::from(theirs) * 0x1111_1111,
        send_key: [ours; 32],
        receive_key: [theirs; 32],
        starter: end == 0,
        refused: Vec::new(),
    }
}

impl World {
    pub(super) fn new(seed: u64, nats: [Option<Nat>; 2]) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let start = Instant::now();
        let mut index = 0;
        let ends = nats.map(|nat| {
            let host = match (&nat, index) {
                (None, 0) => "192.0.2.1:7".parse(),
                (None, _) => "192.0.2.2:7".parse(),
                (Some(_), 0) => "10.0.1.2:7".parse(),
                (Some(_), _) => "10.0.2.2:7".parse(),
            };
            let paths = Paths::new(config(index), rng.random(), start);
            index += 1;
            End {
                paths,
                hosts: vec![host.expect("an address")],
                nat,
                events: Vec::new(),
                spent: None,
                busy: false,
            }
        });
        let mut world = Self {
            ends,
            start,
            now: start,
            rng,
            loss: 0.0,
            cut: false,
            short_lived: false,
            limit: 1472,
            detours: BTreeMap::new(),
            log: Vec::new(),
            flying: BTreeMap::new(),
            count: 0,
        };
        world.gather(0);
        world.gather(1);
        world
    }

    /// Tells an end its own candidates.
    pub(super) fn gather(&mut self, end: usize) {
        let kind = |kind| move |address| Candidate { kind, address };
        let mut list: Vec<_> = self.ends[end]
            .hosts
            .iter()
            .copied()
            .map(kind(CandidateKind::Host))
            .collect();
        let server = STUN_SERVER.parse().expect("an address");
        if let Some(nat) = &mut self.ends[end].nat {
            list.push(kind(CandidateKind::ServerReflexive)(
                nat.outbound(server, &mut self.rng),
            ));
        }
        let now = self.now;
        self.ends[end].paths.set_local(list, now);
    }

    pub(super) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        let mut turns = 0;
        loop {
            self.drain(0);
            self.drain(1);
            let timeouts = self.ends.iter().filter_map(|end| end.paths.poll_timeout());
            let arrival = self.flying.keys().next().map(|(at, _)| *at);
            let busy = self
                .ends
                .iter()
                .any(|end| end.busy)
                .then(|| self.now + BUSY);
            let next = timeouts.chain(arrival).chain(busy).min().unwrap_or(until);
            if next >= until {
                self.now = until;
                return;
            }
            turns = if next > self.now { 0 } else { turns + 1 };
            assert!(turns < 1000, "time stands still");
            self.now = self.now.max(next);
            self.arrive();
            for end in 0..2 {
                let now = self.now;
                self.ends[end].paths.handle_timeout(now);
                if self.ends[end].busy && self.ends[end].paths.best().is_some() {
                    self.ends[end].paths.handle_sent(now);
                    self.by_best(end, Payload::Data);
                }
            }
        }
    }

    pub(super) fn is_direct(&self) -> bool {
        self.ends.iter().all(|end| end.paths.best().is_some())
    }

    /// Whether both ends are direct, not later than after `time`.
    pub(super) fn gets_direct(&mut self, time: Duration) -> bool {
        let until = self.now + time;
        while !self.is_direct() && self.now < until {
            self.run(Duration::from_millis(10));
        }
        self.is_direct()
    }

    fn drain(&mut self, end: usize) {
        let now = self.now;
        while let Some(transmit) = self.ends[end].paths.poll_transmit(now) {
            self.short_lived = transmit.ttl.is_some();
            self.direct(end, transmit.destination, Payload::Stun(transmit.contents));
            self.short_lived = false;
        }
        while let Some(probe) = self.ends[end].paths.poll_probe(now) {
            self.direct(end, probe.remote, Payload::Ping(probe.id, probe.size));
        }
        while let Some(event) = self.ends[end].paths.poll_event() {
            self.log
                .push(format!("{:?} {end} {event:?}", now - self.start));
            let this = &mut self.ends[end];
            let counters = this.paths.counters();
            match event {
                PathEvent::WantExchange => {
                    let list = this.paths.local_candidates(now);
                    self.relayed(end, Payload::Candidates(list));
                }
                PathEvent::Direct { .. } => {
                    let spent = counters.checks_sent + counters.answers_sent;
                    this.spent.get_or_insert(spent);
                }
                PathEvent::Lost { .. }
                | PathEvent::MtuChanged { .. }
                | PathEvent::Say(_)
                | PathEvent::WantSearch { .. }
                | PathEvent::SearchEnded { .. }
                | PathEvent::Unneeded(_) => {}
            }
            self.ends[end].events.push((now, event));
        }
    }

    fn by_best(&mut self, end: usize, payload: Payload) {
        match self.ends[end].paths.best() {
            Some(path) => self.direct(end, path.remote, payload),
            None => self.relayed(end, payload),
        }
    }

    fn relayed(&mut self, from: usize, payload: Payload) {
        self.fly(
            RELAY_DELAY,
            Packet {
                direct: None,
                to: 1 - from,
                payload,
            },
        );
    }

    fn direct(&mut self, end: usize, destination: SocketAddr, payload: Payload) {
        let this = &mut self.ends[end];
        let source = match &mut this.nat {
            Some(nat) => nat.outbound(destination, &mut self.rng),
            None => this.hosts[0],
        };
        self.log.push(format!(
            "{:?} {end} {source} > {destination}",
            self.now - self.start
        ));
        let size = if let Payload::Ping(_, size) = payload {
            size
        } else {
            0
        };
        if !self.cut
            && !self.short_lived
            && size <= self.limit
            && self.rng.random::<f64>() >= self.loss
        {
            let detour = self.detours.get(&destination).copied().unwrap_or_default();
            let direct = Some((source, destination));
            self.fly(
                DELAY + detour,
                Packet {
                    direct,
                    to: 1 - end,
                    payload,
                },
            );
        }
    }

    fn fly(&mut self, delay: Duration, packet: Packet) {
        self.count += 1;
        self.flying.insert((self.now + delay, self.count), packet);
    }

    fn arrive(&mut self) {
        while let Some(entry) = self
            .flying
            .first_entry()
            .filter(|entry| entry.key().0 <= self.now)
        {
            let packet = entry.remove();
            self.deliver(packet);
        }
    }

    fn deliver(&mut self, packet: Packet) {
        let (now, end) = (self.now, packet.to);
        let this = &mut self.ends[end];
        if let Some((source, destination)) = packet.direct {
            let admitted = match &this.nat {
                Some(nat) => nat.admits(source, destination),
                None => this.hosts.contains(&destination),
            };
            if !admitted {
                return;
            }
            if !matches!(packet.payload, Payload::Stun(_)) {
                this.paths.handle_authenticated(SocketId::MAIN, source, now);
            }
        }
        let source = packet.direct.map(|(source, _)| source);
        match packet.payload {
            Payload::Stun(bytes) => {
                let source = source.expect("checks are direct");
                this.paths.handle_stun(SocketId::MAIN, source, &bytes, now);
            }
            Payload::Ping(id, size) => self.by_best(end, Payload::Pong(id, size)),
            Payload::Pong(id, size) => this.paths.handle_probe_answer(id, size, source, now),
            Payload::Data => {}
            Payload::Candidates(list) => {
                let wait = if this.paths.is_awaiting_candidates() {
                    Duration::ZERO
                } else {
                    RELAY_DELAY
                };
                this.paths.handle_candidates(&list, now + wait, now);
            }
        }
    }
}
