//! Frames into payloads: several small ones in one datagram, large ones in near-equal parts; and together again.
//!
//! ```text
//!   frames    │ 60 │ 70 │      1514      │ 60 │            payloads of at most 1200
//!   payloads  │ FRAME 60, FRAME 70, FRAGMENT 757 │ FRAGMENT 757, FRAME 60 │
//! ```
//!
//! First in, first out. It decides what goes into a payload; how large that may be is the path's affair, whether it
//! may be sent now is the congestion controller's. A frame that is lost in part is lost: nothing is asked for again.

use std::collections::VecDeque;

use crate::wire::chunk::{self, Chunk, FRAGMENT_HEADER, Fragment, MAX_BODY};
use crate::wire::ethernet;

pub mod reassemble;

pub use reassemble::{Reassembler, ReassemblyCounters, ReassemblyError};

/// The longest frame in bytes: a super-frame of segmentation offload with the largest IP packet, an Ethernet header
/// and a VLAN tag (IEEE 802.1Q).
pub const MAX_FRAME: usize = 65_535 + 18;
/// The smallest payload in which a [`Packer`] makes progress, in bytes.
pub const MIN_PAYLOAD: usize = 128;

/// A length that no frame has: its sender's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {0} bytes: it must have {min} to {MAX_FRAME}", min = ethernet::HEADER)]
pub struct FrameLength(pub usize);

/// Checks the length of a frame, be it from the LAN card or from a peer.
///
/// # Errors
/// When it is shorter than an Ethernet header or longer than [`MAX_FRAME`].
pub const fn check_length(length: usize) -> Result<(), FrameLength> {
    if length < ethernet::HEADER || length > MAX_FRAME {
        Err(FrameLength(length))
    } else {
        Ok(())
    }
}

/// Why a frame was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// Not a frame.
    #[error(transparent)]
    Length(#[from] FrameLength),
    /// Frames come faster than they can be sent.
    #[error("the queue of frames is full")]
    Full,
}

/// Frames that wait to be sent.
#[derive(Debug)]
pub struct Packer {
    queue: VecDeque<Vec<u8>>,
    /// Bytes of all frames in the queue.
    queued: usize,
    limit: usize,
    /// Bytes of the first frame that have gone in fragments.
    gone: usize,
    /// Names the frame that is fragmented now, or next.
    number: u32,
    counters: PackCounters,
}

/// What a packer has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackCounters {
    /// Frames that were put whole into payloads.
    pub frames: u64,
    /// Frames that were put into payloads in parts.
    pub fragmented: u64,
    /// Frames of impossible length.
    pub refused: u64,
    /// Frames for which the queue had no room.
    pub dropped: u64,
}

impl Packer {
    /// A queue of at most `limit` bytes of frames; one frame always fits.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            queued: 0,
            limit,
            gone: 0,
            number: 0,
            counters: PackCounters {
                frames: 0,
                fragmented: 0,
                refused: 0,
                dropped: 0,
            },
        }
    }

    /// Queues a frame.
    ///
    /// # Errors
    /// When it is not taken; it is counted.
    pub fn push(&mut self, frame: Vec<u8>) -> Result<(), PackError> {
        if let Err(error) = check_length(frame.len()) {
            self.counters.refused += 1;
            return Err(error.into());
        }
        if !self.queue.is_empty() && self.queued + frame.len() > self.limit {
            self.counters.dropped += 1;
            return Err(PackError::Full);
        }
        self.queued += frame.len();
        self.queue.push_back(frame);
        Ok(())
    }

    /// Writes what fits behind `payload[start..]`, which is the payload so far and may become `max` bytes in all.
    /// Whether anything was written; if not, though frames wait, they fit into the next payload, which is empty
    /// (`max` at least [`MIN_PAYLOAD`]).
    pub fn fill(&mut self, payload: &mut Vec<u8>, start: usize, max: usize) -> bool {
        let before = payload.len();
        while let Some(frame) = self.queue.front() {
            let room = max.saturating_sub(payload.len().saturating_sub(start));
            let chunk = next_chunk(frame, self.gone, self.number, max);
            if chunk.encoded_len() > room || chunk.emit(payload).is_err() {
                break;
            }
            let fragment = if let Chunk::Fragment(fragment) = chunk {
                Some(fragment.bytes.len())
            } else {
                None
            };
            self.advance(fragment);
        }
        payload.len() > before
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Bytes of the frames that wait.
    #[must_use]
    pub const fn queued(&self) -> usize {
        self.queued
    }

    /// What was counted so far.
    #[must_use]
    pub const fn counters(&self) -> PackCounters {
        self.counters
    }

    /// The first frame, or so many bytes of it, went into a payload.
    fn advance(&mut self, fragment: Option<usize>) {
        let whole = self.queue.front().map_or(0, Vec::len);
        match fragment {
            Some(bytes) if self.gone + bytes < whole => {
                self.gone += bytes;
                return;
            }
            Some(_) => {
                self.gone = 0;
                self.number = self.number.wrapping_add(1);
                self.counters.fragmented += 1;
            }
            None => self.counters.frames += 1,
        }
        self.queue.pop_front();
        self.queued -= whole;
    }
}

/// The whole frame if a payload can carry it, else the next of near-equal parts. A frame whose first parts are gone
/// goes on in parts even if `max` has grown.
fn next_chunk(frame: &[u8], gone: usize, number: u32, max: usize) -> Chunk<'_> {
    if gone == 0 && frame.len() <= MAX_BODY && chunk::HEADER + frame.len() <= max {
        return Chunk::Frame(frame);
    }
    Chunk::Fragment(next_part(frame, gone, number, max))
}

/// The next of near-equal parts of a frame (of at most [`MAX_FRAME`] bytes), of which `gone` bytes have gone, for payloads of
/// at most `max` bytes.
#[must_use]
pub(super) fn next_part(frame: &[u8], gone: usize, number: u32, max: usize) -> Fragment<'_> {
    let largest = max.saturating_sub(FRAGMENT_HEADER).clamp(1, MAX_BODY - 12);
    let rest = frame.get(gone..).unwrap_or_default();
    let size = rest.len().div_ceil(rest.len().div_ceil(largest).max(1));
    Fragment {
        number,
        offset: u32::try_from(gone).expect("a frame is at most MAX_FRAME long"),
        total: u32::try_from(frame.len()).expect("a frame is at most MAX_FRAME long"),
        bytes: &rest[..size],
    }
}

#[cfg(test)]
mod tests;
