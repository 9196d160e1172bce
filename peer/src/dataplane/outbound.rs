//! From the card to links: what programs send.

use std::io::PipeReader;
use std::sync::Arc;
use std::time::Instant;

use kuguri_proto::node::plane::Forwarding;
use kuguri_proto::offload::{VnetHeader, split};
use kuguri_proto::wire::ethernet;

use super::lanes::Lanes;
use super::map::{Map, Port};
use super::published::View;
use super::{Shared, Up, wait};
use crate::tap::{CardPort, LARGEST_FRAME};

/// The thread that reads the card.
#[derive(Debug)]
pub(super) struct Outbound {
    shared: Arc<Shared>,
    card: Arc<CardPort>,
    map: View<Map>,
    lanes: Lanes,
    buffer: Vec<u8>,
}

impl Outbound {
    pub(super) fn new(shared: Arc<Shared>, card: Arc<CardPort>) -> Self {
        Self {
            map: shared.map.view(),
            lanes: Lanes::new(Arc::clone(&shared), 0),
            shared,
            card,
            buffer: vec![0; LARGEST_FRAME],
        }
    }

    /// Moves frames until `stop` is closed.
    pub(super) fn run(mut self, stop: &PipeReader) {
        while wait::readable(&*self.card, stop) {
            self.map.refresh(&self.shared.map);
            let map = Arc::clone(self.map.get());
            let now = Instant::now();
            for _ in 0..BURST {
                let Some((vnet, place)) = self.card.receive(&mut self.buffer) else {
                    break;
                };
                let frame = &self.buffer[place];
                match to(&map, frame, now) {
                    To::Link(port) => take(&mut self.lanes, &self.card, port, vnet, frame),
                    To::Control => self.hand_up(vnet, frame),
                    To::Nobody => self.card.drop_frames(1),
                }
            }
            self.lanes.flush();
        }
    }

    /// The control loop gets frames as they would be on a wire.
    fn hand_up(&self, vnet: VnetHeader, frame: &[u8]) {
        let Ok(pieces) = split(vnet, frame, usize::MAX) else {
            return self.card.drop_frames(1);
        };
        for index in 0..pieces.count() {
            let mut piece = vec![0; pieces.piece_len(index)];
            pieces.write(index, true, &mut piece);
            self.shared.hand_up(Up::CardFrame(piece));
        }
    }
}

enum To<'m> {
    Link(&'m Arc<Port>),
    Control,
    Nobody,
}

fn to<'m>(map: &'m Map, frame: &[u8], now: Instant) -> To<'m> {
    match &map.forwarding {
        Forwarding::Unknown => To::Control,
        Forwarding::Uplink(index) => map.link(*index).map_or(To::Control, To::Link),
        Forwarding::Table(fib, card) => {
            let Some((destination, source)) = ethernet::addresses(frame) else {
                return To::Nobody;
            };
            let tick = fib.tick(now);
            let known = card.is_some_and(|card| fib.hear(source, card, tick));
            if !known || destination.is_group() {
                return To::Control;
            }
            match fib.find(destination, tick) {
                Some(port) if Some(port) == *card => To::Nobody,
                Some(port) => map.port(port).map_or(To::Control, To::Link),
                None => To::Control,
            }
        }
    }
}

fn take(lanes: &mut Lanes, card: &CardPort, port: &Arc<Port>, vnet: VnetHeader, frame: &[u8]) {
    match split(vnet, frame, Lanes::largest(port)) {
        Ok(pieces) => lanes.push(port, &pieces),
        Err(_) => card.drop_frames(1),
    }
}

/// Frames read before what they became is sent: super-frames fill their batches by themselves.
const BURST: usize = 64;
