//! Measures what Kuguri is to reach, in the simulator, and prints it beside its goals: a table for people, JSON for programs.
//!
//! ```text
//!   cargo run --release -p kuguri-tests --bin figures [-- --json] [-- --check]
//! ```
//!
//! `--reach` measures only how NATs are passed, with other settings than the rest. `--check` ends with 1 when a goal is missed. No goal depends on the speed of the machine; what does is only told.

#![allow(clippy::print_stdout, reason = "figures are its output")]

use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

mod beginning;
mod pairs;
mod reach;
mod recovery;
mod speed;
mod stream;
mod table;

/// Everything that was measured.
#[derive(Serialize)]
struct Figures {
    machine: speed::Machine,
    beginning: Vec<beginning::Row>,
    stream: stream::Figures,
    pairs: Vec<pairs::Row>,
    reach: Vec<reach::Row>,
    recovery: Vec<recovery::Row>,
    speed: speed::Speed,
    missed: Vec<String>,
}

/// The least, the middle and the greatest of many.
#[derive(Clone, Copy, Debug, Serialize)]
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    /// `None` of nothing.
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        Some(Self {
            min: *values.first()?,
            median: values[values.len() / 2],
            max: *values.last()?,
        })
    }
}

fn main() -> ExitCode {
    let asked = |option: &str| std::env::args().skip(1).any(|argument| argument == option);
    if asked("--reach") {
        let rows = reach::measure();
        print!("{}", table::reach(&rows));
        let missed = rows.iter().any(|row| !row.reached());
        return ExitCode::from(u8::from(asked("--check") && missed));
    }
    let mut figures = Figures {
        machine: speed::Machine::here(),
        beginning: beginning::measure(),
        stream: stream::measure(),
        pairs: pairs::measure(),
        reach: reach::measure(),
        recovery: recovery::measure(),
        speed: speed::measure(),
        missed: Vec::new(),
    };
    figures.missed = figures
        .beginning
        .iter()
        .flat_map(beginning::Row::missed)
        .chain(figures.stream.missed())
        .chain(figures.reach.iter().filter_map(reach::Row::missed))
        .collect();
    if asked("--json") {
        let json = serde_json::to_string_pretty(&figures).expect("plain data");
        println!("{json}");
    } else {
        print!("{}", table::render(&figures));
    }
    ExitCode::from(u8::from(asked("--check") && !figures.missed.is_empty()))
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}
