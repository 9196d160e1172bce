//! Any bytes as each kind of control message: refused, or decoded to a message whose own bytes give it again.

#![no_main]

use kuguri_proto::rendezvous::{ToPeer, ToRendezvous};
use kuguri_proto::wire::codec::{Framer, decode, encode};
use kuguri_proto::wire::control::Control;
use libfuzzer_sys::fuzz_target;

/// A macro, because only the codec's module may name the codec's traits.
macro_rules! round_trip {
    ($message:ty, $bytes:expr) => {
        if let Ok(message) = decode::<$message>($bytes) {
            let bytes = encode(&message).expect("no larger than what it came from");
            assert_eq!(decode::<$message>(&bytes), Ok(message));
        }
    };
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, bytes)) = bytes.split_first() else {
        return;
    };
    match kind % 4 {
        0 => round_trip!(Control, bytes),
        1 => round_trip!(ToRendezvous, bytes),
        2 => round_trip!(ToPeer, bytes),
        _ => framed(bytes),
    }
});

/// A stream of messages, cut anywhere.
fn framed(bytes: &[u8]) {
    let mut framer = Framer::default();
    for piece in bytes.chunks(7) {
        framer.push(piece);
        while let Ok(Some(message)) = framer.next_message::<Control>() {
            assert!(Framer::frame(&message).is_ok());
        }
    }
}
