//! Fragments: large packets cut for the stations, and the stations' fragments put together (RFC 791, section 3.2;
//! RFC 5722; RFC 8200, section 4.5), within strict bounds.
//!
//! What overlaps is dropped whole, for both versions: nobody sends that by mistake. What is not complete in time, too.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::out::Out;
use super::packet::{ETHERNET, Header, Packet, Part};

/// Packets that are not whole yet.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    waiting: BTreeMap<Key, Waiting>,
    bytes: usize,
}

/// What the fragments of one packet share (RFC 791, section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    ident: u32,
}

#[derive(Debug)]
struct Waiting {
    /// By offset; never overlapping.
    parts: BTreeMap<usize, Vec<u8>>,
    bytes: usize,
    /// The whole length, once the last part has come.
    length: Option<usize>,
    until: Instant,
}

/// What became of a fragment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Joined {
    /// It was the missing one: the payload whole.
    Whole(Vec<u8>),
    /// Others are missing.
    Waiting,
    /// It cannot be, or there is no room.
    Dropped,
}

impl Fragments {
    /// Takes a fragment.
    pub(super) fn join(&mut self, packet: &Packet<'_>, part: Part, now: Instant) -> Joined {
        let end = part.offset + packet.payload.len();
        let odd = part.more && !packet.payload.len().is_multiple_of(8);
        if packet.payload.is_empty() || odd || end > LARGEST {
            return Joined::Dropped;
        }
        // A first fragment that hides the ports of what follows is nobody's honest work (RFC 3128).
        if part.offset == 0 && part.more && packet.payload.len() < SMALLEST_FIRST {
            return Joined::Dropped;
        }
        let key = Key {
            source: packet.source,
            destination: packet.destination,
            protocol: packet.protocol,
            ident: part.ident,
        };
        if !self.has_room(&key, packet.payload.len()) {
            return Joined::Dropped;
        }
        let waiting = self.waiting.entry(key).or_insert_with(|| Waiting {
            parts: BTreeMap::new(),
            bytes: 0,
            length: None,
            until: now + PATIENCE,
        });
        if !waiting.fits(part, end) {
            self.forget(&key);
            return Joined::Dropped;
        }
        waiting.parts.insert(part.offset, packet.payload.to_vec());
        waiting.bytes += packet.payload.len();
        self.bytes += packet.payload.len();
        if waiting.length != Some(waiting.bytes) {
            return Joined::Waiting;
        }
        let parts = self.forget(&key).unwrap_or_default();
        Joined::Whole(parts.into_values().flatten().collect())
    }

    /// Forgets what was not completed in time.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> u64 {
        let late: Vec<Key> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.until <= now)
            .map(|(key, _)| *key)
            .collect();
        for key in &late {
            self.forget(key);
        }
        u64::try_from(late.len()).unwrap_or(u64::MAX)
    }

    /// When [`Self::handle_timeout`] is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.values().map(|waiting| waiting.until).min()
    }

    fn has_room(&self, key: &Key, more: usize) -> bool {
        if self.bytes + more > MAX_BYTES {
            return false;
        }
        if self.waiting.contains_key(key) {
            return true;
        }
        let of_source = self
            .waiting
            .keys()
            .filter(|waiting| waiting.source == key.source)
            .count();
        self.waiting.len() < MAX_PACKETS && of_source < MAX_PER_SOURCE
    }

    fn forget(&mut self, key: &Key) -> Option<BTreeMap<usize, Vec<u8>>> {
        let waiting = self.waiting.remove(key)?;
        self.bytes -= waiting.bytes;
        Some(waiting.parts)
    }
}

impl Waiting {
    /// Whether a part neither overlaps another nor contradicts the length.
    fn fits(&mut self, part: Part, end: usize) -> bool {
        let before = self.parts.range(..=part.offset).next_back();
        let after = self.parts.range(part.offset..).next();
        let overlaps = before.is_some_and(|(at, bytes)| at + bytes.len() > part.offset)
            || after.is_some_and(|(at, _)| *at < end);
        let last = self
            .parts
            .last_key_value()
            .map(|(at, bytes)| at + bytes.len());
        if !part.more {
            if self.length.is_some() || last.is_some_and(|last| last > end) {
                return false;
            }
            self.length = Some(end);
        }
        !overlaps && self.length.is_none_or(|length| end <= length) && self.parts.len() < MAX_PARTS
    }
}

/// Sends a packet to a station, in parts when it is larger than the MTU.
pub(super) fn cut(out: &mut Out, header: &Header, payload: &[u8]) {
    let mtu = usize::from(out.port.mtu);
    let whole = header.len() + payload.len();
    if whole - ETHERNET <= mtu {
        let mut frame = out.buffer(whole);
        frame[header.len()..].copy_from_slice(payload);
        header.write(&mut frame, None);
        out.push(frame, None);
    } else if header.source.is_ipv4() {
        cut_v4(out, header, payload, mtu);
    } else {
        cut_v6(out, header, payload, mtu);
    }
}

fn cut_v4(out: &mut Out, header: &Header, payload: &[u8], mtu: usize) {
    let size = (mtu - 20) & !7;
    let last = (payload.len() - 1) / size;
    for (at, piece) in payload.chunks(size).enumerate() {
        let mut frame = out.buffer(header.len() + piece.len());
        frame[header.len()..].copy_from_slice(piece);
        let part = Part {
            ident: 0,
            offset: at * size,
            more: at < last,
        };
        header.write(&mut frame, Some(part));
        out.push(frame, None);
    }
}

fn cut_v6(out: &mut Out, header: &Header, payload: &[u8], mtu: usize) {
    let size = (mtu - 48) & !7;
    let last = (payload.len() - 1) / size;
    let fragment = Header {
        protocol: 44,
        ..*header
    };
    for (at, piece) in payload.chunks(size).enumerate() {
        let mut frame = out.buffer(header.len() + 8 + piece.len());
        let (_, body) = frame.split_at_mut(header.len());
        let offset = super::packet::low16(at * size) | u16::from(at < last);
        body[0..2].copy_from_slice(&[header.protocol, 0]);
        body[2..4].copy_from_slice(&offset.to_be_bytes());
        body[4..8].copy_from_slice(&u32::from(header.ident).to_be_bytes());
        body[8..].copy_from_slice(piece);
        fragment.write(&mut frame, None);
        out.push(frame, None);
    }
}

/// Bytes of a packet's payload at most.
const LARGEST: usize = 65_515;
/// The ports of TCP and UDP and the first half of their headers.
const SMALLEST_FIRST: usize = 16;
/// Packets that wait.
const MAX_PACKETS: usize = 256;
/// Packets that wait of one source, so that none takes the others' room.
const MAX_PER_SOURCE: usize = 32;
/// Parts of one packet: of 1280 bytes each, more than the largest has.
const MAX_PARTS: usize = 128;
/// Bytes of all parts that wait.
const MAX_BYTES: usize = 2 << 20;
/// RFC 1122, section 3.3.2, has 60 to 120 s; nobody waits that long today.
const PATIENCE: Duration = Duration::from_secs(15);

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test may begin at any instant")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gateway::out::Port;
    use crate::gateway::packet::{Frame, UDP};
    use crate::wire::ethernet::MacAddr;

    fn cut_up(v6: bool, payload: &[u8], mtu: u16) -> Vec<Vec<u8>> {
        let port = Port {
            mtu,
            max_segment: None,
        };
        let mut out = Out::new(MacAddr([4; 6]), port);
        let (source, destination): (IpAddr, IpAddr) = if v6 {
            (
                [0xfd00, 0, 0, 0, 0, 0, 0, 1].into(),
                [0xfd00, 0, 0, 0, 0, 0, 0, 2].into(),
            )
        } else {
            ([192, 0, 2, 1].into(), [192, 0, 2, 2].into())
        };
        let header = out.header(MacAddr([2; 6]), source, destination, UDP);
        out.send(&header, payload);
        std::iter::from_fn(|| out.pop())
            .map(|frame| frame.bytes)
            .collect()
    }

    fn join(fragments: &mut Fragments, frame: &[u8], now: Instant) -> Joined {
        let frame = Frame::parse(frame).expect("whole");
        let packet = Packet::parse(frame.kind, frame.payload)
            .expect("IP")
            .expect("right");
        let part = packet.part.expect("a fragment");
        fragments.join(&packet, part, now)
    }

    proptest! {
        #[test]
        fn what_is_cut_is_joined_in_any_order(
            v6: bool, payload in prop::collection::vec(any::<u8>(), 1500..9000), mtu in 576u16..1500, seed: u64,
        ) {
            let mut frames = cut_up(v6, &payload, mtu);
            prop_assert!(frames.iter().all(|frame| frame.len() <= ETHERNET + usize::from(mtu)));
            frames.sort_by_key(|frame| frame.iter().fold(seed, |sum, byte| sum.rotate_left(5) ^ u64::from(*byte)));
            let mut fragments = Fragments::default();
            let now = Instant::now();
            let (last, first) = frames.split_last().expect("some");
            for frame in first {
                prop_assert_eq!(join(&mut fragments, frame, now), Joined::Waiting);
            }
            prop_assert_eq!(join(&mut fragments, last, now), Joined::Whole(payload));
            prop_assert_eq!(fragments.bytes, 0);
        }
    }

    #[test]
    fn what_overlaps_is_dropped_whole() {
        let frames = cut_up(false, &[7; 3000], 1500);
        let mut fragments = Fragments::default();
        let now = Instant::now();
        assert_eq!(join(&mut fragments, &frames[0], now), Joined::Waiting);
        assert_eq!(join(&mut fragments, &frames[0], now), Joined::Dropped);
        assert_eq!((fragments.waiting.len(), fragments.bytes), (0, 0));
    }

    #[test]
    fn what_is_never_completed_goes_and_cannot_fill_the_table() {
        let mut fragments = Fragments::default();
        let now = Instant::now();
        for ident in 0..1000u16 {
            let mut frame = cut_up(false, &[7; 3000], 1500).remove(0);
            frame[18..20].copy_from_slice(&ident.to_be_bytes());
            frame[24..26].fill(0);
            let checksum = !super::super::packet::fold(super::super::packet::sum(&frame[14..34]));
            frame[24..26].copy_from_slice(&checksum.to_be_bytes());
            join(&mut fragments, &frame, now);
        }
        assert_eq!(fragments.waiting.len(), MAX_PER_SOURCE);
        assert_eq!(fragments.handle_timeout(now + PATIENCE), 32);
        assert_eq!((fragments.waiting.len(), fragments.bytes), (0, 0));
    }
}
