//! Pairs of a local socket and a remote address, and the checks on them (RFC 8445, sections 6 and 7, without nomination).
//!
//! ```text
//!   Waiting ── request ─▶ InProgress ── authenticated answer ─▶ Succeeded: a path
//!                 ▲ 50, 100, 200, 400 … ms │
//!                 └────────────────────────┴─ no more left ─▶ Failed (until the next round)
//! ```
//!
//! Decides which request goes out next. Knows nothing of keys or bytes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::mtu::Mtu;
use crate::SocketId;
use crate::wire::control::{Candidate, CandidateKind};
use crate::wire::stun::Transaction;

/// The socket and the remote address of a pair.
pub(super) type PairId = (SocketId, SocketAddr);

/// One pair.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) kind: CandidateKind,
    /// Set by an authenticated answer to a check: this is a path.
    pub(super) valid: Option<Valid>,
    /// When the next request is due; `None` when none is.
    next: Option<Instant>,
    /// Requests that are left in this round.
    left: u32,
    interval: Duration,
    /// Requests sent since it was scheduled last.
    pub(super) checks: u32,
    /// Requests that can still be answered.
    outstanding: Vec<(Transaction, Instant)>,
}

/// What is known of a path.
#[derive(Debug)]
pub(super) struct Valid {
    /// Smoothed as in RFC 9002, section 5.3.
    pub(super) smoothed_rtt: Duration,
    /// When something authenticated came from it last.
    pub(super) confirmed: Instant,
    /// Since when it is not the active one, or its last round.
    pub(super) spare_since: Instant,
    pub(super) mtu: Mtu,
}

/// All pairs of a link.
#[derive(Debug)]
pub(super) struct Checklist {
    pub(super) pairs: BTreeMap<PairId, Pair>,
    /// No request before: Ta of RFC 8445, section 14.2.
    next_slot: Instant,
    peer_reflexive: usize,
}

impl Checklist {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            pairs: BTreeMap::new(),
            next_slot: now,
            peer_reflexive: 0,
        }
    }

    /// A round begins: every socket towards every candidate, from `start` on. Paths that were found stay.
    pub(super) fn begin(&mut self, sockets: &[SocketId], candidates: &[Candidate], start: Instant) {
        self.pairs.retain(|(_, remote), pair| {
            let learnt = pair.kind == CandidateKind::PeerReflexive && pair.next.is_some();
            pair.valid.is_some() || learnt || candidates.iter().any(|c| c.address == *remote)
        });
        let learnt =
            |pair: &&Pair| pair.kind == CandidateKind::PeerReflexive && pair.valid.is_none();
        self.peer_reflexive = self.pairs.values().filter(learnt).count();
        let count = (sockets.len() * candidates.len()).clamp(1, MAX_PAIRS);
        let each = (ROUND_BUDGET / u32::try_from(count).unwrap_or(u32::MAX))
            .clamp(MIN_REQUESTS, MAX_REQUESTS);
        let mut at = start;
        for candidate in candidates {
            for &socket in sockets {
                if self.pairs.len() >= MAX_PAIRS {
                    return;
                }
                let pair = self.pairs.entry((socket, candidate.address));
                let pair = pair.or_insert_with(|| Pair::new(candidate.kind));
                pair.kind = candidate.kind;
                let left = if pair.valid.is_some() { RECHECKS } else { each };
                pair.schedule(left, at);
                at += PACE;
            }
        }
    }

    /// An authenticated sign came from an address: makes a pair of it if there is none. `false` when there are too many.
    /// What a search has `hoped_for` is not one of the few that anybody with the key can bring about.
    pub(super) fn learn(&mut self, id: PairId, hoped_for: bool) -> bool {
        if self.pairs.contains_key(&id) {
            return true;
        }
        let too_many = self.peer_reflexive >= MAX_PEER_REFLEXIVE && !hoped_for;
        if too_many || self.pairs.len() >= MAX_PAIRS {
            return false;
        }
        self.peer_reflexive += usize::from(!hoped_for);
        let mut pair = Pair::new(CandidateKind::PeerReflexive);
        pair.left = RECHECKS;
        self.pairs.insert(id, pair);
        true
    }

    /// A check outside the list was answered after `rtt`: it is a path now.
    pub(super) fn found(&mut self, id: PairId, kind: CandidateKind, rtt: Duration, now: Instant) {
        let pair = self.pairs.entry(id).or_insert_with(|| Pair::new(kind));
        pair.succeed(id.1, rtt, now);
    }

    /// The pair whose request is to be sent now, if any; it counts as sent with that transaction.
    pub(super) fn poll(
        &mut self,
        transaction: impl FnOnce() -> Transaction,
        now: Instant,
    ) -> Option<(PairId, Transaction)> {
        if now < self.next_slot {
            return None;
        }
        let due =
            |(id, pair): (&PairId, &Pair)| Some((pair.next.filter(|&next| next <= now)?, *id));
        let (_, id) = self.pairs.iter().filter_map(due).min()?;
        let transaction = transaction();
        self.pairs.get_mut(&id)?.sent(transaction, now);
        self.next_slot = now + PACE;
        Some((id, transaction))
    }

    /// When the next request is due.
    pub(super) fn next(&self) -> Option<Instant> {
        let next = self.pairs.values().filter_map(|pair| pair.next).min()?;
        Some(next.max(self.next_slot))
    }

    /// The pair that a response answers, and when its request was sent.
    pub(super) fn find(&self, transaction: Transaction) -> Option<(PairId, Instant)> {
        self.pairs.iter().find_map(|(id, pair)| {
            let (_, sent) = pair.outstanding.iter().find(|(t, _)| *t == transaction)?;
            Some((*id, *sent))
        })
    }

    /// Whether requests are still to be sent.
    pub(super) fn is_checking(&self) -> bool {
        self.pairs.values().any(|pair| pair.next.is_some())
    }

    /// A path was found: pairs that have not been so lucky get fewer requests from now on.
    pub(super) fn calm(&mut self) {
        for pair in self.pairs.values_mut().filter(|pair| pair.valid.is_none()) {
            let sent = u32::try_from(pair.outstanding.len()).unwrap_or(u32::MAX);
            pair.left = pair.left.min(RECHECKS.saturating_sub(sent));
            pair.next = pair.next.filter(|_| pair.left > 0);
        }
    }
}

impl Pair {
    const fn new(kind: CandidateKind) -> Self {
        Self {
            kind,
            valid: None,
            next: None,
            left: 0,
            interval: FIRST_INTERVAL,
            checks: 0,
            outstanding: Vec::new(),
        }
    }

    /// Checks it from `at` on with so many requests.
    pub(super) fn schedule(&mut self, left: u32, at: Instant) {
        self.next = Some(at);
        self.left = left;
        self.checks = 0;
        self.interval = FIRST_INTERVAL;
    }

    /// A triggered check (RFC 8445, section 7.3.1.4): the other end has just shown that its NAT is open.
    pub(super) fn trigger(&mut self, now: Instant) {
        let on_its_way = |(_, sent): &(Transaction, Instant)| now < *sent + ON_ITS_WAY;
        if self.valid.is_some() || self.outstanding.last().is_some_and(on_its_way) {
            return;
        }
        self.left = self.left.max(1);
        self.interval = FIRST_INTERVAL;
        self.next = Some(now);
    }

    /// An answer came: the pair is a path.
    pub(super) fn succeed(&mut self, remote: SocketAddr, rtt: Duration, now: Instant) {
        self.next = None;
        self.outstanding.clear();
        match &mut self.valid {
            Some(valid) => valid.sample(rtt, now),
            None => {
                self.valid = Some(Valid {
                    smoothed_rtt: rtt,
                    confirmed: now,
                    spare_since: now,
                    mtu: Mtu::new(remote, now),
                });
            }
        }
    }

    /// When its requests will be used up without an answer; `None` while some are left.
    pub(super) fn fails_at(&self) -> Option<Instant> {
        let (_, sent) = self.outstanding.last().filter(|_| self.next.is_none())?;
        Some(*sent + LAST_WAIT)
    }

    /// The checks on it failed: what they would have told is not awaited any more.
    pub(super) fn forget_checks(&mut self) {
        self.outstanding.clear();
    }

    /// Whether requests are due or can still be answered.
    pub(super) fn is_checked(&self) -> bool {
        self.next.is_some() || !self.outstanding.is_empty()
    }

    /// Whether an answer can still come, so that mere data from there is no reason for another request.
    pub(super) fn is_waited_for(&self, now: Instant) -> bool {
        let patience = if self.next.is_some() {
            HINT_WAIT
        } else {
            LAST_WAIT
        };
        self.outstanding
            .last()
            .is_some_and(|(_, sent)| now < *sent + patience)
    }

    fn sent(&mut self, transaction: Transaction, now: Instant) {
        if self.outstanding.len() >= MAX_OUTSTANDING {
            self.outstanding.remove(0);
        }
        self.outstanding.push((transaction, now));
        self.checks = self.checks.saturating_add(1);
        self.left = self.left.saturating_sub(1);
        self.next = (self.left > 0).then(|| now + self.interval);
        self.interval = (self.interval * 2).min(MAX_INTERVAL);
    }
}

impl Valid {
    /// An answer came after `rtt`.
    pub(super) fn sample(&mut self, rtt: Duration, now: Instant) {
        self.smoothed_rtt = (self.smoothed_rtt * 7 + rtt) / 8;
        self.confirmed = now;
    }
}

/// Between two requests of a link: Ta of RFC 8445, section 14.2, at its least.
const PACE: Duration = Duration::from_millis(5);
/// From the first request of a pair to its second; it doubles each time.
const FIRST_INTERVAL: Duration = Duration::from_millis(50);
const MAX_INTERVAL: Duration = Duration::from_millis(3200);
/// How long the answer to a pair's last request is awaited.
const LAST_WAIT: Duration = Duration::from_secs(2);
/// A request that left so short a while ago finds the other end's NAT open too.
const ON_ITS_WAY: Duration = Duration::from_millis(25);
/// Between two requests for which mere data is the reason, while the pair has requests left.
const HINT_WAIT: Duration = Duration::from_millis(100);
/// Requests of one round over all pairs (TRAVERSAL §5: 30 packets a side), as long as each pair gets [`MIN_REQUESTS`].
const ROUND_BUDGET: u32 = 30;
const MIN_REQUESTS: u32 = 3;
/// Requests of one pair in one round.
const MAX_REQUESTS: u32 = 9;
const MAX_OUTSTANDING: usize = 9;
/// Requests for a pair of which less is expected or more is known.
pub(super) const RECHECKS: u32 = 3;
/// Pairs of a link.
const MAX_PAIRS: usize = 64;
/// Pairs of one round that were learnt from authenticated datagrams.
const MAX_PEER_REFLEXIVE: usize = 4;
