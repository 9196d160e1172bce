//! Any frames in any order: none is lost, and what is made of them can be taken apart into as many again.

#![no_main]

use kuguri_proto::offload::{Coalescer, split};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut ranges = Vec::new();
    let mut at = 0;
    // Each frame: how it is, its length, its bytes.
    while let Some(&[how, high, low]) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        let start = at + 3;
        let length = usize::from(u16::from_be_bytes([high & 7, low]));
        at = (start + length).min(bytes.len());
        ranges.push((start..at, how & 1 == 1, how & 2));
    }
    let given = ranges.len();
    let (mut coalescer, mut frames, mut whole) = (Coalescer::new(), 0, Vec::new());
    let mut check = |_, made: &kuguri_proto::offload::Super| {
        made.copy_to(bytes, &mut whole);
        assert_eq!(whole.len(), made.len);
        frames += made.frames;
        if made.frames > 1 {
            let apart = split(made.vnet, &whole, usize::MAX).expect("made by us");
            assert_eq!(apart.count(), made.frames);
        }
    };
    for (range, open, to) in ranges {
        coalescer.push(bytes, range, open, to, &mut check);
    }
    coalescer.flush(bytes, &mut check);
    assert_eq!(frames, given);
});
