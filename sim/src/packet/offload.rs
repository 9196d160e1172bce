//! What interfaces leave to others: several segments or datagrams in one packet, cut here as hardware would cut them.
//! Remembers nothing.

use super::{Body, Packet};

impl Packet {
    /// The packets that this one stands for, each with `size` bytes of data but the last (TCP segmentation, UDP
    /// segmentation). Other packets, and a size of 0, stay as they are.
    #[must_use]
    pub fn segments(self, size: usize) -> Vec<Self> {
        let header = match &self.body {
            Body::Udp { .. } => Some(0),
            Body::Tcp { segment, .. } => tcp_header(segment),
            Body::IcmpEcho { .. }
            | Body::IcmpError { .. }
            | Body::Fragment { .. }
            | Body::Other { .. } => None,
        };
        let data = match (&self.body, header) {
            (Body::Udp { payload, .. }, Some(_)) => payload.clone(),
            (Body::Tcp { segment, .. }, Some(header)) => segment[header..].to_vec(),
            (_, _) => Vec::new(),
        };
        if size == 0 || data.len() <= size {
            return vec![self];
        }
        let count = data.len().div_ceil(size);
        let pieces = data.chunks(size).enumerate();
        let pieces =
            pieces.map(|(number, piece)| self.with(piece, number * size, number + 1 == count));
        pieces.collect()
    }

    fn with(&self, piece: &[u8], at: usize, last: bool) -> Self {
        let mut packet = self.clone();
        match &mut packet.body {
            Body::Udp { payload, .. } => *payload = piece.to_vec(),
            Body::Tcp { segment, .. } => {
                segment.truncate(tcp_header(segment).unwrap_or(0));
                if let Some(sequence) = segment.first_chunk_mut::<4>() {
                    let at = u32::try_from(at).unwrap_or(u32::MAX);
                    *sequence = u32::from_be_bytes(*sequence).wrapping_add(at).to_be_bytes();
                }
                if let (Some(flags), false) = (segment.get_mut(9), last) {
                    *flags &= !FIN_AND_PSH;
                }
                segment.extend(piece);
            }
            Body::IcmpEcho { .. }
            | Body::IcmpError { .. }
            | Body::Fragment { .. }
            | Body::Other { .. } => {}
        }
        packet
    }
}

/// How many bytes of a segment behind the ports are header, if they are there.
fn tcp_header(segment: &[u8]) -> Option<usize> {
    let words = usize::from(segment.get(8)? >> 4);
    let length = (words * 4).checked_sub(4)?;
    (length >= 16 && length <= segment.len()).then_some(length)
}

/// They are said once, at the end.
const FIN_AND_PSH: u8 = 0x09;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tcp(data: &[u8]) -> Packet {
        let mut segment = vec![0, 0, 0, 100, 0, 0, 0, 1, 0x50, 0x19, 1, 0, 0, 0, 0, 0];
        segment.extend(data);
        let body = Body::Tcp {
            source_port: 1,
            destination_port: 2,
            segment,
        };
        let [a, b] = ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse().expect("an address"));
        Packet::new(a, b, body)
    }

    proptest! {
        #[test]
        fn the_pieces_are_the_whole(data in prop::collection::vec(any::<u8>(), 0..5000), size in 0usize..1500) {
            let pieces = tcp(&data).segments(size);
            let mut joined: Vec<u8> = Vec::new();
            for (number, piece) in pieces.iter().enumerate() {
                let Body::Tcp { segment, .. } = &piece.body else { panic!("not TCP") };
                let sequence = u32::from_be_bytes(*segment.first_chunk().expect("a header"));
                prop_assert_eq!(usize::try_from(sequence).ok(), Some(100 + joined.len()));
                prop_assert_eq!(segment[9] == 0x19, number + 1 == pieces.len());
                joined.extend(&segment[16..]);
            }
            prop_assert_eq!(&joined, &data);
            let ends = ["192.0.2.1:1", "192.0.2.2:2"].map(|end| end.parse().expect("an endpoint"));
            let datagrams = Packet::udp(ends[0], ends[1], data.clone()).segments(size);
            let payload = |datagram: &Packet| if let Body::Udp { payload, .. } = &datagram.body { payload.clone() } else { Vec::new() };
            let joined: Vec<u8> = datagrams.iter().flat_map(payload).collect();
            prop_assert_eq!(joined, data);
        }

        #[test]
        fn arbitrary_segments_never_panic(segment in prop::collection::vec(any::<u8>(), 0..200), size in 0usize..100) {
            let mut packet = tcp(&[]);
            packet.body = Body::Tcp { source_port: 1, destination_port: 2, segment };
            prop_assert!(!packet.segments(size).is_empty());
        }
    }
}
