//! How soon frames flow after a link was asked for, and how soon directly, in round trips.

use std::time::{Duration, Instant};

use kuguri_proto::node::Event;
use kuguri_sim::link::{LinkConfig, Probability};
use kuguri_sim::nat::{NatConfig, Preset};
use kuguri_sim::network::{Access, Logging};
use kuguri_tests::frames::broadcast;
use kuguri_tests::world::{HOME_MAC, Scene, World};
use serde::Serialize;

use super::{Spread, ms};

/// Runs of each row; the seeds count from 0.
pub(crate) const SEEDS: u64 = 200;
/// Those that give each peer one mapping for all destinations.
const CONES: [Preset; 3] = [Preset::FullCone, Preset::Restricted, Preset::PortRestricted];
const PATIENCE: Duration = Duration::from_secs(30);
/// The goals: in S, in S, and in the time 4 S + 1.5 R.
const SENT: f64 = 2.0;
const ARRIVED: f64 = 3.0;

/// One scene, many seeds.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// Mean round trip between a peer and the rendezvous, in milliseconds.
    pub(crate) s_ms: f64,
    /// Round trip between the peers, in milliseconds.
    pub(crate) r_ms: f64,
    pub(crate) seeds: u64,
    /// First frame sent, in S.
    pub(crate) sent: Option<Spread>,
    /// First frame there, in S.
    pub(crate) arrived: Option<Spread>,
    /// First frame there that went directly, both ways, in 4 S + 1.5 R.
    pub(crate) direct: Option<Spread>,
    /// Whether the goals are for it: on a way that loses packets they cannot be.
    pub(crate) goal: bool,
}

/// How far everything is from everything, one way, in milliseconds.
#[derive(Clone, Copy)]
struct Distances {
    office: (u64, u64),
    home: (u64, u64),
    vps: u64,
    loss: f64,
}

impl Distances {
    const fn same(access: u64) -> Self {
        Self {
            office: (access, access),
            home: (access, access),
            vps: 0,
            loss: 0.0,
        }
    }

    const fn s(&self) -> f64 {
        let ways = self.office.0 + self.office.1 + self.home.0 + self.home.1;
        ways as f64 / 2.0 + 2.0 * self.vps as f64
    }

    const fn r(&self) -> f64 {
        (self.office.0 + self.office.1 + self.home.0 + self.home.1) as f64
    }
}

pub(crate) fn measure() -> Vec<Row> {
    let mut rows: Vec<Row> = [5, 10, 20, 50, 150]
        .into_iter()
        .map(|access| {
            let name = format!("access {access} ms");
            row(name, Distances::same(access), &CONES, &CONES)
        })
        .collect();
    let base = Distances::same(20);
    let others = [
        (
            "office 10 ms, home 50 ms",
            Distances {
                office: (10, 10),
                home: (50, 50),
                ..base
            },
        ),
        (
            "office 50 ms, home 10 ms",
            Distances {
                office: (50, 50),
                home: (10, 10),
                ..base
            },
        ),
        (
            "up 30 ms, down 10 ms",
            Distances {
                office: (30, 10),
                home: (30, 10),
                ..base
            },
        ),
        (
            "access 5 ms, rendezvous 40 ms away",
            Distances {
                vps: 40,
                ..Distances::same(5)
            },
        ),
        ("access 20 ms, 5 % loss", Distances { loss: 0.05, ..base }),
    ];
    for (name, distances) in others {
        rows.push(row(name.to_owned(), distances, &CONES, &CONES));
    }
    for office in CONES {
        for home in CONES {
            rows.push(row(format!("{office} – {home}"), base, &[office], &[home]));
        }
    }
    rows
}

/// The pairs of NATs take turns.
fn row(name: String, distances: Distances, offices: &[Preset], homes: &[Preset]) -> Row {
    let (s, r) = (distances.s(), distances.r());
    let (mut sent, mut arrived, mut direct) = (Vec::new(), Vec::new(), Vec::new());
    for (seed, turn) in (0..SEEDS).zip(0usize..) {
        let (office, home) = (turn % offices.len(), turn / offices.len() % homes.len());
        let times = run(seed, distances, (offices[office], homes[home]));
        sent.extend(times[0].map(|time| time / s));
        arrived.extend(times[1].map(|time| time / s));
        direct.extend(times[2].map(|time| (time + r / 2.0) / (4.0 * s + 1.5 * r)));
    }
    let all = |values: Vec<f64>| {
        let whole = values.len() as u64 == SEEDS;
        Spread::of(values).filter(|_| whole)
    };
    Row {
        name,
        s_ms: s,
        r_ms: r,
        seeds: SEEDS,
        sent: all(sent),
        arrived: all(arrived),
        direct: all(direct),
        goal: distances.loss == 0.0,
    }
}

/// Milliseconds from asking for the link to the first frame sent, there, and the direct path in use on both sides.
fn run(seed: u64, distances: Distances, (office, home): (Preset, Preset)) -> [Option<f64>; 3] {
    let mut world = World::unpeopled(&Scene {
        seed,
        office: NatConfig::from(office),
        home: NatConfig::from(home),
        access: LinkConfig::default(),
        logging: Logging::Off,
    });
    let link = |delay: u64| LinkConfig {
        loss: Probability::new(distances.loss).expect("between 0 and 1"),
        ..LinkConfig::delay(ms(delay))
    };
    let (office, home) = (world.office, world.home);
    for (host, (up, down)) in [(office, distances.office), (home, distances.home)] {
        let (router, network) = (world.router(host), world.simulation.network_mut());
        let (up, down) = (link(up), link(down));
        network.set_access(router, Access { up, down });
    }
    let vps = world.vps;
    let network = world.simulation.network_mut();
    network.set_host_access(vps, &Access::delay(ms(distances.vps)));
    // The hub is there before anybody asks for it.
    world.start_node(office, world.hub_config());
    world.run_for(PATIENCE);
    world.start_node(home, world.member_config(home));
    let Some(asked) = world.try_wait_for(home, PATIENCE, |event| {
        matches!(event, Event::Registered { .. })
    }) else {
        return [None; 3];
    };
    let since = |at: Instant| (at - asked).as_secs_f64() * 1e3;
    let sent = world.try_wait_for(home, PATIENCE, |event| {
        matches!(event, Event::LinkUp { .. })
    });
    world.send_frame(home, &broadcast(HOME_MAC, 1));
    let arrived = world.try_wait_for(office, PATIENCE, |event| {
        matches!(event, Event::FirstFrame { .. })
    });
    let direct = both_direct(&mut world, PATIENCE);
    [sent, arrived, direct].map(|at| at.map(since))
}

/// When both sides use a direct path.
pub(crate) fn both_direct(world: &mut World, patience: Duration) -> Option<Instant> {
    let is_direct = |event: &Event| {
        matches!(
            event,
            Event::PathChanged {
                direct: Some(_),
                ..
            }
        )
    };
    let (home, office) = (world.home, world.office);
    let at_home = world.try_wait_for(home, patience, is_direct)?;
    let at_office = world.try_wait_for(office, patience, is_direct)?;
    Some(at_home.max(at_office))
}

impl Row {
    /// What does not reach its goal.
    pub(crate) fn missed(&self) -> Vec<String> {
        let checks = [
            ("first frame sent", self.sent, SENT),
            ("first frame there", self.arrived, ARRIVED),
            ("direct", self.direct, 1.0),
        ];
        let over = |&(_, spread, goal): &(&str, Option<Spread>, f64)| {
            self.goal && spread.is_none_or(|spread| spread.max > goal + TOLERANCE)
        };
        checks
            .iter()
            .filter(|check| over(check))
            .map(|(what, spread, goal)| {
                let most = spread.map_or(f64::INFINITY, |spread| spread.max);
                format!(
                    "{}: {what}: {most:.2} at most, the goal is {goal}",
                    self.name
                )
            })
            .collect()
    }
}

/// Of rounding.
const TOLERANCE: f64 = 1e-6;
