//! The replay window (RFC 4303, section 3.4.3; the ring of words of RFC 6479): which sequence numbers were seen.
//!
//! ```text
//!              oldest that is judged            highest
//!                     ▼                            ▼
//!   …too old │ word │ word │ … │ word │ word │ 1011·… │ ahead: always fresh
//!            └───────── WORDS − 1 whole words ────────┘
//! ```
//!
//! One word of the ring is always only partly in use, so that moving ahead clears whole words and shifts nothing.
//! It knows no keys: the caller says [`ReplayWindow::accept`] only of what is authentic.

/// Words of 64 bits in the ring.
const WORDS: u64 = 256;
/// At least this many sequence numbers up to the highest one are told apart.
pub const WINDOW: u64 = (WORDS - 1) * 64;

/// Which sequence numbers were accepted.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    /// One above the highest that was accepted.
    next: u64,
    ring: [u64; 256],
}

/// What a sequence number is to a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Not seen, and higher than all that were.
    Newest,
    /// Not seen, though a higher one was.
    Late,
    /// Seen.
    Replayed,
    /// Below the window: nobody knows any more.
    TooOld,
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self {
            next: 0,
            ring: [0; 256],
        }
    }
}

impl ReplayWindow {
    /// Judges `sequence` and changes nothing: cheap, before anything is decrypted.
    #[must_use]
    pub fn check(&self, sequence: u64) -> Freshness {
        let (word, mask) = place(sequence);
        if sequence >= self.next {
            Freshness::Newest
        } else if sequence / 64 + WORDS <= (self.next - 1) / 64 {
            Freshness::TooOld
        } else if self.ring[word] & mask != 0 {
            Freshness::Replayed
        } else {
            Freshness::Late
        }
    }

    /// Judges `sequence` and remembers it: only when its datagram is authentic.
    /// `u64::MAX` is never fresh, so that "one above" exists.
    #[must_use]
    pub fn accept(&mut self, sequence: u64) -> Freshness {
        let freshness = self.check(sequence);
        match freshness {
            Freshness::Newest => {
                let Some(next) = sequence.checked_add(1) else {
                    return Freshness::TooOld;
                };
                self.clear_up_to(sequence);
                self.next = next;
                self.mark(sequence);
            }
            Freshness::Late => self.mark(sequence),
            Freshness::Replayed | Freshness::TooOld => {}
        }
        freshness
    }

    /// One above the highest that was accepted: 0 when none was.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Clears the words between the highest one's and `sequence`'s, which come into use again.
    fn clear_up_to(&mut self, sequence: u64) {
        let first = self.next.div_ceil(64);
        let last = sequence / 64;
        if last.saturating_sub(first) >= WORDS {
            self.ring.fill(0);
            return;
        }
        for word in first..=last {
            self.ring[place(word * 64).0] = 0;
        }
    }

    fn mark(&mut self, sequence: u64) {
        let (word, mask) = place(sequence);
        self.ring[word] |= mask;
    }
}

/// Which word of the ring, and which bit in it.
fn place(sequence: u64) -> (usize, u64) {
    let word = usize::try_from(sequence / 64 % WORDS).expect("less than WORDS");
    (word, 1 << (sequence % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// What the window is an economical form of: every number that was ever accepted.
    #[derive(Default)]
    struct Reference(BTreeSet<u64>);

    impl Reference {
        fn accept(&mut self, sequence: u64) -> Freshness {
            let highest = self.0.last().copied();
            if highest.is_none_or(|highest| sequence > highest) {
                self.0.insert(sequence);
                return Freshness::Newest;
            }
            if sequence / 64 + WORDS <= highest.unwrap_or(0) / 64 {
                return Freshness::TooOld;
            }
            if self.0.insert(sequence) {
                Freshness::Late
            } else {
                Freshness::Replayed
            }
        }
    }

    #[test]
    fn whatever_is_within_the_window_is_judged() {
        for highest in [WINDOW, WINDOW + 63, 1 << 40, (1 << 40) + 17] {
            let mut window = ReplayWindow::default();
            assert_eq!(window.accept(highest), Freshness::Newest);
            let oldest = highest - WINDOW;
            assert_eq!(window.accept(oldest), Freshness::Late, "{highest}");
            assert_eq!(window.accept(oldest), Freshness::Replayed, "{highest}");
        }
        const { assert!(WINDOW >= 8192) };
    }

    #[test]
    fn the_last_number_is_never_accepted() {
        let mut window = ReplayWindow::default();
        assert_eq!(window.accept(u64::MAX), Freshness::TooOld);
        assert_eq!(window.accept(u64::MAX - 1), Freshness::Newest);
        assert_eq!(window.accept(u64::MAX - 1), Freshness::Replayed);
    }

    /// Steps from the highest number so far: small, around the window's ends, and large.
    fn steps() -> impl Strategy<Value = Vec<i64>> {
        let window = i64::try_from(WINDOW).expect("small");
        let step = prop_oneof![
            8 => -200..200i64,
            2 => -window - 130..-window + 130,
            2 => window - 130..window + 130,
            1 => 0..1i64 << 40,
        ];
        prop::collection::vec(step, 1..300)
    }

    proptest! {
        #[test]
        fn agrees_with_a_set_of_all_numbers(steps in steps()) {
            let (mut window, mut reference) = (ReplayWindow::default(), Reference::default());
            for step in steps {
                let sequence = window.next().saturating_add_signed(step);
                let expected = reference.accept(sequence);
                prop_assert_eq!(window.check(sequence), expected);
                prop_assert_eq!(window.accept(sequence), expected);
            }
        }

        #[test]
        fn a_replayed_number_is_never_accepted(steps in steps()) {
            let mut window = ReplayWindow::default();
            let mut accepted = BTreeSet::new();
            for step in steps {
                let sequence = window.next().saturating_add_signed(step);
                if matches!(window.accept(sequence), Freshness::Newest | Freshness::Late) {
                    prop_assert!(accepted.insert(sequence));
                }
            }
        }
    }
}
