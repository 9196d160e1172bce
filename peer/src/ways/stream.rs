//! A byte stream to a place outside, by one of the routes: straight, through a proxy, through ssh.

use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use kuguri_proto::proxy::http::{self, NoAnswer};
use kuguri_proto::proxy::socks::{Refused, Socks, Step};
use kuguri_proto::proxy::{Credentials, authority};
use kuguri_rendezvous::https::listen::{READ, tune};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, Join, ReadBuf};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::problem::Problem;
use super::via::{Proxy, Route};

/// A stream, and what ssh has said if it is ssh's.
#[derive(Debug)]
pub(super) struct Stream {
    pipe: Pipe,
    /// Read behind a proxy's answer.
    begun: Vec<u8>,
    pub(super) said: Option<Said>,
}

/// What a child process says on stderr.
#[derive(Clone, Debug)]
pub(super) struct Said {
    to: String,
    text: Arc<Mutex<String>>,
}

#[derive(Debug)]
enum Pipe {
    Tcp(BufReader<TcpStream>),
    /// The child ends with the stream.
    Ssh(
        Join<ChildStdout, ChildStdin>,
        #[allow(dead_code, reason = "it is killed when it is dropped")] Child,
    ),
}

/// Opens a stream to `host:port`.
pub(super) async fn open(route: &Route, host: &str, port: u16) -> Result<Stream, Problem> {
    match route {
        Route::Straight => {
            let place = authority(host, port);
            let stream = TcpStream::connect((host, port)).await;
            let stream = stream.map_err(|error| Problem::of_stream(&place, &error))?;
            Ok(Stream::tcp(stream, Vec::new()))
        }
        Route::Http(proxy) => through_http(proxy, host, port).await,
        Route::Socks(proxy) => through_socks(proxy, host, port).await,
        Route::Ssh(to) => through_ssh(to, host, port),
    }
}

async fn reach(proxy: &Proxy) -> Result<TcpStream, Problem> {
    let stream = TcpStream::connect((proxy.host.as_str(), proxy.port)).await;
    stream.map_err(|error| Problem::of_stream(&format!("the proxy {proxy}"), &error))
}

async fn through_http(proxy: &Proxy, host: &str, port: u16) -> Result<Stream, Problem> {
    let (stream, head, begun) = ask_http(proxy, host, port, None).await?;
    if head.status != PROXY_AUTHENTICATION_REQUIRED {
        return opened(proxy, &head, stream, begun, &authority(host, port));
    }
    let Some(credentials) = &proxy.credentials else {
        return Err(Problem::lasting(wants_password(proxy)));
    };
    let cnonce: u128 = rand::random();
    let answer = http::authorize(&head, credentials, (host, port), &format!("{cnonce:032x}"));
    let answer = answer.map_err(|why| {
        Problem::lasting(match why {
            NoAnswer::Scheme => format!(
                "the proxy {proxy} wants to know us in a way that is neither Basic nor Digest; use another way with --via"
            ),
            NoAnswer::Credentials => {
                format!("the user and password for the proxy {proxy} have characters that cannot be sent")
            }
        })
    })?;
    // Over another connection: many proxies end the one that they refused.
    drop(stream);
    let (stream, head, begun) = ask_http(proxy, host, port, Some(&answer)).await?;
    // Some say 401 to who has shown a password, as a web server would.
    if [UNAUTHORIZED, PROXY_AUTHENTICATION_REQUIRED].contains(&head.status) {
        return Err(Problem::lasting(wrong_password(proxy)));
    }
    opened(proxy, &head, stream, begun, &authority(host, port))
}

async fn ask_http(
    proxy: &Proxy,
    host: &str,
    port: u16,
    authorization: Option<&str>,
) -> Result<(TcpStream, http::Head, Vec<u8>), Problem> {
    let mut stream = reach(proxy).await?;
    let place = format!("the proxy {proxy}");
    let request = http::connect(host, port, authorization);
    let sent = stream.write_all(&request).await;
    sent.map_err(|error| Problem::of_stream(&place, &error))?;
    let (head, begun) = read_head(&mut stream, &place).await?;
    Ok((stream, head, begun))
}

/// Reads the head of an answer, and what came with it.
pub(super) async fn read_head(
    stream: &mut (impl AsyncRead + Unpin),
    place: &str,
) -> Result<(http::Head, Vec<u8>), Problem> {
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 2048];
        let count = stream.read(&mut piece).await;
        let count = count.map_err(|error| Problem::of_stream(place, &error))?;
        if count == 0 {
            let why = if bytes.is_empty() {
                "an answer"
            } else {
                "a whole answer"
            };
            return Err(Problem::telling(format!(
                "{place} ends the connection without {why}"
            )));
        }
        bytes.extend_from_slice(&piece[..count]);
        match http::parse(&bytes) {
            Ok(Some(head)) => {
                let begun = bytes.split_off(head.length);
                return Ok((head, begun));
            }
            Ok(None) => {}
            Err(_) => {
                return Err(Problem::telling(format!(
                    "{place} does not answer in HTTP; is it another program?"
                )));
            }
        }
    }
}

fn opened(
    proxy: &Proxy,
    head: &http::Head,
    stream: TcpStream,
    begun: Vec<u8>,
    target: &str,
) -> Result<Stream, Problem> {
    match head.status {
        200..=299 => Ok(Stream::tcp(stream, begun)),
        403 | 405 => Err(Problem::telling(format!(
            "the proxy {proxy} does not let through to {target} ({} {})",
            head.status, head.reason
        ))),
        _ => Err(Problem::telling(format!(
            "the proxy {proxy} does not get to {target} ({} {})",
            head.status, head.reason
        ))),
    }
}

async fn through_socks(proxy: &Proxy, host: &str, port: u16) -> Result<Stream, Problem> {
    let credentials: Option<Credentials> = proxy.credentials.clone();
    let refused = |why: Refused| match why {
        Refused::WrongCredentials => Problem::lasting(wrong_password(proxy)),
        Refused::NoCredentials => Problem::lasting(wants_password(proxy)),
        Refused::NoMethod | Refused::TooLong => {
            Problem::lasting(format!("the proxy {proxy}: {why}"))
        }
        Refused::NotSocks | Refused::NotAllowed | Refused::Unreachable(_) | _ => {
            Problem::telling(format!(
                "the proxy {proxy} does not let through to {}: {why}",
                authority(host, port)
            ))
        }
    };
    let (mut socks, greeting) = Socks::new(host, port, credentials).map_err(refused)?;
    let mut stream = reach(proxy).await?;
    let place = format!("the proxy {proxy}");
    let broken = |error: io::Error| Problem::of_stream(&place, &error);
    stream.write_all(&greeting).await.map_err(broken)?;
    let mut said = Vec::new();
    loop {
        let mut piece = [0; 512];
        let count = stream.read(&mut piece).await.map_err(broken)?;
        if count == 0 {
            return Err(Problem::telling(format!(
                "{place} ends the connection without a whole answer"
            )));
        }
        said.extend_from_slice(&piece[..count]);
        match socks.handle(&said).map_err(refused)? {
            Step::More => {}
            Step::Send(read, words) => {
                said.drain(..read.min(said.len()));
                stream.write_all(&words).await.map_err(broken)?;
            }
            Step::Open(read) => {
                said.drain(..read.min(said.len()));
                return Ok(Stream::tcp(stream, said));
            }
        }
    }
}

fn through_ssh(to: &str, host: &str, port: u16) -> Result<Stream, Problem> {
    let mut command = Command::new("ssh");
    // Nobody sits there who could be asked for a password.
    command
        .args(["-o", "BatchMode=yes", "-o", "ServerAliveInterval=15"])
        .args(["-W", &authority(host, port), "--", to])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            Problem::lasting(
                "there is no ssh on this machine; install OpenSSH's client, or use another way with --via",
            )
        } else {
            Problem::passing(format!("ssh cannot be started ({error})"))
        }
    })?;
    let (Some(stdin), Some(stdout), Some(mut stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(Problem::passing("ssh cannot be spoken to"));
    };
    let said = Said {
        to: to.to_owned(),
        text: Arc::default(),
    };
    let text = Arc::clone(&said.text);
    tokio::spawn(async move {
        let mut piece = [0; 1024];
        while let Ok(count @ 1..) = stderr.read(&mut piece).await {
            let mut text = text.lock().unwrap_or_else(PoisonError::into_inner);
            if text.len() < MOST_SAID {
                text.push_str(&String::from_utf8_lossy(&piece[..count]));
            }
        }
    });
    Ok(Stream {
        pipe: Pipe::Ssh(tokio::io::join(stdout, stdin), child),
        begun: Vec::new(),
        said: Some(said),
    })
}

impl Said {
    /// Why ssh has ended, by what it said; `otherwise` when it said nothing.
    pub(super) async fn problem(&self, otherwise: Problem) -> Problem {
        // It speaks a moment after its stream has ended, or before.
        tokio::time::sleep(LAST_WORDS).await;
        let text = self
            .text
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        ssh_problem(&self.to, &text).unwrap_or(otherwise)
    }
}

fn ssh_problem(to: &str, text: &str) -> Option<Problem> {
    if text.contains("REMOTE HOST IDENTIFICATION HAS CHANGED") {
        return Some(Problem::lasting(format!(
            "the host key of {to} is not the one that ssh knows: somebody else may answer in its place; \
             if you know why it changed, remove the old one with ssh-keygen -R"
        )));
    }
    if text.contains("Host key verification failed") {
        return Some(Problem::lasting(format!(
            "ssh does not know the host key of {to} yet; say `ssh {to}` once, as the same user, and look at the key"
        )));
    }
    if text.contains("Permission denied") {
        return Some(Problem::lasting(format!(
            "{to} lets us in by no key that ssh has here, and a password cannot be asked for; set up a key or an agent"
        )));
    }
    let last = text
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())?;
    let last: String = last
        .chars()
        .filter(|c| !c.is_control())
        .take(SHOWN)
        .collect();
    Some(Problem::telling(format!("ssh {to} says: {last}")))
}

fn wants_password(proxy: &Proxy) -> String {
    format!(
        "the proxy {proxy} wants a user and a password; write them into its URL (http://USER:PASSWORD@…), into the environment's \
         https_proxy, or the password into a file for --proxy-password-file"
    )
}

fn wrong_password(proxy: &Proxy) -> String {
    format!(
        "the proxy {proxy} refuses this user and password; they are not shown to it again for some minutes: mend them and start again"
    )
}

impl Stream {
    fn tcp(stream: TcpStream, begun: Vec<u8>) -> Self {
        tune(&stream);
        Self {
            pipe: Pipe::Tcp(BufReader::with_capacity(READ, stream)),
            begun,
            said: None,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.begun.is_empty() {
            let count = self.begun.len().min(buffer.remaining());
            buffer.put_slice(&self.begun[..count]);
            self.begun.drain(..count);
            return Poll::Ready(Ok(()));
        }
        match &mut self.pipe {
            Pipe::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Pipe::Ssh(stream, _) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.pipe {
            Pipe::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Pipe::Ssh(stream, _) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.pipe {
            Pipe::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Pipe::Ssh(stream, _) => Pin::new(stream).poll_write_vectored(cx, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        matches!(self.pipe, Pipe::Tcp(_))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.pipe {
            Pipe::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Pipe::Ssh(stream, _) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.pipe {
            Pipe::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Pipe::Ssh(stream, _) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// RFC 9110, sections 15.5.2 and 15.5.8.
const UNAUTHORIZED: u16 = 401;
const PROXY_AUTHENTICATION_REQUIRED: u16 = 407;
/// Bytes of what ssh says.
const MOST_SAID: usize = 8192;
/// Characters of it that are shown.
const SHOWN: usize = 200;
/// For ssh to say why.
const LAST_WORDS: Duration = Duration::from_millis(300);
