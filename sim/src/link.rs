//! One way of a wire. Decides for each packet when it arrives, whether it arrives twice, or why it does not; knows sizes
//! and nothing of addresses.
//!
//! ```text
//!   MTU ─► loss ─► queue at `rate` ─► delay + jitter ─► arrival ─► perhaps held back, perhaps a copy
//! ```
//!
//! Without `reorder` packets arrive in the order in which they were sent, whatever the jitter: each figure is its own axis.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::packet::Packet;

/// What one way of a wire does to packets. The default is a perfect one: no delay, no loss, no limit but an MTU of 1500.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LinkConfig {
    /// How long a packet travels.
    #[serde(with = "crate::duration")]
    pub delay: Duration,
    /// Up to this much is added, evenly distributed.
    #[serde(with = "crate::duration")]
    pub jitter: Duration,
    /// The part of packets that is lost, each by itself.
    pub loss: Probability,
    /// Loss in bursts, beside `loss`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst_loss: Option<GilbertElliott>,
    /// The part of packets that is held back for `reorder_by`, so that later ones overtake.
    pub reorder: Probability,
    /// How long a reordered packet is held back.
    #[serde(with = "crate::duration")]
    pub reorder_by: Duration,
    /// The part of packets that arrives twice.
    pub duplicate: Probability,
    /// Bits per second of IP packets; none is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// How many bytes wait for a slow link, at most; what comes then is dropped.
    pub queue: usize,
    /// The largest IP packet, in bytes.
    pub mtu: u16,
    /// Larger packets vanish without an ICMP error.
    pub black_hole: bool,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: Probability::NEVER,
            burst_loss: None,
            reorder: Probability::NEVER,
            reorder_by: Duration::from_millis(20),
            duplicate: Probability::NEVER,
            rate: None,
            queue: 64 * 1024,
            mtu: 1500,
            black_hole: false,
        }
    }
}

impl LinkConfig {
    /// A perfect wire with this delay.
    #[must_use]
    pub fn delay(delay: Duration) -> Self {
        Self {
            delay,
            ..Self::default()
        }
    }
}

/// Loss in bursts (Gilbert 1960, Elliott 1963): the link is in a good or a bad state, and may change it at each packet.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct GilbertElliott {
    /// Good becomes bad.
    pub good_to_bad: Probability,
    /// Bad becomes good; a burst lasts 1 / this packets on average.
    pub bad_to_good: Probability,
    /// Loss while good.
    #[serde(default)]
    pub good_loss: Probability,
    /// Loss while bad.
    #[serde(default = "Probability::always")]
    pub bad_loss: Probability,
}

/// A number from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Probability(f64);

/// A number that is not a probability.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{0} is not a probability: it lies between 0 and 1 (10 % is 0.1)")]
pub struct NotAProbability(f64);

impl Probability {
    /// 0.
    pub const NEVER: Self = Self(0.0);
    /// 1.
    pub const ALWAYS: Self = Self(1.0);

    /// # Errors
    /// When the number is below 0, above 1 or none.
    pub fn new(number: f64) -> Result<Self, NotAProbability> {
        if (0.0..=1.0).contains(&number) {
            Ok(Self(number))
        } else {
            Err(NotAProbability(number))
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }

    const fn always() -> Self {
        Self::ALWAYS
    }

    /// Throws the dice, if there is anything to decide.
    fn happens(self, rng: &mut StdRng) -> bool {
        self.0 > 0.0 && rng.random_bool(self.0)
    }
}

impl TryFrom<f64> for Probability {
    type Error = NotAProbability;

    fn try_from(number: f64) -> Result<Self, NotAProbability> {
        Self::new(number)
    }
}

impl From<Probability> for f64 {
    fn from(probability: Probability) -> Self {
        probability.0
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It comes out at the other end.
    Arrives {
        /// When.
        at: Instant,
        /// When its copy comes out, if it was duplicated.
        copy: Option<Instant>,
    },
    /// It does not, and nobody is told.
    Lost(LinkDrop),
    /// It does not, and its sender is told by ICMP.
    TooBig {
        /// What would fit.
        mtu: u16,
    },
}

/// Why a link lost a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinkDrop {
    /// By chance.
    Loss,
    /// The queue was full.
    QueueFull,
    /// Larger than the MTU of a link that does not say so.
    BlackHole,
}

/// One way of a wire, with what is on it.
#[derive(Debug)]
pub struct Link {
    config: LinkConfig,
    rng: StdRng,
    /// The last bit of the last accepted packet leaves the sender.
    busy_until: Option<Instant>,
    /// No packet that is not held back arrives before this.
    last_arrival: Option<Instant>,
    bad: bool,
}

impl Link {
    /// An idle wire.
    #[must_use]
    pub fn new(config: LinkConfig, seed: u64) -> Self {
        Self {
            config,
            rng: StdRng::seed_from_u64(seed),
            busy_until: None,
            last_arrival: None,
            bad: false,
        }
    }

    /// What it does.
    #[must_use]
    pub const fn config(&self) -> &LinkConfig {
        &self.config
    }

    /// What it does from now on; packets on the wire are not changed.
    pub fn set_config(&mut self, config: LinkConfig) {
        self.config = config;
    }

    /// Sends a packet; the caller keeps it and hands it on at the instants of the answer.
    pub fn send(&mut self, packet: &Packet, now: Instant) -> Fate {
        let pieces = match self.pieces(packet) {
            Ok(pieces) => pieces,
            Err(fate) => return fate,
        };
        for _ in 0..pieces {
            if self.loses() {
                return Fate::Lost(LinkDrop::Loss);
            }
        }
        let Some(sent) = self.transmit(packet.len(), now) else {
            return Fate::Lost(LinkDrop::QueueFull);
        };
        let at = self.arrival(sent);
        let copy = self.config.duplicate.happens(&mut self.rng);
        Fate::Arrives {
            at,
            copy: copy.then(|| self.arrival(sent)),
        }
    }

    /// Whether the packet would come back as too big; the router at the sending end asks before it translates.
    #[must_use]
    pub fn too_big(&self, packet: &Packet) -> Option<u16> {
        match self.pieces(packet) {
            Err(Fate::TooBig { mtu }) => Some(mtu),
            _ => None,
        }
    }

    /// In how many packets it goes. A packet that may be fragmented is, arrives whole, and is lost with any of its
    /// fragments.
    fn pieces(&self, packet: &Packet) -> Result<usize, Fate> {
        let (len, mtu) = (packet.len(), usize::from(self.config.mtu));
        if len <= mtu {
            return Ok(1);
        }
        if self.config.black_hole {
            return Err(Fate::Lost(LinkDrop::BlackHole));
        }
        if packet.dont_fragment || packet.is_ipv6() || mtu < SMALLEST_MTU || len > LARGEST_PACKET {
            return Err(Fate::TooBig {
                mtu: self.config.mtu,
            });
        }
        // RFC 791: a fragment's data is a multiple of 8 bytes, but for the last one's.
        Ok((len - 20).div_ceil((mtu - 20) / 8 * 8))
    }

    fn loses(&mut self) -> bool {
        let lost = self.config.loss.happens(&mut self.rng);
        let Some(bursts) = self.config.burst_loss else {
            return lost;
        };
        let change = if self.bad {
            bursts.bad_to_good
        } else {
            bursts.good_to_bad
        };
        self.bad ^= change.happens(&mut self.rng);
        let loss = if self.bad {
            bursts.bad_loss
        } else {
            bursts.good_loss
        };
        loss.happens(&mut self.rng) || lost
    }

    /// When the packet has left the sender; `None` when the queue has no room for it.
    fn transmit(&mut self, len: usize, now: Instant) -> Option<Instant> {
        let Some(rate) = self.config.rate else {
            return Some(now);
        };
        let start = self.busy_until.map_or(now, |busy| busy.max(now));
        let queue = u64::try_from(self.config.queue).unwrap_or(u64::MAX);
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        // What is being sent already does not count: even a queue of 0 bytes lets an idle link send.
        if start > now && backlog(start - now, rate).saturating_add(len) > queue {
            return None;
        }
        let sent = start.checked_add(transmission(len, rate))?;
        self.busy_until = Some(sent);
        Some(sent)
    }

    fn arrival(&mut self, sent: Instant) -> Instant {
        let mut at = sent + self.config.delay;
        if !self.config.jitter.is_zero() {
            at += self.config.jitter.mul_f64(self.rng.random::<f64>());
        }
        let in_order = self.last_arrival.map_or(at, |last| last.max(at));
        if self.config.reorder.happens(&mut self.rng) {
            return in_order + self.config.reorder_by;
        }
        self.last_arrival = Some(in_order);
        in_order
    }
}

/// How long `len` bytes take at `rate` bits per second; a rate of 0 is as slow as can be said.
fn transmission(len: u64, rate: u64) -> Duration {
    let nanos = u128::from(len) * 8 * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// How many bytes go in `time` at `rate`, rounded up.
fn backlog(time: Duration, rate: u64) -> u64 {
    let bytes = (time.as_nanos() * u128::from(rate)).div_ceil(8 * 1_000_000_000);
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// RFC 791: every link carries 68 bytes; below that nothing can be cut.
const SMALLEST_MTU: usize = 68;
/// The length field of IPv4 says no more.
const LARGEST_PACKET: usize = 65_535;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(len: usize) -> Packet {
        let endpoint = "192.0.2.1:1".parse().expect("an endpoint");
        Packet::udp(endpoint, endpoint, vec![0; len - 28])
    }

    fn half() -> Probability {
        Probability::new(0.5).expect("between 0 and 1")
    }

    /// What becomes of `count` packets, one each millisecond.
    fn fates(link: &mut Link, count: u32, start: Instant) -> Vec<Fate> {
        let sent = (0..count).map(|i| start + Duration::from_millis(1) * i);
        sent.map(|now| link.send(&packet(100), now)).collect()
    }

    fn share(fates: &[Fate], is: impl Fn(&Fate) -> bool) -> f64 {
        let count = fates.iter().filter(|fate| is(fate)).count();
        f64::from(u32::try_from(count).expect("few"))
            / f64::from(u32::try_from(fates.len()).expect("few"))
    }

    const LOST: Fate = Fate::Lost(LinkDrop::Loss);

    #[test]
    fn a_perfect_link_only_delays() {
        let now = Instant::now();
        let mut link = Link::new(LinkConfig::delay(Duration::from_millis(20)), 1);
        let at = now + Duration::from_millis(20);
        assert_eq!(
            link.send(&packet(1500), now),
            Fate::Arrives { at, copy: None }
        );
    }

    #[test]
    fn loss_has_the_rate_that_is_asked_for() {
        let config = LinkConfig {
            loss: Probability::new(0.1).expect("between 0 and 1"),
            ..LinkConfig::default()
        };
        let fates = fates(&mut Link::new(config, 1), 20_000, Instant::now());
        let lost = share(&fates, |fate| *fate == LOST);
        assert!((0.09..0.11).contains(&lost), "{lost}");
    }

    #[test]
    fn bursts_have_the_length_and_the_share_that_are_asked_for() {
        let chance = |number| Probability::new(number).expect("between 0 and 1");
        let config = LinkConfig {
            burst_loss: Some(GilbertElliott {
                good_to_bad: chance(0.02),
                bad_to_good: chance(0.2),
                good_loss: Probability::NEVER,
                bad_loss: Probability::ALWAYS,
            }),
            ..LinkConfig::default()
        };
        let fates = fates(&mut Link::new(config, 1), 50_000, Instant::now());
        let lost = share(&fates, |fate| *fate == LOST);
        // The bad state's share is 0.02 / (0.02 + 0.2).
        assert!((0.08..0.102).contains(&lost), "{lost}");
        let starts = fates
            .windows(2)
            .filter(|pair| pair[0] != LOST && pair[1] == LOST)
            .count();
        let length = lost * 50_000.0 / f64::from(u32::try_from(starts).expect("few"));
        assert!((4.5..5.5).contains(&length), "{length}");
    }

    #[test]
    fn copies_and_held_back_packets_have_their_share() {
        let config = LinkConfig {
            duplicate: half(),
            reorder: half(),
            ..LinkConfig::default()
        };
        let now = Instant::now();
        let mut link = Link::new(config, 1);
        let fates: Vec<_> = (0..10_000).map(|_| link.send(&packet(100), now)).collect();
        let copied = share(&fates, |fate| {
            matches!(fate, Fate::Arrives { copy: Some(_), .. })
        });
        let held = share(
            &fates,
            |fate| matches!(fate, Fate::Arrives { at, .. } if *at > now),
        );
        assert!((0.48..0.52).contains(&copied), "{copied}");
        assert!((0.48..0.52).contains(&held), "{held}");
    }

    #[test]
    fn a_slow_link_sends_one_after_the_other_and_has_a_short_queue() {
        let config = LinkConfig {
            rate: Some(8_000_000),
            queue: 2000,
            ..LinkConfig::default()
        };
        let (now, mut link) = (Instant::now(), Link::new(config, 1));
        let at = |millis| Fate::Arrives {
            at: now + Duration::from_millis(millis),
            copy: None,
        };
        assert_eq!(link.send(&packet(1000), now), at(1));
        assert_eq!(link.send(&packet(1000), now), at(2));
        assert_eq!(
            link.send(&packet(1000), now),
            Fate::Lost(LinkDrop::QueueFull)
        );
        let later = now + Duration::from_millis(1);
        assert_eq!(link.send(&packet(1000), later), at(3));
    }

    #[test]
    fn without_a_queue_an_idle_link_still_sends() {
        let config = LinkConfig {
            rate: Some(8_000_000),
            queue: 0,
            ..LinkConfig::default()
        };
        let (now, mut link) = (Instant::now(), Link::new(config, 1));
        assert!(matches!(
            link.send(&packet(1000), now),
            Fate::Arrives { .. }
        ));
        assert_eq!(
            link.send(&packet(1000), now),
            Fate::Lost(LinkDrop::QueueFull)
        );
    }

    #[test]
    fn what_is_too_big_is_said_or_vanishes_or_goes_in_pieces() {
        let (now, config) = (
            Instant::now(),
            LinkConfig {
                mtu: 1280,
                ..LinkConfig::default()
            },
        );
        let mut link = Link::new(config.clone(), 1);
        assert_eq!(link.send(&packet(1281), now), Fate::TooBig { mtu: 1280 });
        assert_eq!(link.too_big(&packet(1281)), Some(1280));
        assert!(matches!(
            link.send(&packet(1280), now),
            Fate::Arrives { .. }
        ));
        let mut fragmentable = packet(1281);
        fragmentable.dont_fragment = false;
        assert!(matches!(
            link.send(&fragmentable, now),
            Fate::Arrives { .. }
        ));
        let mut link = Link::new(
            LinkConfig {
                black_hole: true,
                ..config
            },
            1,
        );
        assert_eq!(
            link.send(&packet(1281), now),
            Fate::Lost(LinkDrop::BlackHole)
        );
        assert_eq!(link.too_big(&packet(1281)), None);
    }

    #[test]
    fn files_say_links_in_words() {
        let text = "delay = '20ms'\nloss = 0.01\nrate = 10000000\n[burst-loss]\ngood-to-bad = 0.1\nbad-to-good = 0.5";
        let config: LinkConfig = toml::from_str(text).expect("a good file");
        assert_eq!(config.delay, Duration::from_millis(20));
        assert_eq!(
            config.burst_loss.map(|bursts| bursts.bad_loss),
            Some(Probability::ALWAYS)
        );
        let written = toml::to_string(&config).expect("writable");
        assert_eq!(toml::from_str(&written), Ok(config));
        let error = toml::from_str::<LinkConfig>("loss = 10").expect_err("too much");
        assert!(error.to_string().contains("between 0 and 1"), "{error}");
    }

    proptest! {
        #[test]
        fn one_seed_one_fate_and_in_order_unless_reordered(seed: u64, jitter in 0u64..50, rate in prop::option::of(100_000u64..10_000_000)) {
            let config = LinkConfig { jitter: Duration::from_millis(jitter), rate, loss: half(), ..LinkConfig::default() };
            let start = Instant::now();
            let first = fates(&mut Link::new(config.clone(), seed), 50, start);
            prop_assert_eq!(&first, &fates(&mut Link::new(config, seed), 50, start));
            let arrivals: Vec<_> = first.iter().filter_map(|fate| match fate {
                Fate::Arrives { at, .. } => Some(*at),
                Fate::Lost(_) | Fate::TooBig { .. } => None,
            }).collect();
            prop_assert!(arrivals.is_sorted());
        }
    }
}
