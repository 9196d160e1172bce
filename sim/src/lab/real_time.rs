//! The box: plays the network by the machine's clock. One thread reads what the machines send, lets the network decide,
//! and hands what arrives to the machines.
//!
//! ```text
//!   eth0 of a machine ──► receive ──► Packet::parse ──► Network::send
//!                                                            │   links, NATs, routers; poll_timeout
//!   eth0 of a machine ◄── send ◄──── Packet::emit ◄──── Network::poll_packet
//! ```
//!
//! It decides nothing about packets, but that what concerns the machine's own cable alone (link-local and multicast:
//! router solicitation, multicast listeners) goes nowhere: nobody else is on that cable.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::prctl::set_timerslack;
use nix::sys::time::TimeSpec;

use super::card::{Card, ETHERNET_HEADER};
use super::packet_socket::OFFLOAD_HEADER;
use crate::network::{HostId, Network};
use crate::packet::Packet;

/// What went through the box since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets that machines sent.
    pub sent: u64,
    /// Packets that machines were handed.
    pub delivered: u64,
    /// Packets from machines that are no IP packets, or damaged.
    pub malformed: u64,
    /// Packets lost because the box was slower than a machine, or a machine could not take one: not the model's doing.
    pub overruns: u64,
}

/// The running box. Stops when dropped.
#[derive(Debug)]
pub(super) struct RealTime {
    shared: Arc<Mutex<Shared>>,
    waker: UnixStream,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    network: Network,
    traffic: Traffic,
    stopping: bool,
}

impl RealTime {
    /// Starts playing `network` between the cards of its hosts.
    pub(super) fn start(network: Network, cards: BTreeMap<HostId, Card>) -> io::Result<Self> {
        let (waker, wakes) = UnixStream::pair()?;
        waker.set_nonblocking(true)?;
        wakes.set_nonblocking(true)?;
        let shared = Arc::new(Mutex::new(Shared {
            network,
            traffic: Traffic::default(),
            stopping: false,
        }));
        let plays = Play {
            shared: Arc::clone(&shared),
            wakes,
            cards: cards.into_iter().collect(),
            buffer: vec![0; OFFLOAD_HEADER + ETHERNET_HEADER + usize::from(u16::MAX)],
        };
        let thread = thread::Builder::new()
            .name("internet".to_owned())
            .spawn(move || plays.run())?;
        Ok(Self {
            shared,
            waker,
            thread: Some(thread),
        })
    }

    /// Looks at the network or changes it, between two packets.
    pub(super) fn network<T>(&self, body: impl FnOnce(&mut Network, Instant) -> T) -> T {
        let answer = body(&mut lock(&self.shared).network, Instant::now());
        // The change may be due before what the box waits for.
        self.wake();
        answer
    }

    /// The counters.
    pub(super) fn traffic(&self) -> Traffic {
        lock(&self.shared).traffic
    }

    fn wake(&self) {
        // A full pipe wakes as well as one byte more.
        let _ = (&self.waker).write(&[0]);
    }
}

impl Drop for RealTime {
    fn drop(&mut self) {
        lock(&self.shared).stopping = true;
        self.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("traffic", &self.traffic)
            .finish_non_exhaustive()
    }
}

/// The thread's half.
struct Play {
    shared: Arc<Mutex<Shared>>,
    wakes: UnixStream,
    cards: Vec<(HostId, Card)>,
    buffer: Vec<u8>,
}

impl Play {
    fn run(mut self) {
        // The kernel may wake a thread late by 50 µs to save power; a link's delay is more exact than that.
        let _ = set_timerslack(1);
        let mut ready = vec![true; self.cards.len()];
        let shared = Arc::clone(&self.shared);
        loop {
            let deadline = {
                let mut shared = lock(&shared);
                if shared.stopping {
                    return;
                }
                self.play(&mut shared, &ready);
                shared.network.poll_timeout()
            };
            self.wait(deadline, &mut ready);
        }
    }

    /// One round: what is due, what the machines sent, what arrives.
    fn play(&mut self, shared: &mut Shared, ready: &[bool]) {
        let now = Instant::now();
        shared.network.handle_timeout(now);
        for ((host, card), _) in self.cards.iter().zip(ready).filter(|(_, ready)| **ready) {
            take_from(*host, card, &mut self.buffer, shared, now);
        }
        while let Some((host, packet)) = shared.network.poll_packet() {
            let Some((_, card)) = self.cards.iter().find(|(id, _)| *id == host) else {
                continue;
            };
            match card.send(packet.destination, &packet.emit()) {
                Ok(()) => shared.traffic.delivered += 1,
                Err(_) => shared.traffic.overruns += 1,
            }
        }
    }

    /// Sleeps until a machine sends, the network's deadline, or a wake-up; says who sent.
    fn wait(&mut self, deadline: Option<Instant>, ready: &mut [bool]) {
        let timeout = deadline.map(|deadline| {
            TimeSpec::from_duration(deadline.saturating_duration_since(Instant::now()))
        });
        let mut fds: Vec<PollFd<'_>> = self
            .cards
            .iter()
            .map(|(_, card)| card.as_fd())
            .chain([self.wakes.as_fd()])
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        let polled = ppoll(&mut fds, timeout, None);
        if polled.is_err() && polled != Err(Errno::EINTR) {
            thread::yield_now();
        }
        for (ready, fd) in ready.iter_mut().zip(&fds) {
            *ready = fd.any() == Some(true);
        }
        let woken = fds.last().and_then(PollFd::any) == Some(true);
        if woken {
            let _ = (&self.wakes).read(&mut [0; 64]);
        }
    }
}

/// A batch of what one machine sent.
fn take_from(host: HostId, card: &Card, buffer: &mut [u8], shared: &mut Shared, now: Instant) {
    for _ in 0..BATCH {
        let Ok(Some(received)) = card.receive(buffer) else {
            break;
        };
        let parsed = if received.offloaded {
            Packet::parse_offloaded(received.packet)
        } else {
            Packet::parse(received.packet)
        };
        match parsed {
            Ok(packet) if is_for_the_cable(&packet) => {}
            Ok(packet) => {
                for packet in packet.segments(received.segment_size) {
                    shared.traffic.sent += 1;
                    shared.network.send(host, packet, now);
                }
            }
            Err(_) => shared.traffic.malformed += 1,
        }
    }
    shared.traffic.overruns += card.take_drops();
}

/// Whether no router may forward it (RFC 3927, section 2.6; RFC 4291, section 2.5.6), or it is for everybody.
const fn is_for_the_cable(packet: &Packet) -> bool {
    match (packet.source, packet.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            source.is_link_local() || destination.is_multicast() || destination.is_broadcast()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            source.is_unicast_link_local() || source.is_unspecified() || destination.is_multicast()
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => true,
    }
}

/// A thread that panicked while it held the lock has only failed to change something.
fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many packets of one machine are taken before the others have their turn.
const BATCH: usize = 64;
