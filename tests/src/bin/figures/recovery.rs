//! How soon frames flow again after something was killed, cut off or rebooted at a random time.

use std::time::Duration;

use kuguri_sim::link::{LinkConfig, Probability};
use kuguri_sim::nat::{NatConfig, Preset};
use kuguri_sim::network::{HostId, Logging};
use kuguri_tests::world::{Scene, World};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

use super::ms;

/// Runs of each row; the seeds count from 0.
pub(crate) const SEEDS: u64 = 50;
/// One way between a peer and the core.
pub(crate) const ACCESS: Duration = ms(20);
/// After the link is up, and between one run's accident and another's.
const CALM: Duration = ms(20_000);
const PATIENCE: Duration = ms(180_000);

/// One accident, many seeds.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) accident: String,
    pub(crate) path: &'static str,
    pub(crate) seeds: u64,
    /// Runs in which frames flowed again.
    pub(crate) recovered: u64,
    /// Seconds from when everything is there again to the first answered ping: half of the runs are faster.
    pub(crate) p50_s: f64,
    /// The same of 19 in 20.
    pub(crate) p95_s: f64,
    pub(crate) max_s: f64,
}

/// What happens.
#[derive(Clone, Copy)]
enum Accident {
    /// Killed, and started again after so many seconds.
    Hub(u64),
    Rendezvous(u64),
    /// No packet passes for so many seconds.
    HomeCut(u64),
    OfficeCut(u64),
    HomeNatReboots,
    OfficeNatReboots,
}

pub(crate) fn measure() -> Vec<Row> {
    let accidents = [
        Accident::Hub(0),
        Accident::Hub(5),
        Accident::Hub(60),
        Accident::Rendezvous(0),
        Accident::Rendezvous(5),
        Accident::Rendezvous(60),
        Accident::HomeCut(5),
        Accident::HomeCut(40),
        Accident::OfficeCut(5),
        Accident::OfficeCut(40),
        Accident::OfficeCut(300),
        Accident::HomeNatReboots,
        Accident::OfficeNatReboots,
    ];
    let paths = [
        ("direct", Preset::PortRestricted),
        ("relayed", Preset::Symmetric),
    ];
    let rows = accidents.map(|accident| paths.map(|path| row(accident, path)));
    rows.into_iter().flatten().collect()
}

fn row(accident: Accident, (path, nat): (&'static str, Preset)) -> Row {
    let times = (0..SEEDS).filter_map(|seed| run(seed, accident, nat));
    let mut times: Vec<f64> = times.map(|time| time.as_secs_f64()).collect();
    times.sort_by(f64::total_cmp);
    let at = |part: usize| {
        let last = times.len().saturating_sub(1);
        times.get(last * part / 100).copied().unwrap_or(f64::NAN)
    };
    Row {
        accident: accident.name(),
        path,
        seeds: SEEDS,
        recovered: times.len() as u64,
        p50_s: at(50),
        p95_s: at(95),
        max_s: at(100),
    }
}

fn run(seed: u64, accident: Accident, nat: Preset) -> Option<Duration> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut world = World::new(&Scene {
        seed,
        office: NatConfig::from(nat),
        home: NatConfig::from(nat),
        access: LinkConfig::delay(ACCESS),
        logging: Logging::Off,
    });
    world.run_for(CALM + ms(rng.random_range(0..15_000)));
    accident.happen(&mut world);
    world.recovery(PATIENCE)
}

impl Accident {
    fn name(self) -> String {
        let back = |what: &str, after: u64| match after {
            0 => format!("{what} killed, started again at once"),
            after => format!("{what} killed, started again after {after} s"),
        };
        match self {
            Self::Hub(after) => back("hub", after),
            Self::Rendezvous(after) => back("rendezvous", after),
            Self::HomeCut(time) => format!("home cut off for {time} s"),
            Self::OfficeCut(time) => format!("office cut off for {time} s"),
            Self::HomeNatReboots => "home's NAT reboots".to_owned(),
            Self::OfficeNatReboots => "office's NAT reboots".to_owned(),
        }
    }

    /// Until everything that was there is there again.
    fn happen(self, world: &mut World) {
        let (office, home) = (world.office, world.home);
        match self {
            Self::Hub(after) => {
                let hub = world.hub_config();
                world.simulation.remove(office);
                world.run_for(ms(after * 1000));
                world.start_node(office, hub);
            }
            Self::Rendezvous(after) => {
                world.simulation.remove(world.vps);
                world.run_for(ms(after * 1000));
                world.start_rendezvous();
            }
            Self::HomeCut(time) => cut(world, home, time),
            Self::OfficeCut(time) => cut(world, office, time),
            Self::HomeNatReboots => reboot(world, home),
            Self::OfficeNatReboots => reboot(world, office),
        }
    }
}

fn cut(world: &mut World, host: HostId, seconds: u64) {
    let dead = LinkConfig {
        loss: Probability::ALWAYS,
        ..LinkConfig::delay(ACCESS)
    };
    world.set_access(host, dead);
    world.run_for(ms(seconds * 1000));
    world.set_access(host, LinkConfig::delay(ACCESS));
}

fn reboot(world: &mut World, host: HostId) {
    let router = world.router(host);
    if let Some(nat) = world.simulation.network_mut().nat_mut(router) {
        nat.reboot();
    }
}
