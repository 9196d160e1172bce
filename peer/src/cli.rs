//! The command line: flags as written, resolved into what the rest of the program sees; one verb per file.
//!
//! Exit codes: 0 done, 2 the flags make no sense, 1 everything else. An error is one sentence on stderr.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::anyhow;
use clap::{Parser, Subcommand};

use crate::config::state::State;
use crate::stdout;

mod connect;
mod invite;
mod ping;
mod rendezvous;
mod secure_nat;
mod serve;
mod sim;
mod start;
mod status;
mod table;

/// A virtual Ethernet that passes through NATs and firewalls.
///
/// Three machines, three commands:
///
///   VPS     $ kuguri rendezvous
///   Office  $ kuguri serve office --rendezvous vps.example
///   Home    $ sudo kuguri connect kuguri://…
///
/// Only `connect` needs a privilege, for the virtual LAN card that it makes.
#[derive(Debug, Parser)]
#[command(name = "kuguri", version, verbatim_doc_comment, max_term_width = 100)]
struct Arguments {
    /// Where keys, tokens and the sockets of running processes are kept
    ///
    /// Without it: /var/lib/kuguri for root, else $XDG_STATE_HOME/kuguri or ~/.local/state/kuguri.
    #[arg(long, global = true, env = "KUGURI_STATE", value_name = "DIR")]
    state: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Serve(serve::Flags),
    Connect(connect::Flags),
    Invite(invite::Flags),
    Status(status::Flags),
    Ping(ping::Flags),
    SecureNat(secure_nat::SecureNat),
    Nat(secure_nat::Nat),
    Dhcp(secure_nat::Dhcp),
    Rendezvous(kuguri_rendezvous::Options),
    Demo(crate::demo::Options),
    Bench(crate::bench::Options),
    Sim(sim::Flags),
}

/// Reads the arguments of the process and does what they say.
#[must_use]
pub fn main() -> ExitCode {
    let started = Instant::now();
    let arguments = Arguments::parse_from(translated(std::env::args_os()));
    let said = run(arguments, started).and_then(|code| match stdout::failure() {
        Some(sentence) if code == ExitCode::SUCCESS => Err(anyhow!(sentence)),
        Some(_) | None => Ok(code),
    });
    said.unwrap_or_else(|error| {
        // Without a stderr there is nobody to tell.
        let _ = writeln!(anstream::stderr(), "error: {error:#}");
        ExitCode::FAILURE
    })
}

/// The arguments with a verb of vpncmd's in our words.
fn translated(mut arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let program = arguments.next();
    let mut all: Vec<OsString> = program.into_iter().collect();
    let Some(verb) = arguments.next() else {
        return all;
    };
    match verb.to_str().and_then(secure_nat::translate) {
        Some(words) => all.extend(words.iter().map(Into::into)),
        None => all.push(verb),
    }
    all.extend(arguments);
    all
}

fn run(arguments: Arguments, started: Instant) -> anyhow::Result<ExitCode> {
    let named = arguments.state.as_deref();
    let state = || {
        log_to_stderr();
        State::open(named)
    };
    let look = || {
        log_to_stderr();
        State::look(named)
    };
    match arguments.verb {
        // These log in their own way, and demo and bench must start before there is any thread.
        Verb::Rendezvous(options) => rendezvous::run(options, arguments.state),
        Verb::Demo(options) => crate::demo::run(&options),
        Verb::Bench(options) => crate::bench::run(&options),
        Verb::Sim(flags) => sim::run(flags),
        Verb::Serve(flags) => serve::run(flags, &state()?, started),
        Verb::Connect(flags) => connect::run(flags, &state()?, started),
        Verb::Invite(flags) => invite::run(&flags, &look()?),
        Verb::Status(flags) => status::run(&flags, &look()?),
        Verb::Ping(flags) => ping::run(&flags, &look()?),
        Verb::SecureNat(flags) => secure_nat::secure_nat(&flags, &look()?),
        Verb::Nat(flags) => secure_nat::nat(flags, &look()?),
        Verb::Dhcp(flags) => secure_nat::dhcp(flags, &look()?),
    }
}

/// Runs `work` on one thread; what still blocks at its end (a name that does not resolve) is not waited for.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    result
}

/// No process of this state directory answers questions; others may, of another one.
fn nothing_runs(state: &State) -> String {
    format!(
        "no hub and no member runs here ({}; a rendezvous has no status); start `kuguri serve` or `kuguri connect`, or look as the user who did (sudo has a \
         directory of its own), or name the directory with --state DIR",
        state.run().display()
    )
}

/// What the modules log, for who looks for a fault: KUGURI_LOG=debug, or trace, or kuguri_proto::link=trace.
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("KUGURI_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
}

#[cfg(test)]
mod tests;
