//! Who may join a hub: known keys, and whoever shows the token of an invite.
//!
//! The key is proved by TLS before anybody asks here. Tokens are 128 random bits; only their SHA-256 is kept, and all of
//! them are compared, each in constant time, so that neither memory nor time tells a token.
//!
//! ```text
//!   key known? ──yes──▶ in
//!      │ no
//!   has it failed too often? ──yes──▶ refused (whatever it shows)
//!      │ no
//!   token one of ours? ──yes──▶ in
//!      │ no
//!   refused, and one failure more
//! ```
//!
//! A peer that fails too often hears the same as one with a wrong token: it learns nothing by asking on. It knows no link
//! and no names; which addresses and rights a member gets is decided elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use subtle::{Choice, ConstantTimeEq};
use zeroize::Zeroizing;

use crate::bucket::{Bucket, Rate};
use crate::identity::PeerId;
use crate::wire::control::{Credential, Refusal};

/// A token's name, for lists and logs: the first eight bytes of its hash, which say nothing of the token.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub [u8; 8]);

/// Why a token or a key cannot be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    /// [`MAX_TOKENS`] are there already.
    #[error("the hub has {MAX_TOKENS} invites already; withdraw some first")]
    TooManyTokens,
    /// [`MAX_KEYS`] are there already.
    #[error("the hub knows {MAX_KEYS} keys already; remove some first")]
    TooManyKeys,
}

/// What has been decided, in requests to join.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Let in.
    pub admitted: u64,
    /// Refused for a wrong token, or for none.
    pub refused: u64,
    /// Refused without a look at the token, after too many failures.
    pub limited: u64,
}

/// The list of those who may join.
pub struct Admission {
    tokens: BTreeMap<TokenId, Zeroizing<[u8; 32]>>,
    keys: BTreeSet<PeerId>,
    failures: Failures,
    counters: Counters,
}

impl Admission {
    /// Nobody may join yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            tokens: BTreeMap::new(),
            keys: BTreeSet::new(),
            failures: Failures::default(),
            counters: Counters::default(),
        }
    }

    /// Lets in whoever shows `token`; the name under which it can be listed and withdrawn.
    ///
    /// # Errors
    /// When there are too many.
    pub fn add_token(&mut self, token: &[u8; 16]) -> Result<TokenId, AdmissionError> {
        let hash = hash(token);
        let id = TokenId::of(&hash);
        if self.tokens.len() >= MAX_TOKENS && !self.tokens.contains_key(&id) {
            return Err(AdmissionError::TooManyTokens);
        }
        self.tokens.insert(id, hash);
        Ok(id)
    }

    /// Withdraws a token; false when it was not there. Who is in stays in: ending links is the caller's business.
    pub fn withdraw_token(&mut self, id: TokenId) -> bool {
        self.tokens.remove(&id).is_some()
    }

    /// The tokens that let in, by name.
    pub fn tokens(&self) -> impl Iterator<Item = TokenId> + '_ {
        self.tokens.keys().copied()
    }

    /// Lets in the peer with that key, whatever it shows.
    ///
    /// # Errors
    /// When there are too many.
    pub fn add_key(&mut self, peer: PeerId) -> Result<(), AdmissionError> {
        if self.keys.len() >= MAX_KEYS && !self.keys.contains(&peer) {
            return Err(AdmissionError::TooManyKeys);
        }
        self.keys.insert(peer);
        Ok(())
    }

    /// Forgets a key; false when it was not there.
    pub fn remove_key(&mut self, peer: PeerId) -> bool {
        self.keys.remove(&peer)
    }

    /// The keys that are known, in order.
    pub fn keys(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.keys.iter().copied()
    }

    /// Decides whether the peer whose key TLS has proved may join.
    ///
    /// # Errors
    /// [`Refusal::UnknownToken`] when it may not.
    pub fn admit(
        &mut self,
        peer: PeerId,
        credential: &Credential,
        now: Instant,
    ) -> Result<(), Refusal> {
        if self.keys.contains(&peer) {
            self.counters.admitted += 1;
            return Ok(());
        }
        if self.failures.are_too_many(peer, now) {
            self.counters.limited += 1;
            return Err(Refusal::UnknownToken);
        }
        if self.shows_a_token(credential) {
            self.counters.admitted += 1;
            return Ok(());
        }
        self.failures.add(peer, now);
        self.counters.refused += 1;
        Err(Refusal::UnknownToken)
    }

    /// What has been decided.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    fn shows_a_token(&self, credential: &Credential) -> bool {
        let Credential::Token(token) = credential else {
            return false;
        };
        let shown = hash(token);
        let none = Choice::from(0);
        let found = self
            .tokens
            .values()
            .fold(none, |found, ours| found | ours.ct_eq(shown.as_slice()));
        found.into()
    }
}

impl Default for Admission {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Admission {
    /// Shows how many, never which.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission")
            .field("tokens", &self.tokens.len())
            .field("keys", &self.keys.len())
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

/// Who has failed lately: a bucket each, and never more than [`MAX_FAILURES`] of them.
#[derive(Debug, Default)]
struct Failures {
    buckets: BTreeMap<PeerId, Bucket>,
}

impl Failures {
    fn are_too_many(&self, peer: PeerId, now: Instant) -> bool {
        let bucket = self.buckets.get(&peer);
        bucket.is_some_and(|bucket| !bucket.has_token(failure_rate(), now))
    }

    fn add(&mut self, peer: PeerId, now: Instant) {
        if !self.buckets.contains_key(&peer) {
            self.make_room(now);
        }
        let bucket = self
            .buckets
            .entry(peer)
            .or_insert_with(|| Bucket::full(now));
        // Whether one was left has been asked before, by `are_too_many`.
        let _ = bucket.take(failure_rate(), now);
    }

    /// Forgets those whose failures are long past; if that is nobody, the one whose failures weigh least.
    fn make_room(&mut self, now: Instant) {
        if self.buckets.len() < MAX_FAILURES {
            return;
        }
        self.buckets.retain(|_, bucket| bucket.full_at() > now);
        if self.buckets.len() >= MAX_FAILURES {
            let least = self.buckets.iter().min_by_key(|(_, b)| b.full_at());
            if let Some(peer) = least.map(|(peer, _)| *peer) {
                self.buckets.remove(&peer);
            }
        }
    }
}

impl TokenId {
    fn of(hash: &[u8; 32]) -> Self {
        Self(*hash.first_chunk().expect("32 bytes have eight"))
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenId({self})")
    }
}

/// No salt and no slow hash: a token is 128 random bits, which nobody finds by trying.
fn hash(token: &[u8; 16]) -> Zeroizing<[u8; 32]> {
    let input = Zeroizing::new([TOKEN_CONTEXT, token.as_slice()].concat());
    let hash = digest(&SHA256, &input);
    Zeroizing::new(*hash.as_ref().first_chunk().expect("SHA-256 has 32 bytes"))
}

/// Ten failures at once, then one in ten seconds.
fn failure_rate() -> Rate {
    Rate::new(NonZeroU32::MIN, Duration::from_secs(10), FAILURE_BURST)
}

const FAILURE_BURST: NonZeroU32 = NonZeroU32::new(10).expect("not zero");
/// Separates this use of a token from every other.
const TOKEN_CONTEXT: &[u8] = b"kuguri join token";
/// No hub has more tokens.
pub const MAX_TOKENS: usize = 1_024;
/// No hub knows more keys.
pub const MAX_KEYS: usize = 65_536;
/// No more peers are remembered for their failures; making a new key and a new TLS session costs a peer more than ten guesses
/// at 128 bits are worth.
const MAX_FAILURES: usize = 1_024;

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test may begin at any instant")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WRONG: Credential = Credential::Token([0xee; 16]);

    fn peer(number: u16) -> PeerId {
        let [high, low] = number.to_be_bytes();
        let mut id = [0; 32];
        (id[0], id[1]) = (high, low);
        PeerId(id)
    }

    #[test]
    fn a_token_lets_in_until_it_is_withdrawn() {
        let now = Instant::now();
        let mut hub = Admission::new();
        let shown = Credential::Token([7; 16]);
        assert_eq!(hub.admit(peer(1), &shown, now), Err(Refusal::UnknownToken));
        let id = hub.add_token(&[7; 16]).expect("room");
        hub.add_token(&[8; 16]).expect("room");
        assert_eq!(hub.admit(peer(1), &shown, now), Ok(()));
        assert_eq!(hub.admit(peer(2), &shown, now), Ok(()));
        assert!(hub.withdraw_token(id));
        assert!(!hub.withdraw_token(id));
        assert_eq!(hub.admit(peer(1), &shown, now), Err(Refusal::UnknownToken));
        assert_eq!(hub.admit(peer(1), &Credential::Token([8; 16]), now), Ok(()));
    }

    #[test]
    fn a_known_key_is_enough_and_an_unknown_one_is_not() {
        let now = Instant::now();
        let mut hub = Admission::new();
        hub.add_key(peer(1)).expect("room");
        assert_eq!(hub.admit(peer(1), &Credential::Key, now), Ok(()));
        assert_eq!(hub.admit(peer(1), &WRONG, now), Ok(()));
        let stranger = hub.admit(peer(2), &Credential::Key, now);
        assert_eq!(stranger, Err(Refusal::UnknownToken));
        assert!(hub.remove_key(peer(1)));
        let forgotten = hub.admit(peer(1), &Credential::Key, now);
        assert_eq!(forgotten, Err(Refusal::UnknownToken));
    }

    #[test]
    fn who_fails_too_often_is_not_heard_for_a_while_and_others_are() {
        let now = Instant::now();
        let mut hub = Admission::new();
        hub.add_token(&[7; 16]).expect("room");
        let right = Credential::Token([7; 16]);
        for _ in 0..FAILURE_BURST.get() {
            assert!(hub.admit(peer(1), &WRONG, now).is_err());
        }
        assert!(hub.admit(peer(1), &right, now).is_err());
        assert_eq!(hub.counters().limited, 1);
        assert_eq!(hub.admit(peer(2), &right, now), Ok(()));
        let later = now + failure_rate().refill_time() / FAILURE_BURST.get();
        assert_eq!(hub.admit(peer(1), &right, later), Ok(()));
    }

    #[test]
    fn a_crowd_of_failing_peers_is_remembered_only_in_part() {
        let now = Instant::now();
        let mut hub = Admission::new();
        let crowd = u16::try_from(MAX_FAILURES * 2).expect("small");
        for _ in 0..FAILURE_BURST.get() {
            let _ = hub.admit(peer(u16::MAX), &WRONG, now);
        }
        for number in 0..crowd {
            let _ = hub.admit(peer(number), &WRONG, now);
        }
        assert_eq!(hub.failures.buckets.len(), MAX_FAILURES);
        // The one who failed most is not pushed out by those who failed once.
        assert!(hub.failures.are_too_many(peer(u16::MAX), now));
        let much_later = now + failure_rate().refill_time();
        let _ = hub.admit(peer(crowd), &WRONG, much_later);
        assert_eq!(hub.failures.buckets.len(), 1);
    }

    #[test]
    fn tokens_have_a_limit_and_are_not_shown() {
        let mut hub = Admission::new();
        let token = |number: usize| {
            let mut token = [0x5a; 16];
            token[..8].copy_from_slice(&number.to_be_bytes());
            token
        };
        for number in 0..MAX_TOKENS {
            hub.add_token(&token(number)).expect("room");
        }
        let full = hub.add_token(&token(MAX_TOKENS));
        assert_eq!(full, Err(AdmissionError::TooManyTokens));
        assert!(hub.add_token(&token(0)).is_ok());
        let shown = format!("{hub:?} {:?}", hub.tokens().next());
        assert!(
            !shown.contains("5a5a") && !shown.contains("90, 90"),
            "{shown}"
        );
    }

    proptest! {
        /// Against a list of tokens in the clear, as long as nobody fails too often.
        #[test]
        fn who_is_let_in_shows_a_token_of_the_list(
            acts in prop::collection::vec((0u8..3, 0u8..6, 0u16..400), 1..200),
        ) {
            let now = Instant::now();
            let (mut hub, mut list) = (Admission::new(), BTreeMap::new());
            for (act, token, number) in acts {
                let token = [token; 16];
                match act {
                    0 => { list.insert(token, hub.add_token(&token).expect("room")); }
                    1 => if let Some(id) = list.remove(&token) {
                        prop_assert!(hub.withdraw_token(id));
                    },
                    _ => {
                        let before = hub.counters().limited;
                        let admitted = hub.admit(peer(number), &Credential::Token(token), now).is_ok();
                        let limited = hub.counters().limited > before;
                        prop_assert_eq!(admitted, list.contains_key(&token) && !limited);
                    }
                }
                prop_assert_eq!(hub.tokens().count(), list.len());
            }
        }
    }
}
