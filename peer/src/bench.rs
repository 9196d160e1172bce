//! `kuguri bench`: how fast is Kuguri on this machine, beside the bare network and beside other programs?
//!
//! ```text
//!   scene    three machines on one plain Ethernet, in namespaces      (kuguri_sim::lab::Wired)
//!   subject  what is measured: nothing at all (raw), Kuguri by each of its ways, another program (program)
//!   load     what is done through it: streams, small packets, round trips
//!   cost     what it took: processor time and memory of the processes on the machines
//!   report   medians and ratios, as a table or as JSON
//! ```
//!
//! Every round measures all subjects one after the other, so that a machine that is busy for a while is busy for all of
//! them; only ratios within one run say anything. Nothing here decides or knows what Kuguri does inside.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use anyhow::Context;
use kuguri_sim::lab::World;

use crate::again;

mod cost;
mod load;
mod program;
mod report;
mod scene;
mod subject;

use load::Plan;
use report::Report;
use scene::Scene;
use subject::Subject;

/// Measure Kuguri on this machine, beside the bare network and beside other programs
///
/// Builds three machines on one Ethernet in namespaces, without NATs, and needs no
/// right. Each round measures each subject in turn; the table has the medians of all
/// rounds and the ratio to the bare network in the same run.
///
///   $ kuguri bench
///   $ kuguri bench --rounds 4 --seconds 5
///   $ kuguri bench --only raw,direct,wireguard-go --json
///   $ kuguri bench --program other.toml     # bench --show NAME prints one as a pattern
#[derive(Clone, Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Options {
    /// How often each subject is measured
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// How long each stream flows
    #[arg(long, default_value_t = 3, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=600))]
    pub seconds: u32,
    /// Only these subjects, in this order: raw, direct, chacha, hub, relay, and other programs by their names
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Another program to compare with, described by a file
    #[arg(long, value_name = "FILE")]
    pub program: Vec<PathBuf>,
    /// Compare also with the programs that Kuguri has descriptions of, where they are installed
    #[arg(long)]
    pub others: bool,
    /// Print the description of a program and end
    #[arg(long, value_name = "NAME")]
    pub show: Option<String>,
    /// One JSON object at the end, with every measurement
    #[arg(long)]
    pub json: bool,
    /// Given by the bench to itself: where its processes keep their files.
    #[arg(long, hide = true)]
    pub files: Option<PathBuf>,
}

/// Runs the bench. To be called before any other thread or runtime is there; starts this program again with the same
/// arguments.
///
/// # Errors
/// One sentence: what the kernel refuses, or which subject does not come up.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    if let Some(name) = &options.show {
        return program::show(name);
    }
    let subjects = subject::choose(options)?;
    match (World::here(), &options.files) {
        (Some(world), Some(files)) => inside(&world, options, &subjects, files),
        _ => {
            let arguments: Vec<OsString> = env::args_os().skip(1).collect();
            again::in_a_new_world("bench", arguments, Stdio::null())
        }
    }
}

fn inside(
    world: &World,
    options: &Options,
    subjects: &[Subject],
    files: &Path,
) -> anyhow::Result<ExitCode> {
    let plan = Plan::of_seconds(options.seconds);
    let scene = Scene::build(world, files)?;
    let mut report = Report::new(options.json, options.rounds, &plan);
    for round in 1..=options.rounds {
        for subject in subjects {
            report.begin(round, &subject.name());
            let measured = measure(&scene, subject, &plan)
                .with_context(|| format!("{} in round {round}", subject.name()))?;
            report.take(&subject.name(), measured);
        }
    }
    report.end();
    Ok(ExitCode::SUCCESS)
}

/// One subject, set up, measured, taken away.
fn measure(scene: &Scene, subject: &Subject, plan: &Plan) -> anyhow::Result<report::Measured> {
    let running = subject.start(scene)?;
    let pids = || scene.processes();
    let ends = running.ends();
    let idle = load::round_trips(scene, ends, plan.idle())?;
    let before = cost::processor_time(&pids())?;
    let up = load::streams(scene, ends, 1, plan)?;
    let up_cost = cost::processor_time(&pids())? - before;
    let down = load::streams(scene, ends.turned(), 1, plan)?;
    let four = load::streams(scene, ends, 4, plan)?;
    let loaded = load::round_trips_beside_a_stream(scene, ends, plan)?;
    let small = load::small_packets(scene, ends, plan)?;
    let memory = cost::largest_resident(&pids())?;
    running.stop();
    Ok(report::Measured {
        up_mbit: up.mbit_per_second(),
        down_mbit: down.mbit_per_second(),
        four_mbit: four.mbit_per_second(),
        cpu_per_gb: up.seconds_per_gigabyte(up_cost),
        small_per_second: small,
        idle_p50_ms: idle.quantile_ms(0.5),
        idle_p99_ms: idle.quantile_ms(0.99),
        loaded_p50_ms: loaded.quantile_ms(0.5),
        loaded_p99_ms: loaded.quantile_ms(0.99),
        resident_mib: memory,
    })
}
