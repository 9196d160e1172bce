//! The box between two interfaces that are there already: programs on both sides that know nothing of it, and what is refused.
//!
//! ```text
//!   client ── in0 │ box │ out0 ── server        three namespaces of one world; veth pairs between them
//! ```
#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use kuguri_sim::lab::world::claim;
use kuguri_sim::lab::{BoxConfig, BoxError, NatBox, Side};
use kuguri_sim::link::LinkConfig;
use kuguri_sim::nat::{NatConfig, Preset};
use kuguri_sim::network::Access;
use kuguri_sim::rules::Rules;

mod places;

use places::{Place, ip};

fn side(interface: &str, address: [u8; 4]) -> Side {
    Side {
        interface: interface.to_owned(),
        addresses: vec![Ipv4Addr::from(address)],
        prefix: 24,
    }
}

fn config(nat: NatConfig, link: LinkConfig) -> BoxConfig {
    BoxConfig {
        inside: side("in0", [192, 168, 1, 1]),
        outside: side("out0", [198, 51, 100, 7]),
        gateway: None,
        nat,
        rules: Rules::default(),
        access: Access::symmetric(link),
        seed: 1,
    }
}

/// Client and server with a box between their interfaces to come.
fn places() -> Option<(Place, Place)> {
    let client = Place::new(1, "in0", "192.168.1.10/24", Some("192.168.1.1"))?;
    let server = Place::new(2, "out0", "198.51.100.1/24", None)?;
    Some((client, server))
}

#[test]
fn programs_on_both_sides_meet_a_nat() {
    claim(|_| {
        let Some((client, server)) = places() else {
            return eprintln!("skipped: no ip, or no right");
        };
        let nat = Preset::Symmetric.config();
        let running = NatBox::start(config(nat, LinkConfig::default())).expect("it stands");
        let listener = server
            .run(|| UdpSocket::bind("198.51.100.1:7"))
            .expect("a port");
        let asks = client
            .run(|| UdpSocket::bind("0.0.0.0:4000"))
            .expect("a port");
        for socket in [&listener, &asks] {
            socket
                .set_read_timeout(Some(Duration::from_secs(10)))
                .expect("not zero");
        }
        asks.send_to(b"hello", "198.51.100.1:7").expect("a route");
        let (_, seen) = listener.recv_from(&mut [0; 64]).expect("it arrives");
        assert_eq!(seen.ip(), Ipv4Addr::new(198, 51, 100, 7));
        assert_ne!(seen.port(), 4000);
        listener.send_to(b"you too", seen).expect("a neighbour");
        let (_, from) = asks.recv_from(&mut [0; 64]).expect("it comes back");
        assert_eq!(from.to_string(), "198.51.100.1:7");
        assert_eq!(running.entries(), (1, 1));
    });
}

#[test]
fn tcp_with_all_offloads_arrives_byte_by_byte() {
    claim(|_| {
        let Some((client, server)) = places() else {
            return eprintln!("skipped: no ip, or no right");
        };
        let link = LinkConfig::delay(Duration::from_millis(2));
        let _running =
            NatBox::start(config(Preset::PortRestricted.config(), link)).expect("it stands");
        let sent: Vec<u8> = (0..500_000u32).flat_map(u32::to_le_bytes).collect();
        let listener = server
            .run(|| TcpListener::bind("198.51.100.1:80"))
            .expect("a port");
        let received = thread::scope(|scope| {
            let receiver = scope.spawn(|| {
                let (mut stream, from) = listener.accept().expect("somebody connects");
                assert_eq!(from.ip(), Ipv4Addr::new(198, 51, 100, 7));
                let mut received = Vec::new();
                stream.read_to_end(&mut received).expect("reads");
                received
            });
            let mut stream = client
                .run(|| TcpStream::connect("198.51.100.1:80"))
                .expect("connects");
            stream.write_all(&sent).expect("sends");
            stream.shutdown(Shutdown::Write).expect("ends");
            receiver.join().expect("it does not panic")
        });
        assert!(received == sent, "the bytes differ");
    });
}

#[test]
fn what_is_in_the_way_is_said_in_one_sentence() {
    claim(|_| {
        let Some((_client, _server)) = places() else {
            return eprintln!("skipped: no ip, or no right");
        };
        let good = || config(NatConfig::default(), LinkConfig::default());
        let refused = |change: fn(&mut BoxConfig)| {
            let mut config = good();
            change(&mut config);
            let error = NatBox::start(config).expect_err("something is in the way");
            assert_eq!(error.to_string().lines().count(), 1);
            error
        };
        let error = refused(|config| config.inside.interface = "lan7".to_owned());
        assert!(error.to_string().contains("no interface lan7"), "{error}");
        assert!(error.to_string().contains("out0"), "{error}");
        let error = refused(|config| config.inside.interface = "out0".to_owned());
        assert!(matches!(error, BoxError::SameInterface(_)), "{error}");
        let error = refused(|config| config.outside.addresses.clear());
        assert!(
            matches!(error, BoxError::Network(_) | BoxError::NoAddress(_)),
            "{error}"
        );
        let error = refused(|config| config.nat.ports.step = 0);
        assert!(error.to_string().contains("step"), "{error}");
        ip("address add 198.51.100.7/24 dev out0").expect("it can be added");
        let error = refused(|_| ());
        assert!(error.to_string().contains("ip address del"), "{error}");
    });
}
