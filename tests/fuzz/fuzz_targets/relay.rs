//! Any bytes as a relayed datagram: what is read is written again, and only the channel is ever changed in it.

#![no_main]

use kuguri_proto::wire::classify;
use kuguri_proto::wire::relay::{Channel, HEADER, emit, parse, readdress};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut other = bytes.to_vec();
    readdress(&mut other, Channel(0x00ab_cdef));
    assert_eq!(other.len(), bytes.len());
    let Ok((channel, inner)) = parse(bytes) else {
        return;
    };
    assert!(!inner.is_empty() && channel.0 <= Channel::MAX);
    assert_eq!(emit(channel, inner), bytes);
    assert_eq!(parse(&other), Ok((Channel(0x00ab_cdef), inner)));
    assert_eq!(&other[HEADER..], inner);
    let _ = classify(inner);
});
