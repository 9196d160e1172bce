//! Between links and the NAT's thread, without the control loop.
//!
//! ```text
//!   inbound ─▶ coalesce ─▶ [ToNat] ── super-frames, a batch at a time ──▶ NAT's thread
//!   links   ◀─ seal ◀─ batch ◀─ split ◀─ [Gateway] ◀── super-frames ────── NAT's thread
//! ```
//!
//! What is not for one known station is handed back: it goes by the control loop, as everything did before the tables knew.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use kuguri_proto::gateway::Frame;
use kuguri_proto::node::plane::{Forwarding, Table};
use kuguri_proto::offload::{Coalescer, Gso, Super, split};
use kuguri_proto::wire::ethernet;

use super::Shared;
use super::lanes::Lanes;
use super::map::Map;
use super::published::View;
use crate::outside::{Door, Gate, Parcel};

/// Frames of one batch on their way to the NAT.
#[derive(Debug)]
pub(super) struct ToNat {
    coalescer: Coalescer<()>,
    parcels: Vec<Parcel>,
}

impl ToNat {
    pub(super) const fn new() -> Self {
        Self {
            coalescer: Coalescer::new(),
            parcels: Vec::new(),
        }
    }

    /// Takes the frame at `arena[place]`; `open`: its checksum is.
    pub(super) fn push(&mut self, arena: &[u8], place: Range<usize>, open: bool) {
        let parcels = &mut self.parcels;
        let gather = |(), made: &Super| gather(parcels, arena, made);
        self.coalescer.push(arena, place, open, (), gather);
    }

    /// Takes a frame that came in parts.
    pub(super) fn push_whole(&mut self, arena: &[u8], bytes: Vec<u8>) {
        self.join(arena);
        self.parcels.push(Parcel {
            bytes,
            trusted: false,
        });
    }

    /// Hands all of them over.
    pub(super) fn flush(&mut self, arena: &[u8], door: Option<&Door>) {
        self.join(arena);
        match door {
            Some(door) => door.send(&mut self.parcels),
            None => self.parcels.clear(),
        }
    }

    fn join(&mut self, arena: &[u8]) {
        let parcels = &mut self.parcels;
        self.coalescer
            .flush(arena, |(), made| gather(parcels, arena, made));
    }
}

/// The NAT takes TCP as it is joined, and datagrams one by one.
fn gather(parcels: &mut Vec<Parcel>, arena: &[u8], made: &Super) {
    let mut bytes = Vec::with_capacity(made.len);
    made.copy_to(arena, &mut bytes);
    if made.vnet.gso != Gso::Udp {
        let trusted = made.vnet.needs_csum || made.vnet.data_valid;
        return parcels.push(Parcel { bytes, trusted });
    }
    // Our own coalescer made it, so it can be cut.
    let Ok(pieces) = split(made.vnet, &bytes, usize::MAX) else {
        return;
    };
    for index in 0..pieces.count() {
        let mut bytes = vec![0; pieces.piece_len(index)];
        pieces.write(index, true, &mut bytes);
        let trusted = true;
        parcels.push(Parcel { bytes, trusted });
    }
}

/// The NAT's thread's own way to links.
#[derive(Debug)]
pub(super) struct Gateway {
    map: View<Map>,
    lanes: Lanes,
    shared: Arc<Shared>,
}

impl Gateway {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            map: shared.map.view(),
            lanes: Lanes::new(Arc::clone(&shared), THREAD),
            shared,
        }
    }
}

impl Gate for Gateway {
    fn send(&mut self, frame: &Frame, now: Instant) -> bool {
        self.map.refresh(&self.shared.map);
        let Forwarding::Table(Table {
            fib,
            nat: Some((own, mac)),
            ..
        }) = &self.map.get().forwarding
        else {
            return false;
        };
        let Some((destination, source)) = ethernet::addresses(&frame.bytes) else {
            return false;
        };
        let tick = fib.tick(now);
        if source != *mac || destination.is_group() || !fib.hear(source, *own, tick) {
            return false;
        }
        let found = fib.find(destination, tick);
        let Some(port) = found.and_then(|number| self.map.get().port(number)) else {
            return false;
        };
        match frame.pieces(Lanes::largest(port)) {
            Ok(pieces) => self.lanes.push(port, &pieces),
            Err(_) => port.link.traffic.dropped_malformed(1),
        }
        true
    }

    fn flush(&mut self) {
        self.lanes.flush();
    }
}

/// The socket's thread is 1, the card's 0.
const THREAD: u32 = 2;
