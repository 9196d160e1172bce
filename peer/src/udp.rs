//! The peer's UDP socket: batches in (GRO), batches out (GSO), one dual-stack socket for IPv4 and IPv6.
//!
//! Fragmentation is forbidden on it, so that probes for the path MTU tell the truth. Whatever goes wrong with one
//! datagram is counted and ends nothing: the next may go another way. Knows sockets; knows nothing of what is in them.
//!
//! ```text
//!   [::]:PORT   recvmmsg ─▶ buffers ─▶ stride, stride, …          read by the data plane's thread alone
//!               sendmsg  ◀─ UDP_SEGMENT ◀─ datagrams of one size  written by every thread
//! ```
//!
//! No runtime watches it: a runtime would be woken for every datagram, in and out.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kuguri_proto::Transmit;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, SockaddrIn6, sendmsg, setsockopt};
pub use quinn_udp::RecvMeta;
use quinn_udp::UdpSocketState;
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

/// Why no socket could be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UdpError {
    /// Somebody else has the port.
    #[error(
        "UDP port {0} is in use; choose another one with --port, or leave --port away to get any free one"
    )]
    InUse(u16),
    /// The system refuses.
    #[error(
        "no UDP socket on port {port}: {error}; choose another port with --port, or leave it away to get any free one"
    )]
    Io {
        /// The port asked for; 0 for any.
        port: u16,
        /// What the system said.
        error: io::Error,
    },
}

/// What went through a socket, and what did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UdpCounters {
    /// Datagrams given to the system.
    pub sent: u64,
    /// Datagrams taken from it.
    pub received: u64,
    /// Datagrams larger than the interface carries: probes, mostly.
    pub too_large: u64,
    /// Datagrams to addresses without a route, or that no datagram can go to.
    pub unreachable: u64,
    /// Datagrams that could not be sent for any other reason.
    pub failed: u64,
}

/// A bound socket, shared by all who send by it.
#[derive(Debug)]
pub struct UdpPort {
    io: std::net::UdpSocket,
    state: UdpSocketState,
    dual_stack: bool,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    sent: AtomicU64,
    received: AtomicU64,
    too_large: AtomicU64,
    unreachable: AtomicU64,
    failed: AtomicU64,
}

/// Sends the control loop's transmits, one after the other.
#[derive(Debug)]
pub struct UdpSocket {
    port: Arc<UdpPort>,
    waiting: Option<Waiting>,
}

/// A transmit of which `done` bytes are sent, while the socket's buffer is full.
#[derive(Debug)]
struct Waiting {
    transmit: Transmit,
    done: usize,
}

impl UdpPort {
    /// Binds `port`, or any free one for 0; on both address families where the system has both.
    ///
    /// # Errors
    /// When the port is in use or the system refuses.
    pub fn bind(port: u16) -> Result<Self, UdpError> {
        let wrap = |error: io::Error| match error.raw_os_error() {
            Some(libc::EADDRINUSE) => UdpError::InUse(port),
            _ => UdpError::Io { port, error },
        };
        let (socket, dual_stack) = match open(Domain::IPV6, port) {
            Ok(socket) => (socket, true),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(wrap(error)),
            Err(_) => (open(Domain::IPV4, port).map_err(wrap)?, false),
        };
        Ok(Self {
            state: UdpSocketState::new((&socket).into()).map_err(wrap)?,
            io: socket.into(),
            dual_stack,
            counters: Counters::default(),
        })
    }

    /// The port that it is bound to.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn port(&self) -> io::Result<u16> {
        Ok(self.io.local_addr()?.port())
    }

    /// What went through so far.
    #[must_use]
    pub fn counters(&self) -> UdpCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        UdpCounters {
            sent: read(&self.counters.sent),
            received: read(&self.counters.received),
            too_large: read(&self.counters.too_large),
            unreachable: read(&self.counters.unreachable),
            failed: read(&self.counters.failed),
        }
    }

    /// Datagrams that one system call sends at most; 1 where the system or the device cannot cut.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Datagrams that one buffer receives at most; 1 where the system does not join.
    #[must_use]
    pub fn joins(&self) -> usize {
        self.state.gro_segments()
    }

    /// Takes one batch: how many of the buffers were filled, with what as in `metas`. `None` when nothing is there.
    pub fn receive(&self, buffers: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> Option<usize> {
        for _ in 0..ERRORS {
            match self.state.recv((&self.io).into(), buffers, metas) {
                Ok(count) => {
                    let datagrams = metas.iter().take(count).map(|meta| {
                        let whole = meta.len.div_ceil(meta.stride.max(1));
                        u64::try_from(whole).unwrap_or_default()
                    });
                    let datagrams = datagrams.sum();
                    self.counters
                        .received
                        .fetch_add(datagrams, Ordering::Relaxed);
                    return Some(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                // About one datagram of the past (RFC 1122, 4.1.3.3), and read by this call.
                Err(_) => {}
            }
        }
        None
    }

    /// Sends datagrams of `segment_size` bytes, the last perhaps shorter, that stand behind each other. What cannot be sent is
    /// counted. While the system's buffer is full, calls `wait`, and gives up when that says so.
    pub fn send_all(
        &self,
        destination: SocketAddr,
        contents: &[u8],
        segment_size: usize,
        wait: impl Fn() -> bool,
    ) {
        if !self.can_reach(destination) {
            let missed = count(Some(segment_size), contents.len());
            self.counters
                .unreachable
                .fetch_add(missed, Ordering::Relaxed);
            return;
        }
        let mut done = 0;
        while let Some(rest) = contents.get(done..).filter(|rest| !rest.is_empty()) {
            let most = self.segments();
            let batch = &rest[..batch_end(rest.len(), Some(segment_size), most)];
            match self.send_batch(destination, batch, Some(segment_size)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && wait() => continue,
                Err(_) if self.segments() < most => continue,
                Err(error) => self.count_error(&error, count(Some(segment_size), batch.len())),
            }
            done += batch.len();
        }
    }

    fn send_batch(
        &self,
        destination: SocketAddr,
        contents: &[u8],
        segment_size: Option<usize>,
    ) -> io::Result<()> {
        let batch = quinn_udp::Transmit {
            destination: self.as_family(destination),
            ecn: None,
            contents,
            segment_size: segment_size.filter(|size| *size < contents.len()),
            src_ip: None,
        };
        self.state.try_send((&self.io).into(), &batch)?;
        let sent = count(segment_size, contents.len());
        self.counters.sent.fetch_add(sent, Ordering::Relaxed);
        Ok(())
    }

    /// Addresses that the system would answer with EINVAL are told apart before, since EINVAL is also what a kernel
    /// without segmentation says, and one peer's odd candidate must not switch that off.
    const fn can_reach(&self, destination: SocketAddr) -> bool {
        let possible = match destination {
            SocketAddr::V4(v4) => !v4.ip().is_unspecified() && !v4.ip().is_broadcast(),
            SocketAddr::V6(v6) => {
                let scoped = !v6.ip().is_unicast_link_local() || v6.scope_id() != 0;
                self.dual_stack && scoped && !v6.ip().is_unspecified()
            }
        };
        possible && destination.port() != 0 && !destination.ip().is_multicast()
    }

    fn as_family(&self, destination: SocketAddr) -> SocketAddr {
        match destination {
            SocketAddr::V4(v4) if self.dual_stack => {
                SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into()
            }
            SocketAddr::V4(_) | SocketAddr::V6(_) => destination,
        }
    }

    fn count_error(&self, error: &io::Error, datagrams: u64) {
        let counter = match error.raw_os_error() {
            Some(libc::EMSGSIZE) => &self.counters.too_large,
            Some(libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ENETDOWN | libc::EAFNOSUPPORT) => {
                &self.counters.unreachable
            }
            _ => &self.counters.failed,
        };
        counter.fetch_add(datagrams, Ordering::Relaxed);
    }
}

impl AsFd for UdpPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.as_fd()
    }
}

impl UdpSocket {
    /// Binds `port`, or any free one for 0; on both address families where the system has both.
    ///
    /// # Errors
    /// When the port is in use or the system refuses.
    pub fn bind(port: u16) -> Result<Self, UdpError> {
        Ok(Self {
            port: Arc::new(UdpPort::bind(port)?),
            waiting: None,
        })
    }

    /// The socket itself, for others who send or receive by it.
    #[must_use]
    pub fn shared(&self) -> Arc<UdpPort> {
        Arc::clone(&self.port)
    }

    /// The port that it is bound to.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn port(&self) -> io::Result<u16> {
        self.port.port()
    }

    /// Whether IPv6 can be sent.
    #[must_use]
    pub fn has_ipv6(&self) -> bool {
        self.port.dual_stack
    }

    /// What went through so far.
    #[must_use]
    pub fn counters(&self) -> UdpCounters {
        self.port.counters()
    }

    /// Whether a transmit waits for room: [`Self::resume`] is to be tried again soon.
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Sends all datagrams of `transmit`. Says whether more may be given; if not, [`Self::resume`] first.
    pub fn send(&mut self, transmit: Transmit) -> bool {
        if !self.port.can_reach(transmit.destination) {
            let missed = count(transmit.segment_size, transmit.contents.len());
            self.port
                .counters
                .unreachable
                .fetch_add(missed, Ordering::Relaxed);
            return true;
        }
        self.waiting = Some(Waiting { transmit, done: 0 });
        self.resume()
    }

    /// Goes on with what waits. Says whether more may be given.
    pub fn resume(&mut self) -> bool {
        let Some(mut waiting) = self.waiting.take() else {
            return true;
        };
        let Waiting { transmit, done } = &mut waiting;
        while let Some(rest) = transmit.contents.get(*done..).filter(|it| !it.is_empty()) {
            let most = self.port.segments();
            // With a time to live of its own each datagram goes alone.
            let together = if transmit.ttl.is_some() { 1 } else { most };
            let end = batch_end(rest.len(), transmit.segment_size, together);
            match self.send_batch(transmit, &rest[..end]) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.waiting = Some(waiting);
                    return false;
                }
                // The device cannot segment, which is known from now on: the same again, one by one.
                Err(_) if self.port.segments() < most => continue,
                Err(error) => self
                    .port
                    .count_error(&error, count(transmit.segment_size, end)),
            }
            *done += end;
        }
        true
    }

    fn send_batch(&self, transmit: &Transmit, contents: &[u8]) -> io::Result<()> {
        let Some(ttl) = transmit.ttl else {
            return self
                .port
                .send_batch(transmit.destination, contents, transmit.segment_size);
        };
        let destination = self.port.as_family(transmit.destination);
        send_with_ttl(&self.port.io, destination, contents, ttl)?;
        self.port.counters.sent.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// IPv4 as IPv4, also when a dual-stack socket shows it inside IPv6 (RFC 4291, section 2.5.5.2).
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

fn open(domain: Domain, port: u16) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    let any: IpAddr = if domain == Domain::IPV6 {
        socket.set_only_v6(false)?;
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    socket.bind(&SocketAddr::new(any, port).into())?;
    socket.set_nonblocking(true)?;
    enlarge_buffers(&socket);
    Ok(socket)
}

/// As far as the system lets us; whatever it lets us is good enough to run.
fn enlarge_buffers(socket: &Socket) {
    use nix::sys::socket::sockopt::{RcvBufForce, SndBufForce};
    if setsockopt(socket, RcvBufForce, &SOCKET_BUFFER).is_err() {
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    }
    if setsockopt(socket, SndBufForce, &SOCKET_BUFFER).is_err() {
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    }
}

fn send_with_ttl(
    io: &std::net::UdpSocket,
    destination: SocketAddr,
    contents: &[u8],
    ttl: u8,
) -> io::Result<()> {
    let (fd, ttl, payload) = (io.as_raw_fd(), i32::from(ttl), [IoSlice::new(contents)]);
    let (v4, v6) = (
        ControlMessage::Ipv4Ttl(&ttl),
        ControlMessage::Ipv6HopLimit(&ttl),
    );
    // A dual-stack socket takes IP_TTL for IPv4-mapped destinations (ip(7)).
    let ttl = if canonical(destination).is_ipv4() {
        v4
    } else {
        v6
    };
    let flags = MsgFlags::empty();
    let sent = match destination {
        SocketAddr::V4(to) => sendmsg(fd, &payload, &[ttl], flags, Some(&SockaddrIn::from(to))),
        SocketAddr::V6(to) => sendmsg(fd, &payload, &[ttl], flags, Some(&SockaddrIn6::from(to))),
    };
    Ok(sent.map(|_| ())?)
}

/// Where a batch of the next `rest` bytes ends: at most `segments` datagrams and what one system call carries.
fn batch_end(rest: usize, segment_size: Option<usize>, segments: usize) -> usize {
    let Some(size) = segment_size.filter(|size| *size > 0) else {
        return rest;
    };
    let batch = segments.min(LARGEST_PAYLOAD / size).max(1) * size;
    batch.min(rest)
}

fn count(segment_size: Option<usize>, bytes: usize) -> u64 {
    let datagrams = match segment_size.filter(|size| *size > 0) {
        Some(size) => bytes.div_ceil(size),
        None => 1,
    };
    u64::try_from(datagrams).unwrap_or(u64::MAX)
}

/// Bytes that one segmented call carries at most: an IP packet's length field, less the IPv6 and UDP headers.
const LARGEST_PAYLOAD: usize = 65_535 - 48;
/// Errors of the past that one read passes over.
const ERRORS: usize = 16;
/// Bytes of the system's buffers: 12 ms at 1 Gbit/s. More would only be a longer queue.
const SOCKET_BUFFER: usize = 3 << 19;

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback(socket: &UdpSocket) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), socket.port().expect("bound"))
    }

    fn take(socket: &UdpSocket, wanted: usize) -> Vec<(SocketAddr, Vec<u8>)> {
        let (mut buffer, mut got) = (vec![0; 65_536], Vec::new());
        while got.len() < wanted {
            let mut metas = [RecvMeta::default()];
            let received = {
                let mut slices = [IoSliceMut::new(&mut buffer)];
                socket.port.receive(&mut slices, &mut metas)
            };
            if received.is_none() {
                std::thread::yield_now();
                continue;
            }
            let from = canonical(metas[0].addr);
            let datagrams = buffer[..metas[0].len].chunks(metas[0].stride);
            got.extend(datagrams.map(|bytes| (from, bytes.to_vec())));
        }
        got
    }

    #[test]
    fn a_segmented_transmit_arrives_as_its_datagrams_from_a_plain_ipv4_address() {
        let mut a = UdpSocket::bind(0).expect("a port");
        let b = UdpSocket::bind(0).expect("a port");
        let contents: Vec<u8> = (0..3500u32).map(|i| (i % 251) as u8).collect();
        let transmit = Transmit {
            segment_size: Some(1000),
            ..Transmit::datagram(loopback(&b), contents.clone())
        };
        assert!(a.send(transmit));
        let got = take(&b, 4);
        let expected: Vec<_> = contents
            .chunks(1000)
            .map(|piece| (loopback(&a), piece.to_vec()))
            .collect();
        assert_eq!(got, expected);
        assert_eq!((a.counters().sent, b.counters().received), (4, 4));
    }

    #[test]
    fn more_segments_than_one_call_carries_all_arrive() {
        let mut a = UdpSocket::bind(0).expect("a port");
        let b = UdpSocket::bind(0).expect("a port");
        let transmit = Transmit {
            segment_size: Some(10),
            ..Transmit::datagram(loopback(&b), vec![5; 2005])
        };
        assert!(a.send(transmit));
        let got = take(&b, 201);
        assert_eq!(got.last().map(|(_, bytes)| bytes.len()), Some(5));
    }

    #[test]
    fn datagrams_with_a_time_to_live_arrive_on_both_families() {
        let mut a = UdpSocket::bind(0).expect("a port");
        let b = UdpSocket::bind(0).expect("a port");
        let mut destinations = vec![loopback(&b)];
        if a.has_ipv6() && std::net::UdpSocket::bind("[::1]:0").is_ok() {
            destinations.push(SocketAddr::new(
                Ipv6Addr::LOCALHOST.into(),
                loopback(&b).port(),
            ));
        }
        for destination in destinations {
            let transmit = Transmit {
                ttl: Some(3),
                segment_size: Some(2),
                ..Transmit::datagram(destination, vec![1, 2, 3])
            };
            assert!(a.send(transmit));
            let got: Vec<_> = take(&b, 2).into_iter().map(|(_, bytes)| bytes).collect();
            assert_eq!(got, [vec![1, 2], vec![3]]);
        }
        assert_eq!(a.counters().failed, 0);
    }

    #[test]
    fn impossible_destinations_and_sizes_are_counted_and_end_nothing() {
        let mut a = UdpSocket::bind(0).expect("a port");
        let b = UdpSocket::bind(0).expect("a port");
        let segments = a.port.segments();
        for impossible in [
            "127.0.0.1:0",
            "0.0.0.0:9",
            "255.255.255.255:9",
            "[fe80::1]:9",
            "[ff02::1]:9",
            "224.0.0.1:9",
        ] {
            let destination = impossible.parse().expect("an address");
            assert!(a.send(Transmit::datagram(destination, vec![1])));
        }
        assert_eq!(a.counters().unreachable, 6);
        assert!(a.send(Transmit::datagram(loopback(&b), vec![0; 70_000])));
        assert_eq!(a.counters().too_large, 1);
        assert_eq!(a.port.segments(), segments, "still segmenting");
        assert!(a.send(Transmit::datagram(loopback(&b), vec![7])));
        assert_eq!(take(&b, 1)[0].1, [7]);
    }

    #[test]
    fn a_port_in_use_is_named() {
        let a = UdpSocket::bind(0).expect("a port");
        let port = a.port().expect("bound");
        let error = UdpSocket::bind(port).expect_err("taken").to_string();
        assert!(
            error.starts_with(&format!("UDP port {port} is in use; ")),
            "{error}"
        );
    }

    #[test]
    fn batches_end_at_segments() {
        assert_eq!(batch_end(100_000, None, 64), 100_000);
        assert_eq!(batch_end(100_000, Some(1000), 64), 64_000);
        assert_eq!(batch_end(100_000, Some(1400), 64), 46 * 1400);
        assert_eq!(batch_end(100_000, Some(1400), 1), 1400);
        assert_eq!(batch_end(700, Some(1400), 64), 700);
    }

    #[test]
    fn what_every_thread_sends_is_counted_and_arrives() {
        let a = UdpSocket::bind(0).expect("a port");
        let b = UdpSocket::bind(0).expect("a port");
        a.shared()
            .send_all(loopback(&b), &[6; 2500], 1000, || false);
        let sizes: Vec<_> = take(&b, 3).into_iter().map(|(_, it)| it.len()).collect();
        assert_eq!(sizes, [1000, 1000, 500]);
        a.shared()
            .send_all(([0, 0, 0, 0], 9).into(), &[6; 2500], 1000, || false);
        assert_eq!((a.counters().sent, a.counters().unreachable), (3, 3));
    }
}
