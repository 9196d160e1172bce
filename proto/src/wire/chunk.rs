//! The plaintext of a sealed datagram: a sequence of chunks.
//!
//! ```text
//! +------+-------+-----------------+----------------------+  +------+---
//! | kind | flags | length (u16 BE) | body: `length` bytes |  | kind | …
//! +------+-------+-----------------+----------------------+  +------+---
//! ```
//!
//! Kind 0 is padding: it and everything behind it is ignored, even if it is a single byte. A kind that is not known
//! here is skipped by its length, so that later versions can say more. Flags are sent as 0 and not read.

/// Bytes of a chunk's header.
pub const HEADER: usize = 4;
/// Bytes that carrying a part of a frame costs: the chunk's header, then number, offset and total.
pub const FRAGMENT_HEADER: usize = HEADER + 12;
/// No body is longer than this, in bytes.
pub const MAX_BODY: usize = 0xffff;

const PADDING: u8 = 0;
const FRAME: u8 = 1;
const FRAGMENT: u8 = 2;
const SEGMENT: u8 = 3;
const PING: u8 = 4;
const PONG: u8 = 5;
const OPEN_FRAME: u8 = 6;

/// One thing said inside a sealed datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk<'a> {
    /// A whole Ethernet frame.
    Frame(&'a [u8]),
    /// The same with an open checksum: in its TCP or UDP header stands the sum of the pseudo-header alone. Only for who
    /// says [`super::control::OPEN_FRAMES`].
    OpenFrame(&'a [u8]),
    /// A part of one.
    Fragment(Fragment<'a>),
    /// The body of an ARQ segment.
    Segment(&'a [u8]),
    /// Asks for a [`Chunk::Pong`]; with padding behind it, it probes the path's MTU too (RFC 8899).
    Ping {
        /// Given back in the answer.
        id: u64,
    },
    /// Answers a [`Chunk::Ping`].
    Pong {
        /// As in the question.
        id: u64,
        /// Bytes of UDP payload of the datagram that the question came in.
        size: u16,
    },
}

/// A part of an Ethernet frame that is too large for one datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// Names the frame; the sender counts its fragmented frames, wrapping around.
    pub number: u32,
    /// Where in the frame these bytes belong.
    pub offset: u32,
    /// The length of the whole frame in bytes.
    pub total: u32,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// What is wrong with an authentic plaintext: always the sender's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// The plaintext ends inside a chunk.
    #[error("a chunk of kind {0} is longer than what is left of its datagram")]
    Truncated(u8),
    /// A body whose length its kind does not allow.
    #[error("a chunk of kind {0} with a body of {1} bytes")]
    Length(u8, usize),
    /// Ours: a body that does not fit into 16 bits of length.
    #[error("a body of {0} bytes is too long for a chunk")]
    TooLong(usize),
}

impl Chunk<'_> {
    /// Bytes that [`Self::emit`] writes.
    #[must_use]
    pub const fn encoded_len(&self) -> usize {
        match self {
            Self::Frame(bytes) | Self::OpenFrame(bytes) | Self::Segment(bytes) => {
                HEADER + bytes.len()
            }
            Self::Fragment(fragment) => FRAGMENT_HEADER + fragment.bytes.len(),
            Self::Ping { .. } => HEADER + 8,
            Self::Pong { .. } => HEADER + 10,
        }
    }

    /// Writes the chunk behind what is in `payload`.
    ///
    /// # Errors
    /// [`ChunkError::TooLong`]; `payload` is as it was.
    pub fn emit(&self, payload: &mut Vec<u8>) -> Result<(), ChunkError> {
        let body = self.encoded_len() - HEADER;
        let length = u16::try_from(body).map_err(|_| ChunkError::TooLong(body))?;
        payload.extend([self.kind(), 0]);
        payload.extend(length.to_be_bytes());
        match *self {
            Self::Frame(bytes) | Self::OpenFrame(bytes) | Self::Segment(bytes) => {
                payload.extend_from_slice(bytes);
            }
            Self::Fragment(fragment) => {
                payload.extend(fragment.number.to_be_bytes());
                payload.extend(fragment.offset.to_be_bytes());
                payload.extend(fragment.total.to_be_bytes());
                payload.extend_from_slice(fragment.bytes);
            }
            Self::Ping { id } => payload.extend(id.to_be_bytes()),
            Self::Pong { id, size } => {
                payload.extend(id.to_be_bytes());
                payload.extend(size.to_be_bytes());
            }
        }
        Ok(())
    }

    const fn kind(&self) -> u8 {
        match self {
            Self::Frame(_) => FRAME,
            Self::OpenFrame(_) => OPEN_FRAME,
            Self::Fragment(_) => FRAGMENT,
            Self::Segment(_) => SEGMENT,
            Self::Ping { .. } => PING,
            Self::Pong { .. } => PONG,
        }
    }
}

/// The header of a chunk that carries a whole frame of `length` bytes, for who writes the frame behind it in place;
/// `open` as in [`Chunk::OpenFrame`]. `None` when it is too long for a chunk.
#[must_use]
pub fn frame_header(length: usize, open: bool) -> Option<[u8; HEADER]> {
    let [high, low] = u16::try_from(length).ok()?.to_be_bytes();
    Some([if open { OPEN_FRAME } else { FRAME }, 0, high, low])
}

/// The same for a part of a frame.
#[must_use]
pub fn part_header(part: &Fragment<'_>) -> Option<[u8; FRAGMENT_HEADER]> {
    let mut header = [0; FRAGMENT_HEADER];
    let length = u16::try_from(FRAGMENT_HEADER - HEADER + part.bytes.len()).ok()?;
    header[0] = FRAGMENT;
    header[2..4].copy_from_slice(&length.to_be_bytes());
    header[4..8].copy_from_slice(&part.number.to_be_bytes());
    header[8..12].copy_from_slice(&part.offset.to_be_bytes());
    header[12..].copy_from_slice(&part.total.to_be_bytes());
    Some(header)
}

/// The chunks of a plaintext, in order. Ends at padding, at the end, or behind the first error.
#[derive(Clone, Debug)]
pub struct Chunks<'a> {
    rest: &'a [u8],
}

/// Reads `payload`, the plaintext of a sealed datagram.
#[must_use]
pub const fn chunks(payload: &[u8]) -> Chunks<'_> {
    Chunks { rest: payload }
}

impl<'a> Iterator for Chunks<'a> {
    type Item = Result<Chunk<'a>, ChunkError>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(&kind) = self.rest.first() {
            if kind == PADDING {
                break;
            }
            let Some(body) = self.take_body() else {
                self.rest = &[];
                return Some(Err(ChunkError::Truncated(kind)));
            };
            match parse(kind, body).transpose() {
                Some(Err(error)) => {
                    self.rest = &[];
                    return Some(Err(error));
                }
                Some(chunk) => return Some(chunk),
                None => {}
            }
        }
        self.rest = &[];
        None
    }
}

impl<'a> Chunks<'a> {
    /// Bytes that have not been read: what was read last ends so many bytes before the end.
    #[must_use]
    pub const fn left(&self) -> usize {
        self.rest.len()
    }

    fn take_body(&mut self) -> Option<&'a [u8]> {
        let (&[_kind, _flags, high, low], rest) = self.rest.split_first_chunk()?;
        let (body, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
        self.rest = rest;
        Some(body)
    }
}

/// `None` for a kind that is not known.
fn parse(kind: u8, body: &[u8]) -> Result<Option<Chunk<'_>>, ChunkError> {
    let chunk = match kind {
        FRAME => Some(Chunk::Frame(body)),
        OPEN_FRAME => Some(Chunk::OpenFrame(body)),
        FRAGMENT => fragment(body),
        SEGMENT => Some(Chunk::Segment(body)),
        PING => body.try_into().ok().map(|id| Chunk::Ping {
            id: u64::from_be_bytes(id),
        }),
        PONG => pong(body),
        _ => return Ok(None),
    };
    chunk.map(Some).ok_or(ChunkError::Length(kind, body.len()))
}

fn fragment(body: &[u8]) -> Option<Chunk<'_>> {
    let (number, body) = body.split_first_chunk()?;
    let (offset, body) = body.split_first_chunk()?;
    let (total, bytes) = body.split_first_chunk()?;
    Some(Chunk::Fragment(Fragment {
        number: u32::from_be_bytes(*number),
        offset: u32::from_be_bytes(*offset),
        total: u32::from_be_bytes(*total),
        bytes,
    }))
}

fn pong(body: &[u8]) -> Option<Chunk<'_>> {
    let (id, size) = body.split_first_chunk()?;
    Some(Chunk::Pong {
        id: u64::from_be_bytes(*id),
        size: u16::from_be_bytes(size.try_into().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::vectors::Vector;

    fn read(payload: &[u8]) -> Result<Vec<Chunk<'_>>, ChunkError> {
        chunks(payload).collect()
    }

    #[test]
    fn unknown_kinds_are_skipped_and_padding_ends() {
        let payload = [
            9, 7, 0, 2, 0xaa, 0xbb, 3, 0xff, 0, 1, 0xcc, 0, 1, 0xff, 0xff,
        ];
        assert_eq!(read(&payload), Ok(vec![Chunk::Segment(&[0xcc])]));
        assert_eq!(read(&[0]), Ok(vec![]));
        assert_eq!(read(&[]), Ok(vec![]));
    }

    /// What PROTOCOL.md says.
    #[test]
    fn the_vectors_hold() {
        let vector = Vector::named("chunks");
        let frame = vector.bytes("frame").split_at(HEADER).1;
        let part = |offset: u32, bytes| Fragment {
            number: 7,
            offset,
            total: 16,
            bytes,
        };
        let id = 0x0001_0203_0405_0607;
        let expected = [
            ("frame", Chunk::Frame(frame)),
            ("open-frame", Chunk::OpenFrame(frame)),
            ("fragment-1", Chunk::Fragment(part(0, &frame[..8]))),
            ("fragment-2", Chunk::Fragment(part(8, &frame[8..]))),
            ("segment", Chunk::Segment(&[0xaa, 0xbb, 0xcc])),
            ("ping", Chunk::Ping { id }),
            ("pong", Chunk::Pong { id, size: 1232 }),
        ];
        for (name, chunk) in &expected {
            let mut bytes = Vec::new();
            chunk.emit(&mut bytes).expect("small");
            assert_eq!(bytes, vector.bytes(name), "{name}");
        }
        assert_eq!(read(vector.bytes("unknown")), Ok(vec![]));
        assert_eq!(read(vector.bytes("padding")), Ok(vec![]));
        let all = expected.iter().map(|(_, chunk)| *chunk).collect();
        assert_eq!(read(vector.bytes("payload")), Ok(all));
        let mut fields: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
        fields.extend(["unknown", "padding"]);
        let payload: Vec<u8> = fields
            .iter()
            .flat_map(|name| vector.bytes(name).to_vec())
            .collect();
        assert_eq!(payload, vector.bytes("payload"));
    }

    #[test]
    fn wrong_lengths_are_refused_once() {
        assert_eq!(read(&[1, 0, 0, 2, 0]), Err(ChunkError::Truncated(1)));
        assert_eq!(read(&[1, 0]), Err(ChunkError::Truncated(1)));
        assert_eq!(read(&[2, 0, 0, 1, 0]), Err(ChunkError::Length(2, 1)));
        let nine = [4, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(read(&nine), Err(ChunkError::Length(4, 9)));
        assert_eq!(read(&[5, 0, 0, 1, 0]), Err(ChunkError::Length(5, 1)));
        assert_eq!(chunks(&[5, 0, 0, 1, 0, 3, 0, 0, 0]).count(), 1);
    }

    #[test]
    fn a_body_longer_than_its_length_field_is_refused() {
        let frame = vec![0; MAX_BODY + 1];
        let mut payload = vec![7];
        assert_eq!(
            Chunk::Frame(&frame).emit(&mut payload),
            Err(ChunkError::TooLong(MAX_BODY + 1))
        );
        assert_eq!(payload, [7]);
    }

    fn chunk((kind, a, b, bytes): &(u8, u64, (u16, u32, u32, u32), Vec<u8>)) -> Chunk<'_> {
        match kind % 5 {
            0 => Chunk::Frame(bytes),
            1 => Chunk::Segment(bytes),
            2 => Chunk::Ping { id: *a },
            3 => Chunk::Pong { id: *a, size: b.0 },
            _ => Chunk::Fragment(Fragment {
                number: b.1,
                offset: b.2,
                total: b.3,
                bytes,
            }),
        }
    }

    proptest! {
        #[test]
        fn chunks_round_trip(values: Vec<(u8, u64, (u16, u32, u32, u32), Vec<u8>)>, padding in 0usize..20) {
            let written: Vec<Chunk<'_>> = values.iter().map(chunk).collect();
            let mut payload = Vec::new();
            for chunk in &written {
                let before = payload.len();
                chunk.emit(&mut payload).expect("small");
                prop_assert_eq!(payload.len() - before, chunk.encoded_len());
            }
            payload.resize(payload.len() + padding, 0);
            prop_assert_eq!(read(&payload), Ok(written));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = chunks(&bytes).count();
        }
    }
}
