//! `kuguri demo`: an office, a home and a VPS on this one machine, behind pretended NATs, with real `kuguri` processes in
//! them; by an ordinary user, with nothing to install.
//!
//! ```text
//!   outside   this process: starts itself again in a new world, waits, clears away its files
//!             capture the file for Wireshark, opened first
//!   inside    stage   the Internet and its machines (kuguri_sim::lab)
//!             cast    the kuguri processes on them
//!             story   what happens, step by step: ping · transfer · listener
//!             summary what was measured
//!             report  what the person sees
//! ```
//!
//! It decides nothing that Kuguri decides; it sees only what any user sees: events, `status`, sockets.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::thread;

use anyhow::{Context, bail};
use kuguri_sim::lab::{Lab, World};

use crate::again;
use crate::cast::Cast;

mod capture;
mod keep;
mod listener;
mod ping;
mod report;
pub mod stage;
mod story;
mod summary;
mod transfer;

use capture::Capture;
use report::Report;
use stage::{Nats, Setting};
use summary::Summary;

/// Show everything on this machine: an office, a home and a VPS behind pretended NATs, and Kuguri between them
///
/// Needs no right and changes nothing: all of it lives in namespaces that end with it.
/// The machines are real to the programs on them; links and NATs between them are
/// Kuguri's simulator. Takes a few seconds.
///
///   $ kuguri demo
///   $ kuguri demo --nat office=symmetric,home=cone
///   $ kuguri demo --keep
#[derive(Clone, Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Options {
    /// The NATs: open, firewall, full-cone, restricted, port-restricted (or cone), symmetric, symmetric-sequential, linux
    #[arg(long, value_name = "office=TYPE,home=TYPE", default_value_t)]
    pub nat: Nats,
    /// Leave it up at the end, and say how to look around
    #[arg(long)]
    pub keep: bool,
    /// One JSON object per line: the steps, then the summary
    #[arg(long)]
    pub json: bool,
    /// Write what passed on the public side to a file for Wireshark
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// Given by the demo to itself: where its processes keep their files.
    #[arg(long, hide = true)]
    pub files: Option<PathBuf>,
}

/// Runs the demo. To be called before any other thread or runtime is there; starts this program again with the same
/// arguments.
///
/// # Errors
/// One sentence: what the kernel refuses, or which step did not come about.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    match (World::here(), &options.files) {
        (Some(world), Some(files)) => inside(&world, options, files),
        _ => outside(options),
    }
}

/// The demo in its world.
fn outside(options: &Options) -> anyhow::Result<ExitCode> {
    // First, so that nothing is done in vain; and out here, where root may still write in a user's directory.
    let capture = options.pcap.as_deref().map(Capture::create).transpose()?;
    let stdin = capture.map_or_else(Stdio::null, Capture::into_stdin);
    again::in_a_new_world("demo", env::args_os().skip(1).collect(), stdin)
}

fn inside(world: &World, options: &Options, files: &Path) -> anyhow::Result<ExitCode> {
    let report = Report::new(options.json);
    report.title(&format!(
        "An office behind a {} NAT, a home behind a {} NAT and a VPS, 40 ms there and back between any two of them",
        options.nat.office, options.nat.home
    ));
    let lab = Setting::demo().build(world, options.nat)?;
    let program = env::current_exe().context("cannot find this program's own file")?;
    let mut cast = Cast::new(&lab, program, files.to_owned());
    let told = tell(&lab, &mut cast, &report, options.nat);
    if let Some(file) = &options.pcap {
        Capture::from_stdin()
            .and_then(|capture| capture.write(&stage::pcap(&lab)))
            .with_context(|| format!("cannot write {}", file.display()))?;
        report.step("listener", &format!("what it saw is in {}", file.display()));
    }
    let mut summary = told?;
    summary.judge(report.elapsed());
    report.summary(&summary);
    if options.keep {
        report.advice(&keep::advice(&cast));
        loop {
            thread::park();
        }
    }
    cast.stop();
    verdict(&summary, options.nat)
}

/// The whole story, measured.
fn tell(lab: &Lab, cast: &mut Cast<'_>, report: &Report, nats: Nats) -> anyhow::Result<Summary> {
    story::open_rendezvous(cast, report)?;
    let invite = story::open_office(cast, report)?;
    let desk = story::seat_desk(cast, report, &invite)?;
    let arrival = story::come_home(cast, lab, report, &invite, desk)?;
    let pings = story::ping_all(lab, &arrival)?;
    let transfer = story::transfer(lab, desk)?;
    Ok(Summary {
        office_nat: nats.office.to_string(),
        home_nat: nats.home.to_string(),
        goals: Vec::new(),
        linked_ms: arrival.linked_ms,
        first_ping_ms: arrival.first_ping_ms,
        first_frame_ms: arrival.first_frame_ms,
        first_frame: arrival.first_frame.clone(),
        direct_ms: arrival.direct_ms,
        paths: story::paths(cast, &arrival)?,
        pings,
        transfer,
        listener: stage::listen(lab),
    })
}

/// A demo that shows something else than it should is a failure.
fn verdict(summary: &Summary, nats: Nats) -> anyhow::Result<ExitCode> {
    if summary.listener.found > 0 {
        bail!("the listener could read what was sent: this must never be");
    }
    if nats.are_cones() && summary.direct_ms.is_none() {
        bail!("there is no direct path, although both NATs let holes be punched");
    }
    if summary.pings.iter().any(|row| row.series.answered == 0) {
        bail!("a ping was never answered");
    }
    Ok(ExitCode::SUCCESS)
}
