//! Any datagrams to a hub from its rendezvous' address and from elsewhere: no link, no member and no frame comes of them.

#![no_main]

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use kuguri_proto::SocketId;
use kuguri_proto::gateway::Subnet;
use kuguri_proto::identity::Identity;
use kuguri_proto::node::{
    Command, Config, Event, HubConfig, MEMBERS_MAX, Node, RendezvousServer, Role,
};
use kuguri_proto::wire::stun::{Username, encode_request};
use libfuzzer_sys::fuzz_target;

static QUESTION: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let name = Username {
        receiver: 1,
        sender: 2,
    };
    encode_request([5; 12], Some(name), Some(&[3; 32]), None)
});

fuzz_target!(|bytes: &[u8]| {
    let mut now = Instant::now();
    let server = SocketAddr::from(([203, 0, 113, 1], 7777));
    let mut node = hub(server, now);
    node.handle_command(
        Command::LocalAddresses(vec![SocketAddr::from(([192, 168, 1, 5], 47001))]),
        now,
    );
    drain(&mut node, now);
    let mut rest = bytes;
    // Each step: how, pause (in 64 ms), how much; then that many bytes.
    while let Some((&[how, pause, amount], behind)) = rest.split_first_chunk() {
        let (bytes, behind) = behind.split_at(behind.len().min(usize::from(amount)));
        rest = behind;
        now += Duration::from_millis(64 * u64::from(pause));
        node.handle_timeout(now);
        drain(&mut node, now);
        let source = if how & 1 == 0 {
            server
        } else {
            SocketAddr::from(([198, 51, 100, how], 4000))
        };
        let mut datagram = bytes.to_vec();
        if how & 2 != 0 {
            let changed = bytes.len().min(QUESTION.len());
            datagram = [&bytes[..changed], &QUESTION[changed..]].concat();
        }
        node.handle_datagram(SocketId::MAIN, source, &mut datagram, now);
        drain(&mut node, now);
        assert!(node.status(now).links.is_empty());
    }
});

fn hub(server: SocketAddr, now: Instant) -> Node {
    let config = Config {
        identity: Identity::from_seed(&[7; 32]),
        role: Role::Hub(HubConfig {
            name: "office".into(),
            tokens: vec![[5; 16]],
            subnet: Subnet::default(),
            members_max: MEMBERS_MAX,
        }),
        rendezvous: RendezvousServer {
            addresses: vec![server],
            key: Some(Identity::from_seed(&[8; 32]).id()),
        },
        host_name: "hub".into(),
        seed: [9; 32],
        aes_in_hardware: true,
    };
    Node::new(config, now)
}

fn drain(node: &mut Node, now: Instant) {
    let mut sent = 0;
    while node.poll_transmit(now).is_some() {
        sent += 1;
        assert!(sent < 1000, "one input, and no end of datagrams");
    }
    assert_eq!(node.poll_frame(), None);
    while let Some(event) = node.poll_event() {
        assert!(matches!(event, Event::RendezvousFailed { .. }), "{event:?}");
    }
}
