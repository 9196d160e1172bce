//! What the demo has measured, and what is to be thought of it.

use std::time::Duration;

use serde::Serialize;

use super::listener::Notes;
use super::ping::Series;
use super::transfer::Transfer;

/// Everything that was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Summary {
    /// The NATs, by name.
    pub(super) office_nat: String,
    /// Likewise.
    pub(super) home_nat: String,
    /// What the demo is to reach, and whether it did.
    pub(super) goals: Vec<Goal>,
    /// From the start of `connect` to the link with the hub, which is by relay.
    pub(super) linked_ms: f64,
    /// From the start of `connect` to the first answered ping.
    pub(super) first_ping_ms: f64,
    /// From the start of `connect` to the first frame that the hub got.
    pub(super) first_frame_ms: f64,
    /// Which way that came: relayed or direct.
    pub(super) first_frame: String,
    /// From the start of `connect` to the direct path, if there is one.
    pub(super) direct_ms: Option<f64>,
    /// What `status` says of the link: at home, at the office.
    pub(super) paths: [String; 2],
    /// The ping table.
    pub(super) pings: Vec<Row>,
    /// The transfer.
    pub(super) transfer: Transfer,
    /// What was seen on the public side.
    pub(super) listener: Notes,
}

/// A time that something is to take at most.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Goal {
    /// What.
    pub(super) what: &'static str,
    /// At most.
    pub(super) limit_ms: f64,
    /// It was.
    pub(super) ms: f64,
    /// Whether that is less.
    pub(super) met: bool,
}

impl Goal {
    fn new(what: &'static str, limit: Duration, ms: f64) -> Self {
        let limit_ms = milliseconds(limit);
        let met = ms < limit_ms;
        Self {
            what,
            limit_ms,
            ms,
            met,
        }
    }
}

/// A row of the ping table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Row {
    /// From whom to whom, and by which way.
    pub(super) what: String,
    /// The figures.
    #[serde(flatten)]
    pub(super) series: Series,
}

impl Summary {
    /// Judges the goals; `all` is how long the demo has taken.
    pub(super) fn judge(&mut self, all: Duration) {
        let first_ping = "connect to the first answered ping";
        self.goals = vec![
            Goal::new(first_ping, FIRST_PING, self.first_ping_ms),
            Goal::new("the whole demo", WHOLE_DEMO, milliseconds(all)),
        ];
    }

    /// By relay first, then directly; or why it was not so.
    pub(super) fn ladder(&self) -> String {
        let first = match (self.first_frame.as_str(), self.direct_ms) {
            ("direct", Some(direct)) => format!(
                "first frame after {:.0} ms, not by relay: the direct path was there by then (at home after {direct:.0} ms)",
                self.first_frame_ms
            ),
            (way, Some(direct)) => format!(
                "first frame, {way}, after {:.0} ms, direct after {direct:.0} ms",
                self.first_frame_ms
            ),
            (way, None) => format!(
                "first frame, {way}, after {:.0} ms, no direct path: it stays relayed",
                self.first_frame_ms
            ),
        };
        format!(
            "linked by relay after {:.0} ms, {first}; first ping answered after {:.0} ms",
            self.linked_ms, self.first_ping_ms
        )
    }
}

/// With three decimals.
pub(super) fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// A goal of the demo's network, with its 20 ms from one machine to another.
const FIRST_PING: Duration = Duration::from_secs(1);
/// For a program that is built.
const WHOLE_DEMO: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(first_frame: &str, first_frame_ms: f64, direct_ms: Option<f64>) -> Summary {
        Summary {
            office_nat: "symmetric".into(),
            home_nat: "open".into(),
            goals: Vec::new(),
            linked_ms: 300.0,
            first_ping_ms: 500.0,
            first_frame_ms,
            first_frame: first_frame.into(),
            direct_ms,
            paths: ["direct".into(), "direct".into()],
            pings: Vec::new(),
            transfer: Transfer {
                bytes: 1,
                seconds: 1.0,
            },
            listener: Notes::default(),
        }
    }

    #[test]
    fn the_relay_is_always_told_and_why_a_frame_did_not_need_it() {
        for (first_frame, direct, part) in [
            (
                "relayed",
                Some(450.0),
                "relayed, after 400 ms, direct after 450 ms",
            ),
            ("relayed", None, "relayed, after 400 ms, no direct path"),
            (
                "direct",
                Some(390.0),
                "not by relay: the direct path was there by then (at home after 390 ms)",
            ),
        ] {
            let text = summary(first_frame, 400.0, direct).ladder();
            assert!(text.starts_with("linked by relay after 300 ms"), "{text}");
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_goal_is_met_or_not() {
        for (ms, met) in [(999.0, true), (1000.0, false)] {
            let goal = Goal::new("it", FIRST_PING, ms);
            assert_eq!(goal.met, met);
        }
    }
}
