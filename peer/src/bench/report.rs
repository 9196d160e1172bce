//! What the person sees: each measurement as it is made, then a table of medians with the ratio to the bare network; or
//! one JSON object with everything.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::thread;

use anstyle::Style;
use serde::Serialize;
use serde_json::{Value, json};

use super::load::Plan;
use crate::stdout;

/// What was found of one subject in one round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Measured {
    /// One TCP stream from a to b, in Mbit/s of payload.
    pub(super) up_mbit: f64,
    /// One TCP stream from b to a.
    pub(super) down_mbit: f64,
    /// Four TCP streams from a to b, all together.
    pub(super) four_mbit: f64,
    /// Processor seconds of the subject's processes for each gigabyte of that first stream.
    pub(super) cpu_per_gb: f64,
    /// Frames of 64 bytes that arrive per second.
    pub(super) small_per_second: f64,
    /// Round trips on an idle machine, in ms.
    pub(super) idle_p50_ms: f64,
    /// Likewise.
    pub(super) idle_p99_ms: f64,
    /// Round trips beside a stream the same way, in ms.
    pub(super) loaded_p50_ms: f64,
    /// Likewise.
    pub(super) loaded_p99_ms: f64,
    /// Resident memory of the subject's largest process under load, in MiB.
    pub(super) resident_mib: f64,
}

/// Collects and shows.
pub(super) struct Report {
    json: bool,
    rounds: u32,
    order: Vec<String>,
    measured: BTreeMap<String, Vec<Measured>>,
    seconds: f64,
}

impl Report {
    pub(super) fn new(json: bool, rounds: u32, plan: &Plan) -> Self {
        let report = Self {
            json,
            rounds,
            order: Vec::new(),
            measured: BTreeMap::new(),
            seconds: plan.measured.as_secs_f64(),
        };
        let machine = machine();
        report.progress(&format!("{machine}\n"));
        report
    }

    /// A measurement begins.
    pub(super) fn begin(&self, round: u32, subject: &str) {
        let rounds = self.rounds;
        self.progress(&format!("round {round} of {rounds}  {subject:<14} "));
    }

    /// It is done.
    pub(super) fn take(&mut self, subject: &str, measured: Measured) {
        self.progress(&format!(
            "{:>8.0} Mbit/s {:>6.2} s/GB {:>8.0} packets/s {:>7.3} ms\n",
            measured.up_mbit, measured.cpu_per_gb, measured.small_per_second, measured.idle_p50_ms
        ));
        if !self.measured.contains_key(subject) {
            self.order.push(subject.to_owned());
        }
        let all = self.measured.entry(subject.to_owned()).or_default();
        all.push(measured);
    }

    /// The result.
    pub(super) fn end(&self) {
        if self.json {
            stdout::line(&self.object().to_string());
        } else {
            stdout::write(&self.table());
        }
    }

    fn object(&self) -> Value {
        let raw = self.median("raw");
        let subject = |name: &String| {
            let ratio = raw
                .zip(self.median(name))
                .map(|(raw, it)| it.up_mbit / raw.up_mbit);
            json!({
                "name": name,
                "median": self.median(name),
                "ratio_to_raw": ratio,
                "rounds": self.measured.get(name),
            })
        };
        json!({
            "machine": machine(),
            "rounds": self.rounds,
            "seconds": self.seconds,
            "subjects": self.order.iter().map(subject).collect::<Vec<_>>(),
        })
    }

    fn table(&self) -> String {
        let raw = self.median("raw");
        let rounds = format!("{} rounds", self.rounds);
        let mut units = UNITS;
        units[0] = &rounds;
        let mut text = format!("\n{BOLD}{}{BOLD:#}{}", row(&NAMES), row(&units));
        for name in &self.order {
            let Some(it) = self.median(name) else {
                continue;
            };
            let ratio = raw.map_or_else(String::new, |raw| {
                format!("{:.1} %", 100.0 * it.up_mbit / raw.up_mbit)
            });
            let cells = [
                name.clone(),
                format!("{:.0}", it.up_mbit),
                ratio,
                format!("{:.0}", it.down_mbit),
                format!("{:.0}", it.four_mbit),
                format!("{:.2}", it.cpu_per_gb),
                format!("{:.0}", it.small_per_second),
                format!("{:.3}", it.idle_p50_ms),
                format!("{:.3}", it.idle_p99_ms),
                format!("{:.3}", it.loaded_p50_ms),
                format!("{:.3}", it.loaded_p99_ms),
                format!("{:.1}", it.resident_mib),
            ];
            text += &row(&cells.each_ref().map(String::as_str));
        }
        text
    }

    /// Each figure's own median.
    fn median(&self, subject: &str) -> Option<Measured> {
        let all = self.measured.get(subject).filter(|all| !all.is_empty())?;
        let of = |figure: fn(&Measured) -> f64| median(all.iter().map(figure).collect());
        Some(Measured {
            up_mbit: of(|it| it.up_mbit),
            down_mbit: of(|it| it.down_mbit),
            four_mbit: of(|it| it.four_mbit),
            cpu_per_gb: of(|it| it.cpu_per_gb),
            small_per_second: of(|it| it.small_per_second),
            idle_p50_ms: of(|it| it.idle_p50_ms),
            idle_p99_ms: of(|it| it.idle_p99_ms),
            loaded_p50_ms: of(|it| it.loaded_p50_ms),
            loaded_p99_ms: of(|it| it.loaded_p99_ms),
            resident_mib: of(|it| it.resident_mib),
        })
    }

    /// On stderr, so that it never mixes with a result.
    #[allow(clippy::unused_self, reason = "it is the report that speaks")]
    fn progress(&self, text: &str) {
        let mut out = anstream::stderr().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

/// A line of the table.
fn row(cells: &[&str; COLUMNS]) -> String {
    let [name, figures @ ..] = cells;
    let figures: String = figures.iter().map(|it| format!("{it:>10}")).collect();
    format!("{name:<14}{figures}\n")
}

/// The middle one, or the middle of the two middle ones.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

/// Cores, processor and kernel: no figure means anything without them.
fn machine() -> String {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown processor", |(_, name)| name.trim());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores, {processor}, Linux {}", kernel.trim())
}

const BOLD: Style = Style::new().bold();
const COLUMNS: usize = 12;
const NAMES: [&str; COLUMNS] = [
    "median of",
    "a to b",
    "of raw",
    "b to a",
    "four",
    "processor",
    "64 byte",
    "idle",
    "idle",
    "loaded",
    "loaded",
    "memory",
];
/// The first cell is for the number of rounds.
const UNITS: [&str; COLUMNS] = [
    "",
    "Mbit/s",
    "",
    "Mbit/s",
    "Mbit/s",
    "s/GB",
    "packets/s",
    "p50 ms",
    "p99 ms",
    "p50 ms",
    "p99 ms",
    "MiB",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
    }

    #[test]
    fn the_table_has_a_line_for_each_subject_and_its_ratio() {
        let measured = |up_mbit| Measured {
            up_mbit,
            down_mbit: 1.0,
            four_mbit: 1.0,
            cpu_per_gb: 1.0,
            small_per_second: 1.0,
            idle_p50_ms: 1.0,
            idle_p99_ms: 1.0,
            loaded_p50_ms: 1.0,
            loaded_p99_ms: 1.0,
            resident_mib: 1.0,
        };
        let mut report = Report::new(false, 1, &Plan::of_seconds(1));
        report.take("raw", measured(1000.0));
        report.take("direct", measured(250.0));
        let table = report.table();
        let line = table.lines().find(|line| line.starts_with("direct"));
        assert!(line.is_some_and(|line| line.contains("25.0 %")), "{table}");
        assert_eq!(report.object()["subjects"][1]["ratio_to_raw"], json!(0.25));
    }
}
