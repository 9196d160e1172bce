//! `kuguri rendezvous`: the public server, the same as the program `kuguri-rendezvous`.

use std::path::PathBuf;
use std::process::ExitCode;

use kuguri_rendezvous::Options;

/// Runs it; `--state` may stand before the verb too.
pub(super) fn run(options: Options, state: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let state = options.state.clone().or(state);
    kuguri_rendezvous::run(Options { state, ..options })?;
    Ok(ExitCode::SUCCESS)
}
