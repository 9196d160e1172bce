//! The outer header of a sealed datagram: what a listener may see, and what the AEAD authenticates as associated data.
//!
//! ```text
//!  0        1        2                 4                                   8
//! +--------+--------+--------+--------+--------+--------+--------+--------+
//! |   33   | epoch  |   reserved: 0   |      receiver index (u32 BE)      |
//! +--------+--------+--------+--------+--------+--------+--------+--------+
//! |                       sequence number (u64 BE)                        |
//! +--------+--------+--------+--------+--------+--------+--------+--------+
//! | ciphertext: chunks (`wire::chunk`), any length, then a tag of 16 bytes|
//! ```
//!
//! It decides nothing about keys or replays: that is `link::seal`.

use super::SEALED;

/// Bytes of the header.
pub const HEADER: usize = 16;
/// Bytes of the AEAD's tag at the end.
pub const TAG: usize = 16;
/// Bytes that sealing adds to a plaintext.
pub const OVERHEAD: usize = HEADER + TAG;

/// The values in the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which keys sealed it; counts up by one at each rekeying and wraps around.
    pub epoch: u8,
    /// The receiver's name for the link (an SPI: RFC 4303, section 2.1).
    pub receiver: u32,
    /// Counts the sender's datagrams on this link, across epochs and paths; it is the nonce.
    pub sequence: u64,
}

/// Why bytes are not a sealed datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealedError {
    /// Too short for a header and a tag.
    #[error("a sealed datagram of {0} bytes is shorter than its header and tag")]
    Truncated(usize),
    /// Another first byte, or reserved bytes that are not zero.
    #[error("not the header of a sealed datagram")]
    Malformed,
}

impl Header {
    /// The header of a whole datagram, whose length is checked to have room for a tag.
    ///
    /// # Errors
    /// When the bytes cannot be a sealed datagram.
    pub fn parse(datagram: &[u8]) -> Result<Self, SealedError> {
        if datagram.len() < OVERHEAD {
            return Err(SealedError::Truncated(datagram.len()));
        }
        let Some(&[SEALED, epoch, 0, 0, r0, r1, r2, r3, ref sequence @ ..]) =
            datagram.first_chunk::<HEADER>()
        else {
            return Err(SealedError::Malformed);
        };
        Ok(Self {
            epoch,
            receiver: u32::from_be_bytes([r0, r1, r2, r3]),
            sequence: u64::from_be_bytes(*sequence),
        })
    }

    /// The header's bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0] = SEALED;
        bytes[1] = self.epoch;
        bytes[4..8].copy_from_slice(&self.receiver.to_be_bytes());
        bytes[8..].copy_from_slice(&self.sequence.to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn too_short_or_foreign_is_refused() {
        let header = Header {
            epoch: 1,
            receiver: 2,
            sequence: 3,
        };
        let mut datagram = header.to_bytes().to_vec();
        datagram.extend([0; TAG]);
        assert_eq!(Header::parse(&datagram), Ok(header));
        assert_eq!(
            Header::parse(&datagram[..31]),
            Err(SealedError::Truncated(31))
        );
        for at in [0, 2, 3] {
            let mut wrong = datagram.clone();
            wrong[at] ^= 1;
            assert_eq!(
                Header::parse(&wrong),
                Err(SealedError::Malformed),
                "byte {at}"
            );
        }
    }

    proptest! {
        #[test]
        fn header_round_trips(epoch: u8, receiver: u32, sequence: u64, body in prop::collection::vec(any::<u8>(), TAG..64)) {
            let header = Header { epoch, receiver, sequence };
            let datagram = [header.to_bytes().as_slice(), &body].concat();
            prop_assert_eq!(Header::parse(&datagram), Ok(header));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            if let Ok(header) = Header::parse(&bytes) {
                prop_assert_eq!(&header.to_bytes()[..], &bytes[..HEADER]);
            }
        }
    }
}
