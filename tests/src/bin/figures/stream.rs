//! What the ARQ makes of bad lines: ten megabytes whole, and as fast as its congestion control may.
//!
//! Theory: NewReno reaches MSS / RTT · sqrt(3 / 2p) (Mathis et al., 1997); CUBIC MSS / RTT · (C (3 + β) / 4 (1 - β))^¼ ·
//! (RTT / p)^¾ (RFC 9438, section 5), or NewReno's rate where that is more.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use kuguri_proto::link::arq::{Algorithm, Arq, Config};
use kuguri_sim::link::{Fate, Link, LinkConfig, Probability};
use kuguri_sim::packet::{Body, Packet};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

use super::{Spread, ms};

/// Runs of everything here; the seeds count from 0.
pub(crate) const SEEDS: u64 = 10;
const MEGABYTES_10: usize = 10_000_000;
/// Stream bytes in a full segment without an acknowledgement.
const PAYLOAD: f64 = 1169.0;
/// Of theory, at 1 % loss and 100 ms.
pub(crate) const GOAL: f64 = 0.7;
const LOSS: f64 = 0.01;
const RTT: Duration = ms(100);

/// What was reached.
#[derive(Serialize)]
pub(crate) struct Figures {
    pub(crate) line: &'static str,
    /// Runs in which all bytes came, and the same ones.
    pub(crate) whole: u64,
    pub(crate) seeds: u64,
    /// Bytes of the stream per second.
    pub(crate) goodput: Option<Spread>,
    pub(crate) ratios: Vec<Ratio>,
}

/// What congestion control may, and what was reached.
#[derive(Serialize)]
pub(crate) struct Ratio {
    pub(crate) control: String,
    /// Bytes of the stream per second.
    pub(crate) theory: f64,
    /// Reached by theory.
    pub(crate) ratio: Option<Spread>,
}

pub(crate) fn measure() -> Figures {
    let chance = |number| Probability::new(number).expect("between 0 and 1");
    let bad = LinkConfig {
        jitter: ms(20),
        loss: chance(0.2),
        reorder: chance(0.1),
        reorder_by: ms(30),
        duplicate: chance(0.05),
        ..LinkConfig::delay(ms(25))
    };
    let runs = (0..SEEDS).map(|seed| carry_over(&bad, seed));
    let goodput: Vec<f64> = runs.flatten().collect();
    Figures {
        line: "50 to 90 ms round trip, 20 % loss, 10 % reordered by 30 ms, 5 % doubled, each way",
        whole: goodput.len() as u64,
        seeds: SEEDS,
        goodput: Spread::of(goodput),
        ratios: [Algorithm::NewReno, Algorithm::Cubic].map(ratio).into(),
    }
}

impl Figures {
    pub(crate) fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        if self.whole < self.seeds {
            missed.push("10 MB at 20 % loss: not all bytes came".to_owned());
        }
        for ratio in &self.ratios {
            if ratio.ratio.is_none_or(|spread| spread.median < GOAL) {
                missed.push(format!("1 % loss, 100 ms: {} is below 70 %", ratio.control));
            }
        }
        missed
    }
}

/// Ten megabytes of noise; bytes per second, if they all came.
fn carry_over(config: &LinkConfig, seed: u64) -> Option<f64> {
    let mut bytes = vec![0; MEGABYTES_10];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    let mut line = Line::new(config, &Config::default(), seed);
    let (mut written, mut got) = (0, Vec::new());
    line.run(Duration::from_secs(100_000), |ends| {
        written += ends[0].write(&bytes[written..]);
        if written == bytes.len() {
            ends[0].finish();
        }
        ends[1].read(&mut got);
        ends[1].peer_finished()
    });
    (got == bytes).then(|| bytes.len() as f64 / line.elapsed().as_secs_f64())
}

fn ratio(algorithm: Algorithm) -> Ratio {
    let theory = theory(algorithm);
    let reached = (0..SEEDS).map(|seed| steady_rate(algorithm, seed) / theory);
    Ratio {
        control: format!("{algorithm:?}"),
        theory,
        ratio: Spread::of(reached.collect()),
    }
}

fn theory(algorithm: Algorithm) -> f64 {
    let rtt = RTT.as_secs_f64();
    let reno = (1.5 / LOSS).sqrt();
    let segments = match algorithm {
        Algorithm::NewReno => reno,
        Algorithm::Cubic => {
            let (c, beta) = (0.4, 0.7);
            let constant: f64 = c * (3.0 + beta) / (4.0 * (1.0 - beta));
            reno.max(constant.powf(0.25) * (rtt / LOSS).powf(0.75))
        }
    };
    segments * PAYLOAD / rtt
}

/// Bytes per second over a thousand round trips, when slow start's overshoot is over.
fn steady_rate(algorithm: Algorithm, seed: u64) -> f64 {
    let config = Config {
        congestion: algorithm,
        send_buffer: 1 << 22,
        receive_window: 1 << 22,
        ..Config::default()
    };
    let lossy = LinkConfig {
        loss: Probability::new(LOSS).expect("between 0 and 1"),
        ..LinkConfig::delay(RTT / 2)
    };
    let mut line = Line::new(&lossy, &config, seed);
    let noise = vec![0x5a; 1 << 16];
    let mut got = Vec::new();
    let mut stream = |ends: &mut [Arq; 2]| {
        while ends[0].write(&noise) > 0 {}
        got.clear();
        ends[1].read(&mut got);
        false
    };
    line.run(RTT * 200, &mut stream);
    let before = line.ends[1].stats().stream_bytes_read;
    line.run(RTT * 1000, &mut stream);
    let bytes = line.ends[1].stats().stream_bytes_read - before;
    bytes as f64 / (RTT * 1000).as_secs_f64()
}

/// Two ends and a link each way, in virtual time.
struct Line {
    start: Instant,
    now: Instant,
    ends: [Arq; 2],
    links: [Link; 2],
    under_way: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    sent: u64,
}

impl Line {
    fn new(line: &LinkConfig, config: &Config, seed: u64) -> Self {
        let start = Instant::now();
        Self {
            start,
            now: start,
            ends: [(); 2].map(|()| Arq::new(config.clone(), start)),
            links: [1, 2].map(|way| Link::new(line.clone(), seed << 2 | way)),
            under_way: BTreeMap::new(),
            sent: 0,
        }
    }

    fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Goes on for `time`, or until `use_streams`, which is called whenever something happened, says that it is done.
    fn run(&mut self, time: Duration, mut use_streams: impl FnMut(&mut [Arq; 2]) -> bool) {
        let end = self.now + time;
        loop {
            let done = use_streams(&mut self.ends);
            self.drain();
            if done {
                return;
            }
            let timers = self.ends.iter().filter_map(Arq::poll_timeout);
            let arrival = self.under_way.first_key_value().map(|((at, _), _)| *at);
            match timers.chain(arrival).min().filter(|next| *next <= end) {
                Some(next) => self.now = self.now.max(next),
                None => {
                    self.now = end;
                    return;
                }
            }
            self.step();
        }
    }

    fn step(&mut self) {
        while let Some(entry) = self.under_way.first_entry()
            && entry.key().0 <= self.now
        {
            let (to, segment) = entry.remove();
            let taken = self.ends[to].handle_segment(&segment, self.now);
            taken.expect("a segment of the other end");
        }
        for end in &mut self.ends {
            if end.poll_timeout().is_some_and(|due| due <= self.now) {
                end.handle_timeout(self.now);
            }
        }
    }

    fn drain(&mut self) {
        for from in 0..2 {
            let mut segment = Vec::new();
            while self.ends[from].poll_transmit(&mut segment, 1200, self.now) {
                self.carry(from, std::mem::take(&mut segment));
            }
        }
    }

    fn carry(&mut self, from: usize, segment: Vec<u8>) {
        let packet = packet(segment);
        let fate = self.links[from].send(&packet, self.now);
        let Body::Udp { payload, .. } = packet.body else {
            return;
        };
        if let Fate::Arrives { at, copy } = fate {
            for at in [Some(at), copy].into_iter().flatten() {
                self.sent += 1;
                let entry = (1 - from, payload.clone());
                self.under_way.insert((at, self.sent), entry);
            }
        }
    }
}

fn packet(payload: Vec<u8>) -> Packet {
    Packet {
        source: IpAddr::V4(Ipv4Addr::LOCALHOST),
        destination: IpAddr::V4(Ipv4Addr::LOCALHOST),
        ttl: 64,
        dont_fragment: true,
        body: Body::Udp {
            source_port: 1,
            destination_port: 1,
            payload,
        },
    }
}
