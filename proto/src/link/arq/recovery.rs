//! What is in flight, what of it is lost, and when to probe (RFC 9002, section 6). Decides by packet numbers and times
//! alone; what the segments carried, and what a loss means for the window, is for others.
//!
//! ```text
//!   sent ──▶ outstanding ──acknowledged──▶ gone
//!                │                          ▲
//!                └──3 later ones or 9/8 RTT──▶ lost ──acknowledged late (spurious), or old──┘
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::rtt::RttEstimator;
use super::send::Part;
use crate::wire::segment::Ack;

/// A segment that asks for an acknowledgement.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    number: u64,
    pub(super) at: Instant,
    /// The body's size in bytes.
    pub(super) size: u64,
    pub(super) part: Part,
    /// Whether it went by the present path: only then it counts for RTT and congestion.
    pub(super) on_path: bool,
    /// The ack-eliciting segment before it.
    previous: Option<u64>,
    /// Whether a probe has carried its part again.
    probed: bool,
}

/// The segments in flight and the timer that watches them.
#[derive(Debug)]
pub(super) struct Recovery {
    pub(super) rtt: RttEstimator,
    capacity: usize,
    outstanding: BTreeMap<u64, Sent>,
    /// Declared lost at that time; kept for a while to notice errors.
    lost: BTreeMap<u64, (Instant, Sent)>,
    largest_acknowledged: Option<u64>,
    last_eliciting: Option<u64>,
    in_flight: u64,
    /// When the next segment counts as lost by time.
    loss_time: Option<Instant>,
    /// The probe timeout runs from here.
    timer_base: Instant,
    pto_count: u32,
    /// Probes of a closed window in a row, acknowledged or not.
    window_probes: u32,
    run: Option<LostRun>,
}

/// Segments lost one after the other without an acknowledged one between (RFC 9002, section 7.6).
#[derive(Clone, Copy, Debug)]
struct LostRun {
    start: Instant,
    last: u64,
}

/// What an acknowledgement told us.
#[derive(Debug, Default)]
pub(super) struct Acknowledged {
    /// For the first time; these were outstanding.
    pub(super) segments: Vec<Sent>,
    /// These had counted as lost.
    pub(super) spurious: Vec<Sent>,
}

/// What a look at the clock told us.
#[derive(Debug, Default)]
pub(super) struct Lost {
    pub(super) segments: Vec<Sent>,
    pub(super) persistent: bool,
}

/// Which timer has run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    Nothing,
    /// Look for losses again.
    Loss,
    /// Send probes.
    Probe,
}

impl Recovery {
    /// Keeps at most `capacity` segments in mind.
    pub(super) const fn new(rtt: RttEstimator, capacity: usize, now: Instant) -> Self {
        Self {
            rtt,
            capacity,
            outstanding: BTreeMap::new(),
            lost: BTreeMap::new(),
            largest_acknowledged: None,
            last_eliciting: None,
            in_flight: 0,
            loss_time: None,
            timer_base: now,
            pto_count: 0,
            window_probes: 0,
            run: None,
        }
    }

    /// An ack-eliciting segment leaves. When too many are outstanding, the oldest one is given up and returned.
    pub(super) fn on_sent(
        &mut self,
        packet_number: u64,
        part: Part,
        size: u64,
        now: Instant,
    ) -> Option<Sent> {
        let sent = Sent {
            number: packet_number,
            at: now,
            size,
            part,
            on_path: true,
            previous: self.last_eliciting.replace(packet_number),
            probed: false,
        };
        self.outstanding.insert(packet_number, sent);
        self.in_flight += size;
        self.timer_base = now;
        if self.outstanding.len() <= self.capacity {
            return None;
        }
        let (_, oldest) = self.outstanding.pop_first()?;
        self.leave(&oldest);
        Some(oldest)
    }

    /// The peer has these segments. Takes the RTT sample, if there is one.
    pub(super) fn on_ack(&mut self, ack: &Ack, now: Instant) -> Acknowledged {
        let mut news = Acknowledged::default();
        for range in ack.ranges.iter().rev() {
            while let Some((&number, _)) = self.outstanding.range(range.clone()).next() {
                news.segments.extend(self.outstanding.remove(&number));
            }
            while let Some((&number, _)) = self.lost.range(range.clone()).next() {
                news.spurious
                    .extend(self.lost.remove(&number).map(|(_, sent)| sent));
            }
        }
        let Some(&largest) = ack.ranges.first().map(|range| range.end()) else {
            return news;
        };
        for sent in &news.segments {
            self.leave(sent);
        }
        self.sample(largest, &news, ack.delay, now);
        self.largest_acknowledged = self.largest_acknowledged.max(Some(largest));
        if !(news.segments.is_empty() && news.spurious.is_empty()) {
            self.pto_count = 0;
            self.timer_base = now;
        }
        news
    }

    /// Declares lost what must be (sections 6.1.1 and 6.1.2) and sets the timer for the next.
    pub(super) fn detect_lost(&mut self, now: Instant) -> Lost {
        self.loss_time = None;
        self.forget_old_losses(now);
        let Some(largest) = self.largest_acknowledged else {
            return Lost::default();
        };
        let delay = self.rtt.loss_delay();
        let mut numbers = Vec::new();
        for (&number, sent) in self.outstanding.range(..largest) {
            if largest - number >= PACKET_THRESHOLD || sent.at + delay <= now {
                numbers.push(number);
            } else {
                let at = sent.at + delay;
                self.loss_time = Some(self.loss_time.map_or(at, |before| before.min(at)));
            }
        }
        let mut lost = Lost::default();
        for number in numbers {
            if let Some(sent) = self.outstanding.remove(&number) {
                lost.persistent |= self.extend_run(&sent);
                self.leave(&sent);
                lost.segments.push(sent.clone());
                self.lost.insert(number, (now, sent));
            }
        }
        lost
    }

    /// Which timer has run out; the probe timeout then starts again, longer.
    pub(super) fn handle_timeout(&mut self, blocked: bool, now: Instant) -> Expired {
        if self.timeout(blocked).is_none_or(|due| due > now) {
            return Expired::Nothing;
        }
        if self.loss_time.is_some() {
            return Expired::Loss;
        }
        if self.outstanding.is_empty() {
            self.window_probes = self.window_probes.saturating_add(1);
        } else {
            self.pto_count = self.pto_count.saturating_add(1);
        }
        self.timer_base = now;
        Expired::Probe
    }

    /// When to call [`handle_timeout`](Self::handle_timeout). `blocked`: a zero window must be probed, too.
    pub(super) fn timeout(&self, blocked: bool) -> Option<Instant> {
        if self.loss_time.is_some() {
            return self.loss_time;
        }
        let watching = blocked || !self.outstanding.is_empty();
        watching.then(|| self.timer_base + self.backed_off())
    }

    /// The peer takes more than before.
    pub(super) const fn on_window_opened(&mut self) {
        self.window_probes = 0;
    }

    /// The oldest part in flight that no probe has carried yet.
    pub(super) fn probe_part(&mut self) -> Option<Part> {
        let oldest = self
            .outstanding
            .values_mut()
            .find(|sent| !sent.probed && !sent.part.is_empty())?;
        oldest.probed = true;
        Some(oldest.part.clone())
    }

    /// The path is another: what is in flight says nothing about it. Returns whether anything is outstanding.
    pub(super) fn reset_path(&mut self, now: Instant) -> bool {
        for sent in self.outstanding.values_mut() {
            sent.on_path = false;
            sent.probed = false;
        }
        for (_, sent) in self.lost.values_mut() {
            sent.on_path = false;
        }
        self.rtt.reset();
        self.in_flight = 0;
        self.loss_time = None;
        self.pto_count = 0;
        self.timer_base = now;
        self.run = None;
        !self.outstanding.is_empty()
    }

    /// Bytes sent by this path and neither acknowledged nor lost.
    pub(super) const fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Probe timeouts in a row without any acknowledgement.
    pub(super) const fn pto_count(&self) -> u32 {
        self.pto_count
    }

    /// The lowest packet number of which an acknowledgement would be news; `next` when there is none.
    pub(super) fn awaited(&self, next: u64) -> u64 {
        let outstanding = self.outstanding.keys().next().copied().unwrap_or(next);
        let lost = self.lost.keys().next().copied().unwrap_or(next);
        outstanding.min(lost)
    }

    /// Segments kept.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.outstanding.len() + self.lost.len()
    }

    /// Segments that may be kept, outstanding and lost each.
    #[cfg(test)]
    pub(super) const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Section 5.1: only from the largest, when it is newly acknowledged.
    fn sample(&mut self, largest: u64, news: &Acknowledged, delay: Duration, now: Instant) {
        let newest = news.segments.last();
        if let Some(sent) = newest.filter(|sent| sent.on_path && sent.number == largest) {
            let latest = now.saturating_duration_since(sent.at);
            self.rtt
                .update(latest, delay.min(super::rtt::MAX_ACK_DELAY), now);
        }
    }

    fn leave(&mut self, sent: &Sent) {
        if sent.on_path {
            self.in_flight = self.in_flight.saturating_sub(sent.size);
        }
    }

    /// Whether the losses up to this one make persistent congestion.
    fn extend_run(&mut self, sent: &Sent) -> bool {
        let sampled = self
            .rtt
            .first_sample_at()
            .is_some_and(|first| sent.at > first);
        if !sampled || !sent.on_path {
            return false;
        }
        let start = match self.run {
            Some(run) if Some(run.last) == sent.previous => run.start,
            _ => sent.at,
        };
        self.run = Some(LostRun {
            start,
            last: sent.number,
        });
        let persistent = sent.at.saturating_duration_since(start)
            > self.rtt.pto() * PERSISTENT_CONGESTION_THRESHOLD;
        if persistent {
            self.rtt.forget_min();
            self.run = None;
        }
        persistent
    }

    fn forget_old_losses(&mut self, now: Instant) {
        let age = self.rtt.pto() * 3;
        self.lost.retain(|_, (at, _)| *at + age > now);
        while self.lost.len() > self.capacity {
            self.lost.pop_first();
        }
    }

    /// The probe timeout, doubled for each one in a row, up to a bound.
    fn backed_off(&self) -> Duration {
        let pto = self.rtt.pto();
        let count = if self.outstanding.is_empty() {
            self.window_probes
        } else {
            self.pto_count
        };
        let doubled = pto.saturating_mul(1 << count.min(16));
        doubled.min(MAX_PTO.max(pto))
    }
}

/// RFC 9002, section 6.1.1 (kPacketThreshold).
const PACKET_THRESHOLD: u64 = 3;
/// RFC 9002, section 7.6.1.
const PERSISTENT_CONGESTION_THRESHOLD: u32 = 3;
/// Backing off ends here: a path that comes back is found within seconds.
const MAX_PTO: Duration = Duration::from_secs(4);
