//! Asks the gateway for an outside port that everybody may send to: PCP (RFC 6887), else NAT-PMP (RFC 6886).
//!
//! ```text
//!            answer                              half of the lifetime
//!   PCP ──────────────▶ Mapped ── renew ─▶ … ◀───────────────────────┐
//!    │ silence, or "I speak version 0" ▲                             │
//!    └─▶ NAT-PMP ──────────────────────┘        the gateway's epoch went back: it has forgotten us, at once
//!         └ silence, or a refusal ─▶ again after ten minutes
//! ```
//!
//! It decides what to ask and what to believe: only the gateway's own answers, to our question (PCP's nonce; NAT-PMP has
//! none, so the inside port must be ours). It knows no socket; a node gives it one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub mod natpmp;
pub mod pcp;

/// The port of both protocols at the gateway.
pub const SERVER_PORT: u16 = 5351;

/// A wish for one mapping, kept for as long as it runs.
#[derive(Debug)]
pub struct Portmap {
    rng: StdRng,
    wish: Option<Wish>,
    stage: Stage,
    nonce: [u8; 12],
    next: Option<Instant>,
    tries: u32,
    mapped: Option<SocketAddrV4>,
    protocol: Protocol,
    epoch: Option<(u32, Instant)>,
    outside: Option<Ipv4Addr>,
    outbox: Vec<Vec<u8>>,
    problem: Option<&'static str>,
}

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The gateway.
    pub gateway: Ipv4Addr,
    /// The socket that is to be reached: our address towards the gateway, and its port.
    pub inside: SocketAddrV4,
}

/// Which protocol the gateway speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// RFC 6887.
    Pcp,
    /// RFC 6886.
    NatPmp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Idle,
    Asking,
    Mapped,
    Failed,
}

/// How it stands, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct PortmapStatus {
    /// The protocol in use, once one has answered.
    pub protocol: Option<Protocol>,
    /// The outside address.
    pub mapped: Option<SocketAddr>,
    /// Why there is none.
    pub problem: Option<&'static str>,
}

impl Portmap {
    /// No wish yet; `seed` is where its nonce comes from.
    #[must_use]
    pub fn new(seed: [u8; 32]) -> Self {
        let mut rng = StdRng::from_seed(seed);
        Self {
            nonce: rng.random(),
            rng,
            wish: None,
            stage: Stage::Idle,
            next: None,
            tries: 0,
            mapped: None,
            protocol: Protocol::Pcp,
            epoch: None,
            outside: None,
            outbox: Vec::new(),
            problem: None,
        }
    }

    /// What is wanted from now on; a change begins anew. `None` when there is no gateway to ask.
    pub fn set_wish(&mut self, wish: Option<Wish>, now: Instant) {
        if self.wish == wish {
            return;
        }
        self.wish = wish;
        self.mapped = None;
        self.outside = None;
        self.epoch = None;
        self.protocol = Protocol::Pcp;
        self.nonce = self.rng.random();
        self.begin(now);
    }

    /// A datagram came by our socket. Tells whether the mapping is another one now.
    pub fn handle_datagram(&mut self, from: SocketAddr, payload: &[u8], now: Instant) -> bool {
        let Some(wish) = self.wish else { return false };
        if from != SocketAddr::from((wish.gateway, SERVER_PORT)) {
            return false;
        }
        let before = self.mapped;
        match self.protocol {
            Protocol::Pcp => self.handle_pcp(wish, payload, now),
            Protocol::NatPmp => self.handle_natpmp(wish, payload, now),
        }
        self.mapped != before
    }

    /// The time of [`Self::poll_timeout`] has come. Tells whether the mapping is another one now.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        if self.next.is_none_or(|next| next > now) {
            return false;
        }
        let before = self.mapped;
        match self.stage {
            Stage::Idle => self.next = None,
            Stage::Failed => self.begin(now),
            Stage::Mapped => {
                self.tries = 0;
                self.stage = Stage::Asking;
                self.ask(now);
            }
            Stage::Asking if self.tries < TRIES => self.ask(now),
            Stage::Asking if self.protocol == Protocol::Pcp && self.mapped.is_none() => {
                self.protocol = Protocol::NatPmp;
                self.begin(now);
            }
            Stage::Asking => self.fail("the gateway answers neither PCP nor NAT-PMP", now),
        }
        self.mapped != before
    }

    /// Gives the mapping back.
    pub fn stop(&mut self) {
        if let (Some(wish), true) = (self.wish, self.mapped.is_some()) {
            self.outbox.extend(self.requests(wish, 0));
        }
        self.mapped = None;
        self.stage = Stage::Idle;
        self.next = None;
    }

    /// The next request to send, and where to.
    pub fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        let gateway = self.wish?.gateway;
        let request = self.outbox.pop()?;
        Some((SocketAddr::from((gateway, SERVER_PORT)), request))
    }

    /// When to call [`Self::handle_timeout`], and then [`Self::poll_transmit`], at the latest.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// The outside address that leads to us, while there is one.
    #[must_use]
    pub fn mapped(&self) -> Option<SocketAddr> {
        self.mapped.map(SocketAddr::V4)
    }

    /// How it stands.
    #[must_use]
    pub fn status(&self) -> PortmapStatus {
        PortmapStatus {
            protocol: self.mapped.map(|_| self.protocol),
            mapped: self.mapped(),
            problem: self.problem,
        }
    }

    fn begin(&mut self, now: Instant) {
        self.tries = 0;
        self.problem = None;
        self.stage = if self.wish.is_some() {
            Stage::Asking
        } else {
            Stage::Idle
        };
        self.next = self.wish.map(|_| now);
    }

    fn ask(&mut self, now: Instant) {
        let Some(wish) = self.wish else { return };
        self.outbox = self.requests(wish, LIFETIME);
        self.next = Some(now + FIRST_WAIT * (1 << self.tries));
        self.tries += 1;
    }

    fn requests(&self, wish: Wish, lifetime: u32) -> Vec<Vec<u8>> {
        let outside = self.mapped;
        match self.protocol {
            Protocol::Pcp => {
                let map = pcp::Map {
                    nonce: self.nonce,
                    inside: wish.inside,
                    outside: outside.unwrap_or(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)),
                };
                vec![pcp::request(&map, lifetime)]
            }
            Protocol::NatPmp => {
                let port = outside.unwrap_or(wish.inside).port();
                let map = natpmp::request_map(wish.inside.port(), port, lifetime);
                vec![map, natpmp::request_address()]
            }
        }
    }

    fn handle_pcp(&mut self, wish: Wish, payload: &[u8], now: Instant) {
        match pcp::parse(payload) {
            Ok(pcp::Answer::Mapped {
                map,
                lifetime,
                epoch,
            }) if map.nonce == self.nonce && map.inside.port() == wish.inside.port() => {
                self.succeed(map.outside, lifetime, epoch, now);
            }
            // A gateway that knows only the older protocol says so in it (RFC 6887, section 9).
            Ok(pcp::Answer::OlderVersion) if self.mapped.is_none() => {
                self.protocol = Protocol::NatPmp;
                self.begin(now);
            }
            Ok(pcp::Answer::Refused { nonce }) if nonce == self.nonce => {
                self.fail("the gateway refuses a mapping by PCP", now);
            }
            Ok(
                pcp::Answer::Mapped { .. }
                | pcp::Answer::OlderVersion
                | pcp::Answer::Refused { .. },
            )
            | Err(_) => {}
        }
    }

    fn handle_natpmp(&mut self, wish: Wish, payload: &[u8], now: Instant) {
        match natpmp::parse(payload) {
            Ok(natpmp::Answer::Address(address)) => {
                self.outside = Some(address);
                if let Some(mapped) = &mut self.mapped {
                    mapped.set_ip(address);
                }
            }
            Ok(natpmp::Answer::Mapped {
                inside,
                outside,
                lifetime,
                epoch,
            }) if inside == wish.inside.port() => {
                let address = self.outside.unwrap_or(Ipv4Addr::UNSPECIFIED);
                self.succeed(SocketAddrV4::new(address, outside), lifetime, epoch, now);
            }
            Ok(natpmp::Answer::Refused) => {
                self.fail("the gateway refuses a mapping by NAT-PMP", now);
            }
            Ok(natpmp::Answer::Mapped { .. }) | Err(_) => {}
        }
    }

    fn succeed(&mut self, outside: SocketAddrV4, lifetime: u32, epoch: u32, now: Instant) {
        let forgotten = self.epoch.is_some_and(|(before, at)| {
            let expected =
                u64::from(before) + (now.saturating_duration_since(at).as_secs() * 7) / 8;
            u64::from(epoch) + EPOCH_SLACK < expected
        });
        self.epoch = Some((epoch, now));
        if outside.port() == 0 || lifetime == 0 {
            return self.fail("the gateway gave a mapping to nowhere", now);
        }
        let impossible = outside.ip().is_unspecified() && self.protocol == Protocol::Pcp;
        if impossible || outside.ip().is_loopback() || outside.ip().is_multicast() {
            return self.fail("the gateway gave a mapping to nowhere", now);
        }
        self.mapped = Some(outside);
        self.stage = Stage::Mapped;
        self.problem = None;
        let life = Duration::from_secs(u64::from(lifetime.min(LIFETIME)));
        let early = self.rng.random_range(0.5..0.625);
        // A gateway that has begun anew has forgotten other things, too: it is asked again soon.
        let wait = if forgotten {
            FIRST_WAIT
        } else {
            life.mul_f64(early).max(FIRST_WAIT)
        };
        self.next = Some(now + wait);
    }

    fn fail(&mut self, problem: &'static str, now: Instant) {
        self.mapped = None;
        self.stage = Stage::Failed;
        self.problem = Some(problem);
        self.protocol = Protocol::Pcp;
        self.next = Some(now + AGAIN);
    }
}

/// Whether an address may be the gateway's and ours: both are IPv4, for now.
#[must_use]
pub fn wish(gateway: IpAddr, inside: SocketAddr) -> Option<Wish> {
    match (gateway, inside) {
        (IpAddr::V4(gateway), SocketAddr::V4(inside)) => Some(Wish { gateway, inside }),
        _ => None,
    }
}

/// Seconds that a mapping is asked for: RFC 6886, section 3.3.
const LIFETIME: u32 = 7200;
/// Before the first retransmission, doubled each time. (RFC 6886, section 3.1; RFC 6887 would wait 3 s, but the gateway is one
/// hop away, and nobody waits for it here.)
const FIRST_WAIT: Duration = Duration::from_millis(250);
const TRIES: u32 = 5;
/// After a failure.
const AGAIN: Duration = Duration::from_secs(600);
/// Seconds by which a gateway's clock may be behind (RFC 6887, section 8.5).
const EPOCH_SLACK: u64 = 2;

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test may begin at any instant")]
mod tests;
