//! Bytes ↔ values, without memory: the formats on the wire, and the first byte that tells them apart (RFC 9443 style).
//!
//! | first byte | what | who reads it |
//! |---|---|---|
//! | 0–3 | STUN (RFC 8489) | `wire::stun`, `link::path`, `rendezvous::observe` |
//! | 32 | ARQ segment | `link` |
//! | 33 | sealed datagram | `link` |
//! | 34 | relayed datagram: a channel number, then one of the two above | `rendezvous` |
//! | 64–255 | QUIC (RFC 9000) | `rendezvous::quic` |
//!
//! Everything else is refused. `wire` knows no other module of this crate but `identity` (key types).

pub mod chunk;
pub mod clear;
pub mod codec;
pub mod control;
pub mod ethernet;
pub mod relay;
pub mod sealed;
pub mod segment;
pub mod stun;
#[cfg(test)]
pub(crate) mod vectors;

/// First byte of an ARQ segment that travels in the clear (handshake only).
pub const SEGMENT: u8 = 32;
/// First byte of a sealed datagram.
pub const SEALED: u8 = 33;
/// First byte of a datagram that the rendezvous relays by channel.
pub const RELAYED: u8 = 34;

/// What a UDP datagram is, by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// RFC 8489.
    Stun,
    /// [`SEGMENT`].
    Segment,
    /// [`SEALED`].
    Sealed,
    /// [`RELAYED`].
    Relayed,
    /// RFC 9000.
    Quic,
}

/// Tells what a datagram is; `None` for an empty or unknown one.
#[must_use]
pub fn classify(datagram: &[u8]) -> Option<Kind> {
    match *datagram.first()? {
        0..=3 => Some(Kind::Stun),
        SEGMENT => Some(Kind::Segment),
        SEALED => Some(Kind::Sealed),
        RELAYED => Some(Kind::Relayed),
        64..=255 => Some(Kind::Quic),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::vectors::Vector;
    use super::*;

    /// What PROTOCOL.md says.
    #[test]
    fn the_first_byte_tells_what_it_is() {
        let vector = Vector::named("first-byte");
        let kinds = [
            ("stun", Some(Kind::Stun)),
            ("segment", Some(Kind::Segment)),
            ("sealed", Some(Kind::Sealed)),
            ("relayed", Some(Kind::Relayed)),
            ("quic", Some(Kind::Quic)),
            ("refused", None),
        ];
        assert_eq!(vector.fields().count(), kinds.len());
        for (name, kind) in kinds {
            let range = vector.bytes(name);
            assert!(!range.is_empty());
            assert!(
                range.iter().all(|&byte| classify(&[byte]) == kind),
                "{name}"
            );
        }
        // The vector has the borders of each range: their neighbours are something else.
        let borders = |name| vector.bytes(name).to_vec();
        assert_eq!(borders("stun").last(), Some(&(borders("refused")[0] - 1)));
        assert_eq!(
            borders("segment").first(),
            Some(&(borders("refused")[1] + 1))
        );
        assert_eq!(
            borders("relayed").last(),
            Some(&(borders("refused")[2] - 1))
        );
        assert_eq!(borders("quic").first(), Some(&(borders("refused")[3] + 1)));
        assert_eq!(borders("quic").last(), Some(&u8::MAX));
        assert_eq!(classify(&[]), None);
    }
}
