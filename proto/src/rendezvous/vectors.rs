//! The hex vectors of the protocol's description are what the code writes and reads.

use bincode::{Decode, Encode};

use super::pipe::address;
use super::{Channel, CloseReason, ToPeer, ToRendezvous};
use crate::identity::PeerId;
use crate::wire::codec::Framer;
use crate::wire::vectors::{TEXT, Vector};

/// Each message is the vector's field of that name, and no field is left.
fn check<M: Encode + Decode<()> + PartialEq + std::fmt::Debug, const N: usize>(
    vector: &'static str,
    messages: [(&str, M); N],
) {
    let vector = Vector::named(vector);
    assert_eq!(vector.fields().count(), N);
    for (name, message) in messages {
        let bytes = vector.bytes(name);
        assert_eq!(Framer::frame(&message).expect("small"), bytes, "{name}");
        let mut framer = Framer::default();
        framer.push(bytes);
        assert_eq!(framer.next_message(), Ok(Some(message)), "{name}");
    }
}

fn peer() -> PeerId {
    PeerId(std::array::from_fn(|index| {
        u8::try_from(index).expect("32 of them")
    }))
}

#[test]
fn messages_to_the_rendezvous_are_as_described() {
    let open = |channel| ToRendezvous::Open {
        channel: Channel(channel),
        peer: peer(),
    };
    let channel = Channel(2);
    let nonce = 0x0123_4567_89ab_cdef;
    check(
        "to-rendezvous",
        [
            ("register", ToRendezvous::Register { features: 0 }),
            ("open", open(2)),
            ("open-largest", open(Channel::MAX - 1)),
            ("close", ToRendezvous::Close { channel }),
            ("proof", ToRendezvous::Proof { nonce }),
        ],
    );
}

#[test]
fn messages_to_the_peer_are_as_described() {
    let registered = |observed, stun: &[&str]| ToPeer::Registered {
        observed: address(observed),
        stun: stun.iter().map(|text| address(text)).collect(),
        features: 0,
    };
    let incoming = ToPeer::Incoming {
        channel: Channel(1),
        peer: peer(),
    };
    let (channel, reason) = (Channel(2), CloseReason::Limit);
    check(
        "to-peer",
        [
            (
                "registered-ipv4",
                registered("192.0.2.1:4000", &["0.0.0.0:7778"]),
            ),
            ("registered-ipv6", registered("[2001:db8::1]:4000", &[])),
            ("incoming", incoming),
            ("closed", ToPeer::Closed { channel, reason }),
            ("prove", ToPeer::Prove { nonce: 7 }),
            ("replaced", ToPeer::Replaced),
        ],
    );
}

#[test]
fn the_text_says_the_names_and_times_of_the_code() {
    assert_eq!(super::ALPN, Vector::named("alpn").bytes("rendezvous"));
    let idle = format!("| max_idle_timeout | {} s,", super::MAX_IDLE.as_secs());
    assert!(TEXT.contains(&idle));
    let alive = format!("a PING after {} s of", super::KEEP_ALIVE.as_secs());
    assert!(TEXT.contains(&alive));
}
