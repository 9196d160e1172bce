//! What a data plane needs of a link to move its frames without asking: keys, way, and what it counts meanwhile.
//!
//! ```text
//!            link (decides)                        data plane (moves frames)
//!   keys, epochs ── Sealer, Opener ─────────────────▶ seals and opens
//!   paths, relay ── Route ──────────────────────────▶ sends there, of that size
//!   liveness     ◀───────────────── Traffic ───────── heard, sent, counted
//!   control      ◀───── chunks that are no frames ─── hands them up
//! ```
//!
//! Everything here is shared by `Arc` and read or written without waiting for the other side.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::seal::{Opener, Sealer};
use super::{Link, Via, secure};
use crate::node::status::Counters;
use crate::rendezvous::Channel;
use crate::wire::control::OPEN_FRAMES;

/// A link, for who moves its frames.
#[derive(Clone, Debug)]
pub struct LinkPort {
    /// By which number the peer's datagrams name the link.
    pub index: u32,
    /// Seals what goes to the peer.
    pub sealer: Arc<Sealer>,
    /// Opens what comes from it.
    pub opener: Arc<Opener>,
    /// Where to count.
    pub traffic: Arc<Traffic>,
    /// The way of its datagrams; `None` while there is none.
    pub route: Option<Route>,
    /// Whether the peer takes frames with open checksums.
    pub takes_open: bool,
}

/// The way of datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Straight or by the relay.
    pub via: Via,
    /// Bytes of the largest sealed datagram.
    pub mtu: usize,
    /// The same datagrams are to go by this relay channel too, because the way is in doubt.
    pub copy: Option<Channel>,
}

/// What the data plane has seen of a link. Times are kept to a microsecond.
#[derive(Debug)]
pub struct Traffic {
    base: Instant,
    /// When something was opened that came by the present way.
    heard: AtomicU64,
    /// When the first datagram left since then; 0 when none did.
    unheard: AtomicU64,
    frames_sent: AtomicU64,
    bytes_sent: AtomicU64,
    frames_received: AtomicU64,
    bytes_received: AtomicU64,
    dropped_queue: AtomicU64,
    dropped_malformed: AtomicU64,
    dropped_incomplete: AtomicU64,
}

impl Traffic {
    /// Nothing seen yet.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self {
            base: now,
            heard: AtomicU64::new(0),
            unheard: AtomicU64::new(0),
            frames_sent: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            frames_received: AtomicU64::new(0),
            bytes_received: AtomicU64::new(0),
            dropped_queue: AtomicU64::new(0),
            dropped_malformed: AtomicU64::new(0),
            dropped_incomplete: AtomicU64::new(0),
        }
    }

    /// Datagrams with so many frames left. Whether they are the first since something was heard: then somebody should look
    /// after a while whether anything is.
    #[must_use]
    pub fn sent(&self, frames: u64, bytes: u64, now: Instant) -> bool {
        add(&self.frames_sent, frames);
        add(&self.bytes_sent, bytes);
        let first = self.unheard.load(Ordering::Relaxed) == 0;
        if first {
            self.unheard.store(self.stamp(now), Ordering::Relaxed);
        }
        first
    }

    /// Something authentic came by the present way.
    pub fn heard(&self, now: Instant) {
        self.heard.store(self.stamp(now), Ordering::Relaxed);
        if self.unheard.load(Ordering::Relaxed) != 0 {
            self.unheard.store(0, Ordering::Relaxed);
        }
    }

    /// So many frames came.
    pub fn received(&self, frames: u64, bytes: u64) {
        add(&self.frames_received, frames);
        add(&self.bytes_received, bytes);
    }

    /// Frames that there was no room or no way for.
    pub fn dropped_queue(&self, frames: u64) {
        add(&self.dropped_queue, frames);
    }

    /// Datagrams or frames that no honest peer sends.
    pub fn dropped_malformed(&self, count: u64) {
        add(&self.dropped_malformed, count);
    }

    /// Frames whose parts did not all come.
    pub fn dropped_incomplete(&self, frames: u64) {
        add(&self.dropped_incomplete, frames);
    }

    /// When something was heard last, and since when it was sent in vain.
    pub(super) fn times(&self) -> (Option<Instant>, Option<Instant>) {
        (self.time(&self.heard), self.time(&self.unheard))
    }

    /// Whether datagrams left that nothing was heard after.
    pub(super) fn is_unheard(&self) -> bool {
        self.unheard.load(Ordering::Relaxed) != 0
    }

    pub(super) fn frames_sent(&self) -> u64 {
        self.frames_sent.load(Ordering::Relaxed)
    }

    pub(super) fn count(&self, counters: &mut Counters) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        counters.frames_sent += read(&self.frames_sent);
        counters.bytes_sent += read(&self.bytes_sent);
        counters.frames_received += read(&self.frames_received);
        counters.bytes_received += read(&self.bytes_received);
        counters.dropped_queue += read(&self.dropped_queue);
        counters.dropped_malformed += read(&self.dropped_malformed);
        counters.dropped_incomplete += read(&self.dropped_incomplete);
    }

    fn stamp(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.base).as_micros();
        u64::try_from(since).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn time(&self, stamp: &AtomicU64) -> Option<Instant> {
        let micros = stamp.load(Ordering::Relaxed).checked_sub(1)?;
        self.base.checked_add(Duration::from_micros(micros))
    }
}

fn add(counter: &AtomicU64, more: u64) {
    if more > 0 {
        counter.fetch_add(more, Ordering::Relaxed);
    }
}

impl Link {
    /// The link for a data plane; `None` before there are keys.
    #[must_use]
    pub fn port(&self) -> Option<LinkPort> {
        let secure = self.secure.as_ref().filter(|_| !self.closed)?;
        Some(LinkPort {
            index: self.local_index,
            sealer: Arc::clone(secure.rekeying.sealer()),
            opener: Arc::clone(secure.rekeying.opener()),
            traffic: Arc::clone(&self.traffic),
            route: self.route(),
            takes_open: self.takes_open(),
        })
    }

    /// The way of its frames.
    #[must_use]
    pub fn route(&self) -> Option<Route> {
        self.secure.as_ref()?.route(self.relay)
    }

    /// Whether the peer takes frames with open checksums.
    #[must_use]
    pub const fn takes_open(&self) -> bool {
        self.features & OPEN_FRAMES != 0
    }

    /// A data plane has opened a datagram of `size` bytes, in which there were these chunks beside frames.
    pub fn handle_opened(&mut self, chunks: &[u8], size: u16, via: Via, now: Instant) {
        let Some(secure) = &mut self.secure else {
            return;
        };
        let contents = secure.handle_opened(chunks, (via, size), now);
        self.take_contents(contents, via, now);
    }

    /// A data plane has opened something that came by another way than [`Route`] says.
    pub fn handle_heard(&mut self, via: Via, now: Instant) {
        self.handle_opened(&[], 0, via, now);
    }

    /// Takes up what a data plane has seen since the last time. Whether it waits for an answer to what it sent.
    pub fn take_traffic(&mut self, now: Instant) -> bool {
        let (heard, unheard) = self.traffic.times();
        if let Some(heard) = heard.filter(|heard| *heard > self.last_received || !self.sealed_seen)
        {
            self.sealed_seen = true;
            self.last_received = self.last_received.max(heard);
        }
        if let Some(secure) = &mut self.secure {
            let sent = self.traffic.frames_sent();
            let used = sent != std::mem::replace(&mut self.traffic_taken, sent);
            secure.paths.handle_traffic(heard, unheard, used, now);
        }
        self.traffic.is_unheard()
    }
}

impl secure::Secure {
    fn route(&self, relay: Option<Channel>) -> Option<Route> {
        let (via, mtu, copy) = self.way(relay)?;
        Some(Route { via, mtu, copy })
    }
}
