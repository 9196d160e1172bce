//! This program again, in a world of its own (user, network and PID namespaces), with a directory for its files: what the
//! demo and the bench live in. This outer process waits, ends the world when told to, and clears the files away.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, bail};
use kuguri_sim::lab::{Refusal, world};
use tokio::signal::unix::{SignalKind, signal};

/// Runs this program with these arguments and `--files DIRECTORY`, and gives its exit code. `name` is the verb's; `stdin`
/// may carry an open file into the world.
///
/// # Errors
/// One sentence: what the kernel refuses.
pub(crate) fn in_a_new_world(
    name: &str,
    mut arguments: Vec<OsString>,
    stdin: Stdio,
) -> anyhow::Result<ExitCode> {
    let files = Files::new(name)?;
    arguments.extend(["--files".into(), files.0.clone().into()]);
    let mut command = world::command(arguments)?;
    command.stdin(stdin);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let status = runtime.block_on(wait(command.into()))?;
    Ok(ExitCode::from(status))
}

/// The exit status of the world, or of who was asked to stop it.
async fn wait(mut command: tokio::process::Command) -> anyhow::Result<u8> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut child = command.spawn().map_err(Refusal::of_namespaces)?;
    let signal = tokio::select! {
        status = child.wait() => {
            let code = status?.code().unwrap_or(1);
            return Ok(u8::try_from(code).unwrap_or(1));
        }
        _ = interrupt.recv() => SignalKind::interrupt(),
        _ = terminate.recv() => SignalKind::terminate(),
        _ = hang_up.recv() => SignalKind::hangup(),
    };
    // The kernel ends everything in the world with its first process.
    child.kill().await?;
    Ok(u8::try_from(128 + signal.as_raw_value()).unwrap_or(1))
}

/// A directory for the processes' files, gone when it is dropped.
struct Files(PathBuf);

impl Files {
    fn new(name: &str) -> anyhow::Result<Self> {
        let name = format!("kuguri-{name}-{}", std::process::id());
        let path = env::temp_dir().join(name);
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => Ok(Self(path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                bail!("{} is there already; remove it", path.display())
            }
            Err(error) => Err(error).with_context(|| format!("cannot make {}", path.display())),
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // What cannot be removed is small and in the temporary directory.
        let _ = fs::remove_dir_all(&self.0);
    }
}
