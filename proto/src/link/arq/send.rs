//! Our stream: keeps what was written until it is acknowledged, and says which part goes next: lost parts first, then
//! new ones as far as the peer's limit allows, then the end.
//!
//! ```text
//!   0 ──────── base ─────────── next ──────── written        limit
//!   acknowledged │ in flight, lost, │ not sent │   free room   │ the peer takes no more
//!                │ acknowledged     │          │
//! ```

use std::ops::Range;

use super::ranges::Ranges;
use crate::wire::segment::INITIAL_LIMIT;

/// The sending half of the stream.
#[derive(Debug)]
pub(super) struct SendStream {
    capacity: usize,
    /// The bytes from `base` on start at `consumed`; what is before them is removed now and then.
    buffer: Vec<u8>,
    consumed: usize,
    /// Everything below is acknowledged.
    base: u64,
    /// Acknowledged parts from `base` on.
    acknowledged: Ranges,
    /// Parts to send again.
    lost: Ranges,
    /// The first byte that was never sent.
    next: u64,
    /// The peer takes bytes below this offset.
    limit: u64,
    end: End,
}

/// What has become of the stream's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// More may be written.
    Open,
    /// To be sent.
    Pending,
    /// In flight.
    Sent,
    /// Known to the peer.
    Acknowledged,
}

/// A part of the stream that goes into one segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) bytes: Range<u64>,
    pub(super) fin: bool,
}

impl Part {
    /// Whether nothing of the stream is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && !self.fin
    }
}

impl SendStream {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            buffer: Vec::new(),
            consumed: 0,
            base: 0,
            acknowledged: Ranges::default(),
            lost: Ranges::default(),
            next: 0,
            limit: INITIAL_LIMIT,
            end: End::Open,
        }
    }

    /// Takes as many bytes as there is room for; returns how many.
    pub(super) fn write(&mut self, bytes: &[u8]) -> usize {
        if self.end != End::Open {
            return 0;
        }
        let kept = self.buffer.len() - self.consumed;
        let accepted = bytes.len().min(self.capacity.saturating_sub(kept));
        self.buffer.extend_from_slice(&bytes[..accepted]);
        accepted
    }

    /// Nothing more will be written.
    pub(super) fn finish(&mut self) {
        if self.end == End::Open {
            self.end = End::Pending;
        }
    }

    /// Whether the peer has everything, the end included.
    pub(super) fn is_finished(&self) -> bool {
        self.end == End::Acknowledged && self.base == self.written()
    }

    /// The peer takes bytes up to `limit`, or to what it said before; returns whether that is news.
    pub(super) fn raise_limit(&mut self, limit: u64) -> bool {
        let news = limit > self.limit;
        self.limit = self.limit.max(limit);
        news
    }

    /// Whether only the peer's limit keeps bytes back.
    pub(super) fn is_blocked(&self) -> bool {
        self.lost.is_empty() && self.next == self.limit && self.next < self.written()
    }

    /// What [`take`](Self::take) would give.
    pub(super) fn peek(&self, max: usize) -> Part {
        let mut bytes = self.lost.first().unwrap_or_else(|| {
            let end = self.written().min(self.limit).max(self.next);
            self.next..end
        });
        bytes.end = bytes.end.min(bytes.start.saturating_add(max as u64));
        Part {
            fin: self.carries_end(&bytes),
            bytes,
        }
    }

    /// The next part to send, at most `max` bytes; empty when there is none.
    pub(super) fn take(&mut self, max: usize) -> Part {
        let part = self.peek(max);
        self.lost.remove(part.bytes.clone());
        self.next = self.next.max(part.bytes.end);
        if part.fin {
            self.end = End::Sent;
        }
        part
    }

    /// What of `part` is still worth sending once more, at most `max` bytes of it.
    pub(super) fn again(&self, part: &Part, max: usize) -> Part {
        let wanted = part.bytes.start.max(self.base)..part.bytes.end.max(self.base);
        let missing = self.acknowledged.missing(wanted).into_iter().next();
        let mut bytes = missing.unwrap_or(part.bytes.end..part.bytes.end);
        bytes.end = bytes.end.min(bytes.start.saturating_add(max as u64));
        let fin = part.fin && self.end != End::Acknowledged && bytes.end == part.bytes.end;
        Part { bytes, fin }
    }

    /// The bytes of a part that is not acknowledged.
    pub(super) fn bytes(&self, part: &Part) -> &[u8] {
        let at = |offset: u64| self.consumed + index(offset - self.base);
        if part.bytes.is_empty() {
            &[]
        } else {
            &self.buffer[at(part.bytes.start)..at(part.bytes.end)]
        }
    }

    /// The peer has `part`.
    pub(super) fn on_acknowledged(&mut self, part: &Part) {
        let bytes = part.bytes.start.max(self.base)..part.bytes.end.max(self.base);
        self.lost.remove(bytes.clone());
        self.acknowledged.insert(bytes);
        if part.fin {
            self.end = End::Acknowledged;
        }
        if let Some(first) = self
            .acknowledged
            .first()
            .filter(|first| first.start == self.base)
        {
            self.acknowledged.remove(first.clone());
            self.consumed += index(first.end - first.start);
            self.base = first.end;
            self.compact();
        }
    }

    /// `part` must be sent again, as far as the peer does not have it by another segment.
    pub(super) fn on_lost(&mut self, part: &Part) {
        let bytes = part.bytes.start.max(self.base)..part.bytes.end.max(self.base);
        for missing in self.acknowledged.missing(bytes) {
            self.lost.insert(missing);
        }
        if part.fin && self.end == End::Sent {
            self.end = End::Pending;
        }
    }

    /// Bytes kept.
    #[cfg(test)]
    pub(super) const fn memory(&self) -> usize {
        self.buffer.len()
    }

    fn written(&self) -> u64 {
        self.base + (self.buffer.len() - self.consumed) as u64
    }

    fn carries_end(&self, bytes: &Range<u64>) -> bool {
        self.end == End::Pending && bytes.end == self.written()
    }

    /// Removes acknowledged bytes when they are at least half of the buffer: each byte is moved once at most, on average.
    fn compact(&mut self) {
        if self.consumed >= self.buffer.len() / 2 {
            self.buffer.drain(..self.consumed);
            self.consumed = 0;
        }
    }
}

/// A distance inside the buffer.
fn index(distance: u64) -> usize {
    usize::try_from(distance).expect("distances inside the buffer fit the address space")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(bytes: Range<u64>, fin: bool) -> Part {
        Part { bytes, fin }
    }

    #[test]
    fn lost_parts_go_before_new_ones_and_the_end_last() {
        let mut stream = SendStream::new(100);
        assert_eq!(stream.write(&[1; 30]), 30);
        stream.finish();
        assert_eq!(stream.take(10), part(0..10, false));
        assert_eq!(stream.take(10), part(10..20, false));
        stream.on_lost(&part(0..10, false));
        assert_eq!(stream.take(4), part(0..4, false));
        assert_eq!(stream.take(10), part(4..10, false));
        assert_eq!(stream.take(10), part(20..30, true));
        assert!(stream.take(10).is_empty());
        stream.on_lost(&part(20..30, true));
        assert_eq!(stream.take(100), part(20..30, true));
        stream.on_acknowledged(&part(0..20, false));
        assert!(!stream.is_finished());
        stream.on_acknowledged(&part(20..30, true));
        assert!(stream.is_finished());
    }

    #[test]
    fn the_end_alone_and_an_end_whose_bytes_have_arrived() {
        let mut stream = SendStream::new(100);
        stream.write(b"abc");
        assert_eq!(stream.take(10), part(0..3, false));
        stream.finish();
        assert_eq!(stream.take(10), part(3..3, true));
        stream.on_acknowledged(&part(0..3, false));
        assert!(!stream.is_finished());
        stream.on_lost(&part(3..3, true));
        assert_eq!(stream.take(10), part(3..3, true));
        stream.on_acknowledged(&part(3..3, true));
        assert!(stream.is_finished());
    }

    #[test]
    fn the_buffer_is_bounded_and_acknowledged_bytes_make_room() {
        let mut stream = SendStream::new(10);
        assert_eq!(stream.write(&[0; 15]), 10);
        assert_eq!(stream.write(&[0]), 0);
        stream.take(10);
        stream.on_acknowledged(&part(4..10, false));
        assert_eq!(stream.write(&[0]), 0, "a hole keeps what is behind it");
        stream.on_acknowledged(&part(0..4, false));
        assert_eq!(stream.write(&[0; 15]), 10);
    }

    #[test]
    fn the_peers_limit_holds_new_bytes_back_and_nothing_else() {
        let mut stream = SendStream::new(1 << 20);
        stream.write(&vec![0; 20_000]);
        assert_eq!(stream.take(usize::MAX), part(0..INITIAL_LIMIT, false));
        assert!(stream.is_blocked() && stream.take(10).is_empty());
        stream.on_lost(&part(5..6, false));
        assert_eq!(stream.take(10), part(5..6, false));
        assert!(stream.raise_limit(INITIAL_LIMIT + 1) && !stream.raise_limit(0));
        assert_eq!(
            stream.take(10),
            part(INITIAL_LIMIT..INITIAL_LIMIT + 1, false)
        );
    }

    #[test]
    fn what_has_arrived_by_another_segment_is_not_sent_again() {
        let mut stream = SendStream::new(100);
        stream.write(&[0; 30]);
        stream.take(30);
        stream.on_acknowledged(&part(10..20, false));
        assert_eq!(stream.again(&part(5..30, false), 100), part(5..10, false));
        assert!(stream.again(&part(12..18, false), 100).is_empty());
        stream.on_lost(&part(0..30, false));
        assert_eq!(stream.take(100), part(0..10, false));
        stream.on_acknowledged(&part(0..25, false));
        assert_eq!(stream.take(100), part(25..30, false));
    }
}
