//! What is to be reached with each class of pairs: how many of them directly, and how soon. Measured in round trips, so that
//! the goals hold on any link.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::{Allocator, Cell, Matrix};
use crate::oracle::Verdict;

/// The round trips of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RoundTrips {
    /// Between a peer and the server that introduces it.
    #[serde(serialize_with = "super::as_seconds")]
    pub server: Duration,
    /// Between the peers.
    #[serde(serialize_with = "super::as_seconds")]
    pub peers: Duration,
}

/// A goal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// So many are direct, so soon after one of them asked for it.
    Direct {
        /// In percent.
        percent: f64,
        /// At the latest.
        within: Duration,
    },
    /// None is direct, none says so, and all are connected.
    Relayed,
}

/// A goal beside what became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// How ports are chosen.
    pub allocator: Allocator,
    /// What the pairs allow.
    pub verdict: Verdict,
    /// The goal.
    pub goal: Goal,
    /// The part that was direct in time, or for [`Goal::Relayed`] relayed as it should be; in percent.
    pub reached: f64,
}

impl Goal {
    /// The goal for such pairs. Where two random ports would have to be guessed at once, to be direct is no goal.
    #[must_use]
    pub fn of(verdict: Verdict, allocator: Allocator, trips: RoundTrips) -> Self {
        let direct = |percent, within| Self::Direct { percent, within };
        let RoundTrips { server, peers } = trips;
        match (verdict, allocator) {
            (Verdict::Plain, _) => direct(100.0, 4 * server + peers * 3 / 2),
            (Verdict::OneSided, Allocator::Block) => direct(99.0, Duration::from_secs(2)),
            (Verdict::OneSided, Allocator::Random) => direct(99.0, Duration::from_secs(15)),
            (Verdict::OneSided, _) => {
                direct(99.0, 4 * server + 2 * peers + Duration::from_millis(500))
            }
            (Verdict::TwoSided, Allocator::Block) => direct(90.0, Duration::from_secs(20)),
            (Verdict::TwoSided, Allocator::Random) => Self::Relayed,
            (Verdict::TwoSided, _) => direct(95.0, Duration::from_secs(10)),
        }
    }
}

impl Held {
    /// Whether as much was reached as is wanted.
    #[must_use]
    pub fn is_met(&self) -> bool {
        match self.goal {
            Goal::Direct { percent, .. } => self.reached >= percent,
            Goal::Relayed => self.reached >= 100.0,
        }
    }
}

impl Matrix {
    /// All goals that there are pairs for.
    #[must_use]
    pub fn goals(&self) -> Vec<Held> {
        let mut held = Vec::new();
        for allocator in self.allocators() {
            for verdict in Verdict::ALL {
                let fits = |cell: &&Cell| cell.allocator == allocator && cell.verdict == verdict;
                let cells: Vec<&Cell> = self.cells.iter().filter(fits).collect();
                let goal = Goal::of(verdict, allocator, self.trips);
                if let Some(reached) = reached(&cells, goal) {
                    held.push(Held {
                        allocator,
                        verdict,
                        goal,
                        reached,
                    });
                }
            }
        }
        held
    }
}

fn reached(cells: &[&Cell], goal: Goal) -> Option<f64> {
    let runs = || cells.iter().flat_map(|cell| &cell.runs);
    let good = runs().filter(|run| match goal {
        Goal::Direct { within, .. } => run.after_asking.is_some_and(|time| time <= within),
        Goal::Relayed => run.connected.is_some() && run.direct.is_none() && !run.pretends,
    });
    let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    let all = runs().count();
    (all > 0).then(|| 100.0 * number(good.count()) / number(all))
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&match self {
            Self::Direct { percent, within } => {
                format!("{percent:.0} % direct in {:.2} s", within.as_secs_f64())
            }
            Self::Relayed => "relayed, none pretending".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::{Plan, RunOutcome};

    fn held(verdict: (&str, &str), allocator: Allocator, outcome: RunOutcome) -> Held {
        let plan = Plan {
            pairs: vec![(
                verdict.0.parse().expect("a kind"),
                verdict.1.parse().expect("a kind"),
                allocator,
            )],
            seed: 1,
            seeds: 4,
            trips: RoundTrips {
                server: Duration::from_millis(20),
                peers: Duration::from_millis(40),
            },
        };
        let mut goals = plan.run(|_| outcome, |_, _| {}).goals();
        assert_eq!(goals.len(), 1);
        goals.remove(0)
    }

    #[test]
    fn a_goal_is_met_by_what_is_in_time_and_true() {
        let direct = |millis| RunOutcome {
            connected: Some(Duration::from_millis(30)),
            direct: Some(Duration::from_millis(millis + 50)),
            after_asking: Some(Duration::from_millis(millis)),
            ..RunOutcome::default()
        };
        let relayed = RunOutcome {
            direct: None,
            after_asking: None,
            ..direct(1)
        };
        let (plain, hard) = (("EI/AP", "EI/AP"), ("AP/AP", "AP/AP"));
        assert!(held(plain, Allocator::Random, direct(140)).is_met());
        assert!(!held(plain, Allocator::Random, direct(141)).is_met());
        assert!(!held(plain, Allocator::Random, relayed).is_met());
        assert!(held(hard, Allocator::Random, relayed).is_met());
        assert!(!held(hard, Allocator::Random, direct(1)).is_met());
        assert!(!held(hard, Allocator::Sequential, relayed).is_met());
        assert!(held(hard, Allocator::Sequential, direct(9000)).is_met());
    }
}
