//! Frames out are frames in.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::reassemble::{MAX_AGE, MAX_BYTES, MAX_UNFINISHED};
use super::*;
use crate::link::seal::tests::start;
use crate::wire::chunk::chunks;

/// A frame of `length` bytes that tells places in it apart.
fn frame(length: usize, seed: u8) -> Vec<u8> {
    let bytes = (0..=250u8).cycle().map(|byte| byte ^ seed);
    bytes.take(length).collect()
}

/// Empties `packer` into payloads of at most `sizes` bytes, taken in turn.
fn payloads(packer: &mut Packer, sizes: &[usize]) -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    for &size in sizes.iter().cycle() {
        if packer.is_empty() {
            break;
        }
        let mut payload = vec![0xee; 16];
        assert!(
            packer.fill(&mut payload, 16, size),
            "no progress with {size}"
        );
        payload.drain(..16);
        assert!(payload.len() <= size);
        payloads.push(payload);
    }
    payloads
}

/// What the other side makes of payloads.
fn frames<'a>(
    reassembler: &mut Reassembler,
    payloads: impl IntoIterator<Item = &'a Vec<u8>>,
    now: Instant,
) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for chunk in payloads.into_iter().flat_map(|payload| chunks(payload)) {
        match chunk.expect("well formed") {
            Chunk::Frame(frame) => frames.push(frame.to_vec()),
            Chunk::Fragment(fragment) => {
                frames.extend(reassembler.handle_fragment(fragment, now).expect("honest"))
            }
            other @ (Chunk::OpenFrame(_)
            | Chunk::Segment(_)
            | Chunk::Ping { .. }
            | Chunk::Pong { .. }) => {
                panic!("nobody packed {other:?}")
            }
        }
    }
    frames
}

fn part(number: u32, offset: u32, total: u32, bytes: &[u8]) -> Fragment<'_> {
    Fragment {
        number,
        offset,
        total,
        bytes,
    }
}

#[test]
fn small_frames_share_a_payload_and_parts_are_near_equal() {
    let mut packer = Packer::new(10_000);
    for length in [60, 70, 1514, 60] {
        packer.push(frame(length, 0)).expect("room");
    }
    let payloads = payloads(&mut packer, &[1200]);
    let lengths: Vec<_> = payloads.iter().map(Vec::len).collect();
    assert_eq!(lengths, [4 + 60 + 4 + 70 + 16 + 757, 16 + 757 + 4 + 60]);
    assert_eq!(packer.queued(), 0);
    assert_eq!(
        (packer.counters().frames, packer.counters().fragmented),
        (3, 1)
    );
}

#[test]
fn a_payload_that_is_begun_is_filled_up_only() {
    let mut packer = Packer::new(10_000);
    packer.push(frame(500, 0)).expect("room");
    let mut payload = vec![7; 700];
    assert!(
        !packer.fill(&mut payload, 0, 1200),
        "504 bytes do not fit into 500"
    );
    assert_eq!(payload.len(), 700);
    assert!(packer.fill(&mut payload, 4, 1200));
    assert!(!packer.fill(&mut payload, 5000, 0), "nothing waits");
}

#[test]
fn impossible_lengths_are_refused() {
    let mut packer = Packer::new(usize::MAX);
    for length in [0, 13, MAX_FRAME + 1] {
        let refused = packer.push(frame(length, 0));
        assert_eq!(refused, Err(PackError::Length(FrameLength(length))));
    }
    for length in [14, MAX_FRAME] {
        assert_eq!(packer.push(frame(length, 0)), Ok(()));
    }
    assert_eq!(packer.counters().refused, 3);
    let payloads = payloads(&mut packer, &[70_000]);
    assert_eq!(payloads.len(), 1);
    let got = frames(&mut Reassembler::default(), &payloads, start());
    assert_eq!(got, [frame(14, 0), frame(MAX_FRAME, 0)]);
}

#[test]
fn a_full_queue_drops_and_counts() {
    let mut packer = Packer::new(100);
    assert_eq!(packer.push(frame(1514, 0)), Ok(()), "one frame always fits");
    assert_eq!(packer.push(frame(14, 0)), Err(PackError::Full));
    assert_eq!(packer.counters().dropped, 1);
    assert_eq!(packer.queued(), 1514);
}

#[test]
fn contradictions_throw_the_frame_away() {
    let now = start();
    // Against the part from 10 to 20 of 30.
    for (from, to, total) in [
        (10, 20, 30),
        (12, 18, 30),
        (5, 15, 30),
        (5, 25, 30),
        (0, 30, 30),
        (15, 25, 30),
        (19, 30, 30),
        (20, 30, 31),
    ] {
        let mut reassembler = Reassembler::default();
        let first = reassembler.handle_fragment(part(1, 10, 30, &[0; 10]), now);
        assert_eq!(first, Ok(None));
        let bytes = vec![0; to - from];
        let offset = u32::try_from(from).expect("small");
        let second = reassembler.handle_fragment(part(1, offset, total, &bytes), now);
        assert_eq!(
            second,
            Err(ReassemblyError::Inconsistent(1)),
            "{from} to {to}"
        );
        assert_eq!(reassembler.poll_timeout(), None, "nothing is left of it");
        let counters = reassembler.counters();
        assert_eq!((counters.refused, counters.inconsistent), (1, 1));
    }
}

#[test]
fn impossible_parts_are_refused() {
    let mut reassembler = Reassembler::default();
    let bytes = [0; 10];
    for (offset, total, bytes) in [
        (0, 13, &bytes[..]),
        (0, 65_554, &bytes),
        (0, u32::MAX, &bytes),
        (21, 30, &bytes),
        (u32::MAX, 30, &bytes),
        (3, 30, &[]),
    ] {
        assert!(
            reassembler
                .handle_fragment(part(1, offset, total, bytes), start())
                .is_err()
        );
    }
    assert_eq!(reassembler.poll_timeout(), None);
    assert_eq!(reassembler.counters().refused, 6);
}

#[test]
fn what_does_not_become_whole_is_given_up() {
    let (mut reassembler, now) = (Reassembler::default(), start());
    let second = now + Duration::from_secs(1);
    assert_eq!(
        reassembler.handle_fragment(part(2, 0, 20, &[0; 10]), now),
        Ok(None)
    );
    assert_eq!(
        reassembler.handle_fragment(part(1, 0, 20, &[0; 10]), second),
        Ok(None)
    );
    assert_eq!(reassembler.poll_timeout(), Some(now + MAX_AGE));
    reassembler.handle_timeout(now + MAX_AGE);
    assert_eq!(reassembler.poll_timeout(), Some(second + MAX_AGE));
    assert_eq!(reassembler.counters().expired, 1);
    let last = reassembler.handle_fragment(part(1, 10, 20, &[0; 10]), second + MAX_AGE);
    assert_eq!(last, Ok(None), "its first half was given up just now");
    assert_eq!(reassembler.counters().expired, 2);
}

#[test]
fn memory_is_bounded() {
    let (mut reassembler, now) = (Reassembler::default(), start());
    for number in 0..1000 {
        let total = if number < 500 { 65_553 } else { 20 };
        let at = now + Duration::from_micros(number.into());
        assert_eq!(
            reassembler.handle_fragment(part(number, 0, total, &[0; 10]), at),
            Ok(None)
        );
        assert!(reassembler.bytes <= MAX_BYTES);
        assert!(reassembler.unfinished.len() <= MAX_UNFINISHED);
    }
    assert_eq!(reassembler.counters().evicted, 1000 - 64);
    let newest = reassembler.handle_fragment(part(999, 10, 20, &[0; 10]), now);
    assert_eq!(newest, Ok(Some(vec![0; 20])), "the newest stayed");
}

#[test]
fn a_frame_in_dust_is_given_up() {
    let mut reassembler = Reassembler::default();
    let dust = (0..32_000u32)
        .map(|at| reassembler.handle_fragment(part(1, 2 * at, 65_000, &[0]), start()));
    let errors: Vec<_> = dust.filter_map(Result::err).collect();
    assert!(errors.contains(&ReassemblyError::TooManyGaps(1)));
}

fn lengths() -> impl Strategy<Value = Vec<usize>> {
    let length = prop_oneof![6 => 14usize..200, 4 => 200usize..1600, 2 => 1600usize..10_000, 1 => 10_000..=MAX_FRAME];
    prop::collection::vec(length, 1..30)
}

fn packed(lengths: &[usize]) -> (Packer, Vec<Vec<u8>>) {
    let frames: Vec<_> = lengths
        .iter()
        .zip(0u8..)
        .map(|(length, seed)| frame(*length, seed))
        .collect();
    let mut packer = Packer::new(usize::MAX);
    for frame in &frames {
        packer.push(frame.clone()).expect("room");
    }
    (packer, frames)
}

proptest! {
    #[test]
    fn frames_out_are_frames_in(lengths in lengths(), sizes in prop::collection::vec(MIN_PAYLOAD..9000, 1..4)) {
        let (mut packer, sent) = packed(&lengths);
        let payloads = payloads(&mut packer, &sizes);
        prop_assert_eq!(frames(&mut Reassembler::default(), &payloads, start()), sent);
    }

    #[test]
    fn no_datagram_more_than_needed_and_parts_near_equal(length in 1500..=MAX_FRAME, size in 300usize..1400) {
        let (mut packer, _) = packed(&[length]);
        let lengths: Vec<_> = payloads(&mut packer, &[size]).iter().map(Vec::len).collect();
        prop_assert_eq!(lengths.len(), length.div_ceil(size - FRAGMENT_HEADER));
        let (least, most) = (lengths.iter().min(), lengths.iter().max());
        prop_assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1));
    }

    #[test]
    fn any_order_of_payloads_gives_the_same_frames(lengths in prop::collection::vec(14usize..3000, 1..15), size in 300usize..1500, seed: u64) {
        let (mut packer, mut sent) = packed(&lengths);
        let mut payloads = payloads(&mut packer, &[size]);
        shuffle(&mut payloads, seed);
        let mut got = frames(&mut Reassembler::default(), &payloads, start());
        got.sort();
        sent.sort();
        prop_assert_eq!(got, sent);
    }

    #[test]
    fn a_lost_payload_loses_no_frame_of_others(lengths in prop::collection::vec(14usize..3000, 1..15), size in 300usize..1500, lost: prop::sample::Index) {
        let (mut packer, sent) = packed(&lengths);
        let mut payloads = payloads(&mut packer, &[size]);
        let gone = payloads.remove(lost.index(payloads.len()));
        let got = frames(&mut Reassembler::default(), &payloads, start());
        prop_assert!(got.len() + chunks(&gone).count() >= sent.len());
        prop_assert!(got.iter().all(|frame| sent.contains(frame)));
    }

    #[test]
    fn arbitrary_parts_never_panic(parts: Vec<(u8, u16, u32, bool, Vec<u8>)>) {
        let mut reassembler = Reassembler::default();
        for (number, offset, total, sane, bytes) in &parts {
            let total = if *sane { total % 70_000 } else { *total };
            let _ = reassembler.handle_fragment(part((*number).into(), (*offset).into(), total, bytes), start());
            let held: usize = reassembler.unfinished.values().map(|unfinished| unfinished.frame.len()).sum();
            prop_assert_eq!(held, reassembler.bytes);
        }
    }
}

fn shuffle<T>(items: &mut [T], seed: u64) {
    use rand::SeedableRng;
    use rand::seq::SliceRandom;
    items.shuffle(&mut rand::rngs::StdRng::seed_from_u64(seed));
}
