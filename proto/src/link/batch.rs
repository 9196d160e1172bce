//! Many sealed datagrams of one size in one buffer, for one system call that sends them all (GSO).
//!
//! ```text
//!   │ relay │ header │ chunk, frame │ chunk, frame │ 0…0 │ tag │ relay │ header │ chunk, frame │ tag │
//!   └──────────────────────── stride ───────────────────────────┘└── the last may be shorter ───────┘
//! ```
//!
//! Frames are written where they are sealed. Small ones share a datagram; one that would leave a little room is filled up by
//! padding, so that the next can follow in the same batch. A frame that does not fit the batch any more says so: the
//! batch is sealed and sent, and the frame begins the next one. First in, first out.

use super::pack;
use super::seal::{SealError, Sealer};
use crate::wire::chunk::{self, FRAGMENT_HEADER};
use crate::wire::relay;
use crate::wire::sealed::{HEADER, TAG};

/// Datagrams in the making.
#[derive(Debug)]
pub struct Batch {
    buffer: Box<[u8]>,
    shape: Shape,
    /// Where the datagram in the making starts.
    start: usize,
    /// Where its contents end; `start` when there is none.
    end: usize,
    /// The size of each datagram but the last, once one is closed.
    stride: Option<usize>,
    closed: usize,
    frames: u64,
    bytes: u64,
}

/// What datagrams look like on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// The header before each on its way through the rendezvous.
    pub relay: Option<[u8; relay::HEADER]>,
    /// Bytes of a sealed datagram at most, without that header.
    pub mtu: usize,
}

/// Why a frame was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// The batch is to be sent first.
    #[error("no room in this batch")]
    Full,
    /// It does not fit any datagram of this shape.
    #[error("larger than a datagram")]
    TooLarge,
}

/// What is ready to be sent.
#[derive(Debug)]
pub struct Ready<'b> {
    /// Datagrams back to back.
    pub contents: &'b [u8],
    /// The size of each but the last.
    pub segment_size: usize,
    /// Frames in them (a frame in parts counts with its first).
    pub frames: u64,
    /// Bytes of the frames.
    pub bytes: u64,
}

impl Shape {
    /// Bytes of the largest frame that fits a datagram whole.
    #[must_use]
    pub const fn largest_frame(&self) -> usize {
        self.mtu.saturating_sub(HEADER + chunk::HEADER + TAG)
    }

    const fn prefix(&self) -> usize {
        match self.relay {
            Some(header) => header.len(),
            None => 0,
        }
    }
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        Self {
            buffer: vec![0; CAPACITY].into_boxed_slice(),
            shape,
            start: 0,
            end: 0,
            stride: None,
            closed: 0,
            frames: 0,
            bytes: 0,
        }
    }

    /// What its datagrams look like.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// Throws away what is in it; the next datagrams look like this.
    pub const fn reset(&mut self, shape: Shape) {
        self.shape = shape;
        self.start = 0;
        self.end = 0;
        self.stride = None;
        self.closed = 0;
        self.frames = 0;
        self.bytes = 0;
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// Room for a frame of `length` bytes; `open` as in [`chunk::Chunk::OpenFrame`].
    ///
    /// # Errors
    /// When there is none.
    pub fn frame(&mut self, length: usize, open: bool) -> Result<&mut [u8], NotTaken> {
        let header = chunk::frame_header(length, open).ok_or(NotTaken::TooLarge)?;
        self.room(chunk::HEADER + length)?[..chunk::HEADER].copy_from_slice(&header);
        self.frames += 1;
        self.bytes += u64::try_from(length).unwrap_or_default();
        Ok(&mut self.buffer[self.end - length..self.end])
    }

    /// Writes the next part of a frame too large for one datagram, of which `gone` bytes have gone; gives how many have
    /// then. `number` names the frame.
    ///
    /// # Errors
    /// When there is no room.
    pub fn part(&mut self, frame: &[u8], gone: usize, number: u32) -> Result<usize, NotTaken> {
        let most = self.shape.mtu.saturating_sub(HEADER + TAG);
        let part = pack::next_part(frame, gone, number, most);
        let size = FRAGMENT_HEADER + part.bytes.len();
        let header = chunk::part_header(&part).ok_or(NotTaken::TooLarge)?;
        let room = self.room(size)?;
        let (head, body) = room.split_at_mut(FRAGMENT_HEADER);
        head.copy_from_slice(&header);
        body.copy_from_slice(part.bytes);
        if gone == 0 {
            self.frames += 1;
            self.bytes += u64::try_from(frame.len()).unwrap_or_default();
        }
        Ok(gone + part.bytes.len())
    }

    /// Seals what is in it; `None` when there is nothing. [`Self::reset`] must follow.
    ///
    /// # Errors
    /// When the key is used up.
    pub fn seal(&mut self, sealer: &Sealer) -> Result<Option<Ready<'_>>, SealError> {
        if self.end > self.start {
            self.close(self.end + TAG);
        }
        if self.closed == 0 {
            return Ok(None);
        }
        let segment_size = self.stride.unwrap_or(self.start);
        let (prefix, relay) = (self.shape.prefix(), self.shape.relay);
        let mut run = sealer.begin(self.closed)?;
        for datagram in self.buffer[..self.start].chunks_mut(segment_size) {
            let (head, inner) = datagram.split_at_mut(prefix);
            if let Some(relay) = relay {
                head.copy_from_slice(&relay);
            }
            run.seal(inner)?;
        }
        Ok(Some(Ready {
            contents: &self.buffer[..self.start],
            segment_size,
            frames: self.frames,
            bytes: self.bytes,
        }))
    }

    /// Room for a chunk of so many bytes: in the datagram in the making, or in a new one.
    fn room(&mut self, size: usize) -> Result<&mut [u8], NotTaken> {
        let overhead = self.shape.prefix() + HEADER + TAG;
        let largest = self.shape.prefix() + self.shape.mtu;
        if overhead + size > largest {
            return Err(NotTaken::TooLarge);
        }
        let limit = self.stride.unwrap_or(largest);
        if self.end == self.start
            || self.end - self.start + size + TAG > limit
            || self.end + size + TAG > CAPACITY
        {
            self.next_datagram(largest)?;
            let limit = self.stride.unwrap_or(largest);
            if overhead + size > limit || self.start + overhead + size > CAPACITY {
                return Err(NotTaken::Full);
            }
            self.end = self.start + self.shape.prefix() + HEADER;
        }
        let at = self.end;
        self.end += size;
        Ok(&mut self.buffer[at..self.end])
    }

    /// Closes the datagram in the making, if another may follow it.
    fn next_datagram(&mut self, largest: usize) -> Result<(), NotTaken> {
        if self.end > self.start {
            let length = self.end - self.start + TAG;
            let wanted = self.stride.unwrap_or(largest);
            let size = if wanted - length <= wanted / PADDING {
                wanted
            } else if self.stride.is_none() {
                length
            } else {
                return Err(NotTaken::Full);
            };
            if self.start + size > CAPACITY {
                return Err(NotTaken::Full);
            }
            self.stride = Some(size);
            self.close(self.start + size);
        }
        if self.closed < SEGMENTS {
            Ok(())
        } else {
            Err(NotTaken::Full)
        }
    }

    /// Ends the datagram in the making at `end`, its tag included.
    fn close(&mut self, end: usize) {
        self.buffer[self.end..end - TAG].fill(0);
        self.start = end;
        self.end = end;
        self.closed += 1;
    }
}

/// Bytes of a batch: what one system call carries over IPv6.
const CAPACITY: usize = 65_535 - 48;
/// Datagrams of a batch (UDP_MAX_SEGMENTS of older kernels).
const SEGMENTS: usize = 64;
/// A datagram is filled up when no more than this part of it is missing.
const PADDING: usize = 16;

#[cfg(test)]
mod tests;
