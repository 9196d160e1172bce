//! SecureNAT's way out: one thread that owns the NAT, its sockets and its clock.
//!
//! ```text
//!   driver ──frames──▶ inbox ──▶ ┌────────── one turn ──────────┐
//!          ◀─frames── outbox ◀── │ frames · sockets · timer ─▶ NAT │ ◀──▶ sockets of the host
//!          ◀─events───           └──────────────────────────────┘
//! ```
//!
//! Between the thread and the rest there are two bounded queues, swapped whole: nothing is handed over frame by frame, and
//! inside the thread nothing is handed over at all. Whoever takes from the outbox lets the NAT go on.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use kuguri_proto::gateway::{Frame, Nat, NatCounters, NatEvent, NatRow, NatSettings, Port};
use kuguri_proto::wire::ethernet::MacAddr;
use mio::{Poll, Token, Waker};
use serde::Serialize;
use tokio::sync::oneshot;

mod host;
mod kernel;
pub mod lan;
mod turn;

use turn::Turn;

/// The thread, as others see it. Dropped, its connections are closed and it ends.
#[derive(Debug)]
pub struct Outside {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// The way in, for whoever has frames for the virtual host.
#[derive(Clone, Debug)]
pub struct Door(Arc<Shared>);

/// A frame for the virtual host.
#[derive(Debug)]
pub struct Parcel {
    /// Its bytes; of TCP also a super-frame.
    pub bytes: Vec<u8>,
    /// Its checksums are known to be right, or open.
    pub trusted: bool,
}

/// The thread's own way to stations.
pub trait Gate: Send {
    /// Sends a frame to its station; false when that is not for the gate to decide.
    fn send(&mut self, frame: &Frame, now: Instant) -> bool;
    /// Nothing more follows for now.
    fn flush(&mut self);
}

/// What the thread and others share.
struct Shared {
    inbox: Mutex<Inbox>,
    outbox: Mutex<Outbox>,
    waker: Waker,
    /// Tells others that something is in the outbox.
    wake: Box<dyn Fn() + Send + Sync>,
}

/// For the thread.
#[derive(Debug, Default)]
struct Inbox {
    parcels: Vec<Parcel>,
    bytes: usize,
    dropped: u64,
    orders: Vec<Order>,
    end: bool,
}

/// From the thread.
#[derive(Debug, Default)]
struct Outbox {
    frames: Vec<Frame>,
    bytes: usize,
    events: Vec<NatEvent>,
    /// The thread waits until somebody takes from it.
    full: bool,
    /// It has ended by itself, which is a fault of the program.
    broken: bool,
}

/// What the thread is told.
#[derive(Debug)]
enum Order {
    Set(Box<NatSettings>),
    Table(oneshot::Sender<Table>),
}

/// What the thread tells of itself.
#[derive(Debug, Clone, Serialize)]
pub struct Table {
    /// Every session.
    pub sessions: Vec<NatRow>,
    /// What it has done.
    pub counters: NatCounters,
    /// Frames that came faster than it took them.
    pub dropped_inbox: u64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Outside {
    /// Starts the thread. `wake` is called whenever frames or events are there to be taken.
    ///
    /// # Errors
    /// When the system has no thread, or a published port cannot be opened.
    pub fn start(
        settings: NatSettings,
        mac: MacAddr,
        port: Port,
        gate: Box<dyn Gate>,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let shared = Arc::new(Shared {
            inbox: Mutex::default(),
            outbox: Mutex::default(),
            waker: Waker::new(poll.registry(), WAKER)?,
            wake: Box::new(wake),
        });
        kernel::raise_descriptor_limit();
        let now = Instant::now();
        let nat = Nat::new(settings, mac, port, rand::random(), now);
        let turn = Turn::new(nat, poll, Arc::clone(&shared), gate)?;
        let alarm = Alarm(Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name("outside".to_owned())
            .spawn(move || {
                let _alarm = alarm;
                turn.run();
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// The way in.
    #[must_use]
    pub fn door(&self) -> Door {
        Door(Arc::clone(&self.shared))
    }

    /// Takes the frames and events that are there, behind those in the arguments.
    pub fn take(&self, frames: &mut Vec<Frame>, events: &mut Vec<NatEvent>) {
        let mut outbox = lock(&self.shared.outbox);
        frames.append(&mut outbox.frames);
        events.append(&mut outbox.events);
        outbox.bytes = 0;
        let waited = std::mem::take(&mut outbox.full);
        drop(outbox);
        if waited {
            self.wake_thread();
        }
    }

    /// Whether the thread has ended by itself: a fault of the program.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        lock(&self.shared.outbox).broken
    }

    /// Other settings from now on.
    pub fn set(&self, settings: NatSettings) {
        self.order(Order::Set(Box::new(settings)));
    }

    /// Asks for the session table; it comes by the receiver.
    #[must_use]
    pub fn table(&self) -> oneshot::Receiver<Table> {
        let (tell, told) = oneshot::channel();
        self.order(Order::Table(tell));
        told
    }

    /// Ends the thread: the last frames, by which stations hear that their connections are over, and the last events.
    #[must_use]
    pub fn stop(mut self) -> (Vec<Frame>, Vec<NatEvent>) {
        self.join();
        let (mut frames, mut events) = (Vec::new(), Vec::new());
        self.take(&mut frames, &mut events);
        (frames, events)
    }

    fn join(&mut self) {
        lock(&self.shared.inbox).end = true;
        self.wake_thread();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the NAT's thread has panicked");
        }
    }

    fn order(&self, order: Order) {
        lock(&self.shared.inbox).orders.push(order);
        self.wake_thread();
    }

    fn wake_thread(&self) {
        self.shared.wake_thread();
    }
}

impl Door {
    /// Frames for the virtual host; they are taken out of `parcels`.
    pub fn send(&self, parcels: &mut Vec<Parcel>) {
        if parcels.is_empty() {
            return;
        }
        let mut inbox = lock(&self.0.inbox);
        let was_empty = inbox.parcels.is_empty();
        for parcel in parcels.drain(..) {
            if inbox.bytes >= MAX_INBOX {
                inbox.dropped += 1;
            } else {
                inbox.bytes += parcel.bytes.len();
                inbox.parcels.push(parcel);
            }
        }
        drop(inbox);
        if was_empty {
            self.0.wake_thread();
        }
    }
}

impl Shared {
    fn wake_thread(&self) {
        if let Err(error) = self.waker.wake() {
            tracing::warn!(%error, "the NAT's thread cannot be woken");
        }
    }
}

/// Tells when its thread ends by a panic.
struct Alarm(Arc<Shared>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            lock(&self.0.outbox).broken = true;
            (self.0.wake)();
        }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.join();
    }
}

/// A lock that no panic of ours leaves shut.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether an address and port can be told to the kernel for that family.
const fn any(family: IpAddr) -> SocketAddr {
    match family {
        IpAddr::V4(_) => SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0),
        IpAddr::V6(_) => SocketAddr::new(IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), 0),
    }
}

/// Among the sockets' tokens.
const WAKER: Token = Token(usize::MAX);
/// Bytes of frames that wait for the thread.
const MAX_INBOX: usize = 8 << 20;
