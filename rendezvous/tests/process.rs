//! The rendezvous as a process: what it says, what it keeps, how it ends, and that real peers find each other by it.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use kuguri_proto::identity::{Identity, PeerId};
use kuguri_proto::rendezvous::Channel;
use kuguri_proto::rendezvous::client::{Client, ClientEvent};
use kuguri_proto::wire::stun;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_kuguri-rendezvous");

/// A running rendezvous at a free port of the loopback, ended with the test.
struct Running {
    process: Child,
    said: BufReader<ChildStdout>,
    address: SocketAddr,
    stun_port: u16,
    key: PeerId,
}

impl Running {
    fn start(state: &Path) -> Self {
        Self::from(&mut command(state, &["--json", "--port", "0"]))
    }

    fn from(command: &mut Command) -> Self {
        let mut process = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program was built");
        let mut said = BufReader::new(process.stdout.take().expect("piped"));
        let first = line(&mut said);
        Self {
            process,
            said,
            address: first["addresses"][0]
                .as_str()
                .expect("an address")
                .parse()
                .expect("an address"),
            stun_port: u16::try_from(first["stun_port"].as_u64().expect("a port")).expect("a port"),
            key: first["key"]
                .as_str()
                .expect("a key")
                .parse()
                .expect("a key"),
        }
    }

    /// Ends it by a signal; its exit code.
    fn end(mut self, signal: Signal) -> Option<i32> {
        let id = i32::try_from(self.process.id()).expect("a process id");
        kill(Pid::from_raw(id), signal).expect("it runs");
        self.process.wait().expect("it ends").code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn command(state: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args(["--listen", "127.0.0.1", "--state"])
        .arg(state)
        .args(arguments);
    command
}

fn line(said: &mut impl BufRead) -> Value {
    let mut line = String::new();
    said.read_line(&mut line).expect("text");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
}

/// Runs it to its end, which must be an error; what it says on stderr.
fn refused(mut command: Command) -> String {
    let Output { status, stderr, .. } = command.output().expect("the program was built");
    assert_eq!(status.code(), Some(1));
    let text = String::from_utf8(stderr).expect("text");
    assert_eq!(text.lines().count(), 1, "one sentence: {text}");
    text
}

#[test]
fn the_key_is_kept_and_both_signals_end_it_cleanly() {
    let state = tempfile::tempdir().expect("a directory");
    let first = Running::start(state.path());
    let key = first.key;
    assert_eq!(first.end(Signal::SIGTERM), Some(0));
    let second = Running::start(state.path());
    assert_eq!(second.key, key);
    assert_eq!(second.end(Signal::SIGINT), Some(0));
}

#[test]
fn people_are_told_what_to_pass_to_peers() {
    let state = tempfile::tempdir().expect("a directory");
    let mut process = command(state.path(), &["--port", "0"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program was built");
    let mut said = BufReader::new(process.stdout.take().expect("piped"));
    let mut text = String::new();
    while !text.contains("kuguri serve") {
        assert_ne!(said.read_line(&mut text).expect("text"), 0, "{text}");
    }
    process.kill().expect("it runs");
    process.wait().expect("it ends");
    let key = text.split_once("--rendezvous-key ").expect("a key").1;
    key.trim().parse::<PeerId>().expect("a key");
    assert!(text.contains("127.0.0.1:"), "{text}");
}

#[test]
fn a_damaged_or_open_key_file_is_named_and_left_as_it_is() {
    let state = tempfile::tempdir().expect("a directory");
    let path = state.path().join("rendezvous.key");
    for (contents, mode) in [("rubbish\n", 0o600), ("", 0o600), ("rubbish\n", 0o644)] {
        std::fs::write(&path, contents).expect("written");
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&path, permissions).expect("set");
        let text = refused(command(state.path(), &["--port", "0"]));
        assert!(text.contains(path.to_str().expect("text")), "{text}");
        assert_eq!(std::fs::read_to_string(&path).expect("there"), contents);
    }
}

#[test]
fn a_port_in_use_is_said_in_one_sentence() {
    let state = tempfile::tempdir().expect("a directory");
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let text = refused(command(state.path(), &["--port", &port]));
    assert!(text.contains(&port) && text.contains("in use"), "{text}");
}

#[test]
fn a_port_without_a_next_one_is_refused() {
    let state = tempfile::tempdir().expect("a directory");
    let text = refused(command(state.path(), &["--port", "65535"]));
    assert!(text.contains("65535 has no next one"), "{text}");
}

#[test]
fn what_is_no_filter_is_said_once() {
    let state = tempfile::tempdir().expect("a directory");
    let text = refused(command(state.path(), &["--log", "foo=bar=baz"]));
    assert_eq!(text.matches("foo=bar=baz").count(), 1, "{text}");
    assert_eq!(text.matches("filter").count(), 1, "{text}");
}

#[test]
fn its_state_directory_may_be_said_by_the_environment() {
    let state = tempfile::tempdir().expect("a directory");
    let mut command = Command::new(PROGRAM);
    command.args(["--json", "--listen", "127.0.0.1", "--port", "0"]);
    let running = Running::from(command.env("KUGURI_STATE", state.path()));
    assert!(state.path().join("rendezvous.key").exists());
    assert_eq!(running.end(Signal::SIGTERM), Some(0));
}

#[test]
fn both_ports_answer_stun() {
    let state = tempfile::tempdir().expect("a directory");
    let running = Running::start(state.path());
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let own = socket.local_addr().expect("bound");
    for port in [running.address.port(), running.stun_port] {
        let to = SocketAddr::new(running.address.ip(), port);
        let request = stun::encode_request([9; 12], None, None, Some(stun::REQUEST_SIZE));
        socket.send_to(&request, to).expect("sent");
        let mut buffer = [0; 1500];
        let (size, from) = socket.recv_from(&mut buffer).expect("an answer");
        let answer = stun::parse(&buffer[..size]).expect("STUN");
        assert_eq!((from, answer.mapped), (to, Some(own)));
        assert!(size <= request.len());
    }
}

/// Sends a question; the answer and where it came from, if there is one.
fn ask(question: &[u8], to: SocketAddr) -> Option<(Vec<u8>, SocketAddr)> {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.send_to(question, to).expect("sent");
    // A padded question follows, which is always answered: so nobody waits for an answer that does not come.
    let padded = stun::encode_request([1; 12], None, None, Some(stun::REQUEST_SIZE));
    socket.send_to(&padded, to).expect("sent");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let mut buffer = [0; 1500];
    let mut heard = None;
    loop {
        let (size, from) = socket.recv_from(&mut buffer).expect("an answer");
        let answer = &buffer[..size];
        if answer[8..20] == [1; 12] && from == to {
            return heard;
        }
        heard = Some((answer.to_vec(), from));
    }
}

/// A Binding request of 20 or 28 bytes, as other makers' clients send them: with or without a magic cookie, and perhaps a wish
/// for an answer from elsewhere.
fn foreign(cookie: bool, flags: Option<u8>) -> Vec<u8> {
    let mut question = stun::encode_request([9; 12], None, None, None)[..20].to_vec();
    question[3] = 0;
    if !cookie {
        question[4..8].fill(9);
    }
    if let Some(flags) = flags {
        question[3] = 8;
        question.extend([0, 3, 0, 4, 0, 0, 0, flags]);
    }
    question
}

#[test]
fn who_asks_in_few_bytes_gets_nothing_unless_told_otherwise() {
    let state = tempfile::tempdir().expect("a directory");
    let running = Running::start(state.path());
    for (cookie, flags) in [
        (true, None),
        (false, None),
        (true, Some(2)),
        (false, Some(6)),
    ] {
        assert_eq!(ask(&foreign(cookie, flags), running.address), None);
    }
}

#[test]
fn a_compatible_one_with_two_addresses_answers_from_all_four_sockets() {
    let state = tempfile::tempdir().expect("a directory");
    let second = ["--stun-compatible", "--second-address", "127.0.0.2"];
    let mut command = command(state.path(), &["--json", "--port", "0"]);
    let running = Running::from(command.args(second));
    let socket = |address: u8, alternate: bool| {
        let port = if alternate {
            running.stun_port
        } else {
            running.address.port()
        };
        SocketAddr::from(([127, 0, 0, address], port))
    };
    for cookie in [true, false] {
        for to in [
            socket(1, false),
            socket(1, true),
            socket(2, false),
            socket(2, true),
        ] {
            for flags in [0, 2, 4, 6] {
                let question = foreign(cookie, Some(flags).filter(|it| *it != 0));
                let (answer, from) = ask(&question, to).expect("an answer");
                let changed = |address: bool, port: bool| {
                    let other_address = (to.ip() == socket(2, false).ip()) != address;
                    socket(
                        1 + u8::from(other_address),
                        (to.port() == running.stun_port) != port,
                    )
                };
                assert_eq!(
                    from,
                    changed(flags & 4 != 0, flags & 2 != 0),
                    "{flags} to {to}"
                );
                if cookie {
                    let answer = stun::parse(&answer).expect("STUN");
                    assert!(answer.mapped.is_some());
                    assert_eq!(answer.other_address, Some(changed(true, true)));
                }
            }
        }
    }
    let mut peer = Peer::new(1, &running);
    peer.until(|event| matches!(event, ClientEvent::Registered { stun, .. } if stun.contains(&socket(2, false))));
}

#[test]
fn a_second_address_that_is_none_is_said_in_one_sentence() {
    let state = tempfile::tempdir().expect("a directory");
    for (second, said) in [
        ("127.0.0.1", "another address"),
        ("::1", "same family"),
        ("0.0.0.0", "single addresses"),
        ("192.0.2.1", "--second-address"),
    ] {
        let second = ["--port", "0", "--second-address", second];
        let text = refused(command(state.path(), &second));
        assert!(text.contains(said), "{text}");
    }
}

#[test]
fn two_peers_find_each_other_and_talk() {
    let state = tempfile::tempdir().expect("a directory");
    let mut running = Running::start(state.path());
    let mut hub = Peer::new(1, &running);
    let mut home = Peer::new(2, &running);
    hub.until(|event| matches!(event, ClientEvent::Registered { .. }));
    home.until(|event| matches!(event, ClientEvent::Registered { .. }));
    let said: Vec<Value> = (0..2).map(|_| line(&mut running.said)).collect();
    assert!(
        said.iter().all(|it| it["event"] == "registered"),
        "{said:?}"
    );

    let id = hub.id;
    let channel = home.client.open(id, Instant::now()).expect("room");
    home.say(channel, b"from home");
    let incoming = hub.until(|event| matches!(event, ClientEvent::Incoming { .. }));
    let ClientEvent::Incoming { channel, peer } = incoming else {
        unreachable!("it was waited for");
    };
    assert_eq!(peer, home.id);
    assert_eq!(hub.hear(), (home.id, b"from home".to_vec()));
    for number in 0..50u8 {
        hub.say(channel, &[number; 1200]);
        assert_eq!(home.hear(), (hub.id, vec![number; 1200]));
    }
    assert_eq!(running.end(Signal::SIGTERM), Some(0));
    home.until(|event| matches!(event, ClientEvent::Failed { .. }));
}

#[test]
fn at_all_addresses_it_answers_from_the_one_that_was_asked_and_says_ipv4_as_ipv4() {
    let state = tempfile::tempdir().expect("a directory");
    let mut everywhere = Command::new(PROGRAM);
    everywhere.args(["--json", "--port", "0", "--state"]);
    everywhere.arg(state.path());
    let mut running = Running::from(&mut everywhere);
    for last in [1, 5] {
        running.address.set_ip([127, 0, 0, last].into());
        let mut peer = Peer::new(last, &running);
        let own = peer.socket.local_addr().expect("bound");
        let registered = peer.until(|event| matches!(event, ClientEvent::Registered { .. }));
        let ClientEvent::Registered { observed, .. } = registered else {
            unreachable!("it was waited for");
        };
        assert_eq!(observed, own);
    }
}

#[test]
fn garbage_does_not_stop_it() {
    let state = tempfile::tempdir().expect("a directory");
    let running = Running::start(state.path());
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    for first in 0..=255u8 {
        for size in [1, 21, 500, 1200] {
            let garbage: Vec<u8> = (0..size)
                .map(|at: usize| first.wrapping_add(u8::try_from(at * at % 251).expect("small")))
                .collect();
            socket.send_to(&garbage, running.address).expect("sent");
        }
    }
    let mut peer = Peer::new(1, &running);
    peer.until(|event| matches!(event, ClientEvent::Registered { .. }));
    assert_eq!(running.end(Signal::SIGTERM), Some(0));
}

/// A peer with a socket: the smallest driver there is.
struct Peer {
    client: Client,
    socket: UdpSocket,
    id: PeerId,
    heard: Vec<(PeerId, Vec<u8>)>,
    events: Vec<ClientEvent>,
}

impl Peer {
    fn new(number: u8, rendezvous: &Running) -> Self {
        let identity = Identity::from_seed(&[number; 32]);
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let (addresses, key) = (vec![rendezvous.address], Some(rendezvous.key));
        Self {
            client: Client::new(&identity, addresses, key, [number; 32], Instant::now()),
            socket,
            id: identity.id(),
            heard: Vec::new(),
            events: Vec::new(),
        }
    }

    fn say(&mut self, channel: Channel, inner: &[u8]) {
        self.drain();
        let wrapped = self.client.wrap(channel, inner).expect("a connection");
        self.socket
            .send_to(&wrapped.contents, wrapped.destination)
            .expect("sent");
    }

    /// Runs until there is such an event, and gives it.
    fn until(&mut self, wanted: impl Fn(&ClientEvent) -> bool) -> ClientEvent {
        let begin = Instant::now();
        loop {
            if let Some(index) = self.events.iter().position(&wanted) {
                return self.events.remove(index);
            }
            assert!(begin.elapsed() < PATIENCE, "only {:?}", self.events);
            self.step();
        }
    }

    fn hear(&mut self) -> (PeerId, Vec<u8>) {
        let begin = Instant::now();
        while self.heard.is_empty() {
            assert!(begin.elapsed() < PATIENCE, "nothing was heard");
            self.step();
        }
        self.heard.remove(0)
    }

    fn drain(&mut self) {
        let now = Instant::now();
        while let Some(transmit) = self.client.poll_transmit(now) {
            self.socket
                .send_to(&transmit.contents, transmit.destination)
                .expect("sent");
        }
        while let Some(event) = self.client.poll_event() {
            self.events.push(event);
        }
    }

    fn step(&mut self) {
        self.drain();
        let wait = self.client.poll_timeout().map_or(PATIENCE, |due| {
            due.saturating_duration_since(Instant::now())
        });
        let wait = wait.clamp(Duration::from_millis(1), Duration::from_millis(200));
        self.socket
            .set_read_timeout(Some(wait))
            .expect("a time-out");
        let mut buffer = [0; 2048];
        let now = match self.socket.recv_from(&mut buffer) {
            Ok((size, from)) => {
                let (datagram, now) = (&buffer[..size], Instant::now());
                if let Some((peer, _, inner)) = self.client.unwrap(from, datagram) {
                    self.heard.push((peer, datagram[inner].to_vec()));
                } else {
                    self.client.handle_datagram(from, datagram, now);
                }
                now
            }
            Err(_) => Instant::now(),
        };
        if self.client.poll_timeout().is_some_and(|due| due <= now) {
            self.client.handle_timeout(now);
        }
        self.drain();
    }
}

/// How long a test waits for what must come; it is not how long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);
