//! Frames to the card, joined or alone, with or without the kernel's help.

use std::io::IoSlice;

use kuguri_proto::offload::{Super, VnetHeader, checksum};

use crate::tap::{CardPort, PIECES};

/// Gives a frame or super-frame to programs.
pub(super) fn write(card: &CardPort, arena: &[u8], made: &Super) {
    let mut pieces: [IoSlice<'_>; PIECES] = std::array::from_fn(|_| IoSlice::new(&[]));
    pieces[1] = IoSlice::new(made.head());
    let mut count = 2;
    for (place, piece) in pieces.iter_mut().skip(2).zip(made.pieces()) {
        *place = IoSlice::new(arena.get(piece.clone()).unwrap_or_default());
        count += 1;
    }
    let frames = u64::try_from(made.frames).unwrap_or_default();
    card.send(made.vnet, &mut pieces[..count], frames);
}

/// Gives one whole frame to programs; with an open checksum only if the kernel takes such.
pub(super) fn write_one(card: &CardPort, frame: &[u8], open: bool, scratch: &mut Vec<u8>) {
    let plain = VnetHeader::default();
    if !open {
        card.send(plain, &mut [IoSlice::new(&[]), IoSlice::new(frame)], 1);
        return;
    }
    scratch.clear();
    scratch.extend_from_slice(frame);
    if checksum::finish_frame(scratch) {
        card.send(plain, &mut [IoSlice::new(&[]), IoSlice::new(scratch)], 1);
    } else {
        card.drop_frames(1);
    }
}
