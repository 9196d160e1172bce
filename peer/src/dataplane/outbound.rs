//! From the card to links: what programs send.

use std::io::PipeReader;
use std::sync::Arc;
use std::time::Instant;

use kuguri_proto::node::plane::{Forwarding, Table};
use kuguri_proto::offload::{VnetHeader, split};
use kuguri_proto::wire::ethernet;

use super::lanes::Lanes;
use super::map::{Map, Port};
use super::published::View;
use super::queue::{Queue, Turn};
use super::{Shared, Up, wait};
use crate::tap::CardPort;

/// The thread that reads the card.
#[derive(Debug)]
pub(super) struct Outbound {
    shared: Arc<Shared>,
    card: Arc<CardPort>,
    map: View<Map>,
    lanes: Lanes,
    queue: Queue,
}

impl Outbound {
    pub(super) fn new(shared: Arc<Shared>, card: Arc<CardPort>) -> Self {
        Self {
            map: shared.map.view(),
            lanes: Lanes::new(Arc::clone(&shared), 0),
            shared,
            card,
            queue: Queue::default(),
        }
    }

    /// Moves frames until `stop` is closed.
    pub(super) fn run(mut self, stop: &PipeReader) {
        while wait::readable(&*self.card, stop) {
            loop {
                self.map.refresh(&self.shared.map);
                let map = Arc::clone(self.map.get());
                let now = Instant::now();
                let read = self.read(&map, now);
                let bulk = self.send_bulk(&map, now);
                self.lanes.flush();
                if !read && !bulk {
                    break;
                }
            }
        }
    }

    /// Reads what programs have sent: what need not wait goes on, the rest gets in line. Whether there may be more.
    fn read(&mut self, map: &Map, now: Instant) -> bool {
        let mut buffer = self.queue.buffer();
        for _ in 0..BURST {
            let Some((vnet, place)) = self.card.receive(&mut buffer) else {
                self.queue.give_back(buffer);
                return false;
            };
            let frame = &buffer[place.clone()];
            match self.queue.turn(&vnet, frame, now) {
                Turn::Now => self.take(map, vnet, frame, now),
                Turn::Later(flow) => {
                    self.queue.push(flow, vnet, buffer, place, now);
                    buffer = self.queue.buffer();
                }
                Turn::Never => self.card.drop_frames(1),
            }
        }
        self.queue.give_back(buffer);
        true
    }

    /// As much as one system call sends of what is in line; whether there was any.
    fn send_bulk(&mut self, map: &Map, now: Instant) -> bool {
        let mut bytes = 0;
        while bytes < AT_ONCE {
            let Some(next) = self.queue.pop() else {
                break;
            };
            bytes += next.place.len();
            self.take(map, next.vnet, &next.buffer[next.place.clone()], now);
            self.queue.give_back(next.buffer);
        }
        bytes > 0
    }

    fn take(&mut self, map: &Map, vnet: VnetHeader, frame: &[u8], now: Instant) {
        match to(map, frame, now) {
            To::Link(port) => match split(vnet, frame, Lanes::largest(port)) {
                Ok(pieces) => self.lanes.push(port, &pieces),
                Err(_) => self.card.drop_frames(1),
            },
            To::Control => self.hand_up(vnet, frame),
            To::Nobody => self.card.drop_frames(1),
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
        Forwarding::Table(Table { fib, card, .. }) => {
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

/// Frames read before what they became is sent.
const BURST: usize = 256;
/// Bytes of frames in line that are sent before the card is looked at again: one super-frame, or as much of smaller ones.
const AT_ONCE: usize = 32 * 1024;
