//! A datagram on its way through the rendezvous: four bytes of header, then the datagram of which the rendezvous knows nothing.
//!
//! ```text
//!   0        1                 3 4
//!  ┌────────┬─────────────────┬──────────────────────────────┐
//!  │   34   │ channel (24 BE) │ inner datagram, of any kind  │
//!  └────────┴─────────────────┴──────────────────────────────┘
//! ```
//!
//! The channel's number is of meaning only between one peer and the rendezvous, as in RFC 8656, section 12; the
//! rendezvous writes the receiver's number over the sender's and touches nothing else.

use bincode::de::Decoder;
use bincode::error::DecodeError;
use bincode::{Decode, Encode};

use super::RELAYED;

/// The bytes before the inner datagram.
pub const HEADER: usize = 4;

/// A relay channel's number: 24 bits, of meaning only between one peer and the rendezvous (as in RFC 8656, section 12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode)]
pub struct Channel(pub u32);

impl Channel {
    /// The largest number.
    pub const MAX: u32 = (1 << 24) - 1;

    /// Whether the peer that opens chose it (even), not the rendezvous (odd); 0 is nobody's.
    #[must_use]
    pub const fn is_openers(self) -> bool {
        self.0 != 0 && self.0.is_multiple_of(2)
    }
}

impl<Context> Decode<Context> for Channel {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let number = u32::decode(decoder)?;
        if number > Self::MAX {
            return Err(DecodeError::Other("a channel's number has 24 bits"));
        }
        Ok(Self(number))
    }
}

bincode::impl_borrow_decode!(Channel);

/// Why bytes are not a relayed datagram: the sender's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no relayed datagram: another kind, or nothing behind the header")]
pub struct NotRelayed;

/// The channel and the inner datagram, which starts at [`HEADER`].
///
/// # Errors
/// When it is of another kind or has nothing behind the header.
pub fn parse(datagram: &[u8]) -> Result<(Channel, &[u8]), NotRelayed> {
    let (&[kind, high, middle, low], inner) =
        datagram.split_first_chunk::<HEADER>().ok_or(NotRelayed)?;
    if kind != RELAYED || inner.is_empty() {
        return Err(NotRelayed);
    }
    Ok((Channel(u32::from_be_bytes([0, high, middle, low])), inner))
}

/// The header of a datagram on `channel`, of which the lower 24 bits count.
#[must_use]
pub const fn header(channel: Channel) -> [u8; HEADER] {
    let [_, high, middle, low] = channel.0.to_be_bytes();
    [RELAYED, high, middle, low]
}

/// The relayed datagram around `inner`.
#[must_use]
pub fn emit(channel: Channel, inner: &[u8]) -> Vec<u8> {
    [&header(channel), inner].concat()
}

/// Writes another channel into a relayed datagram, in place; does nothing to what is too short to be one.
pub fn readdress(datagram: &mut [u8], channel: Channel) {
    if let Some(old) = datagram.first_chunk_mut::<HEADER>() {
        *old = header(channel);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::codec;
    use crate::wire::vectors::Vector;

    /// What PROTOCOL.md says.
    #[test]
    fn the_vectors_hold() {
        let vector = Vector::named("relayed");
        let inner = vector.bytes("inner");
        for (name, number) in [("channel-2", 2), ("channel-16777215", Channel::MAX)] {
            let datagram = emit(Channel(number), inner);
            assert_eq!(datagram, vector.bytes(name), "{name}");
            assert_eq!(parse(&datagram), Ok((Channel(number), inner)));
        }
    }

    #[test]
    fn a_number_of_more_than_24_bits_is_no_channel() {
        let bytes = codec::encode(&(Channel::MAX + 1)).expect("small");
        assert!(codec::decode::<Channel>(&bytes).is_err());
        let bytes = codec::encode(&Channel::MAX).expect("small");
        assert_eq!(codec::decode(&bytes), Ok(Channel(Channel::MAX)));
    }

    #[test]
    fn nothing_inside_is_nothing() {
        assert_eq!(parse(&header(Channel(2))), Err(NotRelayed));
        assert_eq!(parse(&[33, 0, 0, 2, 9]), Err(NotRelayed));
    }

    proptest! {
        #[test]
        fn round_trip(number in 0..=Channel::MAX, other in 0..=Channel::MAX, inner in prop::collection::vec(any::<u8>(), 1..50)) {
            let mut datagram = emit(Channel(number), &inner);
            prop_assert_eq!(parse(&datagram), Ok((Channel(number), inner.as_slice())));
            readdress(&mut datagram, Channel(other));
            prop_assert_eq!(parse(&datagram), Ok((Channel(other), inner.as_slice())));
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes: Vec<u8>, number: u32) {
            let _ = parse(&bytes);
            readdress(&mut bytes, Channel(number));
        }
    }
}
