//! The body of an ARQ segment: bytes ↔ values. What stands before it in the datagram (first byte, indices) is the
//! link's; what the values mean is `link::arq`'s. All integers are unsigned and big-endian.
//!
//! ```text
//!   0        flags: 1 ACK · 2 RANGE · 4 FIN · 8 PING; the other bits are 0
//!   1..9     packet number: counts this side's segments up from 0, is never used twice, below 2^62
//!   9..13    awaited: how far below the packet number lies the lowest one that the sender still wants
//!            acknowledged (0: none below this one; 2^32 - 1: that far or farther). The receiver forgets what is lower
//!  13..21    receive limit: the sender takes the peer's stream up to this offset, below 2^62. It only grows, and is
//!            INITIAL_LIMIT before anything was heard
//!            with ACK:
//!    0..8      largest packet number of the peer that has arrived
//!    8..12     ack delay: microseconds between its arrival and this segment (2^32 - 1: that or longer)
//!   12..13     n, the number of ranges, 1 to 32
//!   13..17     length of the first range, which ends with the largest
//!   17..       n - 1 times: gap, 4 bytes: how many packet numbers below the range before are missing, at least 1
//!                           length, 4 bytes: how many below the gap have arrived, at least 1
//!            with RANGE: (fills the rest)
//!    0..8      offset of the first byte in the stream; the last byte lies below 2^62
//!    8..10     length in bytes; 0 only together with FIN
//!   10..       that many bytes, and nothing behind them
//! ```
//!
//! FIN (only with RANGE) says that the stream ends where this range ends. PING asks for an acknowledgement of a
//! segment that has no range. A segment with RANGE or PING is ack-eliciting (RFC 9000, section 1.2).

use std::ops::RangeInclusive;
use std::time::Duration;

/// Packet numbers, stream offsets and limits are below this (RFC 9000's 62 bits), so sums cannot overflow.
pub const MAX_NUMBER: u64 = (1 << 62) - 1;
/// No acknowledgement has more ranges than this.
pub const MAX_ACK_RANGES: usize = 32;
/// What a sender may assume of the receive limit, in bytes, before the peer has said one: enough for RFC 9002's
/// initial window, so that the first flight needs no opening exchange.
pub const INITIAL_LIMIT: u64 = 16 * 1024;

/// One segment's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// This segment's own number.
    pub packet_number: u64,
    /// The sender wants nothing below this packet number acknowledged any more. At most `packet_number`.
    pub awaited: u64,
    /// The sender takes the peer's stream up to this absolute offset, in bytes.
    pub receive_limit: u64,
    /// What has arrived from the peer.
    pub ack: Option<Ack>,
    /// Whether an acknowledgement is wanted even without a range.
    pub ping: bool,
    /// A part of the stream.
    pub range: Option<StreamRange<'a>>,
}

/// The packet numbers that have arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The time between the largest one's arrival and the acknowledgement; to the microsecond, at most 71 minutes.
    pub delay: Duration,
    /// Never empty; highest first, with at least one missing number between two.
    pub ranges: Vec<RangeInclusive<u64>>,
}

/// A part of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamRange<'a> {
    /// Where its first byte lies in the stream.
    pub offset: u64,
    /// The bytes; empty only with `fin`.
    pub data: &'a [u8],
    /// Whether the stream ends where these bytes end.
    pub fin: bool,
}

/// Why bytes are not a segment's body. The sender's fault, all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Ends before all is said.
    #[error("segment is cut short")]
    Truncated,
    /// Bytes behind the end.
    #[error("{0} bytes too many behind a segment")]
    Trailing(usize),
    /// Flags that do not exist, or do not go together.
    #[error("segment has impossible flags {0:#04x}")]
    Flags(u8),
    /// A number of 2^62 or more, or one that leads below zero.
    #[error("segment has a number out of bounds")]
    OutOfBounds,
    /// No range, too many, or an empty one.
    #[error("segment acknowledges impossible ranges")]
    Ranges,
}

impl<'a> Segment<'a> {
    /// The segment that `body` is, all of it.
    ///
    /// # Errors
    /// When it is not one whole body as described above.
    pub fn parse(body: &'a [u8]) -> Result<Self, FormatError> {
        let mut rest = Reader(body);
        let [flags] = rest.array()?;
        let known = flags & !(ACK | RANGE | FIN | PING) == 0;
        if !known || (flags & FIN != 0 && flags & RANGE == 0) {
            return Err(FormatError::Flags(flags));
        }
        let packet_number = rest.number()?;
        let awaited = packet_number.saturating_sub(u64::from(rest.u32()?));
        let receive_limit = rest.number()?;
        let ack = if flags & ACK == 0 {
            None
        } else {
            Some(Ack::parse(&mut rest)?)
        };
        let range = if flags & RANGE == 0 {
            None
        } else {
            Some(StreamRange::parse(&mut rest, flags)?)
        };
        if !rest.0.is_empty() {
            return Err(FormatError::Trailing(rest.0.len()));
        }
        Ok(Self {
            packet_number,
            awaited,
            receive_limit,
            ack,
            ping: flags & PING != 0,
            range,
        })
    }

    /// Appends the body. Ranges beyond [`MAX_ACK_RANGES`], or too far apart for the format, are left out: the peer
    /// then learns less, never something false. A stream range longer than 65535 bytes is cut.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.flags());
        out.extend(self.packet_number.to_be_bytes());
        out.extend(saturate(self.packet_number.saturating_sub(self.awaited)).to_be_bytes());
        out.extend(self.receive_limit.to_be_bytes());
        if let Some(ack) = &self.ack {
            ack.encode(out);
        }
        if let Some(range) = &self.range {
            range.encode(out);
        }
    }

    /// Whether the peer must acknowledge it.
    #[must_use]
    pub const fn is_ack_eliciting(&self) -> bool {
        self.ping || self.range.is_some()
    }

    fn flags(&self) -> u8 {
        let mut flags = 0;
        if self.ack.as_ref().is_some_and(|ack| !ack.ranges.is_empty()) {
            flags |= ACK;
        }
        if self.ping {
            flags |= PING;
        }
        if let Some(range) = &self.range {
            flags |= if range.fin { RANGE | FIN } else { RANGE };
        }
        flags
    }
}

impl Ack {
    /// The size in bytes of an acknowledgement with this many ranges.
    #[must_use]
    pub const fn size(ranges: usize) -> usize {
        9 + 8 * ranges
    }

    fn parse(rest: &mut Reader<'_>) -> Result<Self, FormatError> {
        let largest = rest.number()?;
        let delay = Duration::from_micros(u64::from(rest.u32()?));
        let [count] = rest.array()?;
        let count = usize::from(count);
        if count == 0 || count > MAX_ACK_RANGES {
            return Err(FormatError::Ranges);
        }
        let mut ranges = vec![down_from(largest, rest.u32()?)?];
        let mut lowest = *ranges[0].start();
        for _ in 1..count {
            let gap = rest.u32()?;
            if gap == 0 {
                return Err(FormatError::Ranges);
            }
            let end = lowest.checked_sub(u64::from(gap) + 1);
            let range = down_from(end.ok_or(FormatError::OutOfBounds)?, rest.u32()?)?;
            lowest = *range.start();
            ranges.push(range);
        }
        Ok(Self { delay, ranges })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let Some(first) = self.ranges.first() else {
            return;
        };
        out.extend(first.end().to_be_bytes());
        out.extend(
            u32::try_from(self.delay.as_micros())
                .unwrap_or(u32::MAX)
                .to_be_bytes(),
        );
        let count_at = out.len();
        out.push(1);
        let mut lowest = encode_length(first, out);
        for range in self.ranges.iter().skip(1).take(MAX_ACK_RANGES - 1) {
            // A range that was too long was cut at its lower end, which widens the gap below it.
            let gap = lowest.saturating_sub(range.end() + 1);
            let Ok(gap) = u32::try_from(gap) else {
                break;
            };
            out.extend(gap.to_be_bytes());
            lowest = encode_length(range, out);
            out[count_at] += 1;
        }
    }
}

impl<'a> StreamRange<'a> {
    /// The size in bytes of what stands before the data.
    pub const HEADER: usize = 10;

    fn parse(rest: &mut Reader<'a>, flags: u8) -> Result<Self, FormatError> {
        let offset = rest.number()?;
        let length = usize::from(u16::from_be_bytes(rest.array()?));
        let data = rest.take(length)?;
        if offset + data.len() as u64 > MAX_NUMBER {
            return Err(FormatError::OutOfBounds);
        }
        if data.is_empty() && flags & FIN == 0 {
            return Err(FormatError::Flags(flags));
        }
        Ok(Self {
            offset,
            data,
            fin: flags & FIN != 0,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let length = u16::try_from(self.data.len()).unwrap_or(u16::MAX);
        out.extend(self.offset.to_be_bytes());
        out.extend(length.to_be_bytes());
        out.extend(&self.data[..usize::from(length)]);
    }
}

/// The size in bytes of what every body has: flags, packet number, awaited, receive limit.
pub const HEADER: usize = 21;

const ACK: u8 = 1;
const RANGE: u8 = 2;
const FIN: u8 = 4;
const PING: u8 = 8;

/// The `length` numbers that end with `end`.
fn down_from(end: u64, length: u32) -> Result<RangeInclusive<u64>, FormatError> {
    if length == 0 {
        return Err(FormatError::Ranges);
    }
    let start = end.checked_sub(u64::from(length) - 1);
    Ok(start.ok_or(FormatError::OutOfBounds)?..=end)
}

/// Appends the length of a range and returns the lowest number that it then covers.
fn encode_length(range: &RangeInclusive<u64>, out: &mut Vec<u8>) -> u64 {
    let length = saturate(range.end().saturating_sub(*range.start()).saturating_add(1));
    out.extend(length.to_be_bytes());
    (range.end() + 1).saturating_sub(u64::from(length))
}

fn saturate(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], FormatError> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(FormatError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(FormatError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_be_bytes)
    }

    fn number(&mut self) -> Result<u64, FormatError> {
        let number = u64::from_be_bytes(self.array()?);
        if number > MAX_NUMBER {
            Err(FormatError::OutOfBounds)
        } else {
            Ok(number)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::vectors::Vector;

    /// The one with everything in it.
    fn vector() -> Vec<u8> {
        Vector::named("segments").bytes("everything").to_vec()
    }

    fn vector_value() -> Segment<'static> {
        Segment {
            packet_number: 258,
            awaited: 256,
            receive_limit: 65536,
            ack: Some(Ack {
                delay: Duration::from_micros(1234),
                ranges: vec![7..=9, 4..=4],
            }),
            ping: false,
            range: Some(StreamRange {
                offset: 1000,
                data: b"hello",
                fin: true,
            }),
        }
    }

    /// A segment with nothing in it but its numbers.
    const fn bare(packet_number: u64, awaited: u64) -> Segment<'static> {
        Segment {
            packet_number,
            awaited,
            receive_limit: 262_144,
            ack: None,
            ping: false,
            range: None,
        }
    }

    /// What PROTOCOL.md says.
    #[test]
    fn the_vectors_hold() {
        let vector = Vector::named("segments");
        let mut data = bare(0, 0);
        data.range = Some(StreamRange {
            offset: 0,
            data: b"hello",
            fin: false,
        });
        let mut ack = bare(3, 0);
        ack.ack = Some(Ack {
            delay: Duration::from_millis(25),
            ranges: vec![0..=0],
        });
        let mut ping = bare(4, 3);
        ping.ping = true;
        let all = [
            ("data", data),
            ("everything", vector_value()),
            ("ack", ack),
            ("ping", ping),
        ];
        assert_eq!(vector.fields().count(), all.len());
        for (name, segment) in all {
            let mut out = Vec::new();
            segment.encode(&mut out);
            assert_eq!(out, vector.bytes(name), "{name}");
            assert_eq!(Segment::parse(&out), Ok(segment), "{name}");
        }
    }

    #[test]
    fn every_cut_and_every_addition_is_refused() {
        let bytes = vector();
        for length in 0..bytes.len() {
            assert_eq!(
                Segment::parse(&bytes[..length]),
                Err(FormatError::Truncated)
            );
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert_eq!(Segment::parse(&longer), Err(FormatError::Trailing(1)));
    }

    #[test]
    fn impossible_values_are_refused() {
        let changed = |at: usize, byte: u8| {
            let mut bytes = vector();
            bytes[at] = byte;
            Segment::parse(&bytes).map(|_| ())
        };
        assert_eq!(
            changed(0, 0x17),
            Err(FormatError::Flags(0x17)),
            "unknown flag"
        );
        assert_eq!(changed(0, 0x05), Err(FormatError::Flags(0x05)), "FIN alone");
        assert_eq!(
            changed(1, 0x40),
            Err(FormatError::OutOfBounds),
            "packet number"
        );
        assert_eq!(changed(13, 0x40), Err(FormatError::OutOfBounds), "limit");
        assert_eq!(changed(33, 0), Err(FormatError::Ranges), "no range");
        assert_eq!(changed(33, 33), Err(FormatError::Ranges), "too many ranges");
        assert_eq!(
            changed(37, 0),
            Err(FormatError::Ranges),
            "empty first range"
        );
        assert_eq!(changed(37, 11), Err(FormatError::OutOfBounds), "below zero");
        assert_eq!(changed(41, 0), Err(FormatError::Ranges), "no gap");
        assert_eq!(changed(45, 0), Err(FormatError::Ranges), "empty range");
        let empty = Segment {
            ack: None,
            range: Some(StreamRange {
                offset: 0,
                data: &[],
                fin: false,
            }),
            ..vector_value()
        };
        let mut out = Vec::new();
        empty.encode(&mut out);
        assert_eq!(Segment::parse(&out), Err(FormatError::Flags(2)));
    }

    #[test]
    fn numbers_that_do_not_fit_are_left_out_and_never_false() {
        let length = u64::from(u32::MAX);
        let end = 1 << 41;
        // One more than a length can say, a gap of three, a range, then a gap that does not fit.
        let start = end - length;
        let far = Ack {
            delay: Duration::from_secs(1 << 40),
            ranges: vec![start..=end, start - 8..=start - 4, 0..=7],
        };
        let segment = Segment {
            awaited: 0,
            packet_number: MAX_NUMBER,
            ack: Some(far),
            ..vector_value()
        };
        let mut out = Vec::new();
        segment.encode(&mut out);
        let read = Segment::parse(&out).expect("own bytes");
        assert_eq!(read.awaited, MAX_NUMBER - u64::from(u32::MAX));
        let ack = read.ack.expect("was sent");
        assert_eq!(ack.ranges, [start + 1..=end, start - 8..=start - 4]);
        assert_eq!(ack.delay, Duration::from_micros(length));
    }

    fn any_ack() -> impl Strategy<Value = Option<Ack>> {
        let steps = prop::collection::vec((1u64..1000, 1u64..1000), 1..=MAX_ACK_RANGES);
        prop::option::of((any::<u32>(), 100_000u64..1 << 61, steps)).prop_map(|parts| {
            let (delay, mut end, steps) = parts?;
            let mut ranges = Vec::new();
            for (gap, length) in steps {
                ranges.push(end + 1 - length..=end);
                end -= length + gap;
            }
            Some(Ack {
                delay: Duration::from_micros(u64::from(delay)),
                ranges,
            })
        })
    }

    proptest! {
        #[test]
        fn round_trip(
            packet_number in 0..=MAX_NUMBER,
            awaited: u32,
            receive_limit in 0..=MAX_NUMBER,
            ack in any_ack(),
            ping: bool,
            range in prop::option::of((0..MAX_NUMBER - 2000, prop::collection::vec(any::<u8>(), 0..1500), any::<bool>())),
        ) {
            let segment = Segment {
                packet_number,
                awaited: packet_number.saturating_sub(u64::from(awaited)),
                receive_limit,
                ack,
                ping,
                range: range.as_ref().map(|(offset, data, fin)| StreamRange {
                    offset: *offset,
                    data,
                    fin: *fin || data.is_empty(),
                }),
            };
            let mut out = Vec::new();
            segment.encode(&mut out);
            let ranges = segment.ack.as_ref().map_or(0, |ack| Ack::size(ack.ranges.len()));
            let data = segment.range.map_or(0, |range| StreamRange::HEADER + range.data.len());
            prop_assert_eq!(out.len(), HEADER + ranges + data);
            prop_assert_eq!(Segment::parse(&out), Ok(segment));
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_what_is_read_is_written_again(mut bytes: Vec<u8>, flags in 0u8..16) {
            if let Some(first) = bytes.first_mut() {
                *first = flags;
            }
            if let Ok(segment) = Segment::parse(&bytes) {
                let mut out = Vec::new();
                segment.encode(&mut out);
                prop_assert_eq!(Segment::parse(&out), Ok(segment));
            }
        }

        #[test]
        fn a_flipped_bit_never_panics(bit: prop::sample::Index) {
            let mut bytes = vector();
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let _ = Segment::parse(&bytes);
        }
    }
}
