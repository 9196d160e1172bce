//! Frames to cut, made by another library, and what must be true of their pieces.

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::*;

const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
const B: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A frame of TCP over IPv4 with timestamps and a right checksum.
pub(crate) fn tcp4(payload: &[u8], sequence: u32) -> Vec<u8> {
    tcp4_flagged(payload, sequence, false)
}

fn tcp4_flagged(payload: &[u8], sequence: u32, fin: bool) -> Vec<u8> {
    let timestamps = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    let mut builder = PacketBuilder::ethernet2(A, B)
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .tcp(1000, 2000, sequence, 500)
        .ack(77)
        .psh();
    if fin {
        builder = builder.fin();
    }
    let builder = builder.options_raw(&timestamps).expect("12 bytes");
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).expect("fits");
    frame
}

/// A frame of UDP over IPv6 with a right checksum.
pub(crate) fn udp6(payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(A, B)
        .ipv6([1; 16], [2; 16], 64)
        .udp(5, 6);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).expect("fits");
    frame
}

/// The same in a VLAN.
pub(crate) fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat()
}

/// What the kernel says before a super-frame.
pub(crate) fn header(frame: &[u8], gso_size: usize) -> VnetHeader {
    let layout = Layout::parse(frame).expect("well made");
    let short = |value: usize| u16::try_from(value).expect("short");
    let gso = match (layout.protocol, layout.version) {
        (Protocol::Tcp, Version::V4) => Gso::Tcp4,
        (Protocol::Tcp, Version::V6) => Gso::Tcp6,
        (Protocol::Udp, _) => Gso::Udp,
    };
    VnetHeader {
        needs_csum: true,
        gso,
        hdr_len: short(layout.payload),
        gso_size: short(gso_size),
        csum_start: short(layout.transport),
        csum_offset: short(layout.protocol.checksum_offset()),
        ..VnetHeader::default()
    }
}

pub(crate) fn pieces(vnet: VnetHeader, frame: &[u8], largest: usize, finish: bool) -> Vec<Vec<u8>> {
    let pieces = split(vnet, frame, largest).expect("well made");
    let write = |index| {
        let mut piece = vec![0; pieces.piece_len(index)];
        pieces.write(index, finish, &mut piece);
        piece
    };
    (0..pieces.count()).map(write).collect()
}

/// Sequence number and payload of a piece; its lengths and checksums are checked.
fn read(piece: &[u8]) -> (u32, Vec<u8>) {
    let packet = SlicedPacket::from_ethernet(piece).expect("a frame");
    let ip = packet.net.as_ref().and_then(|net| net.ipv4_ref());
    if let Some(ip) = ip {
        let header = ip.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
    }
    let layout = Layout::parse(piece).expect("TCP or UDP");
    assert!(checksum::is_right(piece, &layout));
    assert_eq!(layout.end, piece.len());
    let Some(TransportSlice::Tcp(tcp)) = packet.transport else {
        return (0, piece[layout.payload..].to_vec());
    };
    (tcp.sequence_number(), tcp.payload().to_vec())
}

#[test]
fn the_last_piece_alone_ends_the_stream() {
    let frame = tcp4_flagged(&[1; 2500], 1, true);
    let flags: Vec<u8> = pieces(header(&frame, 1000), &frame, 1500, true)
        .iter()
        .map(|piece| piece[34 + 13] & (FIN | PSH))
        .collect();
    assert_eq!(flags, [0, 0, FIN | PSH]);
}

#[test]
fn udp_keeps_its_datagrams_even_if_they_are_larger_than_asked_for() {
    let payload: Vec<u8> = (0..=255).cycle().take(3000).collect();
    let frame = udp6(&payload);
    let cut = pieces(header(&frame, 1300), &frame, 1000, true);
    let payloads: Vec<_> = cut.iter().map(|piece| read(piece).1).collect();
    let expected: Vec<_> = payload.chunks(1300).map(<[u8]>::to_vec).collect();
    assert_eq!(payloads, expected);
}

#[test]
fn a_plain_frame_is_copied_and_a_large_one_of_tcp_cut_if_its_checksum_is_right() {
    let frame = tcp4(&[3; 1448], 9);
    assert_eq!(
        pieces(VnetHeader::default(), &frame, 1514, true),
        std::slice::from_ref(&frame)
    );
    // Its checksum was there, so theirs are too, whether or not open ones are to be finished.
    for finish in [true, false] {
        let cut = pieces(VnetHeader::default(), &frame, 1400, finish);
        assert_eq!(cut.len(), 2);
        assert_eq!(read(&cut[1]).0, 9 + 1400 - 66);
    }
    let mut wrong = frame;
    wrong[100] ^= 1;
    assert_eq!(
        pieces(VnetHeader::default(), &wrong, 1400, true),
        [wrong.clone()]
    );
}

#[test]
fn a_checksum_inside_of_a_tunnel_is_finished_at_its_place() {
    let inner = tcp4(&[5; 50], 1);
    let mut frame = udp6(&inner);
    let start = frame.len() - inner.len() + 34;
    let layout = Layout::parse(&inner).expect("well made");
    let open = checksum::fold(checksum::pseudo(&inner, &layout, inner.len() - 34));
    frame[start + 16..start + 18].copy_from_slice(&open.to_ne_bytes());
    let vnet = VnetHeader {
        needs_csum: true,
        csum_start: start.try_into().expect("short"),
        csum_offset: 16,
        ..VnetHeader::default()
    };
    for finish in [false, true] {
        let whole = pieces(vnet, &frame, 1500, finish);
        assert_eq!(whole[0][whole[0].len() - inner.len()..], inner);
    }
}

#[test]
fn contradictions_are_refused() {
    let frame = tcp4(&[1; 3000], 1);
    let good = header(&frame, 1000);
    let bad = [
        VnetHeader {
            gso_size: 0,
            ..good
        },
        VnetHeader {
            gso: Gso::Udp,
            ..good
        },
        VnetHeader {
            gso: Gso::Tcp6,
            ..good
        },
        VnetHeader {
            needs_csum: false,
            ..good
        },
    ];
    for vnet in bad {
        assert_eq!(split(vnet, &frame, 1500).err(), Some(SplitError::Malformed));
    }
    let outside = VnetHeader {
        csum_start: 60_000,
        ..good
    };
    assert_eq!(
        split(outside, &frame, 1500).err(),
        Some(SplitError::Checksum)
    );
    assert_eq!(
        split(good, &frame[..13], 1500).err(),
        Some(SplitError::Short(13))
    );
    assert_eq!(
        split(good, &frame[..2000], 1500).err(),
        Some(SplitError::Malformed)
    );
}

proptest! {
    #[test]
    fn the_pieces_are_the_stream(
        payload in prop::collection::vec(any::<u8>(), 1..9000), sequence: u32,
        gso_size in 300..1460_usize, largest in 400..2000_usize, vlan: bool,
    ) {
        let frame = tcp4(&payload, sequence);
        let frame = if vlan { tagged(&frame) } else { frame };
        let mut stream = Vec::new();
        for piece in pieces(header(&frame, gso_size), &frame, largest, true) {
            prop_assert!(piece.len() <= largest);
            let (at, bytes) = read(&piece);
            prop_assert_eq!(at, sequence.wrapping_add(u32::try_from(stream.len()).expect("short")));
            prop_assert!(!bytes.is_empty() && bytes.len() <= gso_size);
            stream.extend(bytes);
        }
        prop_assert_eq!(stream, payload);
    }

    /// What stays open is what the receiver needs to finish it.
    #[test]
    fn an_open_piece_finished_later_is_the_finished_piece(payload in prop::collection::vec(any::<u8>(), 1..5000), size in 300..1460_usize) {
        let frame = tcp4(&payload, 5);
        let vnet = header(&frame, size);
        let mut open = pieces(vnet, &frame, 1500, false);
        for piece in &mut open {
            prop_assert!(checksum::finish_frame(piece));
        }
        prop_assert_eq!(open, pieces(vnet, &frame, 1500, true));
    }

    #[test]
    fn arbitrary_headers_and_frames_never_panic(vnet: [u8; 10], mut frame: Vec<u8>, largest: u16, like in 0..3_usize, kind in 0..6_u8) {
        let start = [tcp4(&[], 0), udp6(&[]), vec![]][like].clone();
        for (to, from) in frame.iter_mut().zip(&start[..start.len().min(40)]) {
            *to = *from;
        }
        let mut vnet = vnet;
        vnet[1] = kind;
        let Ok(vnet) = VnetHeader::parse(&vnet) else { return Ok(()) };
        if let Ok(pieces) = split(vnet, &frame, largest.into()) {
            for index in [0, pieces.count() / 2, pieces.count() - 1] {
                let mut piece = vec![0; pieces.piece_len(index)];
                pieces.write(index, index % 2 == 0, &mut piece);
            }
        }
    }
}
