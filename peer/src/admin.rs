//! Questions to a running process: one unix socket each, `STATE/run/NAME.sock`, for its own user and root.
//!
//! ```text
//!   kuguri status ──▶ {"verb":"status"}\n                 ──▶ kuguri connect
//!                 ◀── {"name":…,"node":{…}}\n             ◀──
//!   kuguri ping   ──▶ {"verb":"ping","peer":"home"}\n     ──▶
//!                 ◀── {"peer":…,"ms":21.4,"path":"direct"}\n or {"peer":…,"lost":true}\n or {"error":"…"}\n
//! ```
//!
//! One JSON object per line each way, any number of questions one after another. Who is not answered is told why, by
//! `{"refused":"…"}`: another user, or too many at once. What a question means is decided by [`crate::driver`]; here
//! they are only carried.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};
use tokio::sync::oneshot;

mod client;
mod server;

pub use client::{Process, processes};
pub use server::{Listener, listen};

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How are you?
    Status,
    /// How far is it to a peer?
    Ping {
        /// Its key, the beginning of its key, or its machine's name; nothing when there is only one.
        peer: Option<String>,
    },
    /// (Hub) admit members with this token, 32 hexadecimal digits, from now on.
    AddToken {
        /// The token.
        token: String,
    },
    /// (Hub) about the virtual host.
    VirtualHost {
        /// What.
        ask: VirtualHost,
    },
}

/// A question about, or an order to, a hub's virtual host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum VirtualHost {
    /// Settings and counters.
    Status,
    /// On or off; what is not said stays.
    Switch {
        /// The NAT.
        nat: Option<bool>,
        /// The DHCP server.
        dhcp: Option<bool>,
    },
    /// Other settings of the NAT.
    NatSet(NatChange),
    /// Other settings of the DHCP server.
    DhcpSet(DhcpChange),
    /// The session table.
    NatTable,
    /// The lease table.
    DhcpTable,
}

/// What is to be different at the NAT; what is not said stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatChange {
    /// Seconds.
    pub tcp_idle: Option<u64>,
    /// Seconds.
    pub udp_idle: Option<u64>,
    /// Every ping is answered by the virtual host itself.
    pub dummy_ping: Option<bool>,
    /// All rules anew, as in "allow 192.168.1.0/24:80/tcp".
    pub rules: Option<Vec<String>>,
    /// All published ports anew.
    pub publish: Option<Vec<String>>,
}

/// What is to be different at the DHCP server; what is not said stays, an empty text leaves the option out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DhcpChange {
    /// First address.
    pub first: Option<Ipv4Addr>,
    /// Last address.
    pub last: Option<Ipv4Addr>,
    /// Seconds.
    pub lease: Option<u64>,
    /// The default gateway.
    pub gateway: Option<String>,
    /// Resolvers, with commas between.
    pub dns: Option<String>,
    /// The domain.
    pub domain: Option<String>,
    /// Networks through the virtual host (option 121), with commas between; "lan" for those that this machine is in.
    pub routes: Option<String>,
    /// All reservations anew, as in "02:00:5e:10:00:01=192.168.30.20".
    pub reserve: Option<Vec<String>>,
}

/// A question that waits for its answer.
#[derive(Debug)]
pub struct Asked {
    /// The question.
    pub request: Request,
    /// Where the answer goes; dropped, the one who asks gets an error.
    pub answer: oneshot::Sender<Value>,
}

/// Why a question or its answer did not get through.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// The system refuses the socket.
    #[error("the socket {}: {error}; remove what is there, or name another (shorter) directory with --state DIR", path.display())]
    Socket {
        /// Its path; the system takes at most 107 bytes.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Where the sockets are cannot be read.
    #[error("{}: {error}; ask as the user whose processes these are", path.display())]
    Hidden {
        /// The directory or socket.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Nobody listens there: the process has ended.
    #[error("{0} has ended")]
    Absent(String),
    /// The process runs and said why it does not answer.
    #[error("{name} runs, but does not answer us: {reason}")]
    Refused {
        /// Which process.
        name: String,
        /// Its own words.
        reason: String,
    },
    /// The process is there, and says nothing.
    #[error("{0} runs, but does not answer; it may be stopped, overloaded or just ending")]
    Silent(String),
    /// Its answer is not what this version understands.
    #[error("{0} answers in another way; its version may be another one, restart it")]
    Strange(String),
}

/// The next line, without its end; `None` at the end, or when it is longer than anything we say.
async fn read_line(stream: &mut (impl AsyncBufRead + Unpin), most: u64) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    stream.take(most).read_until(b'\n', &mut line).await.ok()?;
    if line.pop() == Some(b'\n') {
        Some(line)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::server::listen_for;
    use super::*;
    use crate::config::state::State;

    fn state() -> (tempfile::TempDir, State) {
        let dir = tempfile::tempdir().expect("a directory");
        let state = State::open(Some(dir.path())).expect("makes it");
        (dir, state)
    }

    #[tokio::test]
    async fn a_question_goes_there_and_its_answer_back() {
        let (_dir, state) = state();
        let (listener, mut asked) = listen(&state, "hub-office").expect("listens");
        let mode = std::fs::metadata(listener.path())
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        tokio::spawn(async move {
            while let Some(Asked { request, answer }) = asked.recv().await {
                let _ = answer.send(json!({ "asked": request }));
            }
        });
        let live = processes(&state).expect("lists");
        assert_eq!(live.len(), 1);
        assert_eq!(live[0].name(), "hub-office");
        let ping = Request::Ping {
            peer: Some("home".into()),
        };
        for request in [Request::Status, ping] {
            let answer = live[0].ask(&request).await.expect("answers");
            assert_eq!(answer, json!({ "asked": request }));
        }
    }

    #[tokio::test]
    async fn a_stale_socket_is_nobodys_and_is_removed() {
        let (_dir, state) = state();
        drop(state.lock("hub-old").expect("free"));
        let path = state.run().join("hub-old.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("binds"));
        assert!(path.exists());
        let error = ask_the_only_one(&state).await.expect_err("nobody");
        assert!(matches!(error, AdminError::Absent(_)), "{error}");
        assert!(!path.exists());
        assert!(processes(&state).expect("lists").is_empty());
    }

    #[tokio::test]
    async fn no_directory_is_no_process() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = State::look(Some(&dir.path().join("none"))).expect("a place");
        assert!(processes(&state).expect("lists").is_empty());
    }

    #[tokio::test]
    async fn many_who_say_nothing_stop_nobody() {
        let (_dir, state) = state();
        let (listener, mut asked) = listen(&state, "hub-office").expect("listens");
        tokio::spawn(async move {
            while let Some(Asked { answer, .. }) = asked.recv().await {
                let _ = answer.send(json!({}));
            }
        });
        let mut idle = Vec::new();
        for _ in 0..100 {
            let stream = tokio::net::UnixStream::connect(listener.path()).await;
            idle.push(stream.expect("connects"));
        }
        assert_eq!(ask_the_only_one(&state).await.expect("answers"), json!({}));
    }

    #[tokio::test]
    async fn when_all_places_wait_for_an_answer_it_says_so() {
        let (_dir, state) = state();
        let (_listener, _asked) = listen(&state, "hub-office").expect("listens");
        let mut waiting = tokio::task::JoinSet::new();
        let refused = loop {
            let state = state.clone();
            waiting.spawn(async move { ask_the_only_one(&state).await });
            // The first that are refused; the others wait for an answer that nobody gives.
            if let Some(ended) = waiting.try_join_next() {
                break ended.expect("no panic");
            }
            tokio::task::yield_now().await;
        };
        let error = refused.expect_err("no place").to_string();
        assert!(
            error.contains("hub-office runs") && error.contains("again"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_stranger_is_told_that_he_is_one() {
        let (_dir, state) = state();
        let nobody = |_: &tokio::net::UnixStream| false;
        let (_listener, _asked) = listen_for(&state, "hub-office", nobody).expect("listens");
        let error = ask_the_only_one(&state).await.expect_err("refused");
        assert!(matches!(error, AdminError::Refused { .. }), "{error}");
        assert!(error.to_string().contains("as that user"), "{error}");
    }

    async fn ask_the_only_one(state: &State) -> Result<Value, AdminError> {
        let all = processes(state).expect("lists");
        assert_eq!(all.len(), 1);
        all[0].ask(&Request::Status).await
    }

    #[tokio::test]
    async fn the_socket_goes_with_its_process() {
        let (_dir, state) = state();
        let (listener, _asked) = listen(&state, "hub-office").expect("listens");
        let path = listener.path().to_owned();
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn garbage_gets_an_error_and_nobody_is_asked() {
        use tokio::io::AsyncWriteExt;
        let (_dir, state) = state();
        let (listener, mut asked) = listen(&state, "hub-office").expect("listens");
        let mut stream = tokio::net::UnixStream::connect(listener.path())
            .await
            .expect("connects");
        stream
            .write_all(b"\xff\xfe{]\n{\"verb\":\"fly\"}\n")
            .await
            .expect("writes");
        let mut stream = tokio::io::BufReader::new(stream);
        for _ in 0..2 {
            let line = read_line(&mut stream, 4096).await.expect("an answer");
            let answer: Value = serde_json::from_slice(&line).expect("an object");
            assert!(answer["error"].is_string(), "{answer}");
        }
        assert!(asked.try_recv().is_err());
    }

    #[tokio::test]
    async fn an_endless_line_ends_the_conversation() {
        use tokio::io::AsyncWriteExt;
        let (_dir, state) = state();
        let (listener, _asked) = listen(&state, "hub-office").expect("listens");
        let stream = tokio::net::UnixStream::connect(listener.path())
            .await
            .expect("connects");
        let (read, mut write) = stream.into_split();
        // The other side may close while we still write.
        let _ = write.write_all(&[b'x'; 100_000]).await;
        let mut read = tokio::io::BufReader::new(read);
        assert_eq!(read_line(&mut read, 4096).await, None);
    }

    #[tokio::test]
    async fn a_process_that_drops_the_question_is_silent() {
        let (_dir, state) = state();
        let (_listener, mut asked) = listen(&state, "hub-office").expect("listens");
        tokio::spawn(async move { while asked.recv().await.is_some() {} });
        let live = processes(&state).expect("lists");
        let answer = live[0].ask(&Request::Status).await.expect("an answer");
        assert!(answer["error"].is_string());
    }
}
