//! Every kind of NAT against every other: directly or not, how soon, with how many datagrams.

use std::time::Duration;

use kuguri_proto::node::Event;
use kuguri_sim::link::LinkConfig;
use kuguri_sim::nat::{NatConfig, Preset};
use kuguri_sim::network::{HostId, Logging};
use kuguri_tests::world::{Scene, World};
use serde::Serialize;

use super::beginning::both_direct;
use super::{Spread, ms};

/// Runs of each pair; the seeds count from 0.
pub(crate) const SEEDS: u64 = 40;
/// Who is not direct by then is called relayed.
const PATIENCE: Duration = Duration::from_secs(20);
/// One way between a peer and the core.
pub(crate) const ACCESS: Duration = ms(20);

/// One pair.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) office: &'static str,
    pub(crate) home: &'static str,
    /// Runs that became direct on both sides.
    pub(crate) direct: u64,
    pub(crate) seeds: u64,
    /// Milliseconds from asking for the link until both sides use a direct path.
    pub(crate) direct_ms: Option<Spread>,
    /// Datagrams that each side sent until then (or within the patience), in the median, from its program's start on.
    pub(crate) sent_by_office: f64,
    pub(crate) sent_by_home: f64,
}

pub(crate) fn measure() -> Vec<Row> {
    let all = Preset::ALL.into_iter();
    all.flat_map(|office| Preset::ALL.map(|home| row(office, home)))
        .collect()
}

fn row(office: Preset, home: Preset) -> Row {
    let (mut times, mut by_office, mut by_home) = (Vec::new(), Vec::new(), Vec::new());
    for seed in 0..SEEDS {
        let mut world = World::new(&Scene {
            seed,
            office: NatConfig::from(office),
            home: NatConfig::from(home),
            access: LinkConfig::delay(ACCESS),
            logging: Logging::Off,
        });
        let asked = world.wait_for(world.home, PATIENCE, |event| {
            matches!(event, Event::Registered { .. })
        });
        let direct = both_direct(&mut world, PATIENCE);
        times.extend(direct.map(|at| (at - asked).as_secs_f64() * 1e3));
        let sent =
            |host: HostId| f64::from(u32::try_from(world.peer(host).sent).unwrap_or(u32::MAX));
        by_office.push(sent(world.office));
        by_home.push(sent(world.home));
    }
    let median = |values| Spread::of(values).map_or(0.0, |spread| spread.median);
    Row {
        office: office.name(),
        home: home.name(),
        direct: times.len() as u64,
        seeds: SEEDS,
        direct_ms: Spread::of(times),
        sent_by_office: median(by_office),
        sent_by_home: median(by_home),
    }
}

impl Row {
    pub(crate) const fn verdict(&self) -> &'static str {
        if self.direct == self.seeds {
            "direct"
        } else if self.direct == 0 {
            "relayed"
        } else {
            "either"
        }
    }
}
