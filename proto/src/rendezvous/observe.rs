//! What do we look like from outside? Asks STUN servers for our reflexive address, from the main socket.
//!
//! ```text
//!   start, network change ─▶ ask every server ──100 ms──200──400──…─▶ (no answer: wait for the next turn)
//!            ▲                    │ answer: Observation, when it is new
//!            └── 20 to 26 s ◀─────┘           (the turn also keeps the NAT's binding alive)
//! ```
//!
//! Decides when to ask whom and what to believe; knows nothing of links. The same mapped address at two servers or ports
//! means that the NAT's mapping is endpoint-independent (RFC 5780, section 4.3). That steers what is tried and never
//! vetoes anything: many NATs are misjudged.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::SocketId;
use crate::wire::control::Dependence;
use crate::wire::stun::{self, Class, Message, Transaction};

/// No more servers than this are asked.
pub const MAX_SERVERS: usize = 8;

/// Asks, and remembers the answers.
#[derive(Debug)]
pub struct Observer {
    servers: Vec<Server>,
    next_turn: Instant,
    hasty: bool,
    /// Whether the way to the servers is watched closely.
    watching: bool,
    /// The least and the latest time that an answer took.
    least: Option<Duration>,
    latest: Option<Duration>,
    /// For how long mappings lived that ended although they were used, the latest two.
    lives: [Option<Duration>; 2],
    events: VecDeque<Observation>,
    rng: StdRng,
}

/// Our address as a server sees it; told when it is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The server.
    pub server: SocketAddr,
    /// Our address.
    pub mapped: SocketAddr,
}

#[derive(Debug)]
struct Server {
    address: SocketAddr,
    /// The transactions of this turn's requests; empty before the first.
    asked: Vec<Transaction>,
    /// When the first of them was sent.
    since: Option<Instant>,
    /// When to ask again; `None` once the turn's question is answered or given up.
    next: Option<Instant>,
    mapped: Option<SocketAddr>,
    /// Since when, and until when at least.
    mapped_since: Option<(Instant, Instant)>,
}

impl Observer {
    /// An observer that knows no server yet; `seed` is where its transaction ids and delays come from.
    #[must_use]
    pub fn new(seed: [u8; 32], now: Instant) -> Self {
        Self {
            servers: Vec::new(),
            next_turn: now,
            hasty: false,
            watching: false,
            least: None,
            latest: None,
            lives: [None; 2],
            events: VecDeque::new(),
            rng: StdRng::from_seed(seed),
        }
    }

    /// The servers to ask from now on, at most [`MAX_SERVERS`]; those that were not known are asked at once.
    pub fn set_servers(&mut self, addresses: &[SocketAddr], now: Instant) {
        let mut old = std::mem::take(&mut self.servers);
        for &address in addresses.iter().take(MAX_SERVERS) {
            if self.servers.iter().any(|server| server.address == address) {
                continue;
            }
            let known = old.iter().position(|server| server.address == address);
            self.servers.push(known.map_or_else(
                || Server::to_ask(address, now),
                |index| old.swap_remove(index),
            ));
        }
        let first = if self.hasty {
            *HASTY_TURN.end()
        } else {
            FIRST_TURN
        };
        self.next_turn = self.next_turn.max(now + first);
    }

    /// Whether servers are asked every few seconds and not more often than once at a time: they are not expected to answer, and it
    /// should be known soon when they do.
    pub fn set_hasty(&mut self, hasty: bool, now: Instant) {
        self.hasty = hasty;
        if hasty {
            self.next_turn = self.next_turn.min(now + *HASTY_TURN.end());
        }
    }

    /// The machine's network is another one now: what was seen is forgotten, every server is asked at once.
    pub fn network_changed(&mut self, now: Instant) {
        for server in &mut self.servers {
            *server = Server::to_ask(server.address, now);
        }
        self.next_turn = now + FIRST_TURN;
    }

    /// There is a reason to believe that we look different now: every server is asked soon, if that has not just been done.
    pub fn refresh(&mut self, now: Instant) {
        let asked = self.servers.iter().filter_map(|server| server.since).max();
        if asked.is_none_or(|asked| asked + JUST_NOW <= now) {
            self.next_turn = self.next_turn.min(now);
        }
    }

    /// Whether to look once a second how the way to the servers fares, as long as something strains it.
    pub fn watch(&mut self, watching: bool, now: Instant) {
        if std::mem::replace(&mut self.watching, watching) != watching && watching {
            self.next_turn = self.next_turn.min(now + WATCH);
        }
    }

    /// Whether the servers' answers take much longer than they could, or do not come: our own packets may be the reason.
    #[must_use]
    pub fn is_strained(&self, now: Instant) -> bool {
        let Some(least) = self.least else {
            return false;
        };
        let bearable = least * 2 + BEARABLE;
        let waits = |server: &Server| {
            let since = server.since.filter(|_| !server.asked.is_empty());
            since.is_some_and(|since| now.saturating_duration_since(since) > bearable)
        };
        self.latest.is_some_and(|latest| latest > bearable)
            || (!self.servers.is_empty() && self.servers.iter().all(waits))
    }

    /// A STUN message came in by the main socket. Tells whether it was the answer to one of our questions.
    pub fn handle_response(&mut self, remote: SocketAddr, message: &Message, now: Instant) -> bool {
        let asked = |server: &&mut Server| {
            server.address == remote && server.asked.contains(&message.transaction)
        };
        let Some(server) = self.servers.iter_mut().find(asked) else {
            return false;
        };
        let (Class::Success, Some(mapped)) = (message.class, message.mapped) else {
            return false;
        };
        if mapped.port() == 0 || mapped.ip().is_unspecified() || mapped.ip().is_multicast() {
            return false;
        }
        server.next = None;
        // An answer to a repetition would say too little of the time that it took.
        if let Some(since) = server.since.filter(|_| server.asked.len() == 1) {
            let took = now.saturating_duration_since(since);
            self.latest = Some(took);
            self.least = Some(self.least.map_or(took, |least| least.min(took)));
        }
        server.asked.clear();
        let changed = server.mapped.replace(mapped) != Some(mapped);
        match &mut server.mapped_since {
            Some((_, seen)) if !changed => *seen = now,
            since => {
                let before = since.replace((now, now));
                // In a used mapping's place another one: it did not end by silence.
                if let Some((born, seen)) = before.filter(|(_, seen)| now < *seen + LONGEST_TURN) {
                    self.lives = [Some(seen.saturating_duration_since(born)), self.lives[0]];
                }
            }
        }
        if changed {
            let server = server.address;
            self.events.push_back(Observation { server, mapped });
        }
        true
    }

    /// The time of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now >= self.next_turn {
            let turn = self
                .rng
                .random_range(if self.hasty { HASTY_TURN } else { TURN });
            self.next_turn = now + if self.watching { WATCH } else { turn };
            for server in &mut self.servers {
                server.asked.clear();
                server.next = Some(now);
            }
        }
    }

    /// The next request to send, if any: by which socket, where to, what.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<(SocketId, SocketAddr, Vec<u8>)> {
        let server = self
            .servers
            .iter_mut()
            .find(|server| server.next.is_some_and(|next| next <= now))?;
        let transaction = self.rng.random();
        if server.asked.is_empty() {
            server.since = Some(now);
        }
        server.asked.push(transaction);
        let wait = if self.hasty { None } else { server.wait() };
        server.next = wait.map(|wait| now + wait);
        let request = stun::encode_request(transaction, None, None, Some(stun::REQUEST_SIZE));
        Some((SocketId::MAIN, server.address, request))
    }

    /// When to call [`Self::handle_timeout`] (and then [`Self::poll_transmit`]) at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let turn = (!self.servers.is_empty()).then_some(self.next_turn);
        self.servers.iter().filter_map(|s| s.next).chain(turn).min()
    }

    /// The next address that was not known before, if any.
    pub fn poll_event(&mut self) -> Option<Observation> {
        self.events.pop_front()
    }

    /// The time after which the NAT ends a mapping that is in use, if it has done so twice after about the same time.
    #[must_use]
    pub fn lifetime(&self) -> Option<Duration> {
        let [Some(one), Some(other)] = self.lives else {
            return None;
        };
        let (short, long) = (one.min(other), one.max(other));
        // Both are too short by up to a turn, during which the end was not seen.
        let alike = long <= short + LONGEST_TURN + short / 4;
        (alike && short >= SHORTEST_LIFE).then_some(short)
    }

    /// Since when the first server sees us as it does now.
    #[must_use]
    pub fn mapped_since(&self) -> Option<Instant> {
        Some(self.servers.first()?.mapped_since?.0)
    }

    /// Our addresses as seen from outside, each once, the first server's first.
    #[must_use]
    pub fn reflexive(&self) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        for mapped in self.servers.iter().filter_map(|server| server.mapped) {
            if !addresses.contains(&mapped) {
                addresses.push(mapped);
            }
        }
        addresses
    }

    /// On what the NAT's mapping depends (RFC 5780, section 4.3), as far as the servers that answered can tell: without a
    /// second address among them, a mapping by address looks like an independent one.
    #[must_use]
    pub fn mapping(&self) -> Dependence {
        let (mut by_port, mut by_address) = (None, None);
        for (index, one) in self.servers.iter().enumerate() {
            for other in &self.servers[index + 1..] {
                let (Some(a), Some(b)) = (one.mapped, other.mapped) else {
                    continue;
                };
                if !one.address.is_ipv4() || !other.address.is_ipv4() {
                    continue;
                }
                let seen = if one.address.ip() == other.address.ip() {
                    &mut by_port
                } else {
                    &mut by_address
                };
                *seen = Some(seen.unwrap_or(false) || a != b);
            }
        }
        match (by_port, by_address) {
            (Some(true), _) | (None, Some(true)) => Dependence::AddressAndPort,
            (Some(false), Some(true)) => Dependence::Address,
            (Some(false), _) | (None, Some(false)) => Dependence::Independent,
            (None, None) => Dependence::Unknown,
        }
    }
}

impl Server {
    const fn to_ask(address: SocketAddr, now: Instant) -> Self {
        Self {
            address,
            asked: Vec::new(),
            since: None,
            next: Some(now),
            mapped: None,
            mapped_since: None,
        }
    }

    /// How long to wait for the answer to the latest request; `None` to give up for this turn.
    fn wait(&self) -> Option<Duration> {
        let doublings = u32::try_from(self.asked.len()).ok()?.checked_sub(1)?;
        (doublings < MAX_REQUESTS).then(|| RETRANSMISSION * (1 << doublings))
    }
}

/// The wait before the first retransmission; it doubles each time.
const RETRANSMISSION: Duration = Duration::from_millis(100);
/// Retransmissions of one turn.
const MAX_REQUESTS: u32 = 5;
/// Between two turns: less than the 30 s after which the hastiest NATs forget a binding.
const TURN: std::ops::RangeInclusive<Duration> = Duration::from_secs(20)..=Duration::from_secs(26);
/// The same in haste: an answer must be noticed within a few seconds.
const HASTY_TURN: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(2000)..=Duration::from_millis(3000);
/// From one answer to the next, if none was lost; more says nothing of a mapping that is in use.
const LONGEST_TURN: Duration = Duration::from_secs(29);
/// A mapping that lives shorter is not followed.
const SHORTEST_LIFE: Duration = Duration::from_secs(20);
/// Between two looks at a strained way.
const WATCH: Duration = Duration::from_secs(1);
/// What an answer may take beyond twice the least time.
const BEARABLE: Duration = Duration::from_millis(150);
/// A question that is so young is not repeated.
const JUST_NOW: Duration = Duration::from_secs(2);
/// Between the first question and the first turn.
const FIRST_TURN: Duration = Duration::from_secs(20);

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "tests need some instant to start from"
)]
mod tests {
    use super::*;
    use crate::wire::stun::{ServerAddresses, answer, encode_response, parse};

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn observer(servers: &[&str], now: Instant) -> Observer {
        let mut observer = Observer::new([7; 32], now);
        let servers: Vec<_> = servers.iter().map(|text| address(text)).collect();
        observer.set_servers(&servers, now);
        observer
    }

    /// Answers everything that is asked now, as a NAT that maps with `mapping` lets the servers see it.
    fn answer_all(
        observer: &mut Observer,
        mapping: impl Fn(SocketAddr) -> SocketAddr,
        now: Instant,
    ) -> usize {
        let mut count = 0;
        while let Some((_, server, request)) = observer.poll_transmit(now) {
            let addresses = ServerAddresses {
                origin: server,
                other: None,
            };
            let reply = answer(&request, mapping(server), &addresses).expect("an answer");
            assert!(observer.handle_response(server, &parse(&reply).expect("a message"), now));
            count += 1;
        }
        count
    }

    const SERVERS: [&str; 2] = ["203.0.113.1:3478", "203.0.113.1:3479"];

    #[test]
    fn a_mapping_is_told_once_and_again_when_it_changes() {
        let start = Instant::now();
        let mut observer = observer(&SERVERS, start);
        let mapped = address("192.0.2.1:4000");
        assert_eq!(answer_all(&mut observer, |_| mapped, start), 2);
        let server = address(SERVERS[0]);
        assert_eq!(observer.poll_event(), Some(Observation { server, mapped }));
        assert!(observer.poll_event().is_some() && observer.poll_event().is_none());
        assert_eq!(observer.reflexive(), [mapped]);
        assert_eq!(observer.mapping(), Dependence::Independent);

        let turn = observer.poll_timeout().expect("a turn");
        assert!((20..=26).contains(&(turn - start).as_secs()));
        observer.handle_timeout(turn);
        assert_eq!(answer_all(&mut observer, |_| mapped, turn), 2);
        assert_eq!(observer.poll_event(), None, "nothing new");

        observer.network_changed(turn);
        answer_all(
            &mut observer,
            |server| address(&format!("192.0.2.1:{}", server.port())),
            turn,
        );
        assert!(observer.poll_event().is_some());
        assert_eq!(observer.mapping(), Dependence::AddressAndPort);
    }

    #[test]
    fn slow_answers_and_silence_are_a_strain_and_usual_ones_are_not() {
        let start = Instant::now();
        let mut observer = observer(&SERVERS, start);
        let mapped = address("192.0.2.1:4000");
        answer_all(&mut observer, |_| mapped, start);
        assert!(!observer.is_strained(start));
        observer.watch(true, start);
        let mut now = observer.poll_timeout().expect("a look");
        assert_eq!(now - start, WATCH);
        observer.handle_timeout(now);
        answer_all(&mut observer, |_| mapped, now);
        assert!(!observer.is_strained(now));
        now += WATCH;
        observer.handle_timeout(now);
        while observer.poll_transmit(now).is_some() {}
        assert!(!observer.is_strained(now));
        assert!(observer.is_strained(now + 2 * BEARABLE), "no answer");
    }

    #[test]
    fn a_doubt_is_looked_into_once() {
        let start = Instant::now();
        let mut observer = observer(&SERVERS[..1], start);
        answer_all(&mut observer, |_| address("192.0.2.1:4000"), start);
        let later = start + FIRST_TURN / 2;
        for _ in 0..10 {
            observer.refresh(later);
            observer.handle_timeout(later);
        }
        assert_eq!(
            answer_all(&mut observer, |_| address("192.0.2.1:5000"), later),
            1
        );
        assert_eq!(observer.reflexive(), [address("192.0.2.1:5000")]);
        observer.refresh(later);
        observer.handle_timeout(later);
        assert!(observer.poll_transmit(later).is_none(), "just done");
    }

    #[test]
    fn silence_is_met_with_a_bounded_number_of_requests() {
        let start = Instant::now();
        let (mut observer, mut now, mut sent) = (observer(&SERVERS[..1], start), start, Vec::new());
        while now < start + FIRST_TURN {
            while observer.poll_transmit(now).is_some() {
                sent.push((now - start).as_millis());
            }
            now = observer.poll_timeout().expect("it never stops");
            observer.handle_timeout(now);
        }
        assert_eq!(sent, [0, 100, 300, 700, 1500, 3100]);
        assert!(
            observer.poll_transmit(now).is_some(),
            "and again at the next turn"
        );
    }

    #[test]
    fn a_stranger_answers_nothing() {
        let now = Instant::now();
        let mut observer = observer(&SERVERS[..1], now);
        let (_, server, request) = observer.poll_transmit(now).expect("a request");
        let transaction = parse(&request).expect("own bytes").transaction;
        let message = |transaction, mapped| {
            parse(&encode_response(transaction, address(mapped), None)).expect("own bytes")
        };
        let good = message(transaction, "192.0.2.1:4000");
        assert!(
            !observer.handle_response(address("203.0.113.9:3478"), &good, now),
            "other source"
        );
        assert!(
            !observer.handle_response(server, &message([0; 12], "192.0.2.1:4000"), now),
            "other transaction"
        );
        assert!(
            !observer.handle_response(server, &message(transaction, "192.0.2.1:0"), now),
            "impossible"
        );
        assert!(
            !observer.handle_response(server, &parse(&request).expect("own bytes"), now),
            "echo"
        );
        assert_eq!(observer.poll_event(), None);
        assert!(observer.handle_response(server, &good, now));
    }
}
