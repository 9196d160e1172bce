//! What the person in front of the demo sees: each step as it happens, then one screen of summary; or with `--json` one
//! object per line, the summary last.

use std::io::Write;
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};
use serde::Serialize;
use serde_json::json;

use super::listener::{Notes, Pair};
use super::ping::Series;
use super::transfer::Transfer;

/// Where the demo's lines go.
#[derive(Debug)]
pub(super) struct Report {
    json: bool,
    start: Instant,
}

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

impl Report {
    /// Begins now.
    pub(super) fn new(json: bool) -> Self {
        Self {
            json,
            start: Instant::now(),
        }
    }

    /// The headline.
    pub(super) fn title(&self, text: &str) {
        if !self.json {
            line(&format!("\n{BOLD}{text}{BOLD:#}\n"));
        }
    }

    /// Something happened on a machine just now.
    pub(super) fn step(&self, who: &str, text: &str) {
        self.step_at(Instant::now(), who, text);
    }

    /// Something happened on a machine a moment ago.
    pub(super) fn step_at(&self, at: Instant, who: &str, text: &str) {
        let elapsed = at.saturating_duration_since(self.start);
        if self.json {
            line(&json!({ "step": text, "machine": who, "ms": milliseconds(elapsed) }).to_string());
        } else {
            let seconds = elapsed.as_secs_f64();
            line(&format!(
                "{DIM}{seconds:8.3} s{DIM:#}  {BOLD}{who:<7}{BOLD:#} {text}"
            ));
        }
    }

    /// The goals, judged now: at the end of everything.
    pub(super) fn goals(&self, summary: &Summary) -> Vec<Goal> {
        let all = milliseconds(self.start.elapsed());
        vec![
            Goal::new(
                "connect to the first answered ping",
                FIRST_PING,
                summary.first_ping_ms,
            ),
            Goal::new("the whole demo", WHOLE_DEMO, all),
        ]
    }

    /// The last screen.
    pub(super) fn summary(&self, summary: &Summary) {
        if self.json {
            line(&json!({ "summary": summary }).to_string());
            return;
        }
        ping_table(&summary.pings);
        let transfer = &summary.transfer;
        item(
            "transfer",
            &format!(
                "home to desk, plain TCP through Kuguri: {} in {:.1} s, {:.0} Mbit/s, every byte equal",
                megabytes(transfer.bytes),
                transfer.seconds,
                transfer.mbit_per_second()
            ),
        );
        listener(&summary.listener);
        connection(summary);
    }

    /// Lines that only a person needs.
    pub(super) fn advice(&self, text: &str) {
        if !self.json {
            line(text);
        }
    }
}

fn ping_table(rows: &[Row]) {
    line(&format!(
        "\n{BOLD}  {:<48}{:>5}{:>5}{:>10}{:>10}{:>10}{BOLD:#}",
        "ping", "sent", "lost", "min", "avg", "max"
    ));
    for Row { what, series } in rows {
        let lost = series.sent - series.answered;
        let [min, avg, max] =
            [series.min_ms, series.avg_ms, series.max_ms].map(|ms| format!("{ms:.1} ms"));
        line(&format!(
            "  {what:<48}{:>5}{lost:>5}{min:>10}{avg:>10}{max:>10}",
            series.sent
        ));
    }
    line("");
}

fn listener(notes: &Notes) {
    let found = match notes.found {
        0 => format!("{GOOD}never{GOOD:#}"),
        times => format!("{BAD}{times} times{BAD:#}"),
    };
    item(
        "listener",
        &format!(
            "on the public side: {} packets, {}; the text that was sent: {found}",
            notes.packets,
            megabytes(notes.bytes)
        ),
    );
    for (pair, packets) in &notes.pairs {
        item("", &format!("{}: {packets} packets", pair.text()));
    }
    if notes.pairs.keys().any(Pair::is_private) {
        item("", PRIVATE);
    }
    item(
        "",
        &format!(
            "longest readable run: {} characters, {:?} (as many random bytes have about {:.0})",
            notes.longest_run.len(),
            notes.longest_run,
            notes.run_by_chance()
        ),
    );
}

fn connection(summary: &Summary) {
    let [home, office] = &summary.paths;
    item("link", &format!("home says {home}, office says {office}"));
    item("", &format!("since connect: {}", ladder(summary)));
    for (name, goal) in ["goals", ""].iter().zip(&summary.goals) {
        item(name, &judged(goal));
    }
    line("");
}

/// By relay first, then directly; or why it was not so.
fn ladder(summary: &Summary) -> String {
    let first = match (summary.first_frame.as_str(), summary.direct_ms) {
        ("direct", Some(direct)) => format!(
            "first frame after {:.0} ms, not by relay, since the path was direct after {direct:.0} ms already",
            summary.first_frame_ms
        ),
        (way, Some(direct)) => format!(
            "first frame, {way}, after {:.0} ms, direct after {direct:.0} ms",
            summary.first_frame_ms
        ),
        (way, None) => format!(
            "first frame, {way}, after {:.0} ms, no direct path: it stays relayed",
            summary.first_frame_ms
        ),
    };
    format!(
        "linked by relay after {:.0} ms, {first}; first ping answered after {:.0} ms",
        summary.linked_ms, summary.first_ping_ms
    )
}

fn judged(goal: &Goal) -> String {
    let verdict = match goal.met {
        true => format!("{GOOD}met{GOOD:#}"),
        false => format!("{BAD}not met{BAD:#}"),
    };
    let seconds = |ms: f64| format!("{:.2} s", ms / 1e3);
    let (limit, was) = (seconds(goal.limit_ms), seconds(goal.ms));
    format!("{} in less than {limit}: {verdict} ({was})", goal.what)
}

fn item(name: &str, text: &str) {
    line(&format!("  {BOLD}{name:<9}{BOLD:#} {text}"));
}

/// A reader that went away does not stop the demo.
fn line(text: &str) {
    let mut out = anstream::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

fn megabytes(bytes: u64) -> String {
    let kilobytes = u32::try_from(bytes / 1000).map_or(f64::MAX, f64::from);
    format!("{:.1} MB", kilobytes / 1000.0)
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// About the lines with `*`.
const PRIVATE: &str = "* tries of addresses that count only inside a LAN: had both been in one, that path would be the best";
/// A goal of the demo's network, with its 20 ms from one machine to another.
const FIRST_PING: Duration = Duration::from_secs(1);
/// For a program that is built.
const WHOLE_DEMO: Duration = Duration::from_secs(20);
const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();

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
                "not by relay, since the path was direct after 390 ms",
            ),
        ] {
            let text = ladder(&summary(first_frame, 400.0, direct));
            assert!(text.starts_with("linked by relay after 300 ms"), "{text}");
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_goal_is_met_or_not() {
        for (ms, met) in [(999.0, true), (1000.0, false)] {
            let goal = Goal::new("it", FIRST_PING, ms);
            assert_eq!((goal.met, judged(&goal).contains("not met")), (met, !met));
        }
    }
}
