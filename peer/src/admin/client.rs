//! The side that asks.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::{AdminError, Request, read_line};
use crate::config::state::State;

/// A running process of this state directory.
#[derive(Debug)]
pub struct Process {
    name: String,
    stream: BufReader<UnixStream>,
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
    pub async fn ask(&mut self, request: &Request) -> Result<Value, AdminError> {
        let silent = || AdminError::Silent(self.name.clone());
        let strange = || AdminError::Strange(self.name.clone());
        let question = serde_json::to_string(request).map_err(|_| strange())? + "\n";
        let conversation = async {
            let written = self.stream.write_all(question.as_bytes()).await;
            written.map_err(|_| silent())?;
            let line = read_line(&mut self.stream, LONGEST_ANSWER).await;
            line.ok_or_else(silent)
        };
        let answered = tokio::time::timeout(PATIENCE, conversation).await;
        let line = answered.map_err(|_elapsed| silent())??;
        serde_json::from_slice(&line).map_err(|_| strange())
    }
}

/// All running processes of this state directory, by name. Sockets that nobody listens at are removed.
///
/// # Errors
/// When the directory cannot be read.
pub async fn processes(state: &State) -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(state.run())? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|stem| stem.to_str());
        let (Some(name), Some("sock")) = (name, path.extension().and_then(|end| end.to_str()))
        else {
            continue;
        };
        match UnixStream::connect(&path).await {
            Ok(stream) => found.push(Process {
                name: name.to_owned(),
                stream: BufReader::new(stream),
            }),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                remove_stale(state, name, &path);
            }
            Err(error) => tracing::debug!(%error, "skipping {}", path.display()),
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Only while nobody has the lock: its process may just be about to listen.
fn remove_stale(state: &State, name: &str, path: &Path) {
    if let Ok(_lock) = state.lock(name) {
        // Somebody else may have been faster.
        let _ = fs::remove_file(path);
    }
}

/// Bytes of an answer: the status of a hub with thousands of members.
const LONGEST_ANSWER: u64 = 16 << 20;
/// A ping is lost after two seconds; this is for processes that hang.
const PATIENCE: Duration = Duration::from_secs(5);
