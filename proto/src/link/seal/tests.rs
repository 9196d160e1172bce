//! What must hold of sealer and opener together.

use std::collections::BTreeSet;
use std::time::Instant;

use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use proptest::prelude::*;

use super::keys::EXPORTED;
use super::open::OVERLAP;
use super::replay::WINDOW;
use super::*;
use crate::wire::sealed::SealedError;
use crate::wire::vectors::Vector;

const RECEIVER: u32 = 0x0102_0304;
const SUITES: [Suite; 2] = [Suite::Aes256Gcm, Suite::ChaCha20Poly1305];

/// Some instant: proto has no clock, and a test needs only distances.
#[allow(
    clippy::disallowed_methods,
    reason = "the start of a test's own time; only distances from it count"
)]
pub(in crate::link) fn start() -> Instant {
    Instant::now()
}

fn chain() -> Chain {
    LinkKeys::derive(&[7; EXPORTED], Role::Client).chain
}

pub(in crate::link) fn pair(suite: Suite) -> (Sealer, Opener) {
    let key = || chain().key(suite, Role::Client, 0);
    (Sealer::new(RECEIVER, key()), Opener::new(key()))
}

fn sealed(sealer: &Sealer, plaintext: &[u8]) -> Vec<u8> {
    let mut datagram = [&[0; HEADER], plaintext].concat();
    sealer.seal_tail(&mut datagram, 0).expect("a fresh key");
    datagram
}

/// What PROTOCOL.md says.
#[test]
fn the_vectors_hold() {
    for (name, suite) in [("sealed-aes", SUITES[0]), ("sealed-chacha", SUITES[1])] {
        let vector = Vector::named(name);
        let [epoch] = vector.array("epoch");
        let key = || EpochKey::new(suite, epoch, &vector.array("key"));
        let sequence = u64::from_be_bytes(vector.array("sequence"));
        assert_eq!(nonce(sequence).as_ref(), &vector.array::<12>("nonce"));
        let sealer = Sealer::new(u32::from_be_bytes(vector.array("receiver")), key());
        sealer.skip(sequence);
        let mut datagram = sealed(&sealer, vector.bytes("plaintext"));
        assert_eq!(datagram, vector.bytes("datagram"), "{name}");
        let opener = Opener::new(key());
        let opened = opener.open(&mut datagram, start()).expect("authentic");
        assert_eq!(opened.plaintext, vector.bytes("plaintext"));
    }
}

#[test]
fn every_flipped_bit_is_refused_and_counted() {
    for suite in SUITES {
        let (sealer, opener) = pair(suite);
        let datagram = sealed(&sealer, b"a frame");
        let bits = datagram.len() * 8;
        for bit in 0..bits {
            let mut wrong = datagram.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(opener.open(&mut wrong, start()).is_err(), "bit {bit}");
        }
        let counters = opener.counters();
        // First byte and reserved bytes; epoch; sequences from 2^60 on; all the rest.
        assert_eq!(counters.malformed, 24);
        assert_eq!(counters.unknown_epoch, 8);
        assert_eq!(counters.too_old, 4);
        assert_eq!(counters.forged, u64::try_from(bits).expect("small") - 36);
        assert_eq!(counters.opened, 0);
        let mut whole = datagram;
        assert!(
            opener.open(&mut whole, start()).is_ok(),
            "forgeries do no harm"
        );
    }
}

#[test]
fn a_truncated_datagram_is_refused() {
    let (sealer, opener) = pair(Suite::Aes256Gcm);
    let datagram = sealed(&sealer, b"a frame");
    for length in 0..datagram.len() {
        let mut cut = datagram[..length].to_vec();
        assert!(opener.open(&mut cut, start()).is_err(), "{length} bytes");
    }
    assert_eq!(opener.counters().malformed, 32);
}

#[test]
fn no_room_is_an_error_and_takes_no_number() {
    let (sealer, _) = pair(Suite::Aes256Gcm);
    assert_eq!(sealer.seal(&mut [0; OVERHEAD - 1]), Err(SealError::NoRoom));
    assert_eq!(sealer.seal(&mut []), Err(SealError::NoRoom));
    assert_eq!(sealer.seal_all(&mut [0; 100], 0), Err(SealError::NoRoom));
    assert_eq!(sealer.seal_all(&mut [0; 95], 64), Err(SealError::NoRoom));
    let mut short = vec![0; HEADER - 1];
    assert_eq!(sealer.seal_tail(&mut short, 0), Err(SealError::NoRoom));
    assert_eq!(sealer.seal_tail(&mut short, 99), Err(SealError::NoRoom));
    assert_eq!(short.len(), HEADER - 1);
    assert_eq!(sealer.sealed(), 0);
    assert_eq!(sealer.seal(&mut [0; OVERHEAD]), Ok(0));
}

#[test]
fn a_used_up_key_seals_no_more() {
    let (sealer, _) = pair(Suite::Aes256Gcm);
    let mut buffer = [0; 4 * OVERHEAD];
    sealer.next.store(EPOCH_LIMIT - 3, Ordering::Relaxed);
    assert_eq!(
        sealer.seal_all(&mut buffer, OVERHEAD),
        Err(SealError::Exhausted)
    );
    assert_eq!(sealer.seal(&mut buffer), Ok(EPOCH_LIMIT - 3));
    sealer.next.store(EPOCH_LIMIT, Ordering::Relaxed);
    assert_eq!(sealer.seal(&mut buffer), Err(SealError::Exhausted));
    sealer.change_key(chain().key(Suite::Aes256Gcm, Role::Client, 1));
    assert_eq!(sealer.seal(&mut buffer), Ok(EPOCH_LIMIT));
    assert_eq!(sealer.sealed_in_epoch(), 1);
    sealer.next.store(SEQUENCE_LIMIT, Ordering::Relaxed);
    sealer.change_key(chain().key(Suite::Aes256Gcm, Role::Client, 2));
    assert_eq!(sealer.seal(&mut buffer), Err(SealError::Exhausted));
}

#[test]
fn a_key_that_was_attacked_too_often_opens_no_more() {
    let (sealer, opener) = pair(Suite::ChaCha20Poly1305);
    opener.set_forged(open::FORGERY_LIMIT - 1);
    let mut forged = sealed(&sealer, b"a frame");
    forged[20] ^= 1;
    assert_eq!(opener.open(&mut forged, start()), Err(OpenError::Forged));
    let mut good = sealed(&sealer, b"a frame");
    assert_eq!(opener.open(&mut good, start()), Err(OpenError::Exhausted));
}

#[test]
fn two_epochs_are_opened_until_the_overlap_ends() {
    let (sealer, opener) = pair(Suite::Aes256Gcm);
    let now = start();
    let mut late = [(); 2].map(|()| sealed(&sealer, b"epoch 0"));
    opener.install(chain().key(Suite::Aes256Gcm, Role::Client, 1));
    assert_eq!(
        opener.poll_timeout(),
        None,
        "the other side may not have the new key yet"
    );
    sealer.change_key(chain().key(Suite::Aes256Gcm, Role::Client, 1));
    assert_eq!(
        opener
            .open(&mut sealed(&sealer, b"epoch 1"), now)
            .map(|o| (o.epoch, o.newest)),
        Ok((1, true))
    );
    assert_eq!(
        opener.open(&mut late[0], now).map(|o| (o.epoch, o.newest)),
        Ok((0, false))
    );
    assert_eq!(opener.poll_timeout(), Some(now + OVERLAP));
    opener.handle_timeout(now + OVERLAP / 2);
    assert_eq!(opener.poll_timeout(), Some(now + OVERLAP));
    opener.handle_timeout(now + OVERLAP);
    assert_eq!(opener.poll_timeout(), None);
    assert_eq!(
        opener.open(&mut late[1], now + OVERLAP),
        Err(OpenError::UnknownEpoch(0))
    );
}

#[test]
fn a_third_epoch_wipes_the_first() {
    let (sealer, opener) = pair(Suite::Aes256Gcm);
    let mut oldest = sealed(&sealer, b"epoch 0");
    for epoch in [1, 2] {
        opener.install(chain().key(Suite::Aes256Gcm, Role::Client, epoch));
    }
    assert_eq!(
        opener.open(&mut oldest, start()),
        Err(OpenError::UnknownEpoch(0))
    );
}

#[test]
fn a_datagram_that_left_the_window_is_refused() {
    let (sealer, opener) = pair(Suite::ChaCha20Poly1305);
    let mut early = sealed(&sealer, b"early");
    sealer.next.store(2 * WINDOW, Ordering::Relaxed);
    assert!(opener.open(&mut sealed(&sealer, b"now"), start()).is_ok());
    assert_eq!(opener.open(&mut early, start()), Err(OpenError::TooOld(0)));
    assert_eq!(opener.counters().too_old, 1);
}

#[test]
fn threads_never_share_a_number() {
    let (sealer, opener) = pair(Suite::Aes256Gcm);
    let seal = || -> Vec<Vec<u8>> { (0..200).map(|_| sealed(&sealer, b"a frame")).collect() };
    let mut all = std::thread::scope(|scope| {
        let threads = [(); 4].map(|()| scope.spawn(seal));
        threads
            .map(|thread| thread.join().expect("no panic"))
            .concat()
    });
    let numbers: BTreeSet<u64> = all
        .iter_mut()
        .map(|datagram| opener.open(datagram, start()).expect("authentic").sequence)
        .collect();
    assert_eq!(numbers, (0..800).collect());
}

#[test]
fn threads_never_open_a_copy() {
    let (sealer, opener) = pair(Suite::Aes256Gcm);
    // Large and many, so that the threads meet in the middle of one.
    let datagrams: Vec<_> = (0..500).map(|_| sealed(&sealer, &[7; 9000])).collect();
    let together = std::sync::Barrier::new(4);
    let open = || {
        let mut copies = datagrams.clone();
        let opened = copies.iter_mut().map(|copy| {
            together.wait();
            usize::from(opener.open(copy, start()).is_ok())
        });
        opened.sum::<usize>()
    };
    let opened: usize = std::thread::scope(|scope| {
        let threads = [(); 4].map(|()| scope.spawn(open));
        let counts = threads.map(|thread| thread.join().expect("no panic"));
        counts.into_iter().sum()
    });
    assert_eq!(opened, datagrams.len());
}

proptest! {
    #[test]
    fn what_was_sealed_is_opened(plaintexts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..20), aes: bool) {
        let (sealer, opener) = pair(if aes { Suite::Aes256Gcm } else { Suite::ChaCha20Poly1305 });
        for (sequence, plaintext) in (0u64..).zip(&plaintexts) {
            let mut datagram = sealed(&sealer, plaintext);
            prop_assert_eq!(datagram.len(), plaintext.len() + OVERHEAD);
            let opened = opener.open(&mut datagram, start()).expect("authentic");
            prop_assert_eq!((&*opened.plaintext, opened.sequence, opened.newest), (plaintext.as_slice(), sequence, true));
        }
    }

    #[test]
    fn a_super_frame_is_sealed_like_its_pieces(length in OVERHEAD..5000, size in OVERHEAD..1500, aes: bool) {
        let suite = if aes { Suite::Aes256Gcm } else { Suite::ChaCha20Poly1305 };
        let mut buffer: Vec<u8> = (0..=255).cycle().take(length).collect();
        let mut pieces = buffer.clone();
        let ((batch, _), (single, _)) = (pair(suite), pair(suite));
        let rest = length % size;
        if rest != 0 && rest < OVERHEAD {
            prop_assert_eq!(batch.seal_all(&mut buffer, size), Err(SealError::NoRoom));
            prop_assert_eq!(buffer, pieces);
            return Ok(());
        }
        let sequences = batch.seal_all(&mut buffer, size).expect("fits");
        for (sequence, piece) in sequences.zip(pieces.chunks_mut(size)) {
            prop_assert_eq!(single.seal(piece), Ok(sequence));
        }
        prop_assert_eq!(buffer, pieces);
    }

    #[test]
    fn reordered_and_repeated_is_opened_once_each(order in prop::collection::vec(0usize..64, 1..300)) {
        let (sealer, opener) = pair(Suite::Aes256Gcm);
        let datagrams: Vec<_> = (0..64).map(|_| sealed(&sealer, b"a frame")).collect();
        let mut seen = BTreeSet::new();
        for at in order {
            let opened = opener.open(&mut datagrams[at].clone(), start()).map(|opened| opened.sequence);
            let sequence = u64::try_from(at).expect("small");
            prop_assert_eq!(opened, if seen.insert(at) { Ok(sequence) } else { Err(OpenError::Replayed(sequence)) });
        }
    }

    #[test]
    fn arbitrary_bytes_are_never_opened(mut bytes: Vec<u8>, header: bool) {
        let (_, opener) = pair(Suite::Aes256Gcm);
        if header {
            let header = Header { epoch: 0, receiver: RECEIVER, sequence: 5 }.to_bytes();
            bytes.splice(0..0, header);
        }
        prop_assert!(opener.open(&mut bytes, start()).is_err());
    }

    #[test]
    fn chacha_agrees_with_an_independent_implementation(plaintext: Vec<u8>) {
        let (sealer, opener) = pair(Suite::ChaCha20Poly1305);
        let key = chain().key_bytes(Suite::ChaCha20Poly1305, Role::Client, 0);
        let reference = ChaCha20Poly1305::new(key.as_slice().try_into().expect("32 bytes"));
        let header = Header { epoch: 0, receiver: RECEIVER, sequence: 0 }.to_bytes();
        let payload = Payload { msg: &plaintext, aad: &header };
        let ciphertext = reference.encrypt(&[0; 12].into(), payload).expect("small");
        let mut expected = [header.as_slice(), &ciphertext].concat();
        prop_assert_eq!(&sealed(&sealer, &plaintext), &expected);
        prop_assert_eq!(&*opener.open(&mut expected, start()).expect("authentic").plaintext, plaintext.as_slice());
    }
}

#[test]
fn errors_name_what_is_wrong() {
    let error = OpenError::from(SealedError::Truncated(3));
    assert_eq!(
        error.to_string(),
        "a sealed datagram of 3 bytes is shorter than its header and tag"
    );
}
