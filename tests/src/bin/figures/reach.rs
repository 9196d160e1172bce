//! Getting through NATs: by how many ends' ports must be found, by how NATs choose ports, by who else uses them.

use std::time::Duration;

use kuguri_sim::link::Probability;
use kuguri_sim::nat::Allocation;
use kuguri_tests::reach::{AP, Attempt, Cell, EI, Outcome, cells, sides};
use serde::Serialize;

use super::{Spread, ms};

/// One kind of try.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) runs: usize,
    /// Runs that became direct within the goal's time.
    pub(crate) in_time: usize,
    /// Runs that became direct at all.
    pub(crate) direct: usize,
    /// Seconds from when both ends had keys until both sent directly: half of all runs, 99 of 100, all.
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    pub(crate) max: Option<f64>,
    /// Probes of the side that sent most.
    pub(crate) probes: Option<Spread>,
    /// The most mappings in one NAT, and the most probes in any second.
    pub(crate) mappings: usize,
    pub(crate) per_second: u32,
    /// The share that is wanted in time, and what "in time" is.
    pub(crate) goal: f64,
    pub(crate) time_s: f64,
}

/// Runs of every cell of a group.
const SEEDS: u64 = 4;
/// Runs of a single pair.
pub(crate) const MANY: u64 = 300;
const EASY: Cell = (EI, AP);
const HARD: Cell = (AP, AP);

pub(crate) fn measure() -> Vec<Row> {
    let mut rows = Vec::new();
    for allocation in Allocation::ALL {
        rows.push(group(0, allocation, 0.0, (1.0, ms(2000))));
        rows.push(group(0, allocation, 0.05, (0.999, ms(2000))));
    }
    for allocation in [Allocation::Preserving, Allocation::Sequential] {
        rows.push(group(1, allocation, 0.0, (0.99, ms(700))));
        rows.push(group(2, allocation, 0.0, (0.95, ms(10_000))));
    }
    rows.push(group(1, Allocation::Random, 0.0, (0.99, ms(15_000))));
    rows.push(group(2, Allocation::Random, 0.0, (0.0, ms(15_000))));
    for loss in [0.0, 0.05] {
        let name = format!("EI/AP – AP/AP random, {:.0} % loss a link", loss * 100.0);
        let pair = pair(HARD, EASY, Allocation::Random, 0.0, loss);
        rows.push(row(name, &pair, (0.99, ms(15_000))));
    }
    for flows in [0.0, 10.0, 35.0, 100.0] {
        for (home, goal) in [(EASY, (0.99, ms(700))), (HARD, (0.95, ms(10_000)))] {
            let what = if home == EASY {
                "EI/AP"
            } else {
                "AP/AP sequential"
            };
            let name = format!("{what} – AP/AP sequential, {flows:.0} flows/s behind each NAT");
            let pair = pair(HARD, home, Allocation::Sequential, flows, 0.0);
            rows.push(row(name, &pair, goal));
        }
    }
    rows
}

fn group(wanted: u8, allocation: Allocation, loss: f64, goal: (f64, Duration)) -> Row {
    let mut outcomes = Vec::new();
    for office in cells() {
        for home in cells()
            .into_iter()
            .filter(|&home| sides(office, home) == wanted)
        {
            for seed in 0..SEEDS {
                let mut attempt = Attempt::new(seed, office, home, allocation);
                attempt.access.loss = Probability::new(loss).unwrap_or_default();
                outcomes.push(attempt.run());
            }
        }
    }
    let kind = ["H", "1", "2"][usize::from(wanted)];
    let name = format!(
        "all cells {kind}, {allocation}, {:.0} % loss a link",
        loss * 100.0
    );
    row(name, &outcomes, goal)
}

fn pair(office: Cell, home: Cell, allocation: Allocation, flows: f64, loss: f64) -> Vec<Outcome> {
    let run = |seed| {
        let mut attempt = Attempt::new(seed, office, home, allocation);
        attempt.flows = flows;
        attempt.access.loss = Probability::new(loss).unwrap_or_default();
        attempt.run()
    };
    (0..MANY).map(run).collect()
}

fn row(name: String, outcomes: &[Outcome], (goal, time): (f64, Duration)) -> Row {
    let mut times: Vec<f64> = outcomes
        .iter()
        .filter_map(|outcome| Some(outcome.after_keys?.as_secs_f64()))
        .collect();
    times.sort_by(f64::total_cmp);
    let quantile = |hundredth: usize| {
        let at = (outcomes.len() * hundredth).div_ceil(100).saturating_sub(1);
        times.get(at).copied()
    };
    let most = |outcome: &Outcome| outcome.search.iter().map(|it| it.probes).max();
    let probes = outcomes.iter().filter_map(most);
    let probes = probes.map(|probes| f64::from(u32::try_from(probes).unwrap_or(u32::MAX)));
    let mappings = outcomes.iter().flat_map(|outcome| outcome.mappings).max();
    let searches = outcomes.iter().flat_map(|outcome| outcome.search);
    Row {
        name,
        runs: outcomes.len(),
        in_time: times.iter().filter(|&&at| at <= time.as_secs_f64()).count(),
        direct: times.len(),
        p50: quantile(50),
        p99: quantile(99),
        max: quantile(100),
        probes: Spread::of(probes.collect()),
        mappings: mappings.unwrap_or(0),
        per_second: searches.map(|it| it.most_in_a_second).max().unwrap_or(0),
        goal,
        time_s: time.as_secs_f64(),
    }
}

impl Row {
    /// What does not reach its goal.
    pub(crate) fn missed(&self) -> Option<String> {
        (!self.reached()).then(|| {
            format!(
                "{}: {} of {} direct within {:.1} s, goal {:.1} %",
                self.name,
                self.in_time,
                self.runs,
                self.time_s,
                self.goal * 100.0
            )
        })
    }

    pub(crate) fn reached(&self) -> bool {
        let share = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        // Where nothing can succeed, nothing may claim to.
        let honest = self.goal > 0.0 || self.direct == 0;
        share(self.in_time) >= self.goal * share(self.runs) && honest && self.per_second <= 100
    }
}
