//! How large may a datagram be on a path? Packetization layer path MTU discovery for datagrams (RFC 8899).
//!
//! ```text
//!            answered: next size            no answer to three of a size
//!   Search ───────────────────▶ Search ──────────────▶ Complete ── 600 s ─▶ Search
//!     ▲                                                 │    ▲
//!     │ three unanswered: back to the base     every 5 s│    │answered
//!     └─────────────── Confirm ◀────────────────────────┘    │  (while data is sent)
//!                         └──────────────────────────────────┘
//! ```
//!
//! Sizes are bytes of UDP payload. ICMP is not needed and not believed. Search goes up a short table: the sizes that real
//! links have.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// One path's size.
#[derive(Clone, Debug)]
pub(super) struct Mtu {
    table: &'static [usize],
    current: usize,
    phase: Phase,
    /// Unanswered probes of the phase's size.
    failures: u32,
    /// When a complete search is begun again: a confirmation in between does not put it off.
    raise_at: Instant,
    flight: Option<Flight>,
    confirmed: Instant,
    /// Whether data was sent since.
    used: bool,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Search,
    Complete,
    Confirm,
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    id: u64,
    size: usize,
    deadline: Instant,
}

impl Mtu {
    /// Of a path to `remote` about which nothing is known.
    pub(super) const fn new(remote: SocketAddr, now: Instant) -> Self {
        let table = if remote.is_ipv4() { IPV4 } else { IPV6 };
        Self {
            table,
            current: table[0],
            phase: Phase::Search,
            failures: 0,
            raise_at: now,
            flight: None,
            confirmed: now,
            used: false,
        }
    }

    /// What may be sent now, in bytes.
    pub(super) const fn current(&self) -> usize {
        self.current
    }

    /// Data was sent on the path.
    pub(super) const fn sent(&mut self) {
        self.used = true;
    }

    /// The network is another one: what was found is to be confirmed at once.
    pub(super) fn doubt(&mut self) {
        if self.current > self.table[0] && self.flight.is_none() {
            self.phase = Phase::Confirm;
            self.failures = 0;
        }
    }

    /// The size of the probe `id` to send now, if one is due.
    pub(super) fn poll_probe(&mut self, id: u64, rtt: Duration, now: Instant) -> Option<usize> {
        if self.flight.is_some() || self.next().is_none_or(|next| next > now) {
            return None;
        }
        if matches!(self.phase, Phase::Complete) {
            let raise = self.raise_at <= now && self.larger().is_some();
            self.phase = if raise { Phase::Search } else { Phase::Confirm };
            self.failures = 0;
        }
        let size = match self.phase {
            Phase::Search | Phase::Complete => self.larger()?,
            Phase::Confirm => self.current,
        };
        let deadline = now + (rtt * 3).clamp(MIN_WAIT, MAX_WAIT);
        self.flight = Some(Flight { id, size, deadline });
        Some(size)
    }

    /// A probe was answered. Gives the new size when that changes it.
    pub(super) fn answered(&mut self, id: u64, size: usize, now: Instant) -> Option<usize> {
        self.flight
            .take_if(|flight| flight.id == id && flight.size == size)?;
        self.failures = 0;
        self.confirmed = now;
        self.used = false;
        let larger = size > self.current;
        self.current = self.current.max(size);
        match self.phase {
            Phase::Search if self.larger().is_some() => {}
            Phase::Search => self.complete(now),
            Phase::Confirm | Phase::Complete => self.phase = Phase::Complete,
        }
        larger.then_some(size)
    }

    /// Counts a probe that is not answered any more. Gives the new size when that changes it.
    ///
    /// While the path itself is in doubt (`doubtful`), a missing answer says nothing about sizes.
    pub(super) fn handle_timeout(&mut self, doubtful: bool, now: Instant) -> Option<usize> {
        self.flight.filter(|flight| flight.deadline <= now)?;
        self.flight = None;
        self.failures += u32::from(!doubtful);
        if self.failures < MAX_PROBES {
            return None;
        }
        self.failures = 0;
        if matches!(self.phase, Phase::Confirm) {
            // A black hole (RFC 8899, section 4.3): what got through once does not any more.
            self.phase = Phase::Search;
            self.current = self.table[0];
            return Some(self.current);
        }
        self.complete(now);
        None
    }

    /// When the next probe or timeout is due; `None` while nothing is.
    pub(super) fn next(&self) -> Option<Instant> {
        if let Some(flight) = self.flight {
            return Some(flight.deadline);
        }
        match self.phase {
            Phase::Search | Phase::Confirm => Some(self.confirmed),
            Phase::Complete => {
                let confirm = self.used && self.current > self.table[0];
                let confirm_at = confirm.then(|| self.confirmed + CONFIRM);
                let raise_at = self.larger().map(|_| self.raise_at);
                confirm_at.into_iter().chain(raise_at).min()
            }
        }
    }

    fn larger(&self) -> Option<usize> {
        self.table.iter().copied().find(|&size| size > self.current)
    }

    fn complete(&mut self, now: Instant) {
        self.raise_at = now + RAISE;
        self.phase = Phase::Complete;
    }
}

/// The base, which every path is believed to carry, then what is tried, in bytes of UDP payload.
const IPV4: &[usize] = &[548, 1024, 1200, 1372, 1432, 1452, 1472];
/// The same with IPv6, whose links all carry packets of 1280 bytes (RFC 8200, section 5).
const IPV6: &[usize] = &[1232, 1352, 1412, 1432, 1452];
/// MAX_PROBES of RFC 8899, section 5.1.2.
const MAX_PROBES: u32 = 3;
/// PMTU_RAISE_TIMER of RFC 8899, section 5.1.1.
const RAISE: Duration = Duration::from_secs(600);
/// CONFIRMATION_TIMER of RFC 8899, section 5.1.1, while data is sent.
const CONFIRM: Duration = Duration::from_secs(5);
/// PROBE_TIMER of RFC 8899, section 5.1.1: three round trips within these.
const MIN_WAIT: Duration = Duration::from_millis(200);
const MAX_WAIT: Duration = Duration::from_secs(3);

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test may begin at any instant")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RTT: Duration = Duration::from_millis(40);

    fn remote(v6: bool) -> SocketAddr {
        let text = if v6 { "[2001:db8::1]:9" } else { "192.0.2.1:9" };
        text.parse().expect("an address")
    }

    /// Runs it on a path that carries `limit` bytes until `until`; the probes that it sent.
    fn run(mtu: &mut Mtu, limit: usize, now: &mut Instant, until: Instant) -> Vec<usize> {
        let mut sizes = Vec::new();
        while *now < until {
            if let Some(size) = mtu.poll_probe(sizes.len().try_into().expect("few"), RTT, *now) {
                if size <= limit {
                    mtu.answered(sizes.len().try_into().expect("few"), size, *now + RTT);
                }
                sizes.push(size);
            }
            *now = mtu
                .next()
                .unwrap_or(until)
                .max(*now + Duration::from_millis(1));
            mtu.handle_timeout(false, *now);
        }
        sizes
    }

    #[test]
    fn every_known_kind_of_link_is_found() {
        let start = Instant::now();
        for (v6, limit, found) in [
            (false, 1500 - 28, 1472),
            (false, 1492 - 28, 1452),
            (false, 1280 - 28, 1200),
            (false, 1124 - 28, 1024),
            (false, 576 - 28, 548),
            (true, 1500 - 48, 1452),
            (true, 1280 - 48, 1232),
        ] {
            let mut mtu = Mtu::new(remote(v6), start);
            let sizes = run(
                &mut mtu,
                limit,
                &mut start.clone(),
                start + Duration::from_secs(5),
            );
            assert_eq!(mtu.current(), found);
            let failed = sizes.iter().filter(|&&size| size > limit).count();
            assert!(failed <= 3, "{sizes:?}");
        }
    }

    #[test]
    fn a_black_hole_is_noticed_while_data_is_sent() {
        let start = Instant::now();
        let (mut mtu, mut now) = (Mtu::new(remote(false), start), start);
        run(&mut mtu, 1472, &mut now, start + Duration::from_secs(5));
        assert_eq!(mtu.current(), 1472);
        mtu.sent();
        let broken = now;
        while mtu.current() == 1472 && now < broken + Duration::from_secs(60) {
            let until = now + Duration::from_millis(10);
            run(&mut mtu, 1252, &mut now, until);
        }
        assert!(now - broken < Duration::from_secs(7), "{:?}", now - broken);
        let until = now + Duration::from_secs(5);
        run(&mut mtu, 1252, &mut now, until);
        assert_eq!(mtu.current(), 1200);
    }

    #[test]
    fn an_unused_path_is_left_alone_and_a_small_one_tried_again_later() {
        let start = Instant::now();
        let (mut mtu, mut now) = (Mtu::new(remote(false), start), start);
        run(&mut mtu, 1252, &mut now, start + Duration::from_secs(5));
        let quiet = run(&mut mtu, 1472, &mut now, start + Duration::from_secs(590));
        assert!(quiet.is_empty(), "{quiet:?}");
        run(&mut mtu, 1472, &mut now, start + Duration::from_secs(610));
        assert_eq!(mtu.current(), 1472);
    }

    #[test]
    fn a_doubtful_path_says_nothing_about_sizes() {
        let start = Instant::now();
        let (mut mtu, mut now) = (Mtu::new(remote(false), start), start);
        run(&mut mtu, 1472, &mut now, start + Duration::from_secs(5));
        mtu.sent();
        now += CONFIRM;
        for id in 0..10 {
            assert_eq!(mtu.poll_probe(id, RTT, now), Some(1472));
            now += MAX_WAIT;
            assert_eq!(mtu.handle_timeout(true, now), None);
        }
    }

    #[test]
    fn a_path_in_steady_use_is_tried_again_too() {
        let start = Instant::now();
        let (mut mtu, mut now) = (Mtu::new(remote(false), start), start);
        while now < start + Duration::from_secs(620) {
            mtu.sent();
            let (limit, until) = (
                if now < start + RAISE { 1252 } else { 1472 },
                now + Duration::from_secs(1),
            );
            run(&mut mtu, limit, &mut now, until);
        }
        assert_eq!(mtu.current(), 1472);
    }

    proptest! {
        #[test]
        fn only_the_answer_that_is_awaited_is_believed(answers in prop::collection::vec((0u64..200, 0usize..1500), 0..50)) {
            let start = Instant::now();
            let mut mtu = Mtu::new(remote(false), start);
            let size = mtu.poll_probe(100, RTT, start).expect("a search begins at once");
            for (id, answered) in answers {
                let awaited = (id, answered) == (100, size) && mtu.current() < size;
                prop_assert_eq!(mtu.answered(id, answered, start).is_some(), awaited);
            }
        }
    }
}
