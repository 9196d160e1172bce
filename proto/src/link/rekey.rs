//! New keys for a link while it runs: a fresh X25519 agreement every two minutes or 2^32 datagrams.
//!
//! ```text
//!   offering side                                            answering side
//!   Settled                                                  Settled
//!     │ ── Rekey { epoch n+1, answer: false, public } ──▶      │ opens n and n+1, seals n
//!   Offered                                                  Answered
//!     │ ◀── Rekey { epoch n+1, answer: true, public } ──       │
//!     │ opens n and n+1, seals n+1                             │
//!   Settled                                                    │
//!       ── the first datagram sealed in n+1 ───────────▶       │ seals n+1
//!                                                            Settled
//! ```
//!
//! The messages cross inside TLS, over the ARQ: none is lost, doubled or forged by a third. The acknowledgement of the
//! answer is itself sealed in n+1, so the answering side never waits for a frame. The TLS client offers; the server
//! does so only when that is overdue or it has sealed too much itself. If both offer at once, the client's offer counts:
//! it ignores the server's, and the server forgets its own and answers.
//!
//! It decides when and with what keys; `link::seal` does the sealing. When it errs, the link must end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use rand::Rng;
use rand::rngs::StdRng;
use zeroize::Zeroizing;

use super::seal::{Chain, EPOCH_LIMIT, EpochKey, LinkKeys, Opener, Role, Sealer, Suite};
use crate::wire::control::Rekey;

/// How old keys get before the client offers new ones (WireGuard's REKEY_AFTER_TIME).
pub const REKEY_INTERVAL: Duration = Duration::from_secs(120);
/// How old they get before the server does, because the client has not.
pub const OVERDUE: Duration = Duration::from_secs(180);
/// How many datagrams a side seals with a key before it offers a new one.
pub const REKEY_DATAGRAMS: u64 = EPOCH_LIMIT / 2;
/// How often the answering side looks whether the data plane has opened a datagram of the new epoch.
const LOOK: Duration = Duration::from_secs(1);

/// The keys of a link over time.
#[derive(Debug)]
pub struct Rekeying {
    role: Role,
    suite: Suite,
    sealer: Arc<Sealer>,
    opener: Arc<Opener>,
    rng: StdRng,
    chain: Chain,
    /// The newest epoch that both sides have agreed on.
    epoch: u8,
    /// When that was.
    since: Instant,
    state: State,
    message: Option<Rekey>,
    counters: RekeyCounters,
}

#[derive(Debug)]
enum State {
    /// Both directions are in the newest epoch.
    Settled,
    /// We have offered keys for the next one.
    Offered {
        private: PrivateKey,
        public: [u8; 32],
    },
    /// We have answered; `key` seals as soon as the other side is seen to use the new epoch.
    Answered { key: EpochKey, look: Instant },
}

/// Why a message about keys cannot be followed: the other side's fault. The link must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RekeyError {
    /// Another epoch than the next one.
    #[error("the peer wants to change to the keys of epoch {got} when {expected} is next")]
    UnexpectedEpoch {
        /// The one that is next.
        expected: u8,
        /// The one in the message.
        got: u8,
    },
    /// An answer to no offer.
    #[error("the peer answers an offer of keys that was not made")]
    UnexpectedAnswer,
    /// A second offer before it has used the keys of the first.
    #[error("the peer offers keys again before it uses the last ones")]
    UnexpectedOffer,
    /// A public key of small order, which would make the agreed secret zero (RFC 7748, section 6.1).
    #[error("the peer offers a key that agrees on nothing")]
    WeakKey,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RekeyCounters {
    /// New epochs.
    pub epochs: u64,
    /// Offers that crossed each other.
    pub collisions: u64,
}

impl Rekeying {
    /// The machine of a link that has just been established, with sealer and opener of epoch 0.
    /// `receiver` is the other side's name for the link; `rng` must be fit for keys.
    #[must_use]
    pub fn new(
        keys: LinkKeys,
        role: Role,
        suite: Suite,
        receiver: u32,
        rng: StdRng,
        now: Instant,
    ) -> Self {
        let chain = keys.chain;
        Self {
            role,
            suite,
            sealer: Arc::new(Sealer::new(receiver, chain.key(suite, role, 0))),
            opener: Arc::new(Opener::new(chain.key(suite, role.other(), 0))),
            rng,
            chain,
            epoch: 0,
            since: now,
            state: State::Settled,
            message: None,
            counters: RekeyCounters::default(),
        }
    }

    /// Seals what this side sends; clones of it stay right through all epochs.
    #[must_use]
    pub const fn sealer(&self) -> &Arc<Sealer> {
        &self.sealer
    }

    /// Opens what the other side sends; clones of it stay right through all epochs.
    #[must_use]
    pub const fn opener(&self) -> &Arc<Opener> {
        &self.opener
    }

    /// The other side's message.
    ///
    /// # Errors
    /// When it cannot be followed; then the link must end.
    pub fn handle_message(&mut self, message: &Rekey, now: Instant) -> Result<(), RekeyError> {
        // What carried the message may have been the first datagram of the new epoch.
        self.handle_opened(now);
        let expected = self.epoch.wrapping_add(1);
        match &self.state {
            State::Answered { .. } if message.answer => return Err(RekeyError::UnexpectedAnswer),
            State::Answered { .. } => return Err(RekeyError::UnexpectedOffer),
            State::Settled if message.answer => return Err(RekeyError::UnexpectedAnswer),
            State::Settled | State::Offered { .. } => {}
        }
        if message.epoch != expected {
            return Err(RekeyError::UnexpectedEpoch {
                expected,
                got: message.epoch,
            });
        }
        if message.answer {
            self.conclude(&message.public, now)
        } else {
            self.handle_offer(&message.public, now)
        }
    }

    /// Something was opened: if it was the first datagram of the new epoch, seal in it too. Cheap.
    pub fn handle_opened(&mut self, now: Instant) {
        if !matches!(self.state, State::Answered { .. }) {
            return;
        }
        if self.opener.newest_first_opened().is_none() {
            return;
        }
        if let State::Answered { key, .. } = std::mem::replace(&mut self.state, State::Settled) {
            self.sealer.change_key(key);
            self.since = now;
        }
    }

    /// Offers new keys when it is time, and wipes old ones.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.opener.handle_timeout(now);
        self.handle_opened(now);
        if matches!(self.state, State::Settled) && self.is_due(now) {
            self.offer();
        }
        if let State::Answered { look, .. } = &mut self.state {
            *look = (*look).max(now + LOOK);
        }
    }

    /// The next message for the other side, if any.
    pub fn poll_message(&mut self) -> Option<Rekey> {
        self.message.take()
    }

    /// When to call [`Self::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let own = match &self.state {
            State::Settled => Some(self.since + self.interval()),
            State::Offered { .. } => None,
            State::Answered { look, .. } => Some(*look),
        };
        own.into_iter().chain(self.opener.poll_timeout()).min()
    }

    /// The newest epoch that both sides have agreed on.
    #[must_use]
    pub const fn epoch(&self) -> u8 {
        self.epoch
    }

    /// What was counted so far.
    #[must_use]
    pub const fn counters(&self) -> RekeyCounters {
        self.counters
    }

    fn is_due(&self, now: Instant) -> bool {
        self.since + self.interval() <= now || self.sealer.sealed_in_epoch() >= REKEY_DATAGRAMS
    }

    const fn interval(&self) -> Duration {
        match self.role {
            Role::Client => REKEY_INTERVAL,
            Role::Server => OVERDUE,
        }
    }

    fn offer(&mut self) {
        let (private, public) = self.fresh_key();
        self.state = State::Offered { private, public };
        self.say(false, public);
    }

    fn handle_offer(&mut self, offer: &[u8; 32], now: Instant) -> Result<(), RekeyError> {
        if matches!(self.state, State::Offered { .. }) {
            self.counters.collisions += 1;
            if self.role == Role::Client {
                return Ok(());
            }
        }
        let (private, answer) = self.fresh_key();
        self.step(&private, offer, offer, &answer)?;
        let key = self.chain.key(self.suite, self.role, self.epoch);
        self.state = State::Answered {
            key,
            look: now + LOOK,
        };
        self.say(true, answer);
        Ok(())
    }

    /// The answer to our offer has come.
    fn conclude(&mut self, answer: &[u8; 32], now: Instant) -> Result<(), RekeyError> {
        let State::Offered { private, public } = std::mem::replace(&mut self.state, State::Settled)
        else {
            return Err(RekeyError::UnexpectedAnswer);
        };
        self.step(&private, answer, &public, answer)?;
        let key = self.chain.key(self.suite, self.role, self.epoch);
        self.sealer.change_key(key);
        self.since = now;
        Ok(())
    }

    /// Agrees with `peer` and goes on to the next epoch's secret, whose datagrams are opened from now on.
    fn step(
        &mut self,
        private: &PrivateKey,
        peer: &[u8; 32],
        offer: &[u8; 32],
        answer: &[u8; 32],
    ) -> Result<(), RekeyError> {
        let epoch = self.epoch.wrapping_add(1);
        let peer = UnparsedPublicKey::new(&X25519, peer);
        self.chain = agree(private, peer, RekeyError::WeakKey, |agreed| {
            Ok(self.chain.step(agreed, epoch, offer, answer))
        })?;
        self.epoch = epoch;
        self.opener
            .install(self.chain.key(self.suite, self.role.other(), epoch));
        self.counters.epochs += 1;
        Ok(())
    }

    fn say(&mut self, answer: bool, public: [u8; 32]) {
        let epoch = if answer {
            self.epoch
        } else {
            self.epoch.wrapping_add(1)
        };
        self.message = Some(Rekey {
            epoch,
            answer,
            public,
        });
    }

    fn fresh_key(&mut self) -> (PrivateKey, [u8; 32]) {
        let mut bytes = Zeroizing::new([0; 32]);
        self.rng.fill_bytes(bytes.as_mut_slice());
        key_pair(&bytes)
    }
}

/// The X25519 key pair of a secret.
fn key_pair(secret: &[u8; 32]) -> (PrivateKey, [u8; 32]) {
    let private = PrivateKey::from_private_key(&X25519, secret)
        .expect("any 32 bytes are an X25519 private key");
    let public = private
        .compute_public_key()
        .expect("an X25519 private key has a public one");
    let public = public
        .as_ref()
        .try_into()
        .expect("an X25519 public key is 32 bytes");
    (private, public)
}

#[cfg(test)]
mod tests;
