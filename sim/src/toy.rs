//! The lightest programs that punch holes: a reflector that tells both who the other is, and two punchers that send to all
//! that they know of the other, from one socket each. For benches, for the oracle, and as an example of a [`Host`].
//!
//! ```text
//!   puncher ── ask ──► reflector         both known: tell
//!   puncher ◄─ tell ── reflector
//!   puncher ── probe, with "I heard you" ──► puncher       direct: I hear, and am heard
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::nat::NatConfig;
use crate::network::{Access, HostId, Logging, Network, NetworkError, RouterConfig, RouterId};
use crate::packet::{Body, Packet};
use crate::run::{Host, Simulation};

/// Two peers behind one NAT each.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The NATs.
    pub nats: [NatConfig; 2],
    /// Each access link.
    pub access: Access,
    /// How long they try.
    pub patience: Duration,
    /// What is kept of what happens.
    pub logging: Logging,
}

impl Pair {
    /// With links of 10 ms each way, and five seconds.
    #[must_use]
    pub fn new(a: NatConfig, b: NatConfig) -> Self {
        Self {
            nats: [a, b],
            access: Access::delay(Duration::from_millis(10)),
            patience: Duration::from_secs(5),
            logging: Logging::Off,
        }
    }
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// After how long both knew that they meet.
    pub direct: Option<Duration>,
    /// Packets that both sent.
    pub packets: u64,
    /// The most entries that either NAT had.
    pub entries: usize,
    /// Of the event log, if it was on.
    pub hash: u64,
}

/// Lets them try. The NATs' options must not contradict each other.
///
/// # Panics
/// When they do.
#[must_use]
pub fn meet(pair: &Pair, seed: u64) -> Outcome {
    let mut stage = Stage::build(pair, seed).expect("options that do not contradict each other");
    stage.play(pair.patience)
}

struct Stage {
    simulation: Simulation<Program>,
    punchers: [HostId; 2],
    routers: [RouterId; 2],
    start: Instant,
}

impl Stage {
    fn build(pair: &Pair, seed: u64) -> Result<Self, NetworkError> {
        let start = Instant::now();
        let mut network = Network::new(seed, start);
        network.set_logging(pair.logging);
        let server = network.add_host();
        network.attach(server, Network::INTERNET, &[SERVER.ip()], Access::default())?;
        let mut home = |number: u8| {
            let outside = IpAddr::from([198, 51, 100, 1 + number]);
            let nat = pair.nats[usize::from(number)].clone();
            let config = RouterConfig::new(nat, outside, pair.access.clone());
            let (router, lan) = network.add_router(Network::INTERNET, config)?;
            let own = SocketAddr::new(IpAddr::from([10, 0, number, 2]), 4000);
            let host = network.add_host();
            network.attach(host, lan, &[own.ip()], Access::default())?;
            Ok::<_, NetworkError>((router, host, own))
        };
        let homes = [home(0)?, home(1)?];
        let mut simulation = Simulation::new(network, start);
        simulation.insert(server, Program::Reflector(Reflector::new(SERVER)));
        for (number, (_, host, own)) in (0..).zip(homes) {
            let puncher = Puncher::new(number, own, SERVER, start);
            simulation.insert(host, Program::Puncher(puncher));
        }
        Ok(Self {
            simulation,
            punchers: homes.map(|(_, host, _)| host),
            routers: homes.map(|(router, ..)| router),
            start,
        })
    }

    fn play(&mut self, patience: Duration) -> Outcome {
        let (deadline, punchers) = (self.start + patience, self.punchers);
        let both = |simulation: &Simulation<Program>| {
            let mut all = punchers.iter().map(|&id| simulation.host(id));
            all.all(|program| program.is_some_and(Program::is_direct))
        };
        let found = self.simulation.run_until_some(deadline, both);
        let network = self.simulation.network();
        let sent = |&id| self.simulation.host(id).map_or(0, Program::sent);
        let entries = |&router| {
            let nat = network.nat(router);
            nat.map_or(0, |nat| nat.counters().most_sessions)
        };
        Outcome {
            direct: (found == Ok(true)).then(|| self.simulation.now() - self.start),
            packets: self.punchers.iter().map(sent).sum(),
            entries: self.routers.iter().map(entries).max().unwrap_or(0),
            hash: network.log().hash(),
        }
    }
}

/// What runs on a host.
#[derive(Clone, Debug)]
pub enum Program {
    /// Tells peers about each other.
    Reflector(Reflector),
    /// Tries to reach its peer.
    Puncher(Puncher),
}

impl Program {
    /// Whether it hears its peer, and is heard.
    #[must_use]
    pub const fn is_direct(&self) -> bool {
        match self {
            Self::Reflector(_) => false,
            Self::Puncher(puncher) => puncher.is_direct,
        }
    }

    /// Whether it knows of its peer at all.
    #[must_use]
    pub fn is_introduced(&self) -> bool {
        match self {
            Self::Reflector(_) => false,
            Self::Puncher(puncher) => !puncher.candidates.is_empty(),
        }
    }

    /// When it last heard its peer.
    #[must_use]
    pub const fn heard(&self) -> Option<Instant> {
        match self {
            Self::Reflector(_) => None,
            Self::Puncher(puncher) => puncher.heard,
        }
    }

    /// Its host has another address, and everything begins anew.
    pub fn relocate(&mut self, address: IpAddr, now: Instant) {
        if let Self::Puncher(puncher) = self {
            let own = SocketAddr::new(address, puncher.own.port());
            *puncher = Puncher::new(puncher.who, own, puncher.server, now);
        }
    }

    /// Packets that it sent.
    #[must_use]
    pub const fn sent(&self) -> u64 {
        match self {
            Self::Reflector(reflector) => reflector.sent,
            Self::Puncher(puncher) => puncher.sent,
        }
    }
}

/// Tells each of two peers how the other is seen.
#[derive(Clone, Debug)]
pub struct Reflector {
    own: SocketAddr,
    peers: BTreeMap<u8, SocketAddr>,
    out: Vec<Packet>,
    sent: u64,
}

impl Reflector {
    /// On this endpoint.
    #[must_use]
    pub const fn new(own: SocketAddr) -> Self {
        Self {
            own,
            peers: BTreeMap::new(),
            out: Vec::new(),
            sent: 0,
        }
    }

    fn take(&mut self, from: SocketAddr, payload: &[u8]) {
        let &[ASK, who] = payload else {
            return;
        };
        self.peers.insert(who & 1, from);
        let (Some(&first), Some(&second)) = (self.peers.get(&0), self.peers.get(&1)) else {
            return;
        };
        for (to, about) in [(first, second), (second, first)] {
            self.out.push(Packet::udp(self.own, to, tell(about)));
        }
    }
}

/// Tries to reach its peer.
#[derive(Clone, Debug)]
pub struct Puncher {
    who: u8,
    own: SocketAddr,
    server: SocketAddr,
    candidates: Vec<SocketAddr>,
    hears: bool,
    is_direct: bool,
    heard: Option<Instant>,
    next: Instant,
    out: Vec<Packet>,
    sent: u64,
}

impl Puncher {
    /// Number 0 or 1, on this endpoint.
    #[must_use]
    pub const fn new(who: u8, own: SocketAddr, server: SocketAddr, now: Instant) -> Self {
        Self {
            who,
            own,
            server,
            candidates: Vec::new(),
            hears: false,
            is_direct: false,
            heard: None,
            next: now,
            out: Vec::new(),
            sent: 0,
        }
    }

    fn take(&mut self, from: SocketAddr, payload: &[u8], now: Instant) {
        match payload {
            [TELL, rest @ ..] => {
                if let Some(peer) = told(rest) {
                    self.learn(peer);
                }
            }
            &[PROBE, heard] => {
                let news = !self.hears || (heard == 1 && !self.is_direct);
                self.hears = true;
                self.heard = Some(now);
                self.is_direct |= heard == 1;
                self.learn(from);
                if news {
                    self.probe_all();
                }
            }
            _ => {}
        }
    }

    fn learn(&mut self, peer: SocketAddr) {
        if !self.candidates.contains(&peer) {
            if self.candidates.len() >= MOST_CANDIDATES {
                self.candidates.remove(0);
            }
            self.candidates.push(peer);
            self.probe(peer);
        }
    }

    fn probe_all(&mut self) {
        for peer in self.candidates.clone() {
            self.probe(peer);
        }
    }

    fn probe(&mut self, peer: SocketAddr) {
        let payload = vec![PROBE, u8::from(self.hears)];
        self.out.push(Packet::udp(self.own, peer, payload));
    }

    fn act(&mut self, now: Instant) {
        self.next = now + PAUSE;
        if self
            .heard
            .is_some_and(|heard| now.saturating_duration_since(heard) > SILENCE)
        {
            (self.hears, self.is_direct, self.heard) = (false, false, None);
            self.candidates.clear();
        }
        if !self.is_direct {
            let ask = Packet::udp(self.own, self.server, vec![ASK, self.who]);
            self.out.push(ask);
        }
        self.probe_all();
    }
}

impl Host for Program {
    fn handle_packet(&mut self, packet: Packet, now: Instant) {
        let Some(flow) = packet.flow() else {
            return;
        };
        let Body::Udp { payload, .. } = &packet.body else {
            return;
        };
        match self {
            Self::Reflector(reflector) => reflector.take(flow.source, payload),
            Self::Puncher(puncher) => puncher.take(flow.source, payload, now),
        }
    }

    fn poll_packet(&mut self, _: Instant) -> Option<Packet> {
        let (out, sent) = match self {
            Self::Reflector(reflector) => (&mut reflector.out, &mut reflector.sent),
            Self::Puncher(puncher) => (&mut puncher.out, &mut puncher.sent),
        };
        let packet = out.pop()?;
        *sent += 1;
        Some(packet)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::Reflector(_) => None,
            Self::Puncher(puncher) => Some(puncher.next),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if let Self::Puncher(puncher) = self
            && puncher.next <= now
        {
            puncher.act(now);
        }
    }
}

fn tell(about: SocketAddr) -> Vec<u8> {
    let mut payload = vec![TELL];
    payload.extend(about.to_string().as_bytes());
    payload
}

fn told(text: &[u8]) -> Option<SocketAddr> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

const ASK: u8 = 0;
const TELL: u8 = 1;
const PROBE: u8 = 2;
/// Between two rounds of probes.
const PAUSE: Duration = Duration::from_millis(200);
/// After as much silence everything begins anew.
const SILENCE: Duration = Duration::from_secs(1);
/// As many of the other's endpoints are tried.
const MOST_CANDIDATES: usize = 8;
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)), 3478);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::Preset;

    #[test]
    fn two_cones_meet_after_one_and_a_half_round_trips_more_than_the_server_takes() {
        let cone = Preset::PortRestricted.config();
        let outcome = meet(&Pair::new(cone.clone(), cone), 1);
        let direct = outcome.direct.expect("they meet");
        assert!(direct <= Duration::from_millis(20 + 60), "{direct:?}");
        assert_eq!(outcome.entries, 2);
    }

    #[test]
    fn one_seed_one_hash() {
        let mut pair = Pair::new(
            Preset::Symmetric.config(),
            Preset::SymmetricSequential.config(),
        );
        pair.logging = Logging::Hash;
        assert_eq!(meet(&pair, 1), meet(&pair, 1));
        assert_ne!(meet(&pair, 1).hash, meet(&pair, 2).hash);
    }
}
