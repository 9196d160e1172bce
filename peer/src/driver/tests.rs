//! The loop around a node, with real sockets on loopback.

use kuguri_proto::gateway::subnet::Subnet;
use kuguri_proto::identity::Identity;
use kuguri_proto::node::{Config, HubConfig, MEMBERS_MAX, ReachConfig, RendezvousServer, Role};

use super::*;
use crate::admin;
use crate::config::state::State;

struct Silent;

impl Observe for Silent {
    fn observe(&mut self, _saying: &Saying<'_>) -> anyhow::Result<()> {
        Ok(())
    }
}

fn node(rendezvous: SocketAddr) -> Node {
    let config = Config {
        identity: Identity::from_seed(&[7; 32]),
        role: Role::Hub(HubConfig {
            name: "office".into(),
            tokens: vec![[1; 16]],
            subnet: Subnet::default(),
            members_max: MEMBERS_MAX,
            card: false,
        }),
        rendezvous: RendezvousServer {
            addresses: vec![rendezvous],
            key: None,
        },
        host_name: "here".into(),
        seed: [9; 32],
        aes_in_hardware: true,
        reach: ReachConfig::default(),
        relay_only: false,
    };
    Node::new(config, Instant::now())
}

struct Running {
    state: State,
    stop: mpsc::Sender<()>,
    loop_ends: tokio::task::JoinHandle<anyhow::Result<()>>,
    port: u16,
    _listener: admin::Listener,
    _dir: tempfile::TempDir,
}

/// A loop whose rendezvous is a port that nobody answers at.
fn running() -> Running {
    let dir = tempfile::tempdir().expect("a directory");
    let state = State::open(Some(dir.path())).expect("makes it");
    let (listener, asked) = admin::listen(&state, "hub-office").expect("listens");
    let (stop, stopped) = mpsc::channel(2);
    let socket = UdpSocket::bind(0).expect("a port");
    let port = socket.port().expect("bound");
    let parts = Parts {
        ways: Ways::udp(Instant::now()),
        name: "hub-office".into(),
        socket,
        plug: None,
        secure_nat: None,
        asked,
        stop: stopped,
    };
    let driver = Driver::new(node(([127, 0, 0, 1], 9).into()), parts, Silent);
    let driver = driver.expect("threads");
    Running {
        state,
        stop,
        loop_ends: tokio::spawn(driver.run()),
        port,
        _listener: listener,
        _dir: dir,
    }
}

async fn ask(running: &Running, request: Request) -> Value {
    let live = admin::processes(&running.state).expect("lists");
    live[0].ask(&request).await.expect("answers")
}

#[tokio::test]
async fn datagrams_come_in_and_questions_are_answered() {
    let running = running();
    let stranger = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    for garbage in [&b"\x20garbage"[..], b"", b"\xff", &[0x2a; 1400]] {
        stranger
            .send_to(garbage, ("127.0.0.1", running.port))
            .expect("sends");
    }
    let report = loop {
        let report = ask(&running, Request::Status).await;
        // Empty datagrams are nothing to hand on.
        if report["udp"]["received"].as_u64() >= Some(3) {
            break report;
        }
    };
    assert_eq!(report["name"], "hub-office");
    assert_eq!(report["card"], Value::Null);
    assert!(report["node"]["links"].is_array());
}

#[tokio::test]
async fn a_ping_to_nobody_is_one_sentence() {
    let running = running();
    let answer = ask(&running, Request::Ping { peer: None }).await;
    assert_eq!(answer["error"], "no peer is linked now; see kuguri status");
}

#[tokio::test]
async fn tokens_are_checked_before_the_node_hears_of_them() {
    let running = running();
    let token = "0123456789abcdef0123456789abcdef";
    let good = ask(
        &running,
        Request::AddToken {
            token: token.into(),
        },
    )
    .await;
    let bad = ask(&running, Request::AddToken { token: "x".into() }).await;
    assert_eq!(
        (good, &bad["error"]),
        (json!({}), &json!("a token is 32 hexadecimal digits"))
    );
}

#[tokio::test]
async fn told_twice_to_stop_it_ends() {
    let running = running();
    running.stop.send(()).await.expect("runs");
    running.stop.send(()).await.expect("runs");
    let ended = running.loop_ends.await.expect("no panic");
    let problem = ended.expect_err("nobody was reached").to_string();
    assert_eq!(problem, NEVER_REGISTERED);
}
