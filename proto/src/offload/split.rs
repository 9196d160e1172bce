//! From what a card gives to frames that each fit one sealed datagram.
//!
//! ```text
//!   │ headers │            payload of up to 64 KB             │
//!   │ headers │ piece 0 │  │ headers │ piece 1 │ … │ headers │ rest │
//!       └ lengths, IPv4 id and checksum, TCP sequence number and flags, checksum: of each piece
//! ```
//!
//! A piece is written straight to where it is sealed: one copy of each byte. TCP may be cut smaller than the kernel says
//! (any cut of a byte stream is one), UDP may not: its datagrams are what its programs sent.

use super::checksum;
use super::layout::{Layout, Protocol, Version};
use super::vnet::{Gso, VnetHeader};
use crate::wire::ethernet;

/// A frame as pieces.
#[derive(Clone, Copy, Debug)]
pub struct Pieces<'f> {
    frame: &'f [u8],
    sum: Sum,
    cut: Option<Cut>,
}

#[derive(Clone, Copy, Debug)]
struct Cut {
    layout: Layout,
    /// Bytes of payload of each piece but the last.
    size: usize,
    count: usize,
}

/// What is to be done about the checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sum {
    /// Nothing, it is there.
    Done,
    /// It is open where a reader finds it by the headers.
    Open,
    /// It is open at another place: this and what follows to the frame's end, stored so far behind.
    Elsewhere { start: usize, offset: usize },
}

/// What is wrong with a frame or its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// No room for an Ethernet header.
    #[error("a frame of {0} bytes")]
    Short(usize),
    /// To be cut, though it is not what the header says, or in pieces of nothing.
    #[error("a frame that cannot be cut as its header says")]
    Malformed,
    /// The place of the checksum is not in the frame.
    #[error("a checksum outside of its frame")]
    Checksum,
}

/// Cuts `frame` as `vnet` says, TCP in pieces of at most `largest` bytes of frame.
///
/// A frame that is larger and cannot be cut stays whole: see [`Pieces::piece_len`].
///
/// # Errors
/// When frame and header contradict each other.
pub fn split(vnet: VnetHeader, frame: &[u8], largest: usize) -> Result<Pieces<'_>, SplitError> {
    if frame.len() < ethernet::HEADER {
        return Err(SplitError::Short(frame.len()));
    }
    let layout = if vnet.gso != Gso::None || vnet.needs_csum || frame.len() > largest {
        Layout::parse(frame)
    } else {
        None
    };
    let sum = checksum_of(vnet, frame, layout.as_ref())?;
    let cut = match (vnet.gso, layout) {
        (Gso::None, Some(layout)) if frame.len() > largest && may_cut(frame, &layout, sum) => {
            Cut::of(layout, usize::MAX, largest)
        }
        (Gso::None, _) => None,
        (_, None) => return Err(SplitError::Malformed),
        (kind, Some(layout)) => {
            if sum != Sum::Open || !matches(kind, &layout) || vnet.gso_size == 0 {
                return Err(SplitError::Malformed);
            }
            Cut::of(layout, vnet.gso_size.into(), largest)
        }
    };
    Ok(Pieces { frame, sum, cut })
}

/// The same for a frame that a peer sent, whose checksum is `open` or there.
///
/// # Errors
/// When it is too short, or open and not of a kind that can be.
pub fn split_frame(frame: &[u8], open: bool, largest: usize) -> Result<Pieces<'_>, SplitError> {
    let vnet = if open {
        let layout = Layout::parse(frame).ok_or(SplitError::Malformed)?;
        VnetHeader {
            needs_csum: true,
            csum_start: u16::try_from(layout.transport).map_err(|_| SplitError::Malformed)?,
            csum_offset: u16::try_from(layout.protocol.checksum_offset())
                .map_err(|_| SplitError::Malformed)?,
            ..VnetHeader::default()
        }
    } else {
        VnetHeader::default()
    };
    split(vnet, frame, largest)
}

impl Pieces<'_> {
    /// How many there are: at least one.
    #[must_use]
    pub fn count(&self) -> usize {
        self.cut.map_or(1, |cut| cut.count)
    }

    /// Whether the pieces' checksums stay open unless they are finished, in the way that [`checksum::finish_frame`] finds.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.sum == Sum::Open
    }

    /// The length of piece `index` as a frame. Only what cannot be cut is larger than was asked for.
    #[must_use]
    pub fn piece_len(&self, index: usize) -> usize {
        match &self.cut {
            None => self.frame.len(),
            Some(cut) => cut.layout.payload + cut.range(index).len(),
        }
    }

    /// Writes piece `index` into `to`, which has its length. With `finish` its checksum is complete; without, it stays open
    /// if [`Self::is_open`].
    pub fn write(&self, index: usize, finish: bool, to: &mut [u8]) {
        if to.len() != self.piece_len(index) {
            return;
        }
        match &self.cut {
            None => {
                to.copy_from_slice(self.frame);
                self.finish_whole(finish, to);
            }
            Some(cut) => {
                let (head, body) = to.split_at_mut(cut.layout.payload);
                head.copy_from_slice(&self.frame[..cut.layout.payload]);
                body.copy_from_slice(&self.frame[cut.range(index)]);
                cut.adjust(index, to);
                cut.sum(finish || !self.is_open(), to);
            }
        }
    }

    fn finish_whole(&self, finish: bool, frame: &mut [u8]) {
        match self.sum {
            Sum::Open if finish => {
                checksum::finish_frame(frame);
            }
            Sum::Done | Sum::Open => {}
            Sum::Elsewhere { start, offset } => {
                let end = frame.len();
                checksum::finish(frame, start, offset, end);
            }
        }
    }
}

impl Cut {
    /// Pieces of `wanted` bytes of payload, TCP of no more than fit into `largest` bytes of frame. `None` when not even a
    /// few bytes fit behind the headers.
    fn of(layout: Layout, wanted: usize, largest: usize) -> Option<Self> {
        let room = largest.saturating_sub(layout.payload);
        let size = match layout.protocol {
            Protocol::Tcp if room < SMALLEST_PIECE => return None,
            Protocol::Tcp => wanted.min(room),
            Protocol::Udp => wanted,
        };
        let payload = layout.end - layout.payload;
        let count = payload.div_ceil(size).max(1);
        Some(Self {
            layout,
            size,
            count,
        })
    }

    /// Where in the super-frame the payload of a piece is.
    fn range(&self, index: usize) -> std::ops::Range<usize> {
        let start = self.layout.payload + self.size.saturating_mul(index);
        let end = start.saturating_add(self.size).min(self.layout.end);
        start.min(end)..end
    }

    /// Makes the headers those of this piece.
    fn adjust(&self, index: usize, piece: &mut [u8]) {
        let Layout {
            version,
            protocol,
            network,
            transport,
            ..
        } = self.layout;
        let length = piece.len();
        match version {
            Version::V4 => {
                put(piece, network + 2, length - network);
                let id = super::layout::word(piece, network + 4).unwrap_or_default();
                let step = u16::try_from(index).unwrap_or_default();
                put(piece, network + 4, usize::from(id.wrapping_add(step)));
                put(piece, network + 10, 0);
                checksum::finish(piece, network, 10, transport);
            }
            Version::V6 => put(piece, network + 4, length - transport),
        }
        match protocol {
            Protocol::Tcp => self.adjust_tcp(index, piece),
            Protocol::Udp => put(piece, transport + 4, length - transport),
        }
    }

    /// The sequence number; FIN and PSH belong to the last piece, CWR to the first (RFC 3168, section 6.1.2).
    fn adjust_tcp(&self, index: usize, piece: &mut [u8]) {
        let transport = self.layout.transport;
        let Some(sequence) = piece
            .get_mut(transport + 4..)
            .and_then(<[u8]>::first_chunk_mut)
        else {
            return;
        };
        let step = u32::try_from(self.size.saturating_mul(index)).unwrap_or_default();
        *sequence = u32::from_be_bytes(*sequence)
            .wrapping_add(step)
            .to_be_bytes();
        if let Some(flags) = piece.get_mut(transport + 13) {
            if index + 1 < self.count {
                *flags &= !(FIN | PSH);
            }
            if index > 0 {
                *flags &= !CWR;
            }
        }
    }

    fn sum(&self, finish: bool, piece: &mut [u8]) {
        let (transport, end) = (self.layout.transport, piece.len());
        let offset = self.layout.protocol.checksum_offset();
        let pseudo = checksum::fold(checksum::pseudo(piece, &self.layout, end - transport));
        if let Some(field) = piece
            .get_mut(transport + offset..)
            .and_then(<[u8]>::first_chunk_mut)
        {
            *field = pseudo.to_ne_bytes();
        }
        if finish {
            checksum::finish(piece, transport, offset, end);
        }
    }
}

fn checksum_of(vnet: VnetHeader, frame: &[u8], layout: Option<&Layout>) -> Result<Sum, SplitError> {
    if !vnet.needs_csum {
        return Ok(Sum::Done);
    }
    let (start, offset) = (usize::from(vnet.csum_start), usize::from(vnet.csum_offset));
    if start + offset + 2 > frame.len() {
        return Err(SplitError::Checksum);
    }
    let usual = layout.is_some_and(|layout| {
        layout.transport == start && layout.protocol.checksum_offset() == offset
    });
    Ok(if usual {
        Sum::Open
    } else {
        Sum::Elsewhere { start, offset }
    })
}

fn matches(kind: Gso, layout: &Layout) -> bool {
    match kind {
        Gso::None => false,
        Gso::Tcp4 => layout.protocol == Protocol::Tcp && layout.version == Version::V4,
        Gso::Tcp6 => layout.protocol == Protocol::Tcp && layout.version == Version::V6,
        Gso::Udp => layout.protocol == Protocol::Udp,
    }
}

/// A TCP frame that the kernel did not ask to cut, but which is larger than a datagram: its pieces get new checksums, so
/// the old one must be right, or nobody would notice any more that it was not. SYN and URG stay as they are.
fn may_cut(frame: &[u8], layout: &Layout, sum: Sum) -> bool {
    let flags = frame.get(layout.transport + 13).copied().unwrap_or(SYN);
    layout.protocol == Protocol::Tcp
        && flags & (SYN | RST | URG) == 0
        && match sum {
            Sum::Open => true,
            Sum::Done => checksum::is_right(frame, layout),
            Sum::Elsewhere { .. } => false,
        }
}

fn put(bytes: &mut [u8], at: usize, value: usize) {
    let value = u16::try_from(value).unwrap_or_default();
    if let Some(place) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *place = value.to_be_bytes();
    }
}

pub(super) const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
pub(super) const PSH: u8 = 0x08;
pub(super) const ACK: u8 = 0x10;
const URG: u8 = 0x20;
const CWR: u8 = 0x80;
/// Bytes of payload that a piece of TCP carries at least; below, fragments of the frame cost less.
const SMALLEST_PIECE: usize = 256;

#[cfg(test)]
pub(crate) mod tests;
