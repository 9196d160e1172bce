//! What is put into batches comes out of their datagrams, whole and in order.

use proptest::prelude::*;

use super::*;
use crate::link::pack::Reassembler;
use crate::link::seal::Suite;
use crate::link::seal::tests::{pair, start};
use crate::wire::chunk::{Chunk, chunks};

/// Sends frames in batches; each datagram as it is opened, and how many batches there were.
fn send(frames: &[Vec<u8>], shape: Shape) -> (Vec<Vec<u8>>, usize) {
    let (sealer, opener) = pair(Suite::Aes256Gcm);
    let now = start();
    let (mut batch, mut out, mut batches) = (Batch::new(shape), Vec::new(), 0);
    let mut flush = |batch: &mut Batch| {
        let Some(ready) = batch.seal(&sealer).expect("fresh") else {
            return;
        };
        batches += 1;
        assert!(ready.contents.len() <= CAPACITY);
        for datagram in ready.contents.chunks(ready.segment_size) {
            let (head, inner) = datagram.split_at(shape.prefix());
            assert_eq!(head, shape.relay.as_ref().map_or(&[][..], |it| &it[..]));
            assert!(inner.len() <= shape.mtu);
            let mut inner = inner.to_vec();
            out.push(
                opener
                    .open(&mut inner, now)
                    .expect("authentic")
                    .plaintext
                    .to_vec(),
            );
        }
        batch.reset(shape);
    };
    for (number, frame) in frames.iter().enumerate() {
        let mut gone = 0;
        while gone < frame.len() {
            let taken = match batch.frame(frame.len(), false) {
                Ok(room) => {
                    room.copy_from_slice(frame);
                    Ok(frame.len())
                }
                Err(NotTaken::TooLarge) => {
                    batch.part(frame, gone, u32::try_from(number).expect("few"))
                }
                Err(NotTaken::Full) => Err(NotTaken::Full),
            };
            match taken {
                Ok(now_gone) => gone = now_gone,
                Err(_) => flush(&mut batch),
            }
        }
    }
    flush(&mut batch);
    (out, batches)
}

fn received(plaintexts: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let (mut reassembler, mut frames) = (Reassembler::default(), Vec::new());
    for chunk in plaintexts.iter().flat_map(|plaintext| chunks(plaintext)) {
        match chunk.expect("well made") {
            Chunk::Frame(frame) => frames.push(frame.to_vec()),
            Chunk::Fragment(part) => {
                frames.extend(reassembler.handle_fragment(part, start()).expect("honest"));
            }
            other @ (Chunk::OpenFrame(_)
            | Chunk::Segment(_)
            | Chunk::Ping { .. }
            | Chunk::Pong { .. }) => panic!("{other:?}"),
        }
    }
    frames
}

const DIRECT: Shape = Shape {
    relay: None,
    mtu: 1472,
};

#[test]
fn full_datagrams_fill_one_batch() {
    let frames = vec![vec![7; DIRECT.largest_frame()]; 44];
    let (datagrams, batches) = send(&frames, DIRECT);
    assert_eq!((datagrams.len(), batches), (44, 1));
}

#[test]
fn many_small_frames_share_datagrams_and_a_batch() {
    let frames = vec![vec![7; 60]; 500];
    let (datagrams, batches) = send(&frames, DIRECT);
    assert_eq!(received(&datagrams), frames);
    assert_eq!((datagrams.len(), batches), (500_usize.div_ceil(22), 1));
}

/// The last datagram of a batch begins with a small frame, and others follow.
#[test]
fn nothing_is_written_behind_the_end() {
    for small in 1..60 {
        for mtu in [1196, 1452, 1472] {
            let shape = Shape { relay: None, mtu };
            let full = vec![vec![1; shape.largest_frame()]; CAPACITY / mtu];
            let rest = (0..40).map(|at| vec![2; 14 + at * small]);
            let frames: Vec<_> = full.into_iter().chain(rest).collect();
            assert_eq!(received(&send(&frames, shape).0), frames);
        }
    }
}

#[test]
fn a_lone_frame_is_not_padded() {
    let (datagrams, _) = send(&[vec![7; 1420]], DIRECT);
    assert_eq!(datagrams[0].len(), 1424);
}

proptest! {
    #[test]
    fn every_frame_arrives_in_order(
        sizes in prop::collection::vec(prop_oneof![14..100_usize, 700..800_usize, 1300..1600_usize, Just(1436_usize), 14..5000_usize], 1..200),
        mtu in 548..1473_usize, relayed: bool,
    ) {
        let shape = Shape { relay: relayed.then_some([34, 0, 0, 2]), mtu };
        let frames: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(at, size)| vec![at.to_le_bytes()[0]; *size]).collect();
        let (datagrams, _) = send(&frames, shape);
        prop_assert_eq!(received(&datagrams), frames);
    }
}
