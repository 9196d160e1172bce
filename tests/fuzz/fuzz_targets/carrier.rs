//! A stream of datagrams, cut anywhere; and the proofs of who does not know the key.

#![no_main]

use kuguri_proto::carrier::{self, Binding};
use kuguri_proto::identity::PeerId;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (mut rest, mut again) = (bytes, Vec::new());
    while let Some((datagram, behind)) = carrier::first(rest) {
        // What is larger than any datagram is read, and not written.
        if !carrier::append(&mut again, datagram) {
            return;
        }
        rest = behind;
    }
    assert_eq!([again.as_slice(), rest].concat(), bytes);
    let (binding, server) = (Binding([1; 32]), PeerId([2; 32]));
    assert!(!binding.is_server_proof(server, bytes));
    assert!(!binding.is_client_proof(server, bytes));
    assert_eq!(carrier::is_of_certificate(server, b"certificate", bytes), None);
});
