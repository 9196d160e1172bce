//! The side that asks.
//!
//! ```text
//!   STATE/run/NAME.sock ── nobody listens ─▶ Absent     no right ─▶ Hidden
//!                       ── {"refused":"…"} ─▶ Refused    nothing for 5 s ─▶ Silent
//! ```

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::{AdminError, Request, read_line};
use crate::config::state::State;
use crate::output::printable;

/// A process of this state directory, by its socket.
#[derive(Clone, Debug)]
pub struct Process {
    name: String,
    path: PathBuf,
    state: State,
}

/// All processes of this state directory that have a socket, by name; some of them may have been killed.
///
/// # Errors
/// When the directory cannot be read.
pub fn processes(state: &State) -> Result<Vec<Process>, AdminError> {
    let directory = state.run();
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(hidden(&directory))?,
    };
    let named = |path: PathBuf| {
        let name = path
            .file_name()?
            .to_str()?
            .strip_suffix(".sock")?
            .to_owned();
        let state = state.clone();
        Some(Process { name, path, state })
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut found: Vec<Process> = paths.filter_map(named).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

impl Process {
    /// Its name: `hub-NAME` or `member-KEY`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Asks it one thing.
    ///
    /// # Errors
    /// When it does not answer, or not with an object.
    pub async fn ask(&self, request: &Request) -> Result<Value, AdminError> {
        let answered = tokio::time::timeout(PATIENCE, self.converse(request)).await;
        let line = answered.map_err(|_elapsed| self.silent())??;
        let answer: Value = serde_json::from_slice(&line).map_err(|_| self.strange())?;
        if !answer.is_object() {
            return Err(self.strange());
        }
        match answer["refused"].as_str() {
            Some(reason) => Err(AdminError::Refused {
                name: self.name.clone(),
                reason: format!("{}{}", printable(reason), self.owner()),
            }),
            None => Ok(answer),
        }
    }

    async fn converse(&self, request: &Request) -> Result<Vec<u8>, AdminError> {
        let question = serde_json::to_string(request).map_err(|_| self.strange())? + "\n";
        let mut stream = match UnixStream::connect(&self.path).await {
            Ok(stream) => BufReader::new(stream),
            Err(error) => return Err(self.not_reached(error)),
        };
        // Who refuses may have closed already; his words are there to be read.
        let _ = stream.write_all(question.as_bytes()).await;
        let line = read_line(&mut stream, LONGEST_ANSWER).await;
        line.ok_or_else(|| self.silent())
    }

    fn not_reached(&self, error: io::Error) -> AdminError {
        let kind = error.kind();
        if kind == ErrorKind::ConnectionRefused {
            self.remove_stale();
        }
        if kind == ErrorKind::ConnectionRefused || kind == ErrorKind::NotFound {
            return AdminError::Absent(self.name.clone());
        }
        // As many as the kernel takes wait to be accepted.
        // And one that ends closes those that wait.
        if kind == ErrorKind::WouldBlock || kind == ErrorKind::ConnectionReset {
            return self.silent();
        }
        hidden(&self.path)(error)
    }

    /// Only while nobody has the lock: its process may just be about to listen.
    fn remove_stale(&self) {
        if let Some(_lock) = self.state.lock_of_nobody(&self.name) {
            // Somebody else may have been faster.
            let _ = fs::remove_file(&self.path);
        }
    }

    /// Whose it is, for who was refused.
    fn owner(&self) -> String {
        let found = fs::metadata(&self.path);
        found.map_or_else(|_| String::new(), |it| format!(" (user {})", it.uid()))
    }

    fn silent(&self) -> AdminError {
        AdminError::Silent(self.name.clone())
    }

    fn strange(&self) -> AdminError {
        AdminError::Strange(self.name.clone())
    }
}

fn hidden(path: &Path) -> impl FnOnce(io::Error) -> AdminError {
    let path = path.to_owned();
    move |error| AdminError::Hidden { path, error }
}

/// Bytes of an answer: the status of a hub with thousands of members.
const LONGEST_ANSWER: u64 = 16 << 20;
/// A ping is lost after two seconds; this is for processes that hang.
const PATIENCE: Duration = Duration::from_secs(5);
