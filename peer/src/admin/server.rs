//! The side that is asked.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{AdminError, Asked, Request, read_line};
use crate::config::state::State;

/// A socket that listens; dropped, it is removed.
#[derive(Debug)]
pub struct Listener {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl Listener {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
        // If somebody has removed it already, good.
        let _ = fs::remove_file(&self.path);
    }
}

/// Listens for questions to the process `name`, whose lock the caller holds.
///
/// # Errors
/// When the system refuses the socket.
pub fn listen(state: &State, name: &str) -> Result<(Listener, mpsc::Receiver<Asked>), AdminError> {
    listen_for(state, name, may_ask)
}

/// Listens for those who `may_ask`.
pub(super) fn listen_for(
    state: &State,
    name: &str,
    may_ask: fn(&UnixStream) -> bool,
) -> Result<(Listener, mpsc::Receiver<Asked>), AdminError> {
    let path = state.run().join(format!("{name}.sock"));
    // Left by a process that was killed: the lock says that none is running.
    let _ = fs::remove_file(&path);
    let wrap = |error| AdminError::Socket {
        path: path.clone(),
        error,
    };
    let socket = UnixListener::bind(&path).map_err(wrap)?;
    fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(wrap)?;
    let (questions, asked) = mpsc::channel(QUESTIONS);
    let task = tokio::spawn(accept(socket, questions, may_ask));
    Ok((Listener { path, task }, asked))
}

async fn accept(
    socket: UnixListener,
    questions: mpsc::Sender<Asked>,
    may_ask: fn(&UnixStream) -> bool,
) {
    let mut places = Places::default();
    loop {
        match socket.accept().await {
            Ok((stream, _)) if may_ask(&stream) => places.give(stream, &questions),
            Ok((stream, _)) => drop(tokio::spawn(refuse(stream, STRANGER))),
            // Out of descriptors, mostly: others may give some back.
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// The conversations, oldest first. They end with this.
#[derive(Default)]
struct Places(Vec<Place>);

struct Place {
    task: JoinHandle<()>,
    /// Whether a question of it waits for its answer.
    busy: Arc<AtomicBool>,
}

impl Places {
    /// When all places are taken, the oldest one that only listens is given away; when all wait for answers, none.
    fn give(&mut self, stream: UnixStream, questions: &mpsc::Sender<Asked>) {
        self.0.retain(|place| !place.task.is_finished());
        if self.0.len() >= CONVERSATIONS {
            let idle = |place: &Place| !place.busy.load(Ordering::Relaxed);
            let Some(oldest) = self.0.iter().position(idle) else {
                return drop(tokio::spawn(refuse(stream, TOO_MANY)));
            };
            self.0.remove(oldest);
        }
        let busy = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(converse(stream, questions.clone(), Arc::clone(&busy)));
        self.0.push(Place { task, busy });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn refuse(mut stream: UnixStream, why: &str) {
    let words = format!("{}\n", json!({ "refused": why }));
    let said = stream.write_all(words.as_bytes());
    // Who does not read is not waited for.
    let _ = tokio::time::timeout(PATIENCE, said).await;
}

/// The file's mode says the same; this also holds when somebody has changed that.
fn may_ask(stream: &UnixStream) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

async fn converse(stream: UnixStream, questions: mpsc::Sender<Asked>, busy: Arc<AtomicBool>) {
    let mut stream = BufReader::new(stream);
    while let Ok(Some(line)) =
        tokio::time::timeout(PATIENCE, read_line(&mut stream, LONGEST_QUESTION)).await
    {
        busy.store(true, Ordering::Relaxed);
        let answer = answer(&line, &questions, LONGEST_ANSWER).await;
        busy.store(false, Ordering::Relaxed);
        if stream
            .write_all(format!("{answer}\n").as_bytes())
            .await
            .is_err()
        {
            return;
        }
    }
}

async fn answer(line: &[u8], questions: &mpsc::Sender<Asked>, within: Duration) -> Value {
    let request = match serde_json::from_slice::<Request>(line) {
        Ok(request) => request,
        Err(error) => return json!({ "error": format!("not a question: {error}") }),
    };
    let (answer, answered) = oneshot::channel();
    let ending = || json!({ "error": "the process is ending" });
    if questions.send(Asked { request, answer }).await.is_err() {
        return ending();
    }
    match tokio::time::timeout(within, answered).await {
        Ok(answer) => answer.unwrap_or_else(|_| ending()),
        Err(_elapsed) => json!({ "error": "no answer in time; ask again" }),
    }
}

/// Questions that wait for the loop.
const QUESTIONS: usize = 16;
/// Conversations at the same time.
const CONVERSATIONS: usize = 16;
/// Bytes of a question.
const LONGEST_QUESTION: u64 = 4096;
/// How long the loop may take; a ping is lost after two seconds.
const LONGEST_ANSWER: Duration = Duration::from_secs(4);
/// How long somebody may be connected without asking.
const PATIENCE: Duration = Duration::from_secs(10);
/// To another user. From inside a user namespace all outside are strangers, root too.
const STRANGER: &str = "it answers only the user who started it (to one in a user namespace, root is another too); ask as \
                        that user";
/// To one too many.
const TOO_MANY: &str = "too many questions wait for their answers; ask again";
/// Before the next attempt to accept.
const PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_question_that_nobody_answers_gives_its_place_back() {
        let (questions, mut asked) = mpsc::channel(1);
        let said = answer(br#"{"verb":"status"}"#, &questions, Duration::ZERO).await;
        assert_eq!(said["error"], "no answer in time; ask again");
        assert!(asked.try_recv().is_ok(), "it was asked");
    }
}
