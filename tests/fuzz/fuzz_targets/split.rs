//! Any header and frame of a card: pieces are no larger than asked for unless they cannot be cut, none but the last of another
//! size, and what is joined again has the same payload.

#![no_main]

use kuguri_proto::offload::vnet::{self, VnetHeader};
use kuguri_proto::offload::{Coalescer, Layout, Protocol, split};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((&[l0, l1, finish], bytes)) = bytes.split_first_chunk() else {
        return;
    };
    let Some((header, frame)) = bytes.split_first_chunk::<{ vnet::LEN }>() else {
        return;
    };
    let Ok(header) = VnetHeader::parse(header) else {
        return;
    };
    let largest = usize::from(u16::from_be_bytes([l0, l1]));
    let Ok(pieces) = split(header, frame, largest) else {
        return;
    };
    let finish = finish & 1 == 1;
    assert!(pieces.count() >= 1 && pieces.count() <= frame.len());
    let mut arena = Vec::new();
    let mut ranges = Vec::new();
    for index in 0..pieces.count() {
        let start = arena.len();
        arena.resize(start + pieces.piece_len(index), 0);
        pieces.write(index, finish, &mut arena[start..]);
        ranges.push(start..arena.len());
        let cut = pieces.count() > 1;
        let tcp = Layout::parse(frame).is_some_and(|it| it.protocol == Protocol::Tcp);
        assert!(!cut || !tcp || pieces.piece_len(index) <= largest);
    }
    let (mut coalescer, mut frames) = (Coalescer::new(), 0);
    let mut out = Vec::new();
    for range in ranges {
        let open = pieces.is_open() && !finish;
        coalescer.push(&arena, range, open, (), |(), made| {
            made.copy_to(&arena, &mut out);
            assert_eq!(out.len(), made.len);
            frames += made.frames;
        });
    }
    coalescer.flush(&arena, |(), made| frames += made.frames);
    assert_eq!(frames, pieces.count());
});
