//! What the person in front of the demo sees: each step as it happens, then one screen of summary; or with `--json` one
//! object per line, the summary last.

use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};
use serde_json::json;

use crate::stdout::line;

use super::listener::{Notes, Pair};
use super::summary::{Goal, Row, Summary, milliseconds};

/// Where the demo's lines go.
#[derive(Debug)]
pub(super) struct Report {
    json: bool,
    start: Instant,
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

    /// How long it has taken until now.
    pub(super) fn elapsed(&self) -> Duration {
        self.start.elapsed()
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
    if notes.longest_run.contains("kuguri/1") {
        item("", IN_THE_OPEN);
    }
}

fn connection(summary: &Summary) {
    let [home, office] = &summary.paths;
    item("link", &format!("home says {home}, office says {office}"));
    item("", &format!("since connect: {}", summary.ladder()));
    for (name, goal) in ["goals", ""].iter().zip(&summary.goals) {
        item(name, &judged(goal));
    }
    line("");
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

fn megabytes(bytes: u64) -> String {
    let kilobytes = u32::try_from(bytes / 1000).map_or(f64::MAX, f64::from);
    format!("{:.1} MB", kilobytes / 1000.0)
}

/// About the lines with `*`.
const IN_THE_OPEN: &str =
    "  that run is the protocol's name and version, which a TLS handshake says in the open (ALPN)";
const PRIVATE: &str = "* tries of addresses that count only inside a LAN: had both been in one, that path would be the best";
const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();
