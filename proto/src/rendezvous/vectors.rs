//! The hex vectors of the protocol's description are what the code writes and reads.

use bincode::{Decode, Encode};

use super::pipe::address;
use super::{Channel, CloseReason, ToPeer, ToRendezvous};
use crate::identity::PeerId;
use crate::wire::codec::Framer;
use crate::wire::relay;

const TEXT: &str = include_str!("../../PROTOCOL-rendezvous.md");

/// The bytes in the table's row for `name`.
fn vector(name: &str) -> Vec<u8> {
    let start = format!("| {name} | `");
    let row = TEXT.lines().find_map(|line| line.strip_prefix(&start));
    let row = row.unwrap_or_else(|| panic!("no vector for {name}"));
    let digits: Vec<u32> = row.chars().filter_map(|digit| digit.to_digit(16)).collect();
    let bytes = digits.chunks(2).map(|pair| pair[0] * 16 + pair[1]);
    bytes
        .map(|byte| u8::try_from(byte).expect("two digits"))
        .collect()
}

fn check<M: Encode + Decode<()> + PartialEq + std::fmt::Debug>(name: &str, message: M) {
    let bytes = vector(name);
    assert_eq!(Framer::frame(&message).expect("small"), bytes, "{name}");
    let mut framer = Framer::default();
    framer.push(&bytes);
    assert_eq!(framer.next_message(), Ok(Some(message)), "{name}");
}

#[test]
fn messages_to_the_rendezvous_are_as_described() {
    let peer = PeerId(std::array::from_fn(|index| {
        u8::try_from(index).expect("32 of them")
    }));
    let open = |channel| ToRendezvous::Open {
        channel: Channel(channel),
        peer,
    };
    check(
        "Register { features: 0 }",
        ToRendezvous::Register { features: 0 },
    );
    check("Open { channel: 2, peer: K }", open(2));
    check(
        "Open { channel: 16777214, peer: K }",
        open(Channel::MAX - 1),
    );
    let channel = Channel(2);
    check("Close { channel: 2 }", ToRendezvous::Close { channel });
    let nonce = 0x0123_4567_89ab_cdef;
    check(
        "Proof { nonce: 81985529216486895 }",
        ToRendezvous::Proof { nonce },
    );
    let channel = Channel(1);
    check(
        "Incoming { channel: 1, peer: K }",
        ToPeer::Incoming { channel, peer },
    );
}

#[test]
fn messages_to_the_peer_are_as_described() {
    let registered = |observed, stun: &[&str]| ToPeer::Registered {
        observed: address(observed),
        stun: stun.iter().map(|text| address(text)).collect(),
        features: 0,
    };
    check(
        "Registered { observed: 192.0.2.1:4000, stun: [0.0.0.0:7778], features: 0 }",
        registered("192.0.2.1:4000", &["0.0.0.0:7778"]),
    );
    check(
        "Registered { observed: [2001:db8::1]:4000, stun: [], features: 0 }",
        registered("[2001:db8::1]:4000", &[]),
    );
    let (channel, reason) = (Channel(2), CloseReason::Limit);
    check(
        "Closed { channel: 2, reason: 3 }",
        ToPeer::Closed { channel, reason },
    );
    check("Prove { nonce: 7 }", ToPeer::Prove { nonce: 7 });
    check("Replaced", ToPeer::Replaced);
}

#[test]
fn relayed_datagrams_are_as_described() {
    let small = relay::emit(Channel(2), &[0xbe, 0xef]);
    assert_eq!(small, vector("channel 2 around `beef`"));
    let largest = relay::emit(Channel(Channel::MAX), &[0]);
    assert_eq!(largest, vector("channel 16777215 around `00`"));
}

#[test]
fn the_text_says_the_names_and_times_of_the_code() {
    let alpn = std::str::from_utf8(super::ALPN).expect("ASCII");
    assert!(TEXT.contains(&format!("`{alpn}`")));
    let idle = format!("| max_idle_timeout | {} s,", super::MAX_IDLE.as_secs());
    assert!(TEXT.contains(&idle));
    let alive = format!("a PING after {} s of", super::KEEP_ALIVE.as_secs());
    assert!(TEXT.contains(&alive));
}
