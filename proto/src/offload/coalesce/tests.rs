//! What is joined is what was cut, and nothing overtakes its own flow.

use proptest::prelude::*;

use super::super::split::tests::{header, pieces, tagged, tcp4, udp6};
use super::*;

/// Runs frames (open or not, and where to) through a coalescer: what comes out, as header, frames in it and bytes.
fn run(frames: &[(Vec<u8>, bool, u8)]) -> Vec<(u8, VnetHeader, usize, Vec<u8>)> {
    let mut arena = Vec::new();
    let mut ranges = Vec::new();
    for (frame, ..) in frames {
        arena.extend([0xaa; 20]);
        ranges.push(arena.len()..arena.len() + frame.len());
        arena.extend(frame);
    }
    let mut out = Vec::new();
    let mut coalescer = Coalescer::new();
    let mut emit = |to: u8, made: &Super| {
        let mut bytes = Vec::new();
        made.copy_to(&arena, &mut bytes);
        assert_eq!(bytes.len(), made.len);
        out.push((to, made.vnet, made.frames, bytes));
    };
    for (range, (_, open, to)) in ranges.into_iter().zip(frames) {
        coalescer.push(&arena, range, *open, *to, &mut emit);
    }
    coalescer.flush(&arena, &mut emit);
    out
}

/// Takes super-frames apart again as the kernel would.
fn apart(made: &[(u8, VnetHeader, usize, Vec<u8>)]) -> Vec<Vec<u8>> {
    made.iter()
        .flat_map(|(_, vnet, _, frame)| pieces(*vnet, frame, usize::MAX, true))
        .collect()
}

#[test]
fn a_stream_in_a_row_becomes_one_frame() {
    let frame = tcp4(&[7; 20_000], 1);
    for open in [false, true] {
        let cut = pieces(header(&frame, 1400), &frame, 2000, !open);
        let made = run(&cut
            .into_iter()
            .map(|piece| (piece, open, 0))
            .collect::<Vec<_>>());
        assert_eq!(made.len(), 1);
        assert_eq!(
            (made[0].1.gso, made[0].1.gso_size, made[0].2),
            (Gso::Tcp4, 1400, 15)
        );
        // The kernel's checksum field holds the open sum; else it is the frame that was cut.
        assert_eq!(
            apart(&made),
            pieces(header(&frame, 1400), &frame, 2000, true)
        );
    }
}

#[test]
fn udp_of_one_size_joins_and_a_shorter_one_ends_it() {
    let frame = udp6(&[7; 3500]);
    let cut = pieces(header(&frame, 1000), &frame, 2000, true);
    let made = run(&cut
        .iter()
        .map(|piece| (piece.clone(), false, 0))
        .collect::<Vec<_>>());
    assert_eq!(made.iter().map(|it| it.2).collect::<Vec<_>>(), [4]);
    assert_eq!(made[0].1.gso, Gso::Udp);
    assert_eq!(apart(&made), cut);
}

#[test]
fn what_differs_does_not_join() {
    let frame = tcp4(&[7; 2800], 1);
    let cut = pieces(header(&frame, 1400), &frame, 2000, true);
    let (first, second) = (&cut[0], &cut[1]);
    let joined = |first: &[u8], second: &[u8], to| {
        run(&[(first.to_vec(), true, 0), (second.to_vec(), true, to)]).len() == 1
    };
    assert!(joined(first, second, 0));
    assert!(!joined(first, second, 1), "another destination");
    assert!(!joined(second, first, 0), "the wrong order");
    assert!(!joined(first, first, 0), "the same again");
    assert!(!joined(first, &tagged(second), 0), "another VLAN");
    // Station, traffic class, time to live, address, acknowledgement, window, timestamp.
    for at in [3, 15, 22, 29, 34 + 11, 34 + 15, 34 + 25] {
        let mut other = second.clone();
        other[at] ^= 2;
        assert!(!joined(first, &other, 0), "byte {at}");
    }
    let mut wrong = second.clone();
    wrong[100] ^= 1;
    let made = run(&[(first.clone(), false, 0), (wrong, false, 0)]);
    assert_eq!(made.len(), 2, "a checksum that is there must be right");
}

#[test]
fn nothing_is_put_behind_a_push_or_a_short_piece() {
    let frame = tcp4(&[7; 1500], 1);
    let mut cut = pieces(header(&frame, 1000), &frame, 2000, true);
    cut.push(tcp4(&[8; 100], 1501));
    let made = run(&cut
        .iter()
        .map(|piece| (piece.clone(), false, 0))
        .collect::<Vec<_>>());
    assert_eq!(made.iter().map(|it| it.2).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(apart(&made), cut);
}

#[test]
fn a_frame_of_another_kind_overtakes_nothing() {
    let arp = [&[0xff; 12][..], &[8, 6], &[0; 28]].concat();
    let made = run(&[(tcp4(&[1; 9], 1), false, 0), (arp.clone(), false, 0)]);
    assert_eq!(made[1].3, arp);
}

#[derive(Clone, Debug)]
enum Kind {
    Stream(u8, usize),
    Datagram(usize),
    Other,
}

fn kinds() -> impl Strategy<Value = Vec<Kind>> {
    let kind = prop_oneof![
        8 => (0..3_u8, prop_oneof![Just(1000_usize), 1..1000_usize]).prop_map(|(flow, size)| Kind::Stream(flow, size)),
        3 => prop_oneof![Just(500_usize), 1..600_usize].prop_map(Kind::Datagram),
        1 => Just(Kind::Other),
    ];
    prop::collection::vec(kind, 1..150)
}

/// Frames of three streams, with their bytes in order, and others between them.
fn frames(kinds: &[Kind], open: bool) -> Vec<Vec<u8>> {
    let mut next = [0_u32; 3];
    let make = |kind: &Kind| match *kind {
        Kind::Stream(flow, size) => {
            let sequence = &mut next[usize::from(flow)];
            let mut frame = tcp4(&vec![flow; size], *sequence);
            *sequence += u32::try_from(size).expect("short");
            frame[34 + 1] = flow;
            // Without PSH most of the time.
            if size % 7 != 0 {
                frame[34 + 13] &= !PSH;
            }
            sum(&mut frame, open);
            frame
        }
        Kind::Datagram(size) => {
            let mut frame = udp6(&vec![1; size]);
            sum(&mut frame, open);
            frame
        }
        Kind::Other => [&[0xff; 12][..], &[8, 6], &[3; 28]].concat(),
    };
    kinds.iter().map(make).collect()
}

fn sum(frame: &mut [u8], open: bool) {
    let layout = Layout::parse(frame).expect("well made");
    let field = layout.transport + layout.protocol.checksum_offset();
    let pseudo = checksum::fold(checksum::pseudo(
        frame,
        &layout,
        layout.end - layout.transport,
    ));
    frame[field..field + 2].copy_from_slice(&pseudo.to_ne_bytes());
    if !open {
        checksum::finish_frame(frame);
    }
}

/// What tells flows apart in these tests.
fn flow(frame: &[u8]) -> Vec<u8> {
    let ports = Layout::parse(frame).map_or(0..0, |layout| layout.transport..layout.transport + 4);
    frame[ports].to_vec()
}

/// IPv4's id is the one thing that joining does not keep (RFC 6864 lets it, for packets that are not fragmented).
fn without_id(mut frame: Vec<u8>) -> Vec<u8> {
    if frame[12..14] == [8, 0] {
        frame[18..20].fill(0);
        frame[24..26].fill(0);
    }
    frame
}

proptest! {
    /// The kernel takes apart what was joined: every flow has its frames again, in order, byte for byte.
    #[test]
    fn joining_keeps_every_frame_and_the_order_of_each_flow(kinds in kinds(), open: bool) {
        let given = frames(&kinds, open);
        let made = run(&given.iter().map(|frame| (frame.clone(), open, 0)).collect::<Vec<_>>());
        let back: Vec<_> = apart(&made).into_iter().map(without_id).collect();
        let finished: Vec<_> = frames(&kinds, false).into_iter().map(without_id).collect();
        let mut flows: Vec<_> = finished.iter().map(|frame| flow(frame)).collect();
        flows.sort();
        flows.dedup();
        prop_assert_eq!(back.len(), finished.len());
        for key in flows {
            let of = |frames: &[Vec<u8>]| frames.iter().filter(|it| flow(it) == key).cloned().collect::<Vec<_>>();
            prop_assert_eq!(of(&back), of(&finished));
        }
    }

    #[test]
    fn arbitrary_frames_never_panic_and_none_is_lost(
        mut frames in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..200), any::<bool>(), 0..2_u8), 0..40), like in 0..3_usize,
    ) {
        for (frame, ..) in &mut frames {
            let start = [tcp4(&[], 0), udp6(&[]), vec![]][like].clone();
            for (to, from) in frame.iter_mut().zip(&start[..start.len().min(40)]) {
                *to = *from;
            }
        }
        let made = run(&frames);
        prop_assert_eq!(made.iter().map(|it| it.2).sum::<usize>(), frames.len());
    }
}
