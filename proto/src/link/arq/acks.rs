//! Which packet numbers have arrived, and when to say so (RFC 9000, section 13.2): at once for every second
//! ack-eliciting segment and for anything out of order, else within [`MAX_ACK_DELAY`].

use std::time::Instant;

use super::ranges::Ranges;
use super::rtt::MAX_ACK_DELAY;
use crate::wire::segment::{Ack, MAX_ACK_RANGES};

/// The acknowledgements that this side owes.
#[derive(Debug, Default)]
pub(super) struct Acks {
    /// At most [`MAX_ACK_RANGES`]: the highest.
    arrived: Ranges,
    /// Nothing below is recorded any more.
    floor: u64,
    largest_at: Option<Instant>,
    /// Ack-eliciting segments since the last acknowledgement was sent.
    unacknowledged: u32,
    /// Whether anything arrived since then.
    news: bool,
    /// When the acknowledgement is due.
    due: Option<Instant>,
}

impl Acks {
    /// Whether this packet number has arrived before; below what is remembered the answer is no.
    pub(super) fn is_duplicate(&self, packet_number: u64) -> bool {
        self.arrived.contains(packet_number)
    }

    /// Records a segment that is not a duplicate. `awaited` is the lowest number that the peer still asks about.
    pub(super) fn record(
        &mut self,
        packet_number: u64,
        awaited: u64,
        eliciting: bool,
        now: Instant,
    ) {
        let next = self.next_expected();
        if packet_number >= self.floor {
            self.arrived.insert(packet_number..packet_number + 1);
        }
        self.news = true;
        if packet_number >= next {
            self.largest_at = Some(now);
        }
        self.forget_below(awaited);
        while self.arrived.len() > MAX_ACK_RANGES {
            let lowest = self.arrived.pop_first();
            self.floor = lowest.map_or(self.floor, |range| range.end);
        }
        if eliciting {
            self.unacknowledged += 1;
            let at_once = packet_number != next || self.unacknowledged >= 2;
            let due = if at_once { now } else { now + MAX_ACK_DELAY };
            self.due = Some(self.due.map_or(due, |before| before.min(due)));
        }
    }

    /// When an acknowledgement must be sent at the latest.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// How many ranges an acknowledgement would have; none when there is no news.
    pub(super) fn ranges(&self) -> usize {
        if self.news { self.arrived.len() } else { 0 }
    }

    /// The acknowledgement to send now, with at most `room` ranges; it is then no longer owed.
    pub(super) fn take(&mut self, room: usize, now: Instant) -> Option<Ack> {
        let count = self.ranges().min(room);
        if count == 0 {
            return None;
        }
        let ranges = self.arrived.iter().rev().take(count);
        (self.news, self.unacknowledged, self.due) = (false, 0, None);
        Some(Ack {
            delay: self
                .largest_at
                .map_or_else(Default::default, |at| now.saturating_duration_since(at)),
            ranges: ranges.map(|range| range.start..=range.end - 1).collect(),
        })
    }

    /// The number behind the largest that has arrived.
    fn next_expected(&self) -> u64 {
        self.arrived.iter().next_back().map_or(0, |range| range.end)
    }

    /// The largest is always kept: it says what the next number should be.
    fn forget_below(&mut self, awaited: u64) {
        let floor = awaited.min(self.next_expected().saturating_sub(1));
        if floor > self.floor {
            self.arrived.remove(self.floor..floor);
            self.floor = floor;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::link::arq::tests::epoch;
    use crate::wire::segment::MAX_NUMBER;

    #[test]
    fn every_second_segment_is_acknowledged_at_once_and_the_first_later() {
        let (now, mut acks) = (epoch(), Acks::default());
        acks.record(0, 0, true, now);
        assert_eq!(acks.due(), Some(now + MAX_ACK_DELAY));
        acks.record(1, 0, true, now);
        assert_eq!(acks.due(), Some(now));
        assert_eq!(acks.take(32, now).expect("owed").ranges, [0..=1]);
        assert_eq!((acks.due(), acks.take(32, now)), (None, None));
    }

    #[test]
    fn reordering_is_acknowledged_at_once_and_mere_acknowledgements_never() {
        let (now, mut acks) = (epoch(), Acks::default());
        acks.record(0, 0, false, now);
        assert_eq!(acks.due(), None);
        acks.record(2, 0, true, now);
        assert_eq!(acks.due(), Some(now), "a gap");
        let _ = acks.take(32, now);
        acks.record(1, 0, true, now);
        assert_eq!(acks.due(), Some(now), "the late one");
    }

    #[test]
    fn what_nobody_asks_about_is_forgotten() {
        let (now, mut acks) = (epoch(), Acks::default());
        for number in [0, 2, 4, 6] {
            acks.record(number, number.saturating_sub(2), true, now);
        }
        assert_eq!(acks.take(32, now).expect("owed").ranges, [6..=6, 4..=4]);
    }

    proptest! {
        #[test]
        fn memory_is_bounded_whatever_numbers_come(numbers in prop::collection::vec((0..MAX_NUMBER, 0..MAX_NUMBER), 0..300)) {
            let (now, mut acks) = (epoch(), Acks::default());
            for (number, awaited) in numbers {
                acks.record(number, awaited.min(number), true, now);
                prop_assert!(acks.arrived.len() <= MAX_ACK_RANGES);
                prop_assert!(acks.due().is_some());
                prop_assert!(acks.take(32, now).is_some_and(|ack| !ack.ranges.is_empty()), "due and nothing to say");
            }
        }
    }
}
