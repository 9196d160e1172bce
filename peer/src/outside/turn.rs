//! The thread's loop: everything that has come, then everything that is to go, then sleep.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kuguri_proto::gateway::access::Protocol;
use kuguri_proto::gateway::sockets::SocketId;
use kuguri_proto::gateway::{Frame, HostError, Nat, NatSettings, Unreachable};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};

use super::host::{HostSockets, Kind, failure, id};
use super::{Gate, Order, Parcel, Shared, Table, WAKER, lock};

/// The thread's own things.
pub(super) struct Turn {
    nat: Nat,
    poll: Poll,
    sockets: HostSockets,
    shared: Arc<Shared>,
    /// To stations that are known; for the others there is the outbox.
    gate: Box<dyn Gate>,
    /// Datagram sockets that may have more than was read.
    unread: VecDeque<SocketId>,
    /// By number among the published ports.
    listeners: Vec<(usize, TcpListener)>,
    /// Frames that the outbox had no room for.
    frames: Vec<Frame>,
    dropped_inbox: u64,
}

impl Turn {
    pub(super) fn new(
        nat: Nat,
        poll: Poll,
        shared: Arc<Shared>,
        gate: Box<dyn Gate>,
    ) -> io::Result<Self> {
        let sockets = HostSockets::new(poll.registry().try_clone()?);
        let mut turn = Self {
            nat,
            poll,
            sockets,
            shared,
            gate,
            unread: VecDeque::new(),
            listeners: Vec::new(),
            frames: Vec::new(),
            dropped_inbox: 0,
        };
        turn.listen()?;
        Ok(turn)
    }

    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            let wait = self.wait();
            match self.poll.poll(&mut events, wait) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::error!(%error, "the NAT ends: its sockets cannot be watched");
                    return;
                }
            }
            let now = Instant::now();
            if self.take_inbox(now) {
                return self.end(now);
            }
            for event in &events {
                self.take_event(event, now);
            }
            self.read_datagrams(now);
            if self.nat.poll_timeout().is_some_and(|at| at <= now) {
                self.nat.handle_timeout(&mut self.sockets, now);
            }
            self.give(now);
        }
    }

    /// How long there is nothing to do; forever is `None`.
    fn wait(&self) -> Option<Duration> {
        let busy = self.frames.is_empty() && (!self.unread.is_empty() || self.nat.has_work());
        if busy {
            return Some(Duration::ZERO);
        }
        let at = self.nat.poll_timeout()?;
        let left = at.saturating_duration_since(Instant::now());
        // The kernel counts in milliseconds; too early would be again and again.
        Some(left + Duration::from_millis(1))
    }

    // ---- in

    /// Frames and orders; true when it is to end.
    fn take_inbox(&mut self, now: Instant) -> bool {
        let inbox = std::mem::take(&mut *lock(&self.shared.inbox));
        self.dropped_inbox += inbox.dropped;
        for Parcel { bytes, trusted } in inbox.parcels {
            self.nat
                .handle_frame(&bytes, trusted, &mut self.sockets, now);
            self.nat.recycle(bytes);
        }
        for order in inbox.orders {
            match order {
                Order::Set(settings) => self.set(*settings, now),
                Order::Table(answer) => {
                    let table = Table {
                        sessions: self.nat.table(now),
                        counters: self.nat.counters(),
                        dropped_inbox: self.dropped_inbox,
                    };
                    // Who asked may have gone.
                    let _ = answer.send(table);
                }
            }
        }
        inbox.end
    }

    fn set(&mut self, settings: NatSettings, now: Instant) {
        let republish = settings.publish != self.nat.settings().publish;
        self.nat.set(settings, &mut self.sockets, now);
        if republish && let Err(error) = self.listen() {
            tracing::error!(%error, "a published port cannot be opened");
        }
    }

    fn take_event(&mut self, event: &mio::event::Event, now: Instant) {
        if event.token() == WAKER {
            return;
        }
        if let Some(at) = listener(event.token()) {
            return self.accept(at, now);
        }
        let Some(id) = id(event.token()) else {
            return;
        };
        match self.sockets.get_mut(id) {
            Some(Kind::Stream(stream)) if stream.connected => {
                if event.is_error() {
                    let error = stream.socket.take_error().ok().flatten();
                    let failed = error.map_or(Ok(()), |error| Err(failure(&error)));
                    if failed.is_err() {
                        return self
                            .nat
                            .handle_connected(id, failed, &mut self.sockets, now);
                    }
                }
                stream.ended |= event.is_read_closed();
                if event.is_readable() || event.is_read_closed() {
                    self.nat.handle_readable(id, &mut self.sockets, now);
                }
                if event.is_writable() {
                    self.nat.handle_writable(id, &mut self.sockets, now);
                }
            }
            Some(Kind::Stream(stream)) => {
                let result = match stream.socket.take_error() {
                    Ok(None) if stream.socket.peer_addr().is_ok() => Ok(()),
                    // Not yet: another event says when.
                    Ok(None) => return,
                    Ok(Some(error)) | Err(error) => Err(failure(&error)),
                };
                stream.connected = result.is_ok();
                self.nat
                    .handle_connected(id, result, &mut self.sockets, now);
            }
            Some(Kind::Datagrams(_)) => {
                if event.is_error() {
                    self.read_errors(id, now);
                }
                if event.is_readable() && !self.unread.contains(&id) {
                    self.unread.push_back(id);
                }
            }
            None => {}
        }
    }

    /// Reads what datagram sockets have, a share of each, while the NAT has room for it.
    fn read_datagrams(&mut self, now: Instant) {
        if self.unread.is_empty() {
            return;
        }
        let mut buffer = [0; 65_536];
        for _ in 0..self.unread.len() {
            if !self.nat.has_room() || !self.frames.is_empty() {
                return;
            }
            let Some(id) = self.unread.pop_front() else {
                return;
            };
            if self.read_some(id, &mut buffer, now) {
                self.unread.push_back(id);
            }
        }
    }

    /// True when there may be more.
    fn read_some(&mut self, id: SocketId, buffer: &mut [u8], now: Instant) -> bool {
        for _ in 0..DATAGRAMS {
            let Some(Kind::Datagrams(socket)) = self.sockets.get_mut(id) else {
                return false;
            };
            match socket.socket.recv_from(buffer) {
                Ok((length, from)) => {
                    let bytes = buffer.get(..length).unwrap_or(&[]);
                    self.nat
                        .handle_datagram(id, from, bytes, &mut self.sockets, now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                // An ICMP error that is in the queue of errors too.
                Err(_) => {}
            }
        }
        true
    }

    /// ICMP errors about datagrams of ours (ip(7), IP_RECVERR).
    fn read_errors(&mut self, id: SocketId, now: Instant) {
        for _ in 0..DATAGRAMS {
            let Some(Kind::Datagrams(socket)) = self.sockets.get_mut(id) else {
                return;
            };
            let mut buffer = [0; 1024];
            let Some((to, error, offender, length)) =
                read_error(socket.socket.as_raw_fd(), &mut buffer)
            else {
                return;
            };
            let error = HostError {
                to,
                offender,
                error,
                quote: buffer.get(..length).unwrap_or(&[]),
            };
            self.nat.handle_host_error(id, &error, now);
        }
    }

    fn accept(&mut self, at: usize, now: Instant) {
        let Some((published, _)) = self.listeners.get(at) else {
            return;
        };
        let published = *published;
        while let Some((_, listener)) = self.listeners.get(at) {
            let (socket, from) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // Nobody more; or no descriptors, and then the next one asks again.
                Err(_) => return,
            };
            let taken = self
                .nat
                .handle_accepted(published, from, &mut self.sockets, now);
            if let Some(id) = taken
                && let Err(failed) = self.sockets.adopt(id, socket.into())
            {
                self.nat
                    .handle_connected(id, Err(failed), &mut self.sockets, now);
            }
        }
    }

    /// Opens the published ports.
    fn listen(&mut self) -> io::Result<()> {
        self.listeners.clear();
        let publish = self.nat.settings().publish.clone();
        for (number, publish) in publish.into_iter().enumerate() {
            let to = SocketAddr::new(super::any(publish.to.ip()).ip(), publish.port);
            match publish.protocol {
                Protocol::Tcp => self.listen_at(number, to)?,
                Protocol::Udp => self.open_door(number, to)?,
                Protocol::Icmp => {}
            }
        }
        Ok(())
    }

    fn listen_at(&mut self, number: usize, at: SocketAddr) -> io::Result<()> {
        let listener = TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        let token = Token(LISTENER | self.listeners.len());
        let fd = listener.as_raw_fd();
        let registry = self.poll.registry();
        registry.register(&mut SourceFd(&fd), token, Interest::READABLE)?;
        self.listeners.push((number, listener));
        Ok(())
    }

    fn open_door(&mut self, number: usize, at: SocketAddr) -> io::Result<()> {
        let socket = UdpSocket::bind(at)?;
        match self.nat.handle_published(number, Instant::now()) {
            Some(id) => self.sockets.adopt_datagrams(id, socket, at.is_ipv6()),
            None => Ok(()),
        }
    }

    // ---- out

    /// Lets the NAT send as much as the outbox takes, and a share of what goes by the gate.
    fn give(&mut self, now: Instant) {
        let (mut gave, mut left) = (false, SHARE);
        loop {
            let mut sent = 0;
            if self.frames.is_empty() {
                self.nat.work(&mut self.sockets, now);
                sent = self.pass(now);
            }
            let mut outbox = lock(&self.shared.outbox);
            gave |= take_events(&mut self.nat, &mut outbox);
            left = left.saturating_sub(sent);
            if self.frames.is_empty() {
                if sent == 0 || left == 0 {
                    break;
                }
                continue;
            }
            if outbox.bytes >= MAX_OUTBOX {
                outbox.full = true;
                break;
            }
            outbox.bytes += self
                .frames
                .iter()
                .map(|frame| frame.bytes.len())
                .sum::<usize>();
            outbox.frames.append(&mut self.frames);
            gave = true;
        }
        self.gate.flush();
        if gave {
            (self.shared.wake)();
        }
    }

    /// What the gate takes is gone, the rest waits for the outbox; the bytes that the gate took.
    fn pass(&mut self, now: Instant) -> usize {
        let mut sent = 0;
        while let Some(frame) = self.nat.poll_frame() {
            if self.gate.send(&frame, now) {
                sent += frame.bytes.len();
                self.nat.recycle(frame.bytes);
            } else {
                self.frames.push(frame);
            }
        }
        sent
    }

    /// Every connection ends; the stations hear of it if somebody still takes the frames.
    fn end(&mut self, now: Instant) {
        self.nat.close_all(&mut self.sockets, now);
        self.give(now);
    }
}

fn take_events(nat: &mut Nat, outbox: &mut super::Outbox) -> bool {
    let before = outbox.events.len();
    while outbox.events.len() < MAX_EVENTS
        && let Some(event) = nat.poll_event()
    {
        outbox.events.push(event);
    }
    outbox.events.len() > before
}

fn read_error(
    fd: i32,
    buffer: &mut [u8],
) -> Option<(SocketAddr, Unreachable, Option<std::net::IpAddr>, usize)> {
    let mut control = nix::cmsg_space!([u8; 128]);
    let mut slices = [io::IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrStorage>(fd, &mut slices, Some(&mut control), flags).ok()?;
    let to = socket_address(message.address.as_ref()?)?;
    let length = message.bytes;
    let mut found = None;
    for control in message.cmsgs().ok()? {
        let (v6, error, offender) = if let ControlMessageOwned::Ipv4RecvErr(error, offender) =
            control
        {
            let offender = offender
                .map(|from| std::net::IpAddr::V4(u32::from_be(from.sin_addr.s_addr).into()));
            (false, error, offender)
        } else if let ControlMessageOwned::Ipv6RecvErr(error, offender) = control {
            let offender = offender.map(|from| std::net::IpAddr::V6(from.sin6_addr.s6_addr.into()));
            (true, error, offender)
        } else {
            continue;
        };
        let mtu = u16::try_from(error.ee_info).unwrap_or(u16::MAX);
        let errno = i32::try_from(error.ee_errno).unwrap_or(0);
        let (what, offender) = match error.ee_origin {
            ORIGIN_ICMP | ORIGIN_ICMP6 => (
                Unreachable::from_wire(v6, error.ee_type, error.ee_code, mtu),
                offender,
            ),
            _ if errno == libc::EMSGSIZE => (Unreachable::TooLarge(mtu), None),
            _ => continue,
        };
        found = Some((to, what, offender, length));
    }
    found
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address
        .as_sockaddr_in()
        .map(|v4| SocketAddr::new(v4.ip().into(), v4.port()));
    let v6 = || {
        address
            .as_sockaddr_in6()
            .map(|v6| SocketAddr::new(v6.ip().into(), v6.port()))
    };
    v4.or_else(v6)
}

fn listener(token: Token) -> Option<usize> {
    (token.0 & LISTENER != 0).then_some(token.0 & !LISTENER)
}

/// The bit of a token that no socket has.
const LISTENER: usize = 1 << (usize::BITS - 1);
/// Events taken at once.
const EVENTS: usize = 1024;
/// Datagrams read of one socket before the others have their turn.
const DATAGRAMS: usize = 32;
/// Bytes that go by the gate before frames and sockets are looked at again.
const SHARE: usize = 256 << 10;
/// Bytes of frames that wait to be taken.
const MAX_OUTBOX: usize = 4 << 20;
/// Events that wait to be taken.
const MAX_EVENTS: usize = 8192;
/// Who made an error (linux/errqueue.h).
const ORIGIN_ICMP: u8 = 2;
const ORIGIN_ICMP6: u8 = 3;
