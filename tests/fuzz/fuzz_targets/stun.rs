//! Any bytes as STUN, from any source: an answer is never larger than its request and never answered itself; nothing that
//! was not made with the key is authentic.

#![no_main]

use std::net::{IpAddr, SocketAddr};

use kuguri_proto::wire::stun::{
    Class, MAX_SIZE, ServerAddresses, answer, parse, receiver_index, verify,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((address, message)) = bytes.split_first_chunk::<19>() else {
        return;
    };
    look(message);
    look(&mended(message));
    let source = source(address);
    ask(message, source);
    ask(&mended(message), source);
});

fn look(bytes: &[u8]) {
    assert!(!verify(bytes, &[7; 32]), "nobody guesses an HMAC");
    if let Ok(message) = parse(bytes) {
        assert!(bytes.len() <= MAX_SIZE);
        assert!(receiver_index(&message).is_none() || message.class == Class::Request);
    }
}

fn ask(request: &[u8], source: SocketAddr) {
    let server = ServerAddresses {
        origin: SocketAddr::from(([203, 0, 113, 1], 7777)),
        other: Some(SocketAddr::from(([203, 0, 113, 1], 7778))),
    };
    let Some(first) = answer(request, source, &server) else {
        return;
    };
    assert!(first.len() <= request.len());
    let message = parse(&first).expect("own bytes");
    assert_eq!(message.class, Class::Success);
    assert_eq!(answer(&first, source, &server), None);
}

fn source(bytes: &[u8; 19]) -> SocketAddr {
    let [family, p0, p1, address @ ..] = *bytes;
    let ip = if family % 2 == 0 {
        IpAddr::from([address[0], address[1], address[2], address[3]])
    } else {
        IpAddr::from(address)
    };
    SocketAddr::new(ip, u16::from_be_bytes([p0, p1]))
}

/// The same with a header that fits, so that the attributes are reached.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut message = bytes.to_vec();
    message.resize(bytes.len().next_multiple_of(4).max(20), 0);
    let length = u16::try_from(message.len() - 20).unwrap_or(0);
    message[..2].copy_from_slice(&[0, 1]);
    message[2..4].copy_from_slice(&length.to_be_bytes());
    message[4..8].copy_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
    message
}
