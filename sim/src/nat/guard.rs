//! What a NAT holds against packets beside its mappings: the ends that unsolicited packets have poisoned, sources that are
//! blocked for a while, and how many new sessions come in a second. Bounded; knows no mappings.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::packet::Protocol;

/// Both ends of a packet from outside that nobody waited for.
pub(super) type Ends = (Protocol, SocketAddr, SocketAddr);

/// The three of them.
#[derive(Debug, Default)]
pub(super) struct Guard {
    poisoned: BTreeMap<Ends, Instant>,
    blocked: BTreeMap<IpAddr, Instant>,
    rate: Option<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Guard {
    /// A packet from `remote` to `outside` was nobody's; its ends are taken for as long.
    pub(super) fn poison(&mut self, ends: Ends, time: Duration, now: Instant) {
        make_room(&mut self.poisoned, now);
        self.poisoned.insert(ends, later(now, time));
    }

    /// Whether a flow with these ends would be taken for the gateway's own.
    pub(super) fn is_poisoned(&self, ends: &Ends, now: Instant) -> bool {
        self.poisoned.get(ends).is_some_and(|until| now < *until)
    }

    /// Drops this source's packets for as long.
    pub(super) fn block(&mut self, source: IpAddr, time: Duration, now: Instant) {
        make_room(&mut self.blocked, now);
        self.blocked.insert(source, later(now, time));
    }

    pub(super) fn is_blocked(&self, source: IpAddr, now: Instant) -> bool {
        self.blocked.get(&source).is_some_and(|until| now < *until)
    }

    /// Whether one more session may be made, of so many a second.
    pub(super) fn admits_one_more(&mut self, per_second: Option<u32>, now: Instant) -> bool {
        let Some(rate) = per_second.map(f64::from) else {
            return true;
        };
        let bucket = self.rate.get_or_insert(Bucket {
            tokens: rate,
            filled: now,
        });
        let passed = now.saturating_duration_since(bucket.filled).as_secs_f64();
        bucket.tokens = (bucket.tokens + passed * rate).min(rate);
        bucket.filled = now;
        let admits = bucket.tokens >= 1.0;
        if admits {
            bucket.tokens -= 1.0;
        }
        admits
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Forgets what is over when there is much; where nothing is, the first.
fn make_room<K: Ord + Clone>(table: &mut BTreeMap<K, Instant>, now: Instant) {
    if table.len() >= MOST_ENTRIES {
        table.retain(|_, until| now < *until);
    }
    if table.len() >= MOST_ENTRIES {
        table.pop_first();
    }
}

fn later(now: Instant, time: Duration) -> Instant {
    now.checked_add(time).unwrap_or(now)
}

/// More than any honest network meets.
const MOST_ENTRIES: usize = 16_384;
