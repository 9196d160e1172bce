//! Any bytes, cut anywhere, into a TLS server: nobody without a key gets in, and what failed stays failed.

#![no_main]

use std::sync::LazyLock;

use kuguri_proto::identity::Identity;
use kuguri_proto::link::tls::TlsSession;
use libfuzzer_sys::fuzz_target;

static IDENTITY: LazyLock<Identity> = LazyLock::new(|| Identity::from_seed(&[7; 32]));
/// A true ClientHello, into which bytes are written.
static HELLO: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut hello = Vec::new();
    TlsSession::client(&IDENTITY, IDENTITY.id(), true).poll_bytes(&mut hello);
    hello
});

fuzz_target!(|bytes: &[u8]| {
    let Some((&[how, at], bytes)) = bytes.split_first_chunk() else {
        return;
    };
    let piece = usize::from(how >> 1).max(1);
    if how & 1 == 0 {
        feed(bytes, piece);
    } else {
        let mut hello = HELLO.clone();
        let at = usize::from(at) * 2 % hello.len();
        let end = hello.len().min(at + bytes.len());
        hello[at..end].copy_from_slice(&bytes[..end - at]);
        hello.extend(&bytes[end - at..]);
        feed(&hello, piece);
    }
});

fn feed(stream: &[u8], piece: usize) {
    let mut session = TlsSession::server(&IDENTITY, true);
    let (mut sent, mut read) = (Vec::new(), Vec::new());
    let mut failed = false;
    for piece in stream.chunks(piece) {
        let taken = session.handle_bytes(piece);
        assert!(!failed || taken.is_err());
        failed |= taken.is_err();
        session.read(&mut read);
        session.poll_bytes(&mut sent);
    }
    assert!(!session.is_established() && session.peer().is_none());
    assert!(session.suite().is_none() && session.export().is_err());
    assert!(read.is_empty());
    assert!(sent.len() < 8192);
}
