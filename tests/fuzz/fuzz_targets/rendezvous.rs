//! Any datagrams, and true ones with other bytes written into them, to a rendezvous: as long as nobody has proved an
//! address it relays nothing, and never sends more than it was sent.

#![no_main]

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use kuguri_proto::SocketId;
use kuguri_proto::identity::Identity;
use kuguri_proto::rendezvous::client::Client;
use kuguri_proto::rendezvous::server::{ALTERNATE, Config, Limits, Server};
use kuguri_proto::wire::stun;
use libfuzzer_sys::fuzz_target;

static IDENTITY: LazyLock<Identity> = LazyLock::new(|| Identity::from_seed(&[7; 32]));
/// The first datagrams of true conversations.
static TRUE: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let server = SocketAddr::from(([203, 0, 113, 1], 7777));
    let (key, now) = (Some(IDENTITY.id()), Instant::now());
    let mut client = Client::new(&IDENTITY, vec![server], key, [1; 32], now);
    client.handle_timeout(now);
    let initial = std::iter::from_fn(|| client.poll_transmit(now)).map(|it| it.contents);
    let question = stun::encode_request([5; 12], None, None, Some(stun::REQUEST_SIZE));
    let mut datagrams: Vec<Vec<u8>> = initial.collect();
    assert!(!datagrams.is_empty());
    datagrams.extend([question, vec![34, 0, 0, 2, 33, 0, 0, 0, 0]]);
    datagrams
});

fuzz_target!(|bytes: &[u8]| {
    let config = Config {
        addresses: vec![[203, 0, 113, 1].into()],
        port: 7777,
        alternate_port: Some(7778),
        second_address: None,
        stun: stun::Policy::Strict,
        limits: Limits::default(),
    };
    let mut now = Instant::now();
    let mut server = Server::new(&IDENTITY, config, [9; 32], now);
    let mut rest = bytes;
    // Each step: how, from whom, pause (in 64 ms), how much; then that many bytes.
    while let Some((&[how, from, pause, amount], behind)) = rest.split_first_chunk() {
        let (bytes, behind) = behind.split_at(behind.len().min(usize::from(amount)));
        rest = behind;
        now += Duration::from_millis(64 * u64::from(pause));
        server.handle_timeout(now);
        let answers = drain(&mut server, now);
        assert_eq!(answers, 0, "nobody is here who could be told something");
        let mut datagram = datagram(how, bytes);
        let length = datagram.len();
        let source = SocketAddr::from(([198, 51, 100, from], 4000 + u16::from(from)));
        let socket = if how & 0x80 == 0 {
            SocketId::MAIN
        } else {
            ALTERNATE
        };
        let relayed = server.handle_datagram(socket, source, &mut datagram, now);
        assert_eq!(relayed, None);
        assert!(drain(&mut server, now) <= length, "amplified");
        assert_eq!(server.stats().peers, 0);
    }
});

/// As it is, or a true one that begins otherwise.
fn datagram(how: u8, bytes: &[u8]) -> Vec<u8> {
    let Some(honest) = TRUE.get(usize::from(how & 0x0f)) else {
        return bytes.to_vec();
    };
    let mut datagram = honest.clone();
    let changed = datagram.len().min(bytes.len());
    datagram[..changed].copy_from_slice(&bytes[..changed]);
    datagram
}

/// The bytes of all answers.
fn drain(server: &mut Server, now: Instant) -> usize {
    while server.poll_event().is_some() {}
    std::iter::from_fn(|| server.poll_transmit(now))
        .map(|it| it.contents.len())
        .sum()
}
