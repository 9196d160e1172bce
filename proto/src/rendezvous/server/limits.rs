//! How much one source, one peer or one target may ask of the rendezvous: token buckets in constant memory.
//!
//! A [`Bucket`] is one `Instant`: the time at which it will be full again. (The virtual scheduling form of the leaky
//! bucket, ITU-T I.371.) So a million peers' buckets are sixteen bytes each, and nothing has to be refilled.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// So much at once, and so much in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Units that may be taken at once from a full bucket.
    pub burst: u32,
    /// Units that come back in a second; at least 1.
    pub per_second: u32,
}

/// A token bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    full_at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub(super) const fn full(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes `amount` units if they are there.
    pub(super) fn take(&mut self, amount: usize, rate: Rate, now: Instant) -> bool {
        let after = self.full_at.max(now) + time_for(amount, rate.per_second);
        let fits = after <= now + time_for(rate.burst as usize, rate.per_second);
        if fits {
            self.full_at = after;
        }
        fits
    }
}

/// Whom an address counts for: an IPv4 address, or the /64 of an IPv6 one, which one host may own whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Network(u128);

impl Network {
    /// The one that an address belongs to.
    pub(super) const fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.to_bits() as u128,
            IpAddr::V6(address) => (address.to_bits() >> 64) | (1 << 64),
        })
    }

    /// A network in its dealings with one of few others: 65 bits say which network, the upper 32 which other.
    pub(super) const fn towards(self, other: u32) -> Self {
        Self(self.0 | ((other as u128) << 96))
    }
}

/// Buckets for sources: a fixed number, however many sources there are.
///
/// Two sources may share one; which ones cannot be known from outside.
pub(super) struct SourceBuckets {
    buckets: Vec<Bucket>,
    key: (u128, u128),
}

impl SourceBuckets {
    pub(super) fn new(seed: [u8; 32], now: Instant) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let mut word = || (u128::from(rng.next_u64()) << 64) | u128::from(rng.next_u64());
        Self {
            key: (word() | 1, word()),
            buckets: vec![Bucket::full(now); 1 << SOURCE_BITS],
        }
    }

    /// Takes `amount` units of the source's bucket if they are there.
    pub(super) fn take(
        &mut self,
        source: Network,
        amount: usize,
        rate: Rate,
        now: Instant,
    ) -> bool {
        let index = self.index(source);
        self.buckets
            .get_mut(index)
            .is_some_and(|bucket| bucket.take(amount, rate, now))
    }

    /// Multiply-shift hashing (Dietzfelbinger): whoever does not know the key cannot aim at a bucket.
    fn index(&self, source: Network) -> usize {
        let hash = self.key.0.wrapping_mul(source.0).wrapping_add(self.key.1);
        usize::try_from(hash >> (128 - SOURCE_BITS)).expect("a number of SOURCE_BITS bits")
    }
}

fn time_for(amount: usize, per_second: u32) -> Duration {
    let nanos = u128::try_from(amount).expect("no more than 64 bits") * 1_000_000_000
        / u128::from(per_second.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 4))
}

/// 16,384 buckets: a quarter of a MiB.
const SOURCE_BITS: u32 = 14;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rendezvous::pipe::start;

    #[test]
    fn a_burst_then_the_rate_then_a_full_bucket_again() {
        let begin = start();
        let rate = Rate {
            burst: 10,
            per_second: 2,
        };
        let mut bucket = Bucket::full(begin);
        assert!((0..10).all(|_| bucket.take(1, rate, begin)));
        assert!(!bucket.take(1, rate, begin));
        assert!(!bucket.take(2, rate, begin + Duration::from_millis(999)));
        assert!(bucket.take(2, rate, begin + Duration::from_secs(1)));
        assert!(!bucket.take(1, rate, begin + Duration::from_secs(1)));
        assert!(bucket.take(10, rate, begin + Duration::from_secs(100)));
        assert!(!bucket.take(1, rate, begin + Duration::from_secs(100)));
    }

    #[test]
    fn a_host_cannot_have_more_by_changing_its_ipv6_address() {
        let buckets = SourceBuckets::new([7; 32], start());
        let at = |text: &str| buckets.index(Network::of(text.parse().expect("an address")));
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:1"));
        assert_eq!(at("192.0.2.1"), at("::ffff:192.0.2.1"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
    }

    proptest! {
        #[test]
        fn never_more_than_burst_plus_rate_times_time(takes in prop::collection::vec((0u64..300, 1usize..20), 1..200)) {
            let begin = start();
            let rate = Rate { burst: 50, per_second: 10 };
            let (mut bucket, mut now, mut taken) = (Bucket::full(begin), begin, 0);
            for (millis, amount) in takes {
                now += Duration::from_millis(millis);
                taken += if bucket.take(amount, rate, now) { amount } else { 0 };
                let allowed = 50.0 + 10.0 * (now - begin).as_secs_f64();
                prop_assert!(taken as f64 <= allowed + 0.001);
            }
        }
    }
}
