//! Opening sealed datagrams: whose key, is it fresh, is it authentic; two epochs side by side.
//!
//! ```text
//!   install(n+1)          first datagram of n+1 opened            OVERLAP later: handle_timeout
//!  ──────┼──────────────────────────┼──────────────────────────────────────┼────────▶
//!  n     │  n and n+1               │  n and n+1                           │  n+1; n is wiped
//! ```
//!
//! An unauthentic datagram changes nothing but a counter.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use aws_lc_rs::aead::Aad;

use super::keys::EpochKey;
use super::replay::{Freshness, ReplayWindow};
use super::{SEQUENCE_LIMIT, nonce};
use crate::wire::sealed::{HEADER, Header, SealedError};

/// How long datagrams of the old epoch are opened once the other side seals in the new one: longer than a link may
/// be cut and resumed (60 s), shorter than an epoch (120 s).
pub const OVERLAP: Duration = Duration::from_secs(90);
/// After so many unauthentic datagrams a key opens no more (RFC 9001, section 6.6, halved: 2^36 for ChaCha20-Poly1305).
pub const FORGERY_LIMIT: u64 = 1 << 35;

/// Opens one direction of a link.
#[derive(Debug)]
pub struct Opener {
    keys: RwLock<Keys>,
    window: Mutex<ReplayWindow>,
    counters: Counters,
}

#[derive(Debug)]
struct Keys {
    newest: Slot,
    previous: Option<Slot>,
}

#[derive(Debug)]
struct Slot {
    key: EpochKey,
    /// When the other side was first known to use it.
    first_opened: OnceLock<Instant>,
    forged: AtomicU64,
}

/// An authentic, fresh datagram.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened<'a> {
    /// Its chunks.
    pub plaintext: &'a mut [u8],
    /// Its number.
    pub sequence: u64,
    /// The epoch that it was sealed in.
    pub epoch: u8,
    /// Whether its number is higher than all before: only such a one may move a path.
    pub newest: bool,
}

/// Why a datagram was not opened. Each is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Not a sealed datagram at all.
    #[error(transparent)]
    Malformed(#[from] SealedError),
    /// Sealed in an epoch whose keys are not known: not yet or no more.
    #[error("sealed in epoch {0}, whose keys are not known")]
    UnknownEpoch(u8),
    /// Seen before.
    #[error("datagram {0} came again")]
    Replayed(u64),
    /// Below the replay window.
    #[error("datagram {0} is too old to be told from a replay")]
    TooOld(u64),
    /// Damaged, or by somebody who has no key.
    #[error("not authentic")]
    Forged,
    /// So many forgeries were tried against this key that it is not used any more.
    #[error("too many forgeries were tried against this key")]
    Exhausted,
}

/// What an opener has counted, in datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenCounters {
    /// Authentic and fresh.
    pub opened: u64,
    /// [`OpenError::Malformed`].
    pub malformed: u64,
    /// [`OpenError::UnknownEpoch`].
    pub unknown_epoch: u64,
    /// [`OpenError::Replayed`].
    pub replayed: u64,
    /// [`OpenError::TooOld`].
    pub too_old: u64,
    /// [`OpenError::Forged`] and [`OpenError::Exhausted`].
    pub forged: u64,
}

#[derive(Debug, Default)]
struct Counters {
    opened: AtomicU64,
    malformed: AtomicU64,
    unknown_epoch: AtomicU64,
    replayed: AtomicU64,
    too_old: AtomicU64,
    forged: AtomicU64,
}

impl Opener {
    /// An opener with the key of the first epoch.
    #[must_use]
    pub fn new(key: EpochKey) -> Self {
        Self {
            keys: RwLock::new(Keys {
                newest: Slot::new(key),
                previous: None,
            }),
            window: Mutex::default(),
            counters: Counters::default(),
        }
    }

    /// Opens `datagram` in place.
    ///
    /// # Errors
    /// When it is not fresh and authentic; then its bytes are of no use any more.
    pub fn open<'a>(&self, datagram: &'a mut [u8], now: Instant) -> Result<Opened<'a>, OpenError> {
        let opened = self.try_open(datagram, now);
        self.counters.count(opened.as_ref().err());
        opened
    }

    /// Opens many in a row: keys and replay window are taken once. Nobody else opens or installs meanwhile, so it is
    /// dropped soon.
    #[must_use]
    pub fn begin(&self, now: Instant) -> Opening<'_> {
        Opening {
            keys: self.keys(),
            window: self.window(),
            counters: &self.counters,
            now,
        }
    }

    /// Opens datagrams of `key`'s epoch too. The epoch before the newest stays; one still older is wiped.
    pub fn install(&self, key: EpochKey) {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut keys.newest, Slot::new(key));
        keys.previous = Some(old);
    }

    /// Wipes the old epoch's key when its time is over.
    pub fn handle_timeout(&self, now: Instant) {
        if self.poll_timeout().is_some_and(|due| due <= now) {
            let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
            keys.previous = None;
        }
    }

    /// When to call [`Self::handle_timeout`]. Opening a datagram may bring the first such time.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let keys = self.keys();
        keys.previous.as_ref()?;
        Some(*keys.newest.first_opened.get()? + OVERLAP)
    }

    /// The newest epoch whose datagrams are opened.
    #[must_use]
    pub fn epoch(&self) -> u8 {
        self.keys().newest.key.epoch
    }

    /// When the first datagram of the newest epoch was opened.
    #[must_use]
    pub fn newest_first_opened(&self) -> Option<Instant> {
        self.keys().newest.first_opened.get().copied()
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> OpenCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        OpenCounters {
            opened: read(&self.counters.opened),
            malformed: read(&self.counters.malformed),
            unknown_epoch: read(&self.counters.unknown_epoch),
            replayed: read(&self.counters.replayed),
            too_old: read(&self.counters.too_old),
            forged: read(&self.counters.forged),
        }
    }

    fn try_open<'a>(&self, datagram: &'a mut [u8], now: Instant) -> Result<Opened<'a>, OpenError> {
        let header = Header::parse(datagram)?;
        let sequence = header.sequence;
        let keys = self.keys();
        let slot = keys.slot(header.epoch)?;
        judge(self.window().check(sequence), sequence)?;
        let plaintext = slot.open(header, datagram)?;
        // Another thread may have opened a copy of it in the meantime.
        let newest = judge(self.window().accept(sequence), sequence)?;
        slot.first_opened.get_or_init(|| now);
        Ok(Opened {
            plaintext,
            sequence,
            epoch: header.epoch,
            newest,
        })
    }

    fn keys(&self) -> RwLockReadGuard<'_, Keys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn window(&self) -> MutexGuard<'_, ReplayWindow> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A row of datagrams that are opened one after the other.
#[derive(Debug)]
pub struct Opening<'o> {
    keys: RwLockReadGuard<'o, Keys>,
    window: MutexGuard<'o, ReplayWindow>,
    counters: &'o Counters,
    now: Instant,
}

impl Opening<'_> {
    /// Opens `datagram` in place.
    ///
    /// # Errors
    /// As [`Opener::open`].
    pub fn open<'a>(&mut self, datagram: &'a mut [u8]) -> Result<Opened<'a>, OpenError> {
        let opened = self.try_open(datagram);
        self.counters.count(opened.as_ref().err());
        opened
    }

    fn try_open<'a>(&mut self, datagram: &'a mut [u8]) -> Result<Opened<'a>, OpenError> {
        let header = Header::parse(datagram)?;
        let sequence = header.sequence;
        let slot = self.keys.slot(header.epoch)?;
        judge(self.window.check(sequence), sequence)?;
        let plaintext = slot.open(header, datagram)?;
        let newest = judge(self.window.accept(sequence), sequence)?;
        slot.first_opened.get_or_init(|| self.now);
        Ok(Opened {
            plaintext,
            sequence,
            epoch: header.epoch,
            newest,
        })
    }
}

impl Keys {
    fn slot(&self, epoch: u8) -> Result<&Slot, OpenError> {
        std::iter::once(&self.newest)
            .chain(&self.previous)
            .find(|slot| slot.key.epoch == epoch)
            .ok_or(OpenError::UnknownEpoch(epoch))
    }
}

impl Slot {
    const fn new(key: EpochKey) -> Self {
        Self {
            key,
            first_opened: OnceLock::new(),
            forged: AtomicU64::new(0),
        }
    }

    fn open<'a>(&self, header: Header, datagram: &'a mut [u8]) -> Result<&'a mut [u8], OpenError> {
        if self.forged.load(Ordering::Relaxed) >= FORGERY_LIMIT {
            return Err(OpenError::Exhausted);
        }
        let (_, sealed) = datagram.split_at_mut(HEADER);
        self.key
            .aead
            .open_in_place(nonce(header.sequence), Aad::from(header.to_bytes()), sealed)
            .map_err(|_| {
                self.forged.fetch_add(1, Ordering::Relaxed);
                OpenError::Forged
            })
    }
}

impl Counters {
    fn count(&self, error: Option<&OpenError>) {
        let counter = match error {
            None => &self.opened,
            Some(OpenError::Malformed(_)) => &self.malformed,
            Some(OpenError::UnknownEpoch(_)) => &self.unknown_epoch,
            Some(OpenError::Replayed(_)) => &self.replayed,
            Some(OpenError::TooOld(_)) => &self.too_old,
            Some(OpenError::Forged | OpenError::Exhausted) => &self.forged,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether the number is higher than all before it, if it may be opened at all.
const fn judge(freshness: Freshness, sequence: u64) -> Result<bool, OpenError> {
    match freshness {
        // No honest sender counts so far.
        Freshness::Newest if sequence >= SEQUENCE_LIMIT => Err(OpenError::TooOld(sequence)),
        Freshness::Newest => Ok(true),
        Freshness::Late => Ok(false),
        Freshness::Replayed => Err(OpenError::Replayed(sequence)),
        Freshness::TooOld => Err(OpenError::TooOld(sequence)),
    }
}

#[cfg(test)]
impl Opener {
    pub(super) fn set_forged(&self, count: u64) {
        self.keys().newest.forged.store(count, Ordering::Relaxed);
    }
}
