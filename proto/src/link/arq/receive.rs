//! The peer's stream: puts ranges that arrive in any order, cut anyhow and as often as they like, together again.
//! Memory is bounded by the receive window; whatever lies beyond it is refused, not kept.
//!
//! ```text
//!   0 ─────── read ─────────────── arrived ─ ─ ─gap─ ─ ─ arrived ─ ─ ─ ─ limit
//!   given to the caller │ buffer ······················· │              read + window
//! ```

use std::collections::VecDeque;
use std::ops::Range;

use super::SegmentError;
use super::ranges::Ranges;
use crate::wire::segment::{INITIAL_LIMIT, MAX_NUMBER, StreamRange};

/// The receiving half of the stream.
#[derive(Debug)]
pub(super) struct ReceiveStream {
    window: u64,
    /// The offset of the first byte that the caller has not read; the buffer starts here.
    read: u64,
    buffer: VecDeque<u8>,
    /// What has arrived, from `read` on.
    arrived: Ranges,
    /// The limit that the peer was told.
    announced: u64,
    /// Behind the highest byte that has arrived.
    highest: u64,
    final_size: Option<u64>,
}

impl ReceiveStream {
    pub(super) fn new(window: u64) -> Self {
        Self {
            window: window.max(INITIAL_LIMIT),
            read: 0,
            buffer: VecDeque::new(),
            arrived: Ranges::default(),
            announced: INITIAL_LIMIT,
            highest: 0,
            final_size: None,
        }
    }

    /// Whether `range` may be inserted; changes nothing.
    pub(super) fn check(&self, range: &StreamRange<'_>) -> Result<(), SegmentError> {
        let bytes = extent(range);
        if bytes.end > self.announced {
            return Err(SegmentError::BeyondWindow);
        }
        let contradicts = match self.final_size {
            Some(size) => bytes.end > size || (range.fin && bytes.end != size),
            None => range.fin && bytes.end < self.highest,
        };
        if contradicts {
            return Err(SegmentError::FinalSize);
        }
        let crumb = bytes.start > self.read && !self.arrived.touches(&bytes);
        if crumb && self.arrived.len() >= MAX_PIECES {
            return Err(SegmentError::Fragmented);
        }
        Ok(())
    }

    /// Takes a range that passed [`check`](Self::check). Bytes that have arrived before keep their first value.
    pub(super) fn insert(&mut self, range: &StreamRange<'_>) {
        let bytes = extent(range);
        if range.fin {
            self.final_size = Some(bytes.end);
        }
        self.highest = self.highest.max(bytes.end);
        let wanted = bytes.start.max(self.read)..bytes.end.max(self.read);
        for missing in self.arrived.missing(wanted.clone()) {
            let data =
                &range.data[index(missing.start - bytes.start)..index(missing.end - bytes.start)];
            self.place(index(missing.start - self.read), data);
        }
        self.arrived.insert(wanted);
    }

    /// Appends all bytes that are in order; returns how many.
    pub(super) fn read(&mut self, out: &mut Vec<u8>) -> usize {
        let ready = match self.arrived.first() {
            Some(first) if first.start == self.read => first,
            _ => return 0,
        };
        let length = index(ready.end - ready.start);
        let (front, back) = self.buffer.as_slices();
        let split = front.len().min(length);
        out.extend(&front[..split]);
        out.extend(&back[..length - split]);
        self.buffer.drain(..length);
        self.arrived.remove(ready.clone());
        self.read = ready.end;
        length
    }

    /// How far the peer may send, to be said in a segment that leaves now.
    pub(super) fn announce(&mut self) -> u64 {
        self.announced = self
            .announced
            .max((self.read + self.window).min(MAX_NUMBER));
        self.announced
    }

    /// Whether so much was read since the limit was last said that the peer must hear the new one by itself.
    pub(super) fn update_due(&self) -> bool {
        let open = self.final_size.is_none() && self.read > 0;
        open && self.read + self.window >= self.announced + self.window / 2
    }

    /// Whether the stream's end is known and everything before it was read.
    pub(super) fn is_finished(&self) -> bool {
        self.final_size == Some(self.read)
    }

    /// Bytes kept.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.buffer.len()
    }

    /// Writes `data` into the buffer, which grows up to the window.
    fn place(&mut self, at: usize, data: &[u8]) {
        if self.buffer.len() < at + data.len() {
            self.buffer.resize(at + data.len(), 0);
        }
        let (front, back) = self.buffer.as_mut_slices();
        let split = front.len().saturating_sub(at).min(data.len());
        if split > 0 {
            front[at..at + split].copy_from_slice(&data[..split]);
        }
        if split < data.len() {
            let at = at + split - front.len();
            back[at..at + data.len() - split].copy_from_slice(&data[split..]);
        }
    }
}

/// The offsets that a range covers.
fn extent(range: &StreamRange<'_>) -> Range<u64> {
    range.offset..range.offset + range.data.len() as u64
}

/// A distance inside the window, which is memory, or inside a segment.
fn index(distance: u64) -> usize {
    usize::try_from(distance).expect("distances inside the buffer fit the address space")
}

/// No more separate pieces than this are kept out of order; a peer with full segments never gets there.
const MAX_PIECES: usize = 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(offset: u64, data: &[u8], fin: bool) -> StreamRange<'_> {
        StreamRange { offset, data, fin }
    }

    #[test]
    fn data_beyond_the_window_is_refused() {
        let stream = ReceiveStream::new(0);
        let last = INITIAL_LIMIT - 1;
        assert_eq!(stream.check(&range(last, b"x", false)), Ok(()));
        assert_eq!(
            stream.check(&range(last, b"xy", false)),
            Err(SegmentError::BeyondWindow)
        );
    }

    #[test]
    fn the_end_never_moves() {
        let mut stream = ReceiveStream::new(0);
        stream.insert(&range(0, b"abc", false));
        assert_eq!(
            stream.check(&range(0, b"ab", true)),
            Err(SegmentError::FinalSize)
        );
        stream.insert(&range(3, b"d", true));
        for wrong in [
            range(4, b"e", false),
            range(3, b"", true),
            range(4, b"e", true),
        ] {
            assert_eq!(stream.check(&wrong), Err(SegmentError::FinalSize));
        }
        assert_eq!(stream.check(&range(4, b"", true)), Ok(()));
    }

    #[test]
    fn the_end_comes_when_all_was_read() {
        let mut stream = ReceiveStream::new(0);
        stream.insert(&range(2, b"c", true));
        let mut out = Vec::new();
        assert_eq!((stream.read(&mut out), stream.is_finished()), (0, false));
        stream.insert(&range(0, b"ab", false));
        assert!(!stream.is_finished());
        assert_eq!((stream.read(&mut out), stream.is_finished()), (3, true));
        assert_eq!(out, b"abc");
    }

    #[test]
    fn crumbs_are_refused_before_they_cost_memory_and_the_front_is_always_welcome() {
        let mut stream = ReceiveStream::new(0);
        for piece in 0..MAX_PIECES as u64 {
            let crumb = range(2 * piece + 1, b"x", false);
            assert_eq!(stream.check(&crumb), Ok(()));
            stream.insert(&crumb);
        }
        let one_more = range(2 * MAX_PIECES as u64 + 1, b"x", false);
        assert_eq!(stream.check(&one_more), Err(SegmentError::Fragmented));
        assert_eq!(stream.check(&range(0, b"x", false)), Ok(()));
        assert_eq!(stream.check(&range(2, b"x", false)), Ok(()));
    }

    #[test]
    fn an_update_is_due_when_half_the_window_was_read() {
        let mut stream = ReceiveStream::new(INITIAL_LIMIT);
        let mut out = Vec::new();
        stream.insert(&range(0, &[1; 8191], false));
        stream.read(&mut out);
        assert!(!stream.update_due());
        stream.insert(&range(8191, &[1], false));
        stream.read(&mut out);
        assert!(stream.update_due());
        assert_eq!(stream.announce(), INITIAL_LIMIT + 8192);
        assert!(!stream.update_due());
    }

    proptest! {
        #[test]
        fn any_pieces_in_any_order_make_the_stream(
            pieces in prop::collection::vec((0usize..3000, 0usize..400, any::<bool>()), 0..100),
        ) {
            let bytes: Vec<u8> = (0..3000usize).map(|i| u8::try_from(i % 251).expect("below 251")).collect();
            let (mut stream, mut out) = (ReceiveStream::new(0), Vec::new());
            let mut pieces = pieces;
            pieces.push((0, 3000, true));
            for (start, length, read) in pieces {
                let end = (start + length).min(bytes.len());
                let piece = range(start as u64, &bytes[start..end], end == bytes.len());
                prop_assert_eq!(stream.check(&piece), Ok(()));
                stream.insert(&piece);
                if read {
                    stream.read(&mut out);
                }
                prop_assert!(bytes.starts_with(&out));
            }
            stream.read(&mut out);
            prop_assert_eq!(out, bytes);
            prop_assert!(stream.is_finished());
            prop_assert!(stream.buffer.is_empty() && stream.arrived.is_empty());
        }
    }
}
