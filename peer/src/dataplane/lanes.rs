//! Frames on their way to links: a batch for each link that has some, sent when it is full or its thread has nothing more.

use std::sync::Arc;
use std::time::Instant;

use kuguri_proto::link::batch::{Batch, NotTaken, Shape};
use kuguri_proto::offload::Pieces;

use super::map::{Port, Way};
use super::{Shared, wait};

/// The batches of one thread.
#[derive(Debug)]
pub(super) struct Lanes {
    shared: Arc<Shared>,
    /// In use, oldest first.
    lanes: Vec<Lane>,
    /// Their memory, for the next.
    spare: Vec<Batch>,
    /// Names the next frame that goes in parts; the upper bits are this thread's.
    number: u32,
    scratch: Vec<u8>,
}

#[derive(Debug)]
struct Lane {
    port: Arc<Port>,
    way: Way,
    batch: Batch,
}

impl Lanes {
    /// `thread` (0 to 3) tells threads apart, which must not name two frames alike.
    pub(super) const fn new(shared: Arc<Shared>, thread: u32) -> Self {
        Self {
            shared,
            lanes: Vec::new(),
            spare: Vec::new(),
            number: PLANE | thread << COUNT_BITS,
            scratch: Vec::new(),
        }
    }

    /// Bytes of the largest frame that one datagram to this link carries.
    pub(super) fn largest(port: &Port) -> usize {
        port.way
            .as_ref()
            .map_or(usize::MAX, |way| way.shape.largest_frame())
    }

    /// Takes the pieces of a frame to a link.
    pub(super) fn push(&mut self, port: &Arc<Port>, pieces: &Pieces<'_>) {
        let Some(way) = &port.way else {
            port.link.traffic.dropped_queue(1);
            return;
        };
        let at = self.lane(port, way);
        let finish = !port.link.takes_open;
        for index in 0..pieces.count() {
            let length = pieces.piece_len(index);
            let open = pieces.is_open() && !finish;
            let lane = &mut self.lanes[at];
            let mut taken = lane.batch.frame(length, open);
            if matches!(taken, Err(NotTaken::Full)) {
                send(&self.shared, lane);
                taken = lane.batch.frame(length, open);
            }
            match taken {
                Ok(room) => pieces.write(index, finish, room),
                Err(NotTaken::TooLarge) => self.push_parts(at, pieces, index),
                Err(NotTaken::Full) => port.link.traffic.dropped_queue(1),
            }
        }
    }

    /// Sends all that waits.
    pub(super) fn flush(&mut self) {
        while let Some(mut lane) = self.lanes.pop() {
            send(&self.shared, &mut lane);
            self.spare.push(lane.batch);
        }
    }

    /// A frame that no datagram of this way holds, in parts. Its checksum is finished: parts say nothing of it.
    fn push_parts(&mut self, at: usize, pieces: &Pieces<'_>, index: usize) {
        self.scratch.clear();
        self.scratch.resize(pieces.piece_len(index), 0);
        pieces.write(index, true, &mut self.scratch);
        let lane = &mut self.lanes[at];
        let number = self.number;
        let count = number.wrapping_add(1) & COUNT;
        self.number = (number & !COUNT) | count;
        let mut gone = 0;
        let mut sent = false;
        while gone < self.scratch.len() {
            match lane.batch.part(&self.scratch, gone, number) {
                Ok(now_gone) => (gone, sent) = (now_gone, false),
                Err(NotTaken::Full) if !sent => {
                    send(&self.shared, lane);
                    sent = true;
                }
                Err(_) => {
                    lane.port.link.traffic.dropped_queue(1);
                    return;
                }
            }
        }
    }

    fn lane(&mut self, port: &Arc<Port>, way: &Way) -> usize {
        let index = port.link.index;
        if let Some(at) = self.lanes.iter().position(|it| it.port.link.index == index) {
            return at;
        }
        if self.lanes.len() >= LANES {
            let mut oldest = self.lanes.remove(0);
            send(&self.shared, &mut oldest);
            self.spare.push(oldest.batch);
        }
        let mut batch = self
            .spare
            .pop()
            .unwrap_or_else(|| Batch::new(Shape::default()));
        batch.reset(way.shape);
        self.lanes.push(Lane {
            port: Arc::clone(port),
            way: way.clone(),
            batch,
        });
        self.lanes.len() - 1
    }
}

fn send(shared: &Shared, lane: &mut Lane) {
    let Lane { port, way, batch } = lane;
    let traffic = &port.link.traffic;
    match batch.seal(&port.link.sealer) {
        Ok(Some(ready)) => {
            let (contents, size) = (ready.contents, ready.segment_size);
            let room = || wait::writable(&*way.socket);
            way.socket.send_all(way.destination, contents, size, room);
            if let Some((relay, header)) = way.copy {
                let room = || wait::writable(&*shared.udp);
                for datagram in contents.chunks(size) {
                    let copied = [&header[..], datagram].concat();
                    shared.udp.send_all(relay, &copied, copied.len(), room);
                }
            }
            if traffic.sent(ready.frames, ready.bytes, Instant::now()) {
                shared.tell_active();
            }
        }
        Ok(None) => {}
        // The key has sealed all that it may; the control loop is about to change it.
        Err(_) => traffic.dropped_queue(1),
    }
    batch.reset(way.shape);
}

/// Batches at once.
const LANES: usize = 16;
/// Numbers of frames in parts that the control loop's own frames do not have.
const PLANE: u32 = 1 << 31;
/// The bits that count.
const COUNT_BITS: u32 = 29;
const COUNT: u32 = (1 << COUNT_BITS) - 1;
