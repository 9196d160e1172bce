//! The one encoding of control messages: bincode with variable-length integers, and a hard limit of size before
//! anything is decoded (a ten-byte message may claim a vector of 2^62 bytes).

use bincode::{Decode, Encode, config};

/// No control message is larger than this, in bytes.
pub const MAX_MESSAGE: usize = 16 * 1024;

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The sender's fault: not what this version's messages look like.
    #[error("malformed control message")]
    Malformed,
    /// The sender's fault: bytes behind the end of a message.
    #[error("{0} bytes too many behind a control message")]
    Trailing(usize),
    /// Larger than [`MAX_MESSAGE`].
    #[error("control message larger than {MAX_MESSAGE} bytes")]
    TooLarge,
}

/// The bytes of `message`.
///
/// # Errors
/// [`CodecError::TooLarge`] when it does not fit into [`MAX_MESSAGE`].
pub fn encode<T: Encode>(message: &T) -> Result<Vec<u8>, CodecError> {
    let bytes =
        bincode::encode_to_vec(message, config::standard()).map_err(|_| CodecError::Malformed)?;
    if bytes.len() > MAX_MESSAGE {
        Err(CodecError::TooLarge)
    } else {
        Ok(bytes)
    }
}

/// The message that `bytes` are, all of them.
///
/// # Errors
/// When they are not one whole message of that type.
pub fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > MAX_MESSAGE {
        return Err(CodecError::TooLarge);
    }
    let config = config::standard().with_limit::<MAX_MESSAGE>();
    let (message, used) =
        bincode::decode_from_slice(bytes, config).map_err(|_| CodecError::Malformed)?;
    if used == bytes.len() {
        Ok(message)
    } else {
        Err(CodecError::Trailing(bytes.len() - used))
    }
}

/// Cuts a byte stream into messages: a 16-bit big-endian length, then that many bytes.
#[derive(Debug, Default)]
pub struct Framer {
    buffer: Vec<u8>,
}

impl Framer {
    /// Takes bytes as they come from the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, if there is one.
    ///
    /// # Errors
    /// When the stream is not a sequence of such messages; it cannot be used any more.
    pub fn next_message<T: Decode<()>>(&mut self) -> Result<Option<T>, CodecError> {
        let Some(&[high, low]) = self.buffer.first_chunk::<2>() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > MAX_MESSAGE {
            return Err(CodecError::TooLarge);
        }
        let Some(body) = self.buffer.get(2..2 + length) else {
            return Ok(None);
        };
        let message = decode(body)?;
        self.buffer.drain(..2 + length);
        Ok(Some(message))
    }

    /// The bytes of `message` as the other side's framer wants them.
    ///
    /// # Errors
    /// When the message is too large.
    pub fn frame<T: Encode>(message: &T) -> Result<Vec<u8>, CodecError> {
        let body = encode(message)?;
        let length = u16::try_from(body.len()).map_err(|_| CodecError::TooLarge)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend(body);
        Ok(framed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::vectors::Vector;

    #[derive(
        bincode::Encode,
        bincode::Decode,
        wincode::SchemaWrite,
        wincode::SchemaRead,
        Debug,
        Clone,
        PartialEq,
    )]
    struct Sample {
        a: u8,
        b: u64,
        c: Vec<u8>,
        d: Option<String>,
    }

    /// What PROTOCOL.md says.
    #[test]
    fn the_vectors_hold() {
        let vector = Vector::named("varints");
        let numbers = [
            ("250", 250),
            ("251", 251),
            ("65535", 65_535),
            ("65536", 65_536),
            ("2-to-32-less-1", (1 << 32) - 1),
            ("2-to-32", 1 << 32),
        ];
        assert_eq!(vector.fields().count(), numbers.len());
        for (name, number) in numbers {
            let bytes = vector.bytes(name);
            assert_eq!(encode::<u64>(&number).as_deref(), Ok(bytes), "{name}");
            assert_eq!(decode(bytes), Ok(number), "{name}");
        }
        let too_wide = vector.bytes("65536");
        assert_eq!(decode::<u16>(too_wide), Err(CodecError::Malformed));
    }

    #[test]
    fn a_claim_of_a_huge_vector_is_refused() {
        let claim = [0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f];
        assert_eq!(decode::<Vec<u8>>(&claim), Err(CodecError::Malformed));
    }

    #[test]
    fn trailing_bytes_are_refused() {
        let mut bytes = encode(&7u8).expect("small");
        bytes.push(0);
        assert_eq!(decode::<u8>(&bytes), Err(CodecError::Trailing(1)));
    }

    proptest! {
        #[test]
        fn round_trip_and_agreement_with_an_independent_codec(a: u8, b: u64, c: Vec<u8>, d: Option<String>) {
            let sample = Sample { a, b, c, d };
            let bytes = encode(&sample).expect("small");
            prop_assert_eq!(&decode::<Sample>(&bytes).expect("own bytes"), &sample);
            let varint = wincode::config::Configuration::default().with_varint_encoding();
            let other = wincode::config::serialize(&sample, varint).expect("small");
            prop_assert_eq!(bytes, other);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode::<Sample>(&bytes);
        }

        #[test]
        fn a_stream_cut_anywhere_gives_the_same_messages(values in prop::collection::vec(any::<u64>(), 0..20), cut in 1usize..7) {
            let stream: Vec<u8> = values.iter().flat_map(|v| Framer::frame(v).expect("small")).collect();
            let (mut framer, mut got) = (Framer::default(), Vec::new());
            for piece in stream.chunks(cut) {
                framer.push(piece);
                while let Some(value) = framer.next_message::<u64>().expect("well formed") {
                    got.push(value);
                }
            }
            prop_assert_eq!(got, values);
        }
    }
}
