//! Fragmentation (RFC 791, section 3.2; RFC 8200, section 4.5): a packet in pieces, and whole again.
//!
//! ```text
//!   packet ─ fragments(mtu) ─► piece piece piece ─ Reassembler ─► packet
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Body, Packet};

impl Packet {
    /// The packet in pieces that are not larger than `mtu`; itself, if it is not larger or cannot be cut.
    #[must_use]
    pub fn fragments(&self, mtu: usize, identification: u32) -> Vec<Self> {
        let header = if self.is_ipv6() { 48 } else { 20 };
        let room = mtu.saturating_sub(header) & !7;
        if self.len() <= mtu || room == 0 {
            return vec![self.clone()];
        }
        let whole = self.emit();
        let cut_before = if let Body::Fragment {
            identification,
            offset,
            more,
            protocol,
            ..
        } = self.body
        {
            Some((offset, more, identification, protocol))
        } else {
            None
        };
        let skipped = match (self.is_ipv6(), cut_before) {
            (true, Some(_)) => 48,
            (true, None) => 40,
            (false, _) => 20,
        };
        let protocol = self.body.protocol(self.is_ipv6());
        let (start, last_more, identification, protocol) =
            cut_before.unwrap_or((0, false, identification, protocol));
        let payload = whole.get(skipped..).unwrap_or_default();
        let count = payload.len().div_ceil(room);
        let pieces = payload.chunks(room).enumerate().map(|(number, piece)| {
            let offset = u16::try_from(number * room / 8).unwrap_or(u16::MAX);
            Body::Fragment {
                identification,
                offset: start.saturating_add(offset),
                more: number + 1 < count || last_more,
                protocol,
                payload: piece.to_vec(),
            }
        });
        pieces.map(|body| Self { body, ..*self }).collect()
    }
}

/// Pieces of packets that are not whole yet. Bounded in number and time.
#[derive(Debug, Default)]
pub struct Reassembler {
    packets: BTreeMap<Key, Pieces>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    identification: u32,
    protocol: u8,
}

#[derive(Debug)]
struct Pieces {
    since: Instant,
    /// By their offset in units of 8 bytes.
    pieces: BTreeMap<u16, Vec<u8>>,
    ends: Option<usize>,
}

impl Reassembler {
    /// Takes a piece; the whole packet when it was the last one missing. What is no fragment is whole already. With
    /// `in_order` a piece that does not follow the one before is lost with its packet.
    pub fn push(&mut self, packet: Packet, in_order: bool, now: Instant) -> Option<Packet> {
        let Body::Fragment {
            identification,
            offset,
            more,
            protocol,
            ref payload,
        } = packet.body
        else {
            return Some(packet);
        };
        self.forget(now);
        let key = Key {
            source: packet.source,
            destination: packet.destination,
            identification,
            protocol,
        };
        let pieces = self.packets.entry(key).or_insert_with(|| Pieces {
            since: now,
            pieces: BTreeMap::new(),
            ends: None,
        });
        let follows = usize::from(offset) * 8 == pieces.length();
        if in_order && !follows {
            self.packets.remove(&key);
            return None;
        }
        if !more {
            pieces.ends = Some(usize::from(offset) * 8 + payload.len());
        }
        pieces.pieces.insert(offset, payload.clone());
        let whole = pieces.whole()?;
        self.packets.remove(&key);
        let mut headed = packet;
        headed.body = Body::Other {
            protocol,
            payload: whole,
        };
        Packet::parse(&headed.emit()).ok()
    }

    fn forget(&mut self, now: Instant) {
        self.packets
            .retain(|_, pieces| now.saturating_duration_since(pieces.since) < PATIENCE);
        if self.packets.len() >= MOST_PACKETS {
            self.packets.pop_first();
        }
    }
}

impl Pieces {
    /// How many bytes there are from the start on without a gap.
    fn length(&self) -> usize {
        self.pieces.iter().fold(0, |end, (&offset, piece)| {
            if usize::from(offset) * 8 == end {
                end + piece.len()
            } else {
                end
            }
        })
    }

    fn whole(&self) -> Option<Vec<u8>> {
        let complete = self.ends == Some(self.length());
        complete.then(|| self.pieces.values().flatten().copied().collect())
    }
}

/// RFC 1122, section 3.3.2, allows 60 to 120 s; gateways take less.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many packets may be incomplete at once.
const MOST_PACKETS: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(size: usize, ipv6: bool) -> Packet {
        let ends = if ipv6 {
            ["[2001:db8::1]:1", "[2001:db8::2]:2"]
        } else {
            ["192.0.2.1:1", "192.0.2.2:2"]
        };
        let [source, destination] = ends.map(|end| end.parse().expect("an endpoint"));
        let mut packet = Packet::udp(source, destination, (0..=255).cycle().take(size).collect());
        packet.dont_fragment = ipv6;
        packet
    }

    #[test]
    fn out_of_order_pieces_are_lost_where_order_is_wanted() {
        let now = Instant::now();
        let pieces = packet(3000, false).fragments(1500, 7);
        for (in_order, whole) in [(true, false), (false, true)] {
            let mut reassembler = Reassembler::default();
            let mut done = None;
            for piece in pieces.iter().rev() {
                done = reassembler.push(piece.clone(), in_order, now);
            }
            assert_eq!(done.is_some(), whole);
        }
    }

    #[test]
    fn incomplete_packets_are_forgotten_and_few() {
        let now = Instant::now();
        let mut reassembler = Reassembler::default();
        for identification in 0..1000 {
            let pieces = packet(3000, false).fragments(1500, identification);
            reassembler.push(pieces[0].clone(), false, now);
        }
        assert!(reassembler.packets.len() <= MOST_PACKETS);
        reassembler.forget(now + PATIENCE);
        assert_eq!(reassembler.packets.len(), 0);
    }

    proptest! {
        #[test]
        fn pieces_fit_and_make_the_packet_again(size in 0usize..9000, mtu in 68usize..2000, again in 68usize..2000, ipv6: bool, seed: u64) {
            let (whole, now) = (packet(size, ipv6), Instant::now());
            let mut pieces: Vec<_> = whole.fragments(mtu, 9).into_iter().flat_map(|piece| piece.fragments(again, 8)).collect();
            prop_assert!(pieces.iter().all(|piece| piece.len() <= mtu.max(again)));
            prop_assert!(pieces.iter().all(|piece| Packet::parse(&piece.emit()).as_ref() == Ok(piece)));
            // Any order does.
            let turn = usize::try_from(seed % 1000).expect("small") % pieces.len();
            pieces.rotate_left(turn);
            let mut reassembler = Reassembler::default();
            let done: Vec<_> = pieces.into_iter().filter_map(|piece| reassembler.push(piece, false, now)).collect();
            prop_assert_eq!(done, vec![whole]);
        }
    }
}
