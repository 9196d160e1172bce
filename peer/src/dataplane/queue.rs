//! What programs have sent and is not sealed yet: bulk waits in line, whatever else passes it. Bounded by time.
//!
//! ```text
//!   card ─▶ alone, or of a flow of which nothing waits, small ─▶ goes at once
//!        └▶ bulk, or behind bulk of its own flow ─▶ │ │ │ │ ─▶ one after the other
//!                                                  └ full, or its first has waited too long: dropped, its sender slows down
//! ```
//!
//! The kernel's own queue before a card is a plain row; so it is emptied between any two super-frames, and a ping waits for
//! one of them and not for all. Nothing overtakes its own flow.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use kuguri_proto::offload::{Gso, Layout, Version, VnetHeader};

use crate::tap::LARGEST_FRAME;

/// Frames in line.
#[derive(Debug, Default)]
pub(super) struct Queue {
    line: VecDeque<Waiting>,
    spare: Vec<Vec<u8>>,
}

/// A frame in line; its bytes are in a buffer of the queue.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) vnet: VnetHeader,
    pub(super) buffer: Vec<u8>,
    pub(super) place: std::ops::Range<usize>,
    flow: u64,
    since: Instant,
}

/// What becomes of a frame that was just read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It goes now.
    Now,
    /// It gets in line.
    Later(Flow),
    /// There is no room in time.
    Never,
}

/// A flow, for the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flow(u64);

impl Queue {
    /// A buffer to read the next frame into.
    pub(super) fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_else(|| vec![0; LARGEST_FRAME])
    }

    /// A buffer that is not needed any more.
    pub(super) fn give_back(&mut self, buffer: Vec<u8>) {
        if self.spare.len() < MOST {
            self.spare.push(buffer);
        }
    }

    /// Whose turn it is.
    pub(super) fn turn(&self, vnet: &VnetHeader, frame: &[u8], now: Instant) -> Turn {
        let bulk = vnet.gso != Gso::None || frame.len() > SMALL;
        let Some(first) = self.line.front() else {
            return if bulk {
                Turn::Later(flow(frame))
            } else {
                Turn::Now
            };
        };
        let flow = flow(frame);
        if !bulk && self.line.iter().all(|waiting| waiting.flow != flow.0) {
            return Turn::Now;
        }
        let late = now.saturating_duration_since(first.since) > LONGEST;
        if self.line.len() >= MOST || late && self.line.len() >= LEAST {
            return Turn::Never;
        }
        Turn::Later(flow)
    }

    /// Puts a frame in line.
    pub(super) fn push(
        &mut self,
        Flow(flow): Flow,
        vnet: VnetHeader,
        buffer: Vec<u8>,
        place: std::ops::Range<usize>,
        now: Instant,
    ) {
        self.line.push_back(Waiting {
            vnet,
            buffer,
            place,
            flow,
            since: now,
        });
    }

    /// The next in line.
    pub(super) fn pop(&mut self) -> Option<Waiting> {
        self.line.pop_front()
    }
}

/// Stations, addresses and ports, mixed; two flows that are taken for one only wait for each other.
fn flow(frame: &[u8]) -> Flow {
    let mut mixed = mix(0, frame.get(..12).unwrap_or(frame));
    if let Some(layout) = Layout::parse(frame) {
        let addresses = match layout.version {
            Version::V4 => layout.network + 12..layout.network + 20,
            Version::V6 => layout.network + 8..layout.network + 40,
        };
        mixed = mix(mixed, &frame[addresses]);
        mixed = mix(mixed, &frame[layout.transport..layout.transport + 4]);
    }
    Flow(mixed)
}

fn mix(seed: u64, bytes: &[u8]) -> u64 {
    let (words, _) = bytes.as_chunks::<4>();
    words.iter().fold(seed, |mixed, word| {
        (mixed ^ u64::from(u32::from_ne_bytes(*word)))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29)
    })
}

/// Bytes of a frame that is not bulk.
const SMALL: usize = 600;
/// Frames in line at most, large or small.
const MOST: usize = 48;
/// Frames that may be in line however long they wait: less than that is no queue but a batch.
const LEAST: usize = 4;
/// What the first in line may have waited before no more get in (the interval of RFC 8289 is for a whole path; this is one
/// machine).
const LONGEST: Duration = Duration::from_millis(4);

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(port: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![0; length.max(60)];
        frame[12] = 8;
        frame[14] = 0x45;
        let total = u16::try_from(frame.len() - 14).expect("short");
        frame[16..18].copy_from_slice(&total.to_be_bytes());
        frame[23] = 17;
        frame[35] = port;
        frame
    }

    fn take(queue: &mut Queue, frame: &[u8], now: Instant) -> Turn {
        let turn = queue.turn(&VnetHeader::default(), frame, now);
        if let Turn::Later(flow) = turn {
            queue.push(
                flow,
                VnetHeader::default(),
                frame.to_vec(),
                0..frame.len(),
                now,
            );
        }
        turn
    }

    #[test]
    fn small_frames_pass_bulk_but_not_their_own_flow() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        assert_eq!(
            take(&mut queue, &frame(1, 60), now),
            Turn::Now,
            "nothing waits"
        );
        assert!(matches!(
            take(&mut queue, &frame(1, 1400), now),
            Turn::Later(_)
        ));
        assert_eq!(take(&mut queue, &frame(2, 60), now), Turn::Now);
        assert!(matches!(
            take(&mut queue, &frame(1, 60), now),
            Turn::Later(_)
        ));
        let sizes: Vec<_> = std::iter::from_fn(|| queue.pop())
            .map(|it| it.place.len())
            .collect();
        assert_eq!(sizes, [1400, 60]);
    }

    #[test]
    fn the_line_is_bounded_by_number_and_by_time() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        while matches!(take(&mut queue, &frame(1, 1400), now), Turn::Later(_)) {}
        assert_eq!(queue.line.len(), MOST);
        assert_eq!(take(&mut queue, &frame(2, 60), now), Turn::Now);
        while queue.line.len() > LEAST {
            queue.pop();
        }
        let late = now + LONGEST + Duration::from_millis(1);
        assert_eq!(take(&mut queue, &frame(1, 1400), late), Turn::Never);
        queue.pop();
        assert!(matches!(
            take(&mut queue, &frame(1, 1400), late),
            Turn::Later(_)
        ));
    }
}
