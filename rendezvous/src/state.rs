//! Where a program of this project keeps what it must not lose.

use std::path::PathBuf;

use anyhow::bail;

/// `/var/lib/kuguri` for root; else `$XDG_STATE_HOME/kuguri` or `~/.local/state/kuguri` (XDG Base Directory Specification).
///
/// # Errors
/// When there is no home directory to be found.
pub fn default_directory() -> anyhow::Result<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/kuguri"));
    }
    let absolute = |name| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    if let Some(state) = absolute("XDG_STATE_HOME") {
        return Ok(state.join("kuguri"));
    }
    match absolute("HOME") {
        Some(home) => Ok(home.join(".local/state/kuguri")),
        None => bail!("there is no home directory to keep the key in; name one by --state DIR"),
    }
}
