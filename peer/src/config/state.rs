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
//! Knows who runs; the files themselves are read and written by [`super::file`].

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use kuguri_rendezvous::private::PrivateError;
use kuguri_rendezvous::state::default_directory;
use nix::fcntl::{Flock, FlockArg, OFlag};

/// Why the state directory, or a file of it, cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// No place is known for it.
    #[error("there is no HOME to keep keys in; name a directory with --state DIR")]
    NoHome,
    /// A file with secrets that is not read.
    #[error(transparent)]
    Private(PrivateError),
    /// The system refuses.
    #[error("{}: {error}; make room, mend its permissions, or name another directory with --state DIR", path.display())]
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
        let state = Self::look(named)?;
        for dir in [state.dir.clone(), state.run()] {
            make_private_dir(&dir)?;
        }
        Ok(state)
    }

    /// The same directory for somebody who only looks: nothing is made, and perhaps there is none.
    ///
    /// # Errors
    /// When there is no place for it.
    pub fn look(named: Option<&Path>) -> Result<Self, StateError> {
        let dir = match named {
            Some(dir) => dir.to_owned(),
            None => default_directory().map_err(|_| StateError::NoHome)?,
        };
        Ok(Self { dir })
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
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            read => read.map_err(io_error(&self.dir))?,
        };
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
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(NO_TRAP)
            .open(&path)
            .and_then(plain)
            .map_err(io_error(&path))?;
        // One that was killed a moment ago has it until the kernel has cleared it away.
        for _ in 0..LOOKS {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(mut held) => {
                    write_pid(&mut held).map_err(io_error(&path))?;
                    return Ok(Lock { _held: held });
                }
                Err((taken, _)) => file = taken,
            }
            thread::sleep(BETWEEN_LOOKS);
        }
        Err(StateError::Running {
            what: name.to_owned(),
            pid: read_pid(&mut file),
        })
    }

    /// The lock of a process that has ended, so that what it left can be cleared away; `None` when it runs, or left none.
    #[must_use]
    pub fn lock_of_nobody(&self, name: &str) -> Option<Lock> {
        let path = self.run().join(format!("{name}.lock"));
        let mut options = OpenOptions::new();
        let file = options.read(true).custom_flags(NO_TRAP).open(path).ok()?;
        let held = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()?;
        Some(Lock { _held: held })
    }
}

/// Held while a hub or member runs.
#[derive(Debug)]
pub struct Lock {
    _held: Flock<File>,
}

/// A file, no pipe and no device that somebody put there.
fn plain(file: File) -> io::Result<File> {
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("this is no file; remove it")),
    }
}

/// Neither a link that leads elsewhere is followed, nor waited for a pipe.
const NO_TRAP: i32 = OFlag::O_NOFOLLOW.bits() | OFlag::O_NONBLOCK.bits();
/// How often a lock that somebody has is tried again.
const LOOKS: u32 = 20;
/// And how soon.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

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
        pid if !pid.is_empty() && pid.bytes().all(|it| it.is_ascii_digit()) => pid.to_owned(),
        _ => "?".to_owned(),
    }
}

pub(super) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |error| StateError::Io { path, error }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("exists").permissions().mode() & 0o777
    }

    #[test]
    fn the_directory_and_its_files_are_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = State::open(Some(&dir.path().join("a/b"))).expect("makes it");
        assert_eq!(mode(&dir.path().join("a/b")), 0o700);
        assert_eq!(mode(&state.run()), 0o700);
        state.lock("hub-office").expect("free");
        assert_eq!(mode(&state.run().join("hub-office.lock")), 0o600);
    }

    #[test]
    fn a_look_makes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let named = dir.path().join("a");
        let state = State::look(Some(&named)).expect("a place");
        assert_eq!(state.names("hub-", ".toml").expect("none"), [""; 0]);
        assert!(state.lock_of_nobody("hub-office").is_none());
        assert!(!named.exists());
        let state = State::open(Some(&named)).expect("makes it");
        assert!(state.lock_of_nobody("hub-office").is_none());
        assert_eq!(fs::read_dir(state.run()).expect("there").count(), 0);
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

    #[test]
    fn a_lock_that_is_given_up_in_a_moment_is_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = State::open(Some(dir.path())).expect("makes it");
        let held = state.lock("hub-office").expect("free");
        thread::scope(|scope| {
            let next = scope.spawn(|| state.lock("hub-office").map(drop));
            // Whichever comes first: the other gets it then.
            thread::sleep(BETWEEN_LOOKS);
            drop(held);
            next.join().expect("no panic").expect("free again");
        });
    }
}
