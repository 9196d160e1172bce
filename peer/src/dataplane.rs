//! The fast path: threads that move frames between the card and the socket without the control loop.
//!
//! ```text
//!                    ┌── outbound ──▶ split ─ switch ─ batch ─ seal ──▶ UDP (GSO)
//!   card (vnet) ◀────┤
//!                    └── inbound ◀─ coalesce ◀─ switch ◀─ open ◀──────── UDP (GRO), all sockets
//!                          │   └──▶ another link: batch ─ seal ──▶ UDP        (a hub)
//!                          │   └──▶ the NAT's thread, which sends to links itself: split ─ batch ─ seal ──▶ UDP
//!                          ▼ what is no frame, or goes to many, or to nobody known: bounded
//!                     control loop (driver, node) ── Plane: links, ways, table ──▶ both threads
//! ```
//!
//! It decides nothing: where frames go, by which way, with which keys is what the node has said last ([`Plane`]). It reads that
//! without waiting, allocates nothing and locks nothing that another thread holds for long, and waits only in `poll`.
//! Everything that needs a decision it hands up; when nobody takes that in time, it is dropped and counted.

use std::collections::BTreeMap;
use std::io::{self, PipeWriter};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use kuguri_proto::SocketId;
use kuguri_proto::link::Via;
use kuguri_proto::node::plane::Plane;
use serde::Serialize;
use tokio::sync::{Notify, mpsc};

use crate::outside::{Door, Gate};
use crate::tap::{CardPort, Offload};
use crate::udp::UdpPort;

mod card;
mod gateway;
mod inbound;
mod lanes;
mod map;
mod outbound;
mod published;
mod queue;
mod wait;

use gateway::Gateway;
use inbound::Inbound;
use map::Map;
use outbound::Outbound;
use published::Published;
use wait::Readers;

/// The threads, as the control loop sees them.
#[derive(Debug)]
pub struct DataPlane {
    shared: Arc<Shared>,
    sockets: Sockets,
    up: mpsc::Receiver<Up>,
    /// Closing it ends the threads.
    stop: Option<PipeWriter>,
    threads: Vec<JoinHandle<()>>,
    door: Option<Door>,
}

/// What needs a decision.
#[derive(Debug)]
pub enum Up {
    /// A datagram that is no sealed one of a known link.
    Datagram {
        /// By which socket it came.
        socket: SocketId,
        /// From where.
        remote: SocketAddr,
        /// It says that it is from the rendezvous that we are registered at; a flood of others does not crowd it out.
        trusted: bool,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// Chunks of a sealed datagram that are no frames.
    Opened {
        /// The link.
        index: u32,
        /// The chunks.
        chunks: Vec<u8>,
        /// Bytes of the whole datagram.
        size: u16,
        /// How it came.
        via: Via,
    },
    /// Something authentic came by another way than we send by.
    Heard {
        /// The link.
        index: u32,
        /// The way.
        via: Via,
    },
    /// A frame out of a link that goes to many, or to nobody known.
    LinkFrame {
        /// The link.
        index: u32,
        /// The frame, with its checksum.
        frame: Vec<u8>,
    },
    /// The same from the card.
    CardFrame(Vec<u8>),
    /// A thread has ended by itself, which is a fault of the program: nothing moves frames any more.
    Broken,
}

/// What is in use, for `status`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct InUse {
    /// What the kernel does for the card, if there is one.
    pub card: Option<Offload>,
    /// The system cuts datagrams out of one buffer (GSO).
    pub udp_gso: bool,
    /// The system joins datagrams in one buffer (GRO).
    pub udp_gro: bool,
    /// What the control loop was too slow to take.
    pub dropped_control: u64,
}

/// Sockets by the names that the node has for them.
type Sockets = BTreeMap<SocketId, Arc<UdpPort>>;

/// What the threads and the control loop share.
#[derive(Debug)]
struct Shared {
    /// The main socket.
    udp: Arc<UdpPort>,
    /// All that are read, the main one included.
    sockets: Published<Sockets>,
    readers: Readers,
    card: Option<Arc<CardPort>>,
    map: Published<Map>,
    up: mpsc::Sender<Up>,
    /// How much of each kind waits for the control loop.
    waiting: [AtomicUsize; KINDS],
    dropped_up: AtomicU64,
    /// Nobody looks at traffic: the next datagram that waits for an answer is to be told.
    parked: AtomicBool,
    active: Arc<Notify>,
}

impl DataPlane {
    /// Starts the threads. They know no link yet.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(udp: Arc<UdpPort>, card: Option<Arc<CardPort>>) -> io::Result<Self> {
        let (tell, up) = mpsc::channel(QUEUE);
        let (stopped, stop) = io::pipe()?;
        let shared = Arc::new(Shared {
            readers: Readers::new(stopped.try_clone()?)?,
            sockets: Published::default(),
            udp: Arc::clone(&udp),
            card,
            map: Published::default(),
            up: tell,
            waiting: Default::default(),
            dropped_up: AtomicU64::new(0),
            parked: AtomicBool::new(true),
            active: Arc::new(Notify::new()),
        });
        let mut plane = Self {
            shared: Arc::clone(&shared),
            sockets: BTreeMap::new(),
            up,
            stop: Some(stop),
            threads: Vec::new(),
            door: None,
        };
        plane.listen(SocketId::MAIN, udp)?;
        let inbound = Inbound::new(Arc::clone(&shared));
        let thread = spawn("kuguri-in", &shared, move || inbound.run())?;
        plane.threads.push(thread);
        if let Some(card) = &shared.card {
            let outbound = Outbound::new(Arc::clone(&shared), Arc::clone(card));
            let thread = spawn("kuguri-out", &shared, move || {
                outbound.run(&stopped);
            })?;
            plane.threads.push(thread);
        }
        Ok(plane)
    }

    /// Reads this socket too, from now on, and sends by it what is to go by it.
    ///
    /// # Errors
    /// When the system cannot watch one more.
    pub fn listen(&mut self, id: SocketId, socket: Arc<UdpPort>) -> io::Result<()> {
        self.shared.readers.add(&*socket, id)?;
        self.sockets.insert(id, socket);
        self.shared.sockets.publish(self.sockets.clone());
        Ok(())
    }

    /// Reads that socket no more.
    pub fn forget(&mut self, id: SocketId) {
        if let Some(socket) = self.sockets.remove(&id) {
            self.shared.readers.remove(&*socket);
            self.shared.sockets.publish(self.sockets.clone());
        }
    }

    /// From now on this holds.
    pub fn publish(&self, plane: Plane) {
        self.shared
            .map
            .publish(Map::new(plane, &self.sockets, self.door.clone()));
    }

    /// What is for the NAT goes there from the next [`Self::publish`] on.
    pub fn set_door(&mut self, door: Option<Door>) {
        self.door = door;
    }

    /// The NAT's way to members.
    #[must_use]
    pub fn gate(&self) -> Box<dyn Gate> {
        Box::new(Gateway::new(Arc::clone(&self.shared)))
    }

    /// Waits for what needs a decision.
    pub async fn recv(&mut self) -> Option<Up> {
        let up = self.up.recv().await?;
        self.shared.taken(&up);
        Some(up)
    }

    /// The next that needs one, if any is there.
    pub fn try_recv(&mut self) -> Option<Up> {
        let up = self.up.try_recv().ok()?;
        self.shared.taken(&up);
        Some(up)
    }

    /// Notified when a datagram has left that waits for an answer, after [`Self::park`].
    #[must_use]
    pub fn watch(&self) -> Arc<Notify> {
        Arc::clone(&self.shared.active)
    }

    /// Nobody will look at traffic until [`Self::watch`] tells.
    pub fn park(&self) {
        self.shared.parked.store(true, Ordering::SeqCst);
    }

    /// What is in use.
    #[must_use]
    pub fn in_use(&self) -> InUse {
        InUse {
            card: self.shared.card.as_ref().map(|card| card.offload()),
            udp_gso: self.shared.udp.segments() > 1,
            udp_gro: self.shared.udp.joins() > 1,
            dropped_control: self.shared.dropped_up.load(Ordering::Relaxed),
        }
    }

    /// Ends the threads; what they have in hand goes out first.
    pub fn stop(&mut self) {
        self.stop = None;
        for thread in self.threads.drain(..) {
            // A panic has been told already.
            let _ = thread.join();
        }
    }
}

impl Up {
    /// What may not crowd out what: datagrams of whoever, those of the rendezvous, frames, and what is proved to be from peers.
    const fn kind(&self) -> usize {
        match self {
            Self::Datagram { trusted: false, .. } => 0,
            Self::Datagram { trusted: true, .. } => 1,
            Self::LinkFrame { .. } | Self::CardFrame(_) => 2,
            Self::Opened { .. } | Self::Heard { .. } | Self::Broken => 3,
        }
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    /// Hands something up, unless the control loop has too much of its kind to do already.
    fn hand_up(&self, up: Up) {
        let waiting = &self.waiting[up.kind()];
        let room = waiting.fetch_add(1, Ordering::Relaxed) < SHARE;
        if !room || self.up.try_send(up).is_err() {
            waiting.fetch_sub(1, Ordering::Relaxed);
            self.dropped_up.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The control loop has it now.
    fn taken(&self, up: &Up) {
        if !matches!(up, Up::Broken) {
            self.waiting[up.kind()].fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A datagram left that waits for an answer.
    fn tell_active(&self) {
        if self.parked.load(Ordering::SeqCst) && self.parked.swap(false, Ordering::SeqCst) {
            self.active.notify_one();
        }
    }
}

fn spawn(
    name: &str,
    shared: &Arc<Shared>,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let alarm = Alarm(shared.up.clone());
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let _alarm = alarm;
            work();
        })
}

/// Tells when its thread ends by a panic.
struct Alarm(mpsc::Sender<Up>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Without the control loop there is nobody to tell.
            let _ = self.0.blocking_send(Up::Broken);
        }
    }
}

/// Kinds of things that wait for the control loop.
const KINDS: usize = 4;
/// Things of one kind that wait at most.
const SHARE: usize = 512;
/// All, and room for the alarms.
const QUEUE: usize = KINDS * SHARE + 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::udp::UdpSocket;

    #[tokio::test]
    async fn a_flood_of_one_kind_leaves_room_for_the_others() {
        let socket = UdpSocket::bind(0).expect("a port");
        let mut plane = DataPlane::start(socket.shared(), None).expect("threads");
        let remote = SocketAddr::from(([192, 0, 2, 1], 1));
        for _ in 0..2 * QUEUE {
            plane.shared.hand_up(Up::Datagram {
                socket: SocketId::MAIN,
                remote,
                trusted: false,
                bytes: Vec::new(),
            });
        }
        let via = Via::Relay(kuguri_proto::rendezvous::Channel(0));
        plane.shared.hand_up(Up::Heard { index: 7, via });
        let all: Vec<Up> = std::iter::from_fn(|| plane.try_recv()).collect();
        assert_eq!(all.len(), SHARE + 1);
        assert!(matches!(all.last(), Some(Up::Heard { index: 7, .. })));
        assert_eq!(
            usize::try_from(plane.in_use().dropped_control),
            Ok(2 * QUEUE - SHARE)
        );
        // What was taken makes room again.
        plane.shared.hand_up(Up::CardFrame(Vec::new()));
        assert!(plane.try_recv().is_some());
    }
}
