//! The state directory: keys, tokens, what is trusted, and the sockets and locks of running processes.
//!
//! ```text
//! STATE/                       0700
//!   hub-NAME.key               this hub's secret            0600
//!   hub-NAME.toml              its tokens and rendezvous    0600
//!   member-XXXXXXXXXXXXXXXX.key   our secret towards one hub   0600
//!   known-rendezvous.toml      keys trusted on first use    0600
//!   run/NAME.sock, run/NAME.lock  one pair per running process
//! ```
//!
//! Files are replaced whole (write, fsync, rename) or not at all. What cannot be read is reported by name and line and
//! never replaced.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use kuguri_rendezvous::state::default_directory;
use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why the state directory, or a file of it, cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// No place is known for it.
    #[error("there is no HOME to keep keys in; name a directory with --state DIR")]
    NoHome,
    /// The system refuses.
    #[error("{}: {error}; name another directory with --state DIR or mend its permissions", path.display())]
    Io {
        /// What could not be opened, made, read or written.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Somebody's contents, but not ours.
    #[error("{}, line {line}: {reason}; nothing was changed: mend the file, or move it away to start anew", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// Another process has it.
    #[error(
        "{what} is already running as process {pid}; stop that one first, or name another state directory with --state DIR"
    )]
    Running {
        /// Which hub or member.
        what: String,
        /// Its process id, as it wrote it; "?" if it has not yet.
        pid: String,
    },
}

/// The directory.
#[derive(Clone, Debug)]
pub struct State {
    dir: PathBuf,
}

impl State {
    /// Opens the directory `named`, or the default one (the same as the rendezvous's), and makes what is missing of it.
    ///
    /// # Errors
    /// When there is no place for it or it cannot be made.
    pub fn open(named: Option<&Path>) -> Result<Self, StateError> {
        let dir = match named {
            Some(dir) => dir.to_owned(),
            None => default_directory().map_err(|_| StateError::NoHome)?,
        };
        let state = Self { dir };
        for dir in [state.dir.clone(), state.run()] {
            make_private_dir(&dir)?;
        }
        Ok(state)
    }

    /// A file of it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Where running processes have their sockets and locks.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// The files of it whose names have this beginning and end, by what is between; sorted.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn names(&self, beginning: &str, end: &str) -> Result<Vec<String>, StateError> {
        let entries = fs::read_dir(&self.dir).map_err(io_error(&self.dir))?;
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|name| {
                let rest = name.strip_prefix(beginning)?.strip_suffix(end)?;
                Some(rest.to_owned())
            })
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Makes this process the only one that runs `name`; the lock ends with the process, however that ends.
    ///
    /// # Errors
    /// [`StateError::Running`] when another one does.
    pub fn lock(&self, name: &str) -> Result<Lock, StateError> {
        let path = self.run().join(format!("{name}.lock"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io_error(&path))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut held) => {
                write_pid(&mut held).map_err(io_error(&path))?;
                Ok(Lock { _held: held })
            }
            Err((mut file, _)) => Err(StateError::Running {
                what: name.to_owned(),
                pid: read_pid(&mut file),
            }),
        }
    }
}

/// Held while a hub or member runs.
#[derive(Debug)]
pub struct Lock {
    _held: Flock<File>,
}

/// Reads a TOML file; `None` when there is none.
///
/// # Errors
/// When it cannot be read or is not what it should be; the file stays as it is.
pub fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StateError> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(io_error(path))?,
    };
    let corrupt = |at: usize, reason: &str| StateError::Corrupt {
        path: path.to_owned(),
        line: 1 + bytes.iter().take(at).filter(|byte| **byte == b'\n').count(),
        reason: reason.lines().collect::<Vec<_>>().join(" "),
    };
    let text = std::str::from_utf8(&bytes)
        .map_err(|error| corrupt(error.valid_up_to(), "this is not text"))?;
    let value = toml::from_str(text)
        .map_err(|error| corrupt(error.span().map_or(0, |span| span.start), error.message()))?;
    Ok(Some(value))
}

/// Replaces a TOML file, readable by its owner alone, so that after a crash there is the old one or the new one.
///
/// # Errors
/// When the directory cannot be written.
pub fn write_toml<T: Serialize>(path: &Path, value: &T) -> Result<(), StateError> {
    let text = toml::to_string_pretty(value)
        .map_err(|error| io_error(path)(io::Error::other(error.to_string())))?;
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    let written =
        write_new(&temporary, text.as_bytes()).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // Only our own half-written copy; the error itself is what is told.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(io_error(path))?;
    sync_parent(path).map_err(io_error(path))
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn make_private_dir(dir: &Path) -> Result<(), StateError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(io_error(dir))
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes())
}

fn read_pid(file: &mut File) -> String {
    let mut text = String::new();
    // A pid that cannot be read is only missing in a message.
    let _ = file.take(16).read_to_string(&mut text);
    match text.trim() {
        "" => "?".to_owned(),
        pid => pid.to_owned(),
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |error| StateError::Io { path, error }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    type Sample = BTreeMap<String, u32>;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("exists").permissions().mode() & 0o777
    }

    #[test]
    fn the_directory_and_its_files_are_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = State::open(Some(&dir.path().join("a/b"))).expect("makes it");
        assert_eq!(mode(&dir.path().join("a/b")), 0o700);
        assert_eq!(mode(&state.run()), 0o700);
        let file = state.file("x.toml");
        write_toml(&file, &Sample::from([("a".into(), 1)])).expect("writes");
        assert_eq!(mode(&file), 0o600);
    }

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("x.toml");
        for value in [1, 2] {
            let wanted = Sample::from([("a".into(), value)]);
            write_toml(&file, &wanted).expect("writes");
            assert_eq!(read_toml(&file).expect("reads"), Some(wanted));
        }
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 1);
        let missing = read_toml::<Sample>(&dir.path().join("y")).expect("fine");
        assert_eq!(missing, None);
    }

    #[test]
    fn a_corrupt_file_is_named_by_line_and_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("x.toml");
        for (bytes, line) in [
            (&b"a = 1\nb = = 2\n"[..], 2),
            (b"a = 1\n\nb = \xff\n", 3),
            (b"a = \"text\"\n", 1),
        ] {
            fs::write(&file, bytes).expect("writes");
            let error = read_toml::<Sample>(&file).expect_err("corrupt").to_string();
            assert!(error.contains(&format!("x.toml, line {line}: ")), "{error}");
            assert!(!error.contains('\n'), "{error}");
            assert_eq!(fs::read(&file).expect("still there"), bytes);
        }
    }

    #[test]
    fn one_process_at_a_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = State::open(Some(dir.path())).expect("makes it");
        let held = state.lock("hub-office").expect("free");
        let error = state.lock("hub-office").expect_err("taken").to_string();
        assert!(
            error.contains(&format!("process {};", std::process::id())),
            "{error}"
        );
        state.lock("hub-other").expect("another name is free");
        drop(held);
        state.lock("hub-office").expect("free again");
    }
}
