//! The limit on frames that go to many: broadcast, multicast and unknown unicast (REQUIREMENTS A24).
//!
//! Two buckets must both have a token: one of the source address, one of the port. The first stops a station that floods;
//! the second stops a port that changes its source address with every frame, and those that the table had no room for.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::bucket::Rate;

/// How many frames may go to many stations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StormLimit {
    /// From one source address.
    pub source: Rate,
    /// From one port, whatever its source addresses.
    pub port: Rate,
}

impl Default for StormLimit {
    /// 100 frames a second and 1,000 at once from a source; ten times the rate and four times the burst from a port.
    ///
    /// Ordinary use stays far below: mDNS answers within 120 ms at most (RFC 6762, section 6), ARP asks once a second for
    /// each silent neighbour (RFC 1122, section 2.3.2.1), and a scan of a /24 asks 254 times at once. A flood of
    /// 10,000 a second loses 99 % of itself after its first 0.1 s. A multicast stream of more than about 1 Mbit/s
    /// needs a higher limit or none.
    fn default() -> Self {
        Self {
            source: per_second(HUNDRED, THOUSAND),
            port: per_second(THOUSAND, FOUR_THOUSAND),
        }
    }
}

fn per_second(count: NonZeroU32, burst: NonZeroU32) -> Rate {
    Rate::new(count, Duration::from_secs(1), burst)
}

const HUNDRED: NonZeroU32 = NonZeroU32::new(100).expect("not zero");
const THOUSAND: NonZeroU32 = NonZeroU32::new(1_000).expect("not zero");
const FOUR_THOUSAND: NonZeroU32 = NonZeroU32::new(4_000).expect("not zero");
