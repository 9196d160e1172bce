//! What the simulation costs: the machine's time for a pair's life, and how much faster than its own clock it runs.

use std::time::{Duration, Instant};

use kuguri_sim::link::LinkConfig;
use kuguri_sim::nat::{NatConfig, Preset};
use kuguri_sim::network::Logging;
use kuguri_tests::world::{Scene, World};
use serde::Serialize;

use super::beginning::both_direct;
use super::{Spread, ms};

/// Runs; the seeds count from 0.
pub(crate) const SEEDS: u64 = 100;
/// Virtual time of a life: from nothing to a direct path, and then a ping every second.
pub(crate) const PINGS: u16 = 60;

/// What it was measured on.
#[derive(Serialize)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    /// As `uname -sr` says.
    pub(crate) kernel: String,
}

/// How fast it goes.
#[derive(Serialize)]
pub(crate) struct Speed {
    pub(crate) runs: u64,
    /// Milliseconds of the machine's time from nothing to a direct path.
    pub(crate) to_direct_ms: Option<Spread>,
    /// Milliseconds of the machine's time for the whole life.
    pub(crate) life_ms: Option<Spread>,
    /// Seconds of virtual time of one life, in the mean.
    pub(crate) life_virtual_s: f64,
    /// Virtual time by real time.
    pub(crate) ratio: f64,
}

impl Machine {
    pub(crate) fn here() -> Self {
        let read = |name: &str| {
            let text = std::fs::read_to_string(format!("/proc/sys/kernel/{name}"));
            text.map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
        };
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: format!("{} {}", read("ostype"), read("osrelease")),
        }
    }
}

pub(crate) fn measure() -> Speed {
    let cone = NatConfig::from(Preset::PortRestricted);
    let (mut to_direct, mut life) = (Vec::new(), Vec::new());
    let mut virtual_time = Duration::ZERO;
    for seed in 0..SEEDS {
        let begin = Instant::now();
        let mut world = World::new(&Scene {
            seed,
            office: cone.clone(),
            home: cone.clone(),
            access: LinkConfig::delay(ms(20)),
            logging: Logging::Off,
        });
        if both_direct(&mut world, Duration::from_secs(20)).is_none() {
            continue;
        }
        to_direct.push(begin.elapsed().as_secs_f64() * 1e3);
        world.answered_pings(PINGS, 1400);
        life.push(begin.elapsed().as_secs_f64() * 1e3);
        virtual_time += world.simulation.now() - world.start;
    }
    let real: f64 = life.iter().sum::<f64>() / 1e3;
    let runs = life.len() as u64;
    Speed {
        runs,
        to_direct_ms: Spread::of(to_direct),
        life_ms: Spread::of(life),
        life_virtual_s: virtual_time.as_secs_f64() / runs.max(1) as f64,
        ratio: virtual_time.as_secs_f64() / real,
    }
}
