//! TCP headers: bytes ↔ values, without memory (RFC 9293, section 3.1; RFC 7323, RFC 2018).
//!
//! Sequence numbers stay 32 bits here; [`expand`] makes stream offsets of them, which never wrap.

use super::packet::{Header, Malformed, fold, low16, sum};

/// Bits of a segment's flags.
pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const PSH: u8 = 8;
pub(super) const ACK: u8 = 16;

/// SACK blocks that are read from one segment.
pub(super) const MAX_BLOCKS: usize = 4;

/// A segment taken apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment<'a> {
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: u8,
    /// Not scaled.
    pub(super) window: u16,
    pub(super) options: Options,
    pub(super) payload: &'a [u8],
}

/// The options that we understand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// On SYN: the largest segment that the sender takes.
    pub(super) mss: Option<u16>,
    /// On SYN: by how many bits its windows are shifted.
    pub(super) scale: Option<u8>,
    /// On SYN: it understands selective acknowledgements.
    pub(super) sack_permitted: bool,
    /// What it has beyond the acknowledgement number: first sequence number and the one behind the last.
    pub(super) blocks: [Option<(u32, u32)>; MAX_BLOCKS],
}

impl<'a> Segment<'a> {
    /// The segment that is the payload of a packet; its checksum is the caller's.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let header: &[u8; 20] = bytes.first_chunk().ok_or(Malformed)?;
        let header_len = usize::from(header[12] >> 4) * 4;
        if header_len < 20 {
            return Err(Malformed);
        }
        let options = bytes.get(20..header_len).ok_or(Malformed)?;
        let word = |at: usize| {
            u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        Ok(Self {
            source_port: u16::from_be_bytes([header[0], header[1]]),
            destination_port: u16::from_be_bytes([header[2], header[3]]),
            seq: word(4),
            ack: word(8),
            flags: header[13],
            window: u16::from_be_bytes([header[14], header[15]]),
            options: Options::parse(options)?,
            payload: &bytes[header_len..],
        })
    }

    pub(super) const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

impl Options {
    fn parse(mut bytes: &[u8]) -> Result<Self, Malformed> {
        let mut options = Self::default();
        while let Some((&kind, rest)) = bytes.split_first() {
            bytes = match kind {
                0 => break,
                1 => rest,
                _ => {
                    let length = usize::from(*rest.first().ok_or(Malformed)?);
                    let value = bytes.get(2..length).ok_or(Malformed)?;
                    options.take(kind, value)?;
                    &bytes[length..]
                }
            };
        }
        Ok(options)
    }

    fn take(&mut self, kind: u8, value: &[u8]) -> Result<(), Malformed> {
        match (kind, value) {
            (2, &[high, low]) => self.mss = Some(u16::from_be_bytes([high, low])),
            // RFC 7323, section 2.3: more than 14 is taken as 14.
            (3, &[shift]) => self.scale = Some(shift.min(14)),
            (4, []) => self.sack_permitted = true,
            (5, blocks) if blocks.len() % 8 == 0 => {
                let (blocks, _) = blocks.as_chunks::<8>();
                for (place, &[a, b, c, d, e, f, g, h]) in self.blocks.iter_mut().zip(blocks) {
                    let block = (
                        u32::from_be_bytes([a, b, c, d]),
                        u32::from_be_bytes([e, f, g, h]),
                    );
                    *place = Some(block);
                }
            }
            (2..=5, _) => return Err(Malformed),
            _ => {}
        }
        Ok(())
    }

    fn len(&self) -> usize {
        let blocks = self.blocks.iter().flatten().count();
        let sum = if self.mss.is_some() { 4 } else { 0 }
            + if self.scale.is_some() { 4 } else { 0 }
            + if self.sack_permitted { 4 } else { 0 }
            + if blocks > 0 { 4 + 8 * blocks } else { 0 };
        debug_assert!(sum <= 40, "the blocks that we send are at most three");
        sum
    }

    fn write(&self, bytes: &mut [u8]) {
        let mut at = 0;
        let mut put = |piece: &[u8]| {
            bytes[at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
        };
        if let Some(mss) = self.mss {
            let [high, low] = mss.to_be_bytes();
            put(&[2, 4, high, low]);
        }
        if let Some(scale) = self.scale {
            put(&[1, 3, 3, scale]);
        }
        if self.sack_permitted {
            put(&[1, 1, 4, 2]);
        }
        let blocks = self.blocks.iter().flatten();
        let count = u8::try_from(blocks.clone().count()).unwrap_or(0);
        if count > 0 {
            put(&[1, 1, 5, 2 + 8 * count]);
            for (start, end) in blocks {
                put(&start.to_be_bytes());
                put(&end.to_be_bytes());
            }
        }
    }
}

/// A segment's header that we send; its payload stands behind it in the frame already.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outline {
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: u8,
    pub(super) window: u16,
    pub(super) options: Options,
}

impl Outline {
    /// Bytes of the header.
    pub(super) fn len(&self) -> usize {
        20 + self.options.len()
    }

    /// Writes it behind the IP header of `frame`. Without `checksum` only the pseudo-header's sum is put in, for a port
    /// that completes it (virtio's `NEEDS_CSUM`).
    pub(super) fn write(&self, header: &Header, frame: &mut [u8], checksum: bool) {
        let bytes = &mut frame[header.len()..];
        let length = self.len();
        bytes[0..2].copy_from_slice(&self.source_port.to_be_bytes());
        bytes[2..4].copy_from_slice(&self.destination_port.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.seq.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.ack.to_be_bytes());
        let [_, words] = low16(length / 4).to_be_bytes();
        bytes[12..14].copy_from_slice(&[words << 4, self.flags]);
        bytes[14..16].copy_from_slice(&self.window.to_be_bytes());
        bytes[16..20].fill(0);
        self.options.write(&mut bytes[20..length]);
        let pseudo = header.pseudo_sum(bytes.len());
        let sum = if checksum {
            !fold(pseudo + sum(bytes))
        } else {
            fold(pseudo)
        };
        bytes[16..18].copy_from_slice(&sum.to_be_bytes());
    }
}

/// The stream offset nearest to `near` whose sequence number, counted from `first`, is `seq`; `None` before the first.
pub(super) fn expand(first: u32, seq: u32, near: u64) -> Option<u64> {
    let low = seq.wrapping_sub(first);
    let distance = low.wrapping_sub(low32(near));
    if distance < 1 << 31 {
        near.checked_add(u64::from(distance))
    } else {
        near.checked_sub(u64::from(distance.wrapping_neg()))
    }
}

/// The sequence number of a stream offset.
pub(super) fn collapse(first: u32, offset: u64) -> u32 {
    first.wrapping_add(low32(offset))
}

fn low32(number: u64) -> u32 {
    let [_, _, _, _, a, b, c, d] = number.to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{TcpControl, TcpPacket, TcpRepr};

    use super::*;
    use crate::gateway::packet::{ETHERNET, IPV4, Packet, TCP, verify};
    use crate::wire::ethernet::MacAddr;

    fn header() -> Header {
        Header {
            to: MacAddr([2; 6]),
            from: MacAddr([4; 6]),
            source: [192, 0, 2, 1].into(),
            destination: [192, 0, 2, 2].into(),
            protocol: TCP,
            ttl: 64,
            ident: 0,
            dont_fragment: true,
        }
    }

    proptest! {
        #[test]
        fn smoltcp_reads_what_is_written(
            seq: u32, ack: u32, window: u16, payload: Vec<u8>, syn: bool,
            mss in proptest::option::of(1u16..), scale in proptest::option::of(0u8..15), first: u32,
        ) {
            let blocks = if syn { [None; MAX_BLOCKS] } else { [Some((first, first.wrapping_add(9))), None, None, None] };
            let options = Options {
                mss: mss.filter(|_| syn),
                scale: scale.filter(|_| syn),
                sack_permitted: syn,
                blocks,
            };
            let outline = Outline {
                source_port: 1, destination_port: 2, seq, ack, window, options,
                flags: ACK | if syn { SYN } else { 0 },
            };
            let header = header();
            let mut frame = vec![0; header.len() + outline.len()];
            frame.extend(&payload);
            header.write(&mut frame, None);
            outline.write(&header, &mut frame, true);
            let packet = Packet::parse(IPV4, &frame[ETHERNET..]).expect("IP").expect("right");
            prop_assert!(verify(&packet));
            let other = TcpPacket::new_checked(packet.payload).expect("whole");
            let repr = TcpRepr::parse(
                &other, &header.source.into(), &header.destination.into(), &ChecksumCapabilities::default(),
            ).expect("right");
            prop_assert_eq!(repr.payload, &payload[..]);
            prop_assert_eq!(repr.control, if syn { TcpControl::Syn } else { TcpControl::None });
            prop_assert_eq!(repr.max_seg_size, options.mss);
            prop_assert_eq!(repr.window_scale, options.scale);
            prop_assert_eq!(repr.sack_permitted, syn);
            prop_assert_eq!(repr.sack_ranges[0], blocks[0]);
            let own = Segment::parse(packet.payload).expect("right");
            prop_assert_eq!((own.seq, own.ack, own.window, own.options), (seq, ack, window, options));
            prop_assert_eq!(own.payload, &payload[..]);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = Segment::parse(&bytes);
        }

        #[test]
        fn offsets_come_back_from_sequence_numbers(first: u32, near in 0u64..1 << 40, away in -(1i64 << 30)..1 << 30) {
            if let Some(offset) = near.checked_add_signed(away) {
                prop_assert_eq!(expand(first, collapse(first, offset), near), Some(offset));
            }
        }
    }
}
