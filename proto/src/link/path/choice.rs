//! Which path is used, and what becomes of the others: choice, hysteresis, spares, loss.
//!
//! ```text
//!            answered                        cheaper by more than the hysteresis, or the active one is silent
//!   pair ──────────────▶ spare ────────────────────────────────────────────────────▶ active ─ dead ─▶ removed
//!                          │ ◀────────────────────────────────────────────────────── │
//!                          └─ unanswered check, or 120 s ─▶ removed
//! ```

use std::time::{Duration, Instant};

use rand::RngExt;

use super::check::{Pair, PairId, RECHECKS, Valid};
use super::liveness::{IDLE, Liveness};
use super::{LostReason, PathEvent, Paths};
use crate::wire::control::{Candidate, CandidateKind};

/// The path in use.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) id: PairId,
    pub(super) liveness: Liveness,
}

impl Paths {
    /// Everything that only time brings.
    pub(super) fn run(&mut self, now: Instant) {
        self.now = now;
        self.tend_active(now);
        self.tend_spares(now);
        if self.reconsider.is_some_and(|at| at <= now) {
            self.choose(now);
        }
        if self.exchange.poll(now) {
            self.events.push_back(PathEvent::WantExchange);
        }
        self.tend_search(now);
    }

    /// Chooses the cheapest path, if it is worth a move.
    pub(super) fn choose(&mut self, now: Instant) {
        self.reconsider = None;
        let Some((cost, id)) = self.cheapest(|valid| now < valid.confirmed + FRESH) else {
            return;
        };
        let Some(active) = &self.active else {
            return self.activate(id, now);
        };
        let active_cost = self
            .checklist
            .pairs
            .get(&active.id)
            .and_then(|pair| Some(pair.cost(active.id)? + self.age_cost(active.id, pair)));
        let cheaper = active_cost.is_none_or(|active_cost| cost + HYSTERESIS < active_cost);
        if active.id == id || !cheaper {
            return;
        }
        match self.may_move_at().filter(|&at| at > now) {
            Some(at) => self.reconsider = Some(at),
            None => self.activate(id, now),
        }
    }

    /// Whether the active path is so good that no better one is looked for.
    pub(super) fn is_content(&self) -> bool {
        self.rtt().is_some_and(|rtt| rtt <= GOOD_ENOUGH)
    }

    /// The other end does not name the active path's address any more: it may be gone.
    pub(super) fn doubt_what_is_not_listed(&mut self, candidates: &[Candidate], now: Instant) {
        let Some(active) = &mut self.active else {
            return;
        };
        let Some(pair) = self.checklist.pairs.get(&active.id) else {
            return;
        };
        let listed = candidates.iter().any(|c| c.address == active.id.1);
        if !listed && pair.kind != CandidateKind::PeerReflexive {
            active.liveness.suspect(now);
        }
    }

    /// When the active path needs attention.
    pub(super) fn next_of_active(&self) -> Option<Instant> {
        let active = self.active.as_ref()?;
        let pair = self.checklist.pairs.get(&active.id)?;
        let mtu = pair
            .valid
            .as_ref()
            .filter(|_| !active.liveness.is_probing())
            .and_then(|valid| valid.mtu.next());
        let probe = active.liveness.next_probe();
        [Some(probe), active.liveness.dies_at(), mtu, pair.fails_at()]
            .into_iter()
            .flatten()
            .min()
    }

    /// When the first spare needs attention.
    pub(super) fn next_of_spares(&self) -> Option<Instant> {
        let spares = self
            .checklist
            .pairs
            .iter()
            .filter(|(id, _)| !self.is_active(**id));
        spares.filter_map(|(_, pair)| pair.next_as_spare()).min()
    }

    fn tend_active(&mut self, now: Instant) {
        let Some(active) = &mut self.active else {
            return;
        };
        if active.liveness.dies_at().is_some_and(|death| death <= now) {
            return self.lose(now);
        }
        let Some(pair) = self.checklist.pairs.get_mut(&active.id) else {
            return;
        };
        if pair.fails_at().is_some_and(|at| at <= now) {
            pair.forget_checks();
            active.liveness.suspect(now);
        }
        let probing = active.liveness.is_probing();
        let (socket, remote) = active.id;
        if let Some(mtu) = pair
            .valid
            .as_mut()
            .and_then(|valid| valid.mtu.handle_timeout(probing, now))
        {
            self.events.push_back(PathEvent::MtuChanged {
                socket,
                remote,
                mtu,
            });
        }
        if self.is_suspect() {
            self.try_spares(now);
        }
    }

    /// The active path is in doubt: which of the others still answer? One that does takes over at once.
    fn try_spares(&mut self, now: Instant) {
        let Some(active) = &self.active else {
            return;
        };
        let (id, heard) = (active.id, active.liveness.last_heard());
        for (_, pair) in self
            .checklist
            .pairs
            .iter_mut()
            .filter(|(other, _)| **other != id)
        {
            let silent = pair
                .valid
                .as_ref()
                .is_some_and(|valid| valid.confirmed <= heard);
            if silent && !pair.is_checked() {
                pair.schedule(RECHECKS, now);
            }
        }
        let may_move = self.may_move_at().is_none_or(|at| at <= now);
        if let Some((_, other)) = self.cheapest(|valid| valid.confirmed > heard)
            && other != id
            && may_move
        {
            self.activate(other, now);
        }
    }

    fn tend_spares(&mut self, now: Instant) {
        let active = self.active.as_ref().map(|active| active.id);
        self.checklist.pairs.retain(|id, pair| {
            if active == Some(*id) {
                return true;
            }
            let (failed, Some(valid)) = (pair.fails_at().is_some_and(|at| at <= now), &pair.valid)
            else {
                return true;
            };
            if failed || valid.spare_since + SPARE_FOR <= now {
                return false;
            }
            if valid.confirmed + SPARE_CHECK <= now && !pair.is_checked() {
                pair.schedule(RECHECKS, now);
            }
            true
        });
    }

    fn lose(&mut self, now: Instant) {
        let Some(Active { id, .. }) = self.active.take() else {
            return;
        };
        self.checklist.pairs.remove(&id);
        if let Some((_, spare)) = self.cheapest(|valid| now < valid.confirmed + JUST_NOW) {
            return self.activate(spare, now);
        }
        let (socket, remote) = id;
        let reason = LostReason::Unanswered;
        self.events.push_back(PathEvent::Lost {
            socket,
            remote,
            reason,
        });
        self.exchange.restart(now);
    }

    fn activate(&mut self, id: PairId, now: Instant) {
        if let Some(old) = &self.active
            && let Some(valid) = self
                .checklist
                .pairs
                .get_mut(&old.id)
                .and_then(|pair| pair.valid.as_mut())
        {
            valid.spare_since = now;
        }
        let Some(valid) = self
            .checklist
            .pairs
            .get_mut(&id)
            .and_then(|pair| pair.valid.as_mut())
        else {
            return;
        };
        valid.mtu.sent();
        let rtt = valid.smoothed_rtt;
        let liveness = Liveness::new(self.rng.random_range(IDLE), now);
        self.active = Some(Active { id, liveness });
        self.last_move = Some(now);
        self.exchange.found(self.is_content(), now);
        self.search.found(now);
        self.openers.clear();
        let (socket, remote) = id;
        self.events.push_back(PathEvent::Direct {
            socket,
            remote,
            rtt,
        });
    }

    fn cheapest(&self, wanted: impl Fn(&Valid) -> bool) -> Option<(Duration, PairId)> {
        let valid = self
            .checklist
            .pairs
            .iter()
            .filter(|(_, pair)| pair.valid.as_ref().is_some_and(&wanted));
        valid
            .filter_map(|(id, pair)| Some((pair.cost(*id)? + self.age_cost(*id, pair), *id)))
            .min()
    }

    /// What speaks against a path that is about to end: our mapping does, or the other end names its own no more.
    fn age_cost(&self, (socket, remote): PairId, pair: &Pair) -> Duration {
        let named = self.listed.iter().any(|it| it.address == remote);
        let was_named = matches!(
            pair.kind,
            CandidateKind::Host | CandidateKind::ServerReflexive | CandidateKind::Mapped
        );
        if self.retiring == Some(socket) || (was_named && !named) {
            AGE_COST
        } else {
            Duration::ZERO
        }
    }

    fn may_move_at(&self) -> Option<Instant> {
        self.last_move.map(|at| at + BETWEEN_MOVES)
    }

    fn is_active(&self, id: PairId) -> bool {
        self.active.as_ref().is_some_and(|active| active.id == id)
    }
}

impl Pair {
    /// What a path costs: its round trip, and what speaks against its kind. `None` when it is no path.
    fn cost(&self, (_, remote): PairId) -> Option<Duration> {
        let family = if remote.is_ipv4() {
            IPV4_COST
        } else {
            Duration::ZERO
        };
        let detour = if self.kind == CandidateKind::Host {
            Duration::ZERO
        } else {
            NAT_COST
        };
        Some(self.valid.as_ref()?.smoothed_rtt + family + detour)
    }

    /// Something authenticated came from the other end of this path.
    pub(super) fn heard(&mut self, now: Instant) {
        if let Some(valid) = &mut self.valid {
            valid.confirmed = now;
        }
    }

    fn next_as_spare(&self) -> Option<Instant> {
        let valid = self.valid.as_ref()?;
        let end = valid.spare_since + SPARE_FOR;
        let check = (!self.is_checked()).then(|| valid.confirmed + SPARE_CHECK);
        [Some(end), check, self.fails_at()]
            .into_iter()
            .flatten()
            .min()
    }
}

/// How much cheaper another path must be.
const HYSTERESIS: Duration = Duration::from_millis(5);
/// What speaks against IPv4: its NATs forget.
const IPV4_COST: Duration = Duration::from_millis(3);
/// What speaks against an address that a NAT made: two peers behind it had better use their own network.
const NAT_COST: Duration = Duration::from_millis(8);
/// What speaks against a path that ends soon: any other one is better.
const AGE_COST: Duration = Duration::from_secs(2);
/// Between two moves while the active path is well.
const BETWEEN_MOVES: Duration = Duration::from_secs(2);
/// A round trip that no better one is looked for.
const GOOD_ENOUGH: Duration = Duration::from_millis(10);
/// How long a path is chosen after it answered last.
const FRESH: Duration = Duration::from_secs(20);
/// The same when the active one has just died.
const JUST_NOW: Duration = Duration::from_secs(3);
/// Between two checks of a spare: less than the 30 s after which the hastiest NATs forget it.
const SPARE_CHECK: Duration = Duration::from_secs(15);
/// How long a spare is kept.
const SPARE_FOR: Duration = Duration::from_secs(120);
