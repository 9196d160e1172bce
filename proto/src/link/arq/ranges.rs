//! Sets of 64-bit numbers kept as ranges: which bytes or packet numbers have arrived, are lost, are acknowledged.
//! Knows nothing of what the numbers count. Costs memory per range, not per number; who fills it bounds the ranges.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of numbers. No two ranges in it touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    /// First number → number behind the last.
    ends: BTreeMap<u64, u64>,
}

impl Ranges {
    /// Adds all numbers of `range`.
    pub(super) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        while let Some((&other, &other_end)) = self.ends.range(..=end).next_back() {
            if other_end < start {
                break;
            }
            self.ends.remove(&other);
            start = start.min(other);
            end = end.max(other_end);
        }
        self.ends.insert(start, end);
    }

    /// Takes all numbers of `range` out.
    pub(super) fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some((&start, &end)) = self.ends.range(..range.end).next_back() {
            if end <= range.start {
                break;
            }
            self.ends.remove(&start);
            if end > range.end {
                self.ends.insert(range.end, end);
            }
            if start < range.start {
                self.ends.insert(start, range.start);
            }
        }
    }

    /// Takes the range with the lowest numbers out.
    pub(super) fn pop_first(&mut self) -> Option<Range<u64>> {
        self.ends.pop_first().map(|(start, end)| start..end)
    }

    /// The range with the lowest numbers.
    pub(super) fn first(&self) -> Option<Range<u64>> {
        self.iter().next()
    }

    /// The ranges, lowest first.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = Range<u64>> + '_ {
        self.ends.iter().map(|(&start, &end)| start..end)
    }

    /// How many ranges, not how many numbers.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no number.
    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Whether `number` is in the set.
    pub(super) fn contains(&self, number: u64) -> bool {
        let below = self.ends.range(..=number).next_back();
        below.is_some_and(|(_, &end)| end > number)
    }

    /// Whether inserting `range` would not need a range of its own.
    pub(super) fn touches(&self, range: &Range<u64>) -> bool {
        let below = self.ends.range(..=range.end).next_back();
        below.is_some_and(|(_, &end)| end >= range.start)
    }

    /// The parts of `range` that are not in the set, lowest first.
    pub(super) fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut missing = Self::default();
        missing.insert(range.clone());
        let below = self.ends.range(..=range.start).next_back();
        let inside = self.ends.range(range);
        for (&start, &end) in below.into_iter().chain(inside) {
            missing.remove(start..end);
        }
        missing.iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_plain_set(steps in prop::collection::vec((any::<bool>(), 0u64..60, 0u64..20), 0..60)) {
            let (mut ranges, mut plain) = (Ranges::default(), BTreeSet::new());
            for (add, start, length) in steps {
                let range = start..start + length;
                let missing: Vec<u64> = ranges.missing(range.clone()).into_iter().flatten().collect();
                let expected: Vec<u64> = range.clone().filter(|n| !plain.contains(n)).collect();
                prop_assert_eq!(missing, expected);
                let (count, touches) = (ranges.len(), ranges.touches(&range));
                if add {
                    ranges.insert(range.clone());
                    plain.extend(range.clone());
                    prop_assert!(range.is_empty() || (ranges.len() > count) != touches);
                } else {
                    ranges.remove(range.clone());
                    plain.retain(|n| !range.contains(n));
                }
                prop_assert_eq!(ranges.iter().flatten().collect::<Vec<_>>(), plain.iter().copied().collect::<Vec<_>>());
                prop_assert!((0..80).all(|n| ranges.contains(n) == plain.contains(&n)));
                let ends: Vec<_> = ranges.iter().collect();
                prop_assert!(ends.windows(2).all(|pair| pair[0].end < pair[1].start), "ranges touch: {:?}", ends);
            }
        }
    }
}
