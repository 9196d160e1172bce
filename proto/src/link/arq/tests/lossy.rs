//! Two ends and a bad line between them, in virtual time: delay, jitter (and so reordering), loss, duplication, a rate
//! with a queue. One seed gives one run.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::{Arq, Config};
use super::epoch;

/// What the line does to a datagram, in each direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    /// One way.
    pub(super) delay: Duration,
    /// Up to so much more, evenly spread.
    pub(super) jitter: Duration,
    /// Probability.
    pub(super) loss: f64,
    /// Probability.
    pub(super) duplication: f64,
    /// Bytes per second and the bytes that may wait for them; none: as fast as you like.
    pub(super) rate: Option<(u32, u32)>,
}

impl Line {
    pub(super) const fn new(delay: Duration) -> Self {
        Self {
            delay,
            jitter: Duration::ZERO,
            loss: 0.0,
            duplication: 0.0,
            rate: None,
        }
    }
}

/// One end, with the bytes that it still has to write and those that it has read.
pub(super) struct End {
    pub(super) arq: Arq,
    to_write: Vec<u8>,
    written: usize,
    finish: bool,
    /// Whether it writes its bytes again and again, and nobody keeps what comes.
    forever: bool,
    /// Whether it reads at all.
    pub(super) reads: bool,
    pub(super) got: Vec<u8>,
    busy_until: Instant,
}

/// Two ends on a line.
pub(super) struct World {
    pub(super) now: Instant,
    pub(super) start: Instant,
    pub(super) line: Line,
    pub(super) ends: [End; 2],
    rng: StdRng,
    under_way: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    count: u64,
    /// Every segment that was sent: when, by whom, what.
    pub(super) log: Option<Vec<(Duration, usize, Vec<u8>)>>,
}

impl World {
    pub(super) fn new(line: Line, config: &Config, seed: u64) -> Self {
        let start = epoch();
        let end = || End {
            arq: Arq::new(config.clone(), start),
            to_write: Vec::new(),
            written: 0,
            finish: false,
            forever: false,
            reads: true,
            got: Vec::new(),
            busy_until: start,
        };
        Self {
            now: start,
            start,
            line,
            ends: [end(), end()],
            rng: StdRng::seed_from_u64(seed),
            under_way: BTreeMap::new(),
            count: 0,
            log: None,
        }
    }

    /// The end writes `bytes` as fast as it may, and then its stream ends.
    pub(super) fn send(&mut self, end: usize, bytes: Vec<u8>) {
        self.ends[end].to_write.extend(bytes);
        self.ends[end].finish = true;
    }

    /// The end writes `bytes` again and again, as fast as it may; what arrives is thrown away.
    pub(super) fn send_forever(&mut self, end: usize, bytes: Vec<u8>) {
        self.ends[end].to_write = bytes;
        self.ends[end].forever = true;
        self.ends[1 - end].forever = true;
    }

    /// Goes on until `done` or `limit`; says whether it was `done`.
    pub(super) fn run(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let (mut before, mut rounds) = (self.now, 0);
        loop {
            rounds = if self.now == before { rounds + 1 } else { 0 };
            before = self.now;
            assert!(rounds < 100_000, "time stands still");
            for end in 0..2 {
                self.ends[end].use_stream();
                self.drain(end);
            }
            if done(self) {
                return true;
            }
            let timers = self
                .ends
                .iter()
                .filter_map(|end| end.arq.poll_timeout())
                .min();
            let arrival = self.under_way.first_key_value().map(|((at, _), _)| *at);
            let Some(next) = timers.into_iter().chain(arrival).min() else {
                return false;
            };
            if next > self.start + limit {
                self.now = self.start + limit;
                return false;
            }
            self.now = self.now.max(next);
            self.step();
        }
    }

    /// Until both streams have ended, both ways.
    pub(super) fn run_to_end(&mut self, limit: Duration) -> bool {
        self.run(limit, |world| {
            let over = |end: &End| end.arq.is_finished() && end.arq.peer_finished();
            world.ends.iter().all(over)
        })
    }

    fn step(&mut self) {
        let arrived = self
            .under_way
            .first_key_value()
            .is_some_and(|((at, _), _)| *at <= self.now);
        if arrived && let Some((_, (to, body))) = self.under_way.pop_first() {
            let taken = self.ends[to].arq.handle_segment(&body, self.now);
            taken.expect("a segment of our own");
        }
        for end in &mut self.ends {
            if end.arq.poll_timeout().is_some_and(|due| due <= self.now) {
                end.arq.handle_timeout(self.now);
            }
        }
    }

    fn drain(&mut self, from: usize) {
        let mut sent = 0;
        loop {
            let mut body = Vec::new();
            if !self.ends[from]
                .arq
                .poll_transmit(&mut body, usize::MAX, self.now)
            {
                return;
            }
            sent += 1;
            assert!(sent < 100_000, "does not stop sending");
            if let Some(log) = &mut self.log {
                log.push((self.now - self.start, from, body.clone()));
            }
            self.carry(from, body);
        }
    }

    fn carry(&mut self, from: usize, body: Vec<u8>) {
        let mut leaves = self.now;
        if let Some((rate, queue)) = self.line.rate {
            leaves = leaves.max(self.ends[from].busy_until);
            if (leaves - self.now).mul_f64(f64::from(rate)) > Duration::from_secs(u64::from(queue))
            {
                return;
            }
            let length = u32::try_from(body.len()).expect("a datagram");
            leaves += Duration::from_secs(u64::from(length)) / rate;
            self.ends[from].busy_until = leaves;
        }
        let copies = 1 + u32::from(self.rng.random_bool(self.line.duplication));
        for _ in 0..copies {
            if !self.rng.random_bool(self.line.loss) {
                let jitter = self.line.jitter.mul_f64(self.rng.random::<f64>());
                self.count += 1;
                let key = (leaves + self.line.delay + jitter, self.count);
                self.under_way.insert(key, (1 - from, body.clone()));
            }
        }
    }
}

impl End {
    fn use_stream(&mut self) {
        self.written += self.arq.write(&self.to_write[self.written..]);
        if self.forever {
            self.got.clear();
            self.written %= self.to_write.len().max(1);
        }
        if self.finish && self.written == self.to_write.len() {
            self.arq.finish();
        }
        if self.reads {
            self.arq.read(&mut self.got);
        }
    }
}

/// Bytes that are not the same anywhere.
pub(super) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..length).map(|_| rng.random()).collect()
}
