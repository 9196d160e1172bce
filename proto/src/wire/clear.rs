//! The outer header of an ARQ segment in the clear, which carries the TLS handshake before there are keys.
//!
//! ```text
//!  0       1               4                       8                      12
//! +-------+---------------+-----------------------+-----------------------+----------------
//! | 32    | 0   0   0     | receiver index        | sender index          | segment body …
//! +-------+---------------+-----------------------+-----------------------+----------------
//! ```
//!
//! An index is what its owner finds the link by (as an SPI, RFC 4301); the receiver's is 0 until it is known. Nothing here is
//! authenticated: whatever a forger makes of it, TLS refuses.

use super::SEGMENT;

/// Bytes before the segment's body.
pub const HEADER: usize = 12;

/// Whose link a segment belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indices {
    /// The index that the receiver chose, or 0 when the sender does not know it yet.
    pub receiver: u32,
    /// The index that the sender chose; never 0.
    pub sender: u32,
}

impl Indices {
    /// Writes the header.
    pub fn emit(self, buffer: &mut Vec<u8>) {
        buffer.extend([SEGMENT, 0, 0, 0]);
        buffer.extend(self.receiver.to_be_bytes());
        buffer.extend(self.sender.to_be_bytes());
    }

    /// Reads the header; the rest is the segment's body.
    #[must_use]
    pub fn parse(datagram: &[u8]) -> Option<(Self, &[u8])> {
        let (&[SEGMENT, 0, 0, 0, a, b, c, d, e, f, g, h], body) =
            datagram.split_first_chunk::<HEADER>()?
        else {
            return None;
        };
        let indices = Self {
            receiver: u32::from_be_bytes([a, b, c, d]),
            sender: u32::from_be_bytes([e, f, g, h]),
        };
        (indices.sender != 0).then_some((indices, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::vectors::Vector;

    /// What PROTOCOL.md says.
    #[test]
    fn the_vectors_hold() {
        let vector = Vector::named("clear-header");
        for (name, receiver) in [("first", 0), ("later", 0x9a8b_7c6d)] {
            let sender = 0x0102_0304;
            let indices = Indices { receiver, sender };
            let mut bytes = Vec::new();
            indices.emit(&mut bytes);
            assert_eq!(bytes, vector.bytes(name), "{name}");
            assert_eq!(Indices::parse(&bytes), Some((indices, [].as_slice())));
        }
    }

    #[test]
    fn the_header_round_trips_and_is_refused_when_short_or_without_a_sender() {
        let indices = Indices {
            receiver: 0,
            sender: 0x0102_0304,
        };
        let mut bytes = Vec::new();
        indices.emit(&mut bytes);
        assert_eq!(bytes.len(), HEADER);
        assert_eq!(Indices::parse(&bytes), Some((indices, [].as_slice())));
        assert_eq!(Indices::parse(&bytes[..HEADER - 1]), None);
        bytes[8..].fill(0);
        assert_eq!(Indices::parse(&bytes), None);
    }
}
