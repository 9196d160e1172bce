//! Files with secrets in them: opened only when they are files, and when nobody else can read or change them.
//!
//! Nothing here waits: a pipe that somebody has put in a file's place is refused, not listened to.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

/// Why a file with secrets is not read; always it is named, and left as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrivateError {
    /// The system refuses.
    #[error("{} cannot be read ({error}); it is left as it is: run as the user whose file it is, or mend its permissions", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A directory, a pipe, a device.
    #[error("{} is no file; it is left as it is: move it away to start anew", path.display())]
    NoFile {
        /// What is there.
        path: PathBuf,
    },
    /// The file can be read or written by others than its owner.
    #[error(
        "{0} can be read or written by others (mode {mode:o}); make it private with: chmod 600 {0}", path.display()
    )]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is somebody else's.
    #[error(
        "{0} belongs to user {owner}, who can read and change it; if you trust its contents: chown {own} {0}", path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who we are.
        own: u32,
    },
}

/// Opens a file with secrets for reading; `None` when there is none.
///
/// # Errors
/// See [`PrivateError`].
pub fn open(path: &Path) -> Result<Option<File>, PrivateError> {
    let unreadable = |error| PrivateError::Unreadable {
        path: path.into(),
        error,
    };
    let mut options = OpenOptions::new();
    let options = options
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits() | OFlag::O_NOCTTY.bits());
    let file = match options.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let found = file.metadata().map_err(unreadable)?;
    let path = path.to_owned();
    if !found.is_file() {
        return Err(PrivateError::NoFile { path });
    }
    let (owner, mode) = (found.uid(), found.mode() & 0o777);
    if mode & 0o077 != 0 {
        return Err(PrivateError::TooOpen { path, mode });
    }
    let own = nix::unistd::geteuid().as_raw();
    if !may_own(owner, own, || {
        Some(directory_of(&path).metadata().ok()?.uid())
    }) {
        return Err(PrivateError::Foreign { path, owner, own });
    }
    Ok(Some(file))
}

/// The directory that a file is in.
#[must_use]
pub fn directory_of(path: &Path) -> &Path {
    let parent = path.parent().filter(|it| !it.as_os_str().is_empty());
    parent.unwrap_or_else(|| Path::new("."))
}

/// We ourselves, or root. Root looks into other users' directories, where the files are theirs.
fn may_own(owner: u32, own: u32, of_directory: impl FnOnce() -> Option<u32>) -> bool {
    owner == own || owner == ROOT || (own == ROOT && of_directory() == Some(owner))
}

const ROOT: u32 = 0;

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn a_private_file_is_opened_and_a_missing_one_is_none() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("secret");
        assert!(open(&path).expect("no error").is_none());
        fs::write(&path, "x").expect("written");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("ours");
        assert!(open(&path).expect("private").is_some());
        fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("ours");
        let error = open(&path).expect_err("too open");
        assert!(matches!(error, PrivateError::TooOpen { mode: 0o640, .. }));
    }

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let pipe = directory.path().join("pipe");
        mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR).expect("made");
        for path in [pipe.as_path(), directory.path()] {
            let error = open(path).expect_err("no file");
            assert!(matches!(error, PrivateError::NoFile { .. }), "{error}");
            assert!(error.to_string().contains(path.to_str().expect("text")));
        }
    }

    #[test]
    fn a_file_is_its_users_or_roots_and_root_may_look_into_others_directories() {
        let (alice, bob) = (1000, 1001);
        for (owner, own, directory, good) in [
            (alice, alice, alice, true),
            (ROOT, alice, alice, true),
            (bob, alice, alice, false),
            (bob, alice, bob, false),
            (alice, ROOT, alice, true),
            (bob, ROOT, alice, false),
            (bob, ROOT, ROOT, false),
        ] {
            let found = may_own(owner, own, || Some(directory));
            assert_eq!(found, good, "{owner} {own} {directory}");
        }
    }
}
