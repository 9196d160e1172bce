//! `kuguri sim`: the laboratory. Reads files, shows progress, writes results; what happens is `kuguri_sim`'s and
//! [`crate::simulate`]'s affair.

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use kuguri_sim::matrix::{Allocator, Matrix, Plan};
use kuguri_sim::network::Logging;
use kuguri_sim::oracle::Kind;
use kuguri_sim::scenario::Scenario;

use crate::simulate::{cast::Nodes, pairs};
use crate::stdout::line as print;

#[cfg(target_os = "linux")]
mod nat_box;

/// The laboratory: a pretended Internet with NATs of every kind
///
/// In memory with real nodes under a virtual clock, or as a box for real programs in
/// network namespaces.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Flags {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Matrix(MatrixFlags),
    Run(RunFlags),
    #[cfg(target_os = "linux")]
    NatBox(nat_box::Flags),
}

/// Every pair of 9 × 9 kinds of NAT, with many seeds: what becomes direct, how soon, at what cost
#[derive(Debug, Args)]
struct MatrixFlags {
    /// How many runs each pair has
    #[arg(long, default_value_t = 3, value_name = "N")]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1, value_name = "S")]
    seed: u64,
    /// How the NATs choose ports, several with commas between: preserving, preserving-sequential, sequential,
    /// sequential-busy, random, block
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "preserving,sequential,random"
    )]
    ports: Vec<Allocator>,
    /// One pair alone, as in EI/AP,AP/AP,random: mapping and filtering of both sides, and the ports
    #[arg(long, value_name = "A,B,PORTS", value_parser = pair)]
    only: Option<(Kind, Kind, Allocator)>,
    /// How long a pair may try
    #[arg(long, default_value = "20s", value_name = "TIME", value_parser = kuguri_sim::duration::parse)]
    patience: Duration,
    /// Write the results as one page, too
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Show the results as JSON, with every run
    #[arg(long)]
    json: bool,
    /// Show one line for each pair, too
    #[arg(long)]
    cells: bool,
}

/// One scenario from a file: its event log, what was expected, and the log's hash
///
/// The format is described in sim/SCENARIOS.md. The exit code is 1 when something was not as expected.
#[derive(Debug, Args)]
struct RunFlags {
    /// The file
    #[arg(value_name = "SCENARIO.toml")]
    file: PathBuf,
    /// Another seed than the file's
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// No event log, only what was expected
    #[arg(long, short)]
    quiet: bool,
}

pub(super) fn run(flags: Flags) -> anyhow::Result<ExitCode> {
    match flags.verb {
        Verb::Matrix(flags) => matrix(&flags),
        Verb::Run(flags) => scenario(&flags),
        #[cfg(target_os = "linux")]
        Verb::NatBox(flags) => nat_box::run(flags),
    }
}

fn matrix(flags: &MatrixFlags) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(flags.seeds > 0, "--seeds 0 would run nothing");
    // A page that cannot be written shall not be found out after the work.
    if let Some(file) = &flags.html {
        write(file, "")?;
    }
    let plan = match flags.only {
        Some(pair) => Plan {
            pairs: vec![pair],
            seed: flags.seed,
            seeds: flags.seeds,
            trips: pairs::TRIPS,
        },
        None => Plan::all(&flags.ports, flags.seed, flags.seeds, pairs::TRIPS),
    };
    let matrix = plan.run(|setup| pairs::run(setup, flags.patience), show_progress);
    show(&matrix, flags)?;
    Ok(if matrix.failures().is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn show(matrix: &Matrix, flags: &MatrixFlags) -> anyhow::Result<()> {
    if let Some(file) = &flags.html {
        write(file, &matrix.page())?;
    }
    if flags.json {
        print(&matrix.json()?);
        return Ok(());
    }
    if flags.cells {
        print(matrix.rows().trim_end());
    }
    if flags.only.is_some() {
        for run in matrix.cells.iter().flat_map(|cell| &cell.runs) {
            print(&serde_json::to_string(run)?);
        }
    }
    print(matrix.to_string().trim_end());
    Ok(())
}

/// On a terminal one line that changes; elsewhere a line for each tenth.
fn show_progress(done: usize, total: usize) {
    let mut err = anstream::stderr();
    let (tenth, end) = (total.div_ceil(10).max(1), done == total);
    if std::io::stderr().is_terminal() {
        let _ = write!(
            err,
            "\r{done} of {total} runs{}",
            if end { "\n" } else { "" }
        );
    } else if done.is_multiple_of(tenth) || end {
        let _ = writeln!(err, "{done} of {total} runs");
    }
}

fn scenario(flags: &RunFlags) -> anyhow::Result<ExitCode> {
    let name = flags.file.display();
    let text = fs::read_to_string(&flags.file).with_context(|| format!("cannot read {name}"))?;
    let scenario = Scenario::parse(&text).with_context(|| format!("{name}"))?;
    let logging = if flags.quiet {
        Logging::Hash
    } else {
        Logging::Lines
    };
    let seed = flags.seed.unwrap_or(scenario.seed);
    let report = scenario
        .play(&mut Nodes, seed, logging)
        .with_context(|| format!("{name}"))?;
    if !flags.quiet {
        print(report.network.log().to_string().trim_end());
    }
    for outcome in &report.outcomes {
        print(&outcome.to_string());
    }
    let (events, hash) = (report.events, report.hash);
    print(&format!("seed {seed}: {events} events, hash {hash:016x}"));
    if report.is_met() {
        return Ok(ExitCode::SUCCESS);
    }
    print(&format!("again: kuguri sim run {name} --seed {seed}"));
    Ok(ExitCode::FAILURE)
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

fn pair(text: &str) -> Result<(Kind, Kind, Allocator), String> {
    let parts: Vec<&str> = text.split(',').collect();
    let [a, b, ports] = parts[..] else {
        return Err("write it as EI/AP,AP/AP,random".to_owned());
    };
    Ok((a.parse()?, b.parse()?, ports.parse()?))
}
