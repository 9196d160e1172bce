//! Parts of frames become frames, in bounded memory and time.
//!
//! A part that contradicts what is there already, by overlap or by another total, throws the whole frame away
//! (as RFC 5722 does for IPv6). What does not become whole within [`MAX_AGE`] is thrown away too.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{FrameLength, check_length};
use crate::wire::chunk::Fragment;

/// A frame whose last part has not come after this time is given up.
pub const MAX_AGE: Duration = Duration::from_secs(2);
/// So many frames may be unfinished at a time.
pub const MAX_UNFINISHED: usize = 64;
/// So many bytes of frames may be unfinished at a time, counted by their whole lengths.
pub const MAX_BYTES: usize = 1 << 20;
/// A frame may have so many gaps at a time. Parts in order make one.
const MAX_GAPS: usize = 256;

/// Frames of which parts are missing.
#[derive(Debug, Default)]
pub struct Reassembler {
    pub(super) unfinished: BTreeMap<u32, Unfinished>,
    /// Bytes of all unfinished frames, by their whole lengths.
    pub(super) bytes: usize,
    counters: ReassemblyCounters,
}

#[derive(Debug)]
pub(super) struct Unfinished {
    pub(super) frame: Vec<u8>,
    /// What is missing: from (inclusive) → to (exclusive).
    gaps: BTreeMap<usize, usize>,
    since: Instant,
}

/// Why a part was not taken: the sender's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReassemblyError {
    /// The frame would have an impossible length.
    #[error(transparent)]
    Length(#[from] FrameLength),
    /// No bytes, or bytes beyond the frame's end.
    #[error("part of {length} bytes at {offset} of a frame of {total}")]
    Range {
        /// Where the part begins.
        offset: u32,
        /// Its bytes.
        length: usize,
        /// The frame's bytes.
        total: u32,
    },
    /// It overlaps an earlier part, or names another total; the frame is thrown away.
    #[error("parts of frame {0} contradict each other")]
    Inconsistent(u32),
    /// Its parts leave more gaps than are kept in mind; the frame is thrown away.
    #[error("frame {0} is in too many pieces")]
    TooManyGaps(u32),
}

/// What a reassembler has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReassemblyCounters {
    /// Frames that became whole.
    pub frames: u64,
    /// Parts that were refused, as [`ReassemblyError`] says.
    pub refused: u64,
    /// Unfinished frames that were thrown away because a part contradicted the others.
    pub inconsistent: u64,
    /// Unfinished frames that were given up after [`MAX_AGE`].
    pub expired: u64,
    /// Unfinished frames that made room for newer ones.
    pub evicted: u64,
}

impl Reassembler {
    /// Takes a part; gives the frame when this was the last that was missing.
    ///
    /// # Errors
    /// When the part cannot be what an honest sender sends; it is counted.
    pub fn handle_fragment(
        &mut self,
        fragment: Fragment<'_>,
        now: Instant,
    ) -> Result<Option<Vec<u8>>, ReassemblyError> {
        let taken = self.take(fragment, now);
        match taken {
            Ok(Some(_)) => self.counters.frames += 1,
            Ok(None) => {}
            Err(_) => self.counters.refused += 1,
        }
        taken
    }

    /// Gives up what is too old.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((number, since)) = self.oldest() {
            if now < since + MAX_AGE {
                break;
            }
            self.remove(number);
            self.counters.expired += 1;
        }
    }

    /// When to call [`Self::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.oldest().map(|(_, since)| since + MAX_AGE)
    }

    /// What was counted so far.
    #[must_use]
    pub const fn counters(&self) -> ReassemblyCounters {
        self.counters
    }

    fn take(
        &mut self,
        fragment: Fragment<'_>,
        now: Instant,
    ) -> Result<Option<Vec<u8>>, ReassemblyError> {
        let (from, to, total) = range(fragment)?;
        self.handle_timeout(now);
        self.make_room(fragment.number, total);
        let number = fragment.number;
        let unfinished = self.unfinished.entry(number).or_insert_with(|| {
            self.bytes += total;
            Unfinished::new(total, now)
        });
        match unfinished.take(from, to, fragment) {
            Ok(true) => Ok(self.remove(number)),
            Ok(false) => Ok(None),
            Err(error) => {
                self.remove(number);
                self.counters.inconsistent += 1;
                Err(error)
            }
        }
    }

    /// Throws the oldest away until a new frame of `total` bytes fits, if `number` is new.
    fn make_room(&mut self, number: u32, total: usize) {
        if self.unfinished.contains_key(&number) {
            return;
        }
        while self.unfinished.len() >= MAX_UNFINISHED || self.bytes + total > MAX_BYTES {
            let Some((oldest, _)) = self.oldest() else {
                return;
            };
            self.remove(oldest);
            self.counters.evicted += 1;
        }
    }

    /// Numbers wrap around, so age alone tells which is oldest.
    fn oldest(&self) -> Option<(u32, Instant)> {
        self.unfinished
            .iter()
            .map(|(number, unfinished)| (*number, unfinished.since))
            .min_by_key(|(_, since)| *since)
    }

    fn remove(&mut self, number: u32) -> Option<Vec<u8>> {
        let removed = self.unfinished.remove(&number)?;
        self.bytes -= removed.frame.len();
        Some(removed.frame)
    }
}

impl Unfinished {
    fn new(total: usize, now: Instant) -> Self {
        Self {
            frame: vec![0; total],
            gaps: BTreeMap::from([(0, total)]),
            since: now,
        }
    }

    /// Puts a part into the one gap that it lies in; whether the frame is whole now.
    fn take(
        &mut self,
        from: usize,
        to: usize,
        fragment: Fragment<'_>,
    ) -> Result<bool, ReassemblyError> {
        let gap = self.gaps.range(..=from).next_back();
        let inconsistent = ReassemblyError::Inconsistent(fragment.number);
        let Some((&start, &end)) = gap.filter(|(_, end)| to <= **end) else {
            return Err(inconsistent);
        };
        let total = usize::try_from(fragment.total);
        if total != Ok(self.frame.len()) {
            return Err(inconsistent);
        }
        let place = self.frame.get_mut(from..to).ok_or(inconsistent)?;
        place.copy_from_slice(fragment.bytes);
        self.gaps.remove(&start);
        self.gaps.extend(
            [(start, from), (to, end)]
                .into_iter()
                .filter(|(from, to)| from < to),
        );
        if self.gaps.len() > MAX_GAPS {
            return Err(ReassemblyError::TooManyGaps(fragment.number));
        }
        Ok(self.gaps.is_empty())
    }
}

/// Where a part lies: from, to, and the frame's length; all checked.
fn range(fragment: Fragment<'_>) -> Result<(usize, usize, usize), ReassemblyError> {
    let length = fragment.bytes.len();
    let outside = ReassemblyError::Range {
        offset: fragment.offset,
        length,
        total: fragment.total,
    };
    let total = usize::try_from(fragment.total).map_err(|_| outside)?;
    check_length(total)?;
    let from = usize::try_from(fragment.offset).map_err(|_| outside)?;
    let to = from.checked_add(length).filter(|to| *to <= total);
    match to {
        Some(to) if length > 0 => Ok((from, to, total)),
        _ => Err(outside),
    }
}
