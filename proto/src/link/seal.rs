//! Sealed datagrams (the ESP-like part): plaintext ⇄ header, ciphertext and tag, in place and without allocation.
//!
//! ```text
//!   [ room for a header │ plaintext │ room for a tag ]
//!            │ seal: next sequence number, key of the current epoch
//!            ▼
//!   [ header ──(associated data)──▶ │ ciphertext │ tag ]
//!            │ open: known epoch? fresh? authentic? still fresh?
//!            ▼
//!   [        │ plaintext │ ]
//! ```
//!
//! The nonce is the sequence number: it counts on across epochs and paths and never back; a new process makes a new
//! link. [`Sealer`] and [`Opener`] are shared between threads by `Arc`: every verb takes `&self`. It knows no path,
//! no timer of the key exchange (`link::rekey`) and nothing of what is inside.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use aws_lc_rs::aead::{Aad, Nonce};

use crate::wire::sealed::{HEADER, Header, OVERHEAD, TAG};

pub mod keys;
pub mod open;
pub mod replay;
#[cfg(test)]
pub(in crate::link) mod tests;

pub use keys::{Chain, EpochKey, LinkKeys, Role, Suite};
pub use open::{OpenCounters, OpenError, Opened, Opener, Opening};

/// No key seals more datagrams than this. New keys are wanted after half of it (`link::rekey`); with datagrams of
/// 1,500 bytes an attacker's advantage against AES-GCM stays below 2^-49 (NIST SP 800-38D; RFC 9001, appendix B).
pub const EPOCH_LIMIT: u64 = 1 << 33;
/// No link seals more datagrams than this (WireGuard's limit for a counter).
pub const SEQUENCE_LIMIT: u64 = 1 << 60;

/// Seals one direction of a link.
#[derive(Debug)]
pub struct Sealer {
    receiver: u32,
    /// The sequence number of the next datagram.
    next: AtomicU64,
    current: RwLock<Current>,
}

#[derive(Debug)]
struct Current {
    key: EpochKey,
    /// The epoch's first sequence number.
    first: u64,
}

/// Why nothing was sealed: always ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The key has sealed all that it may: the link must get new keys or end.
    #[error("this key has sealed all the datagrams that it may")]
    Exhausted,
    /// The caller left no room for header and tag, or asked for pieces too small for them.
    #[error("no room for the header and tag of a sealed datagram")]
    NoRoom,
}

impl Sealer {
    /// A sealer for the side that calls the link `receiver`.
    #[must_use]
    pub const fn new(receiver: u32, key: EpochKey) -> Self {
        Self {
            receiver,
            next: AtomicU64::new(0),
            current: RwLock::new(Current { key, first: 0 }),
        }
    }

    /// Seals one datagram in place: 16 bytes of room, the plaintext, 16 bytes of room. Gives its sequence number.
    ///
    /// # Errors
    /// When there is no room, or the key is used up; `datagram` is as it was.
    pub fn seal(&self, datagram: &mut [u8]) -> Result<u64, SealError> {
        let size = datagram.len();
        Ok(self.seal_all(datagram, size)?.start)
    }

    /// Seals what stands in `buffer` from `start` on: 16 bytes of room and the plaintext; the tag is appended.
    ///
    /// # Errors
    /// As [`Self::seal`].
    pub fn seal_tail(&self, buffer: &mut Vec<u8>, start: usize) -> Result<u64, SealError> {
        buffer.extend_from_slice(&[0; TAG]);
        let sealed = match buffer.get_mut(start..) {
            Some(datagram) => self.seal(datagram),
            None => Err(SealError::NoRoom),
        };
        if sealed.is_err() {
            buffer.truncate(buffer.len() - TAG);
        }
        sealed
    }

    /// Seals many datagrams back to back (for GSO): `buffer` is cut into `size` bytes each, the last one perhaps
    /// shorter, each laid out as for [`Self::seal`]. Their sequence numbers are consecutive.
    ///
    /// # Errors
    /// As [`Self::seal`], for all or none.
    pub fn seal_all(&self, buffer: &mut [u8], size: usize) -> Result<Range<u64>, SealError> {
        let shortest = match buffer.len().checked_rem(size) {
            Some(0) if !buffer.is_empty() => size,
            Some(rest) => rest,
            None => 0,
        };
        if shortest < OVERHEAD {
            return Err(SealError::NoRoom);
        }
        let mut run = self.begin(buffer.len().div_ceil(size))?;
        let sequences = run.sequences.clone();
        for datagram in buffer.chunks_mut(size) {
            run.seal(datagram)?;
        }
        Ok(sequences)
    }

    /// Takes `count` sequence numbers in a row, for datagrams that are sealed one by one. The key stays the same until the run
    /// is dropped; numbers that are left over are used by nobody.
    ///
    /// # Errors
    /// When the key is used up.
    pub fn begin(&self, count: usize) -> Result<Run<'_>, SealError> {
        let current = self.current();
        let sequences = self.take(&current, count)?;
        Ok(Run {
            receiver: self.receiver,
            current,
            sequences,
        })
    }

    /// Seals with `key` from now on. The old key is wiped.
    pub fn change_key(&self, key: EpochKey) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let first = self.next.load(Ordering::Relaxed);
        *current = Current { key, first };
    }

    /// The epoch that datagrams are sealed in now.
    #[must_use]
    pub fn epoch(&self) -> u8 {
        self.current().key.epoch
    }

    /// How many datagrams the current key has sealed.
    #[must_use]
    pub fn sealed_in_epoch(&self) -> u64 {
        let current = self.current();
        self.next.load(Ordering::Relaxed) - current.first
    }

    /// How many datagrams were sealed; the sequence number of the next.
    #[must_use]
    pub fn sealed(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    fn current(&self) -> RwLockReadGuard<'_, Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `count` sequence numbers of the current epoch, or none of them.
    fn take(&self, current: &Current, count: usize) -> Result<Range<u64>, SealError> {
        let count = u64::try_from(count).map_err(|_| SealError::NoRoom)?;
        let limit = SEQUENCE_LIMIT.min(current.first.saturating_add(EPOCH_LIMIT));
        let end = |next: u64| next.checked_add(count).filter(|end| *end <= limit);
        self.next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, end)
            .map(|next| next..next + count)
            .map_err(|_| SealError::Exhausted)
    }
}

/// Sequence numbers in a row, and the key to use them with.
#[derive(Debug)]
pub struct Run<'s> {
    receiver: u32,
    current: RwLockReadGuard<'s, Current>,
    sequences: Range<u64>,
}

impl Run<'_> {
    /// Seals a datagram, laid out as for [`Sealer::seal`], with the next number of the run.
    ///
    /// # Errors
    /// When there is no room for header and tag, or the run is at its end; `datagram` is as it was.
    pub fn seal(&mut self, datagram: &mut [u8]) -> Result<u64, SealError> {
        if datagram.len() < OVERHEAD {
            return Err(SealError::NoRoom);
        }
        let sequence = self.sequences.next().ok_or(SealError::Exhausted)?;
        seal_one(&self.current.key, self.receiver, sequence, datagram);
        Ok(sequence)
    }
}

/// `datagram` has room for header and tag.
fn seal_one(key: &EpochKey, receiver: u32, sequence: u64, datagram: &mut [u8]) {
    let header = Header {
        epoch: key.epoch,
        receiver,
        sequence,
    }
    .to_bytes();
    let (head, rest) = datagram.split_at_mut(HEADER);
    let (plaintext, room) = rest.split_at_mut(rest.len() - TAG);
    let tag = key
        .aead
        .seal_in_place_separate_tag(nonce(sequence), Aad::from(header), plaintext)
        .expect("a datagram is shorter than what an AEAD seals at once");
    head.copy_from_slice(&header);
    room.copy_from_slice(tag.as_ref());
}

/// Four zero bytes, then the sequence number (RFC 5116, section 3.2, with a fixed field of zeros).
fn nonce(sequence: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&sequence.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
impl Sealer {
    /// As if so many datagrams had been sealed.
    pub(super) fn skip(&self, count: u64) {
        self.next.fetch_add(count, Ordering::Relaxed);
    }
}
