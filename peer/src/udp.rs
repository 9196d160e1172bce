//! The peer's UDP socket: batches in (GRO), batches out (GSO), one dual-stack socket for IPv4 and IPv6.
//!
//! Fragmentation is forbidden on it, so that probes for the path MTU tell the truth. Whatever goes wrong with one
//! datagram is counted and ends nothing: the next may go another way. Knows sockets; knows nothing of what is in them.
//!
//! ```text
//!   [::]:PORT   recvmmsg ─▶ 8 buffers ─▶ stride, stride, … ─▶ one call per datagram
//!               sendmsg  ◀─ UDP_SEGMENT ◀─ contents of one Transmit
//! ```

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::task::{Context, Poll};

use kuguri_proto::Transmit;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, SockaddrIn6, sendmsg, setsockopt};
use quinn_udp::{RecvMeta, UdpSocketState};
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;

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

/// A bound socket.
#[derive(Debug)]
pub struct UdpSocket {
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
    dual_stack: bool,
    waiting: Option<Waiting>,
    counters: UdpCounters,
}

/// A transmit of which `done` bytes are sent, while the socket's buffer is full.
#[derive(Debug)]
struct Waiting {
    transmit: Transmit,
    done: usize,
}

impl UdpSocket {
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
        let state = UdpSocketState::new((&socket).into()).map_err(wrap)?;
        Ok(Self {
            io: tokio::net::UdpSocket::from_std(socket.into()).map_err(wrap)?,
            state,
            dual_stack,
            waiting: None,
            counters: UdpCounters::default(),
        })
    }

    /// The port that it is bound to.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn port(&self) -> io::Result<u16> {
        Ok(self.io.local_addr()?.port())
    }

    /// Whether IPv6 can be sent.
    #[must_use]
    pub const fn has_ipv6(&self) -> bool {
        self.dual_stack
    }

    /// What went through so far.
    #[must_use]
    pub const fn counters(&self) -> UdpCounters {
        self.counters
    }

    /// Waits until datagrams are there, or until there is room again for a transmit that waits.
    ///
    /// # Errors
    /// When the runtime is going down.
    pub async fn ready(&self) -> io::Result<()> {
        let interest = match self.waiting {
            Some(_) => Interest::READABLE | Interest::WRITABLE,
            None => Interest::READABLE,
        };
        self.io.ready(interest).await.map(|_| ())
    }

    /// The same for one of many: whether it is ready now; if not, the task is woken when it is.
    pub fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        let readable = self.io.poll_recv_ready(context).is_ready();
        let writable = self.waiting.is_some() && self.io.poll_send_ready(context).is_ready();
        if readable || writable {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Takes one batch, if there is one, and gives every datagram in it to `each`. Says whether there may be more.
    pub fn receive(
        &mut self,
        buffers: &mut Buffers,
        mut each: impl FnMut(SocketAddr, &mut [u8]),
    ) -> bool {
        let mut metas = [RecvMeta::default(); BATCH];
        let received = {
            let mut slices = buffers.slices();
            let read = || self.state.recv((&self.io).into(), &mut slices, &mut metas);
            self.io.try_io(Interest::READABLE, read)
        };
        // Anything but "nothing there" is about one datagram of the past (RFC 1122, 4.1.3.3) and read by this call.
        let Ok(count) = received else {
            return false;
        };
        for (meta, buffer) in metas.iter().zip(&mut buffers.0).take(count) {
            let remote = canonical(meta.addr);
            let filled = meta.len.min(buffer.len());
            for datagram in buffer[..filled].chunks_mut(meta.stride.max(1)) {
                self.counters.received += 1;
                each(remote, datagram);
            }
        }
        true
    }

    /// Sends all datagrams of `transmit`. Says whether more may be given; if not, [`Self::resume`] first.
    pub fn send(&mut self, transmit: Transmit) -> bool {
        let destination = transmit.destination;
        if !self.can_reach(destination) {
            self.counters.unreachable += count(&transmit, transmit.contents.len());
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
        while *done < transmit.contents.len() {
            let most = self.state.max_gso_segments();
            let end = batch_end(transmit, *done, most);
            match self.send_batch(transmit, &transmit.contents[*done..end]) {
                Ok(()) => self.counters.sent += count(transmit, end - *done),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.waiting = Some(waiting);
                    return false;
                }
                // The device cannot segment, which is known from now on: the same again, one by one.
                Err(_) if self.state.max_gso_segments() < most => continue,
                Err(error) => self.count_error(&error, count(transmit, end - *done)),
            }
            *done = end;
        }
        true
    }

    fn send_batch(&self, transmit: &Transmit, contents: &[u8]) -> io::Result<()> {
        let destination = self.as_family(transmit.destination);
        let segment_size = transmit.segment_size.filter(|size| *size < contents.len());
        if let Some(ttl) = transmit.ttl {
            return self.try_write(|| send_with_ttl(&self.io, destination, contents, ttl));
        }
        let batch = quinn_udp::Transmit {
            destination,
            ecn: None,
            contents,
            segment_size,
            src_ip: None,
        };
        self.try_write(|| self.state.try_send((&self.io).into(), &batch))
    }

    /// The runtime learns that a socket is writable only when somebody waits for it; so the system is asked first, and
    /// once more through the runtime when there is a wait to arrange.
    fn try_write(&self, write: impl Fn() -> io::Result<()>) -> io::Result<()> {
        match write() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.io.try_io(Interest::WRITABLE, write)
            }
            done => done,
        }
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

    fn count_error(&mut self, error: &io::Error, datagrams: u64) {
        let counter = match error.raw_os_error() {
            Some(libc::EMSGSIZE) => &mut self.counters.too_large,
            Some(libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ENETDOWN | libc::EAFNOSUPPORT) => {
                &mut self.counters.unreachable
            }
            _ => &mut self.counters.failed,
        };
        *counter += datagrams;
    }
}

/// Room for one batch.
#[derive(Debug)]
pub struct Buffers(Vec<Vec<u8>>);

impl Buffers {
    /// Room for datagrams of any size, also merged by the system.
    #[must_use]
    pub fn new() -> Self {
        Self(vec![vec![0; LARGEST]; BATCH])
    }

    fn slices(&mut self) -> Vec<IoSliceMut<'_>> {
        self.0.iter_mut().map(|one| IoSliceMut::new(one)).collect()
    }
}

impl Default for Buffers {
    fn default() -> Self {
        Self::new()
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
    io: &tokio::net::UdpSocket,
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

/// Where the batch that starts at `done` ends: at most `segments` datagrams and what one system call carries.
/// With a time to live of its own each datagram goes alone.
fn batch_end(transmit: &Transmit, done: usize, segments: usize) -> usize {
    let rest = transmit.contents.len() - done;
    let Some(size) = transmit.segment_size.filter(|size| *size > 0) else {
        return done + rest;
    };
    let segments = if transmit.ttl.is_some() { 1 } else { segments };
    let batch = segments.min(LARGEST_PAYLOAD / size).max(1) * size;
    done + batch.min(rest)
}

fn count(transmit: &Transmit, bytes: usize) -> u64 {
    let datagrams = match transmit.segment_size.filter(|size| *size > 0) {
        Some(size) => bytes.div_ceil(size),
        None => 1,
    };
    u64::try_from(datagrams).unwrap_or(u64::MAX)
}

/// Buffers filled by one system call.
const BATCH: usize = 8;
/// Bytes of one buffer: what the system merges at most.
const LARGEST: usize = 65_536;
/// Bytes that one segmented call carries at most: an IP packet's length field, less the IPv6 and UDP headers.
const LARGEST_PAYLOAD: usize = 65_535 - 48;
/// Bytes of the system's buffers: 30 ms at 1 Gbit/s.
const SOCKET_BUFFER: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback(socket: &UdpSocket) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), socket.port().expect("bound"))
    }

    async fn take(socket: &mut UdpSocket, wanted: usize) -> Vec<(SocketAddr, Vec<u8>)> {
        let (mut buffers, mut got) = (Buffers::new(), Vec::new());
        while got.len() < wanted {
            socket.ready().await.expect("runs");
            socket.receive(&mut buffers, |from, bytes| got.push((from, bytes.to_vec())));
        }
        got
    }

    #[tokio::test]
    async fn a_segmented_transmit_arrives_as_its_datagrams_from_a_plain_ipv4_address() {
        let mut a = UdpSocket::bind(0).expect("a port");
        let mut b = UdpSocket::bind(0).expect("a port");
        let contents: Vec<u8> = (0..3500u32).map(|i| (i % 251) as u8).collect();
        let transmit = Transmit {
            segment_size: Some(1000),
            ..Transmit::datagram(loopback(&b), contents.clone())
        };
        assert!(a.send(transmit));
        let got = take(&mut b, 4).await;
        let expected: Vec<_> = contents
            .chunks(1000)
            .map(|piece| (loopback(&a), piece.to_vec()))
            .collect();
        assert_eq!(got, expected);
        assert_eq!((a.counters().sent, b.counters().received), (4, 4));
    }

    #[tokio::test]
    async fn more_segments_than_one_call_carries_all_arrive() {
        let mut a = UdpSocket::bind(0).expect("a port");
        let mut b = UdpSocket::bind(0).expect("a port");
        let transmit = Transmit {
            segment_size: Some(10),
            ..Transmit::datagram(loopback(&b), vec![5; 2005])
        };
        assert!(a.send(transmit));
        let got = take(&mut b, 201).await;
        assert_eq!(got.last().map(|(_, bytes)| bytes.len()), Some(5));
    }

    #[tokio::test]
    async fn datagrams_with_a_time_to_live_arrive_on_both_families() {
        let mut a = UdpSocket::bind(0).expect("a port");
        let mut b = UdpSocket::bind(0).expect("a port");
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
            let got: Vec<_> = take(&mut b, 2)
                .await
                .into_iter()
                .map(|(_, bytes)| bytes)
                .collect();
            assert_eq!(got, [vec![1, 2], vec![3]]);
        }
        assert_eq!(a.counters().failed, 0);
    }

    #[tokio::test]
    async fn impossible_destinations_and_sizes_are_counted_and_end_nothing() {
        let mut a = UdpSocket::bind(0).expect("a port");
        let mut b = UdpSocket::bind(0).expect("a port");
        let segments = a.state.max_gso_segments();
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
        assert_eq!(a.state.max_gso_segments(), segments, "still segmenting");
        assert!(a.send(Transmit::datagram(loopback(&b), vec![7])));
        assert_eq!(take(&mut b, 1).await[0].1, [7]);
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
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
        let transmit = |size, ttl| Transmit {
            segment_size: size,
            ttl,
            ..Transmit::datagram(([127, 0, 0, 1], 9).into(), vec![0; 100_000])
        };
        assert_eq!(batch_end(&transmit(None, None), 0, 64), 100_000);
        assert_eq!(batch_end(&transmit(Some(1000), None), 0, 64), 64_000);
        assert_eq!(batch_end(&transmit(Some(1400), None), 0, 64), 46 * 1400);
        assert_eq!(batch_end(&transmit(Some(1400), None), 0, 1), 1400);
        assert_eq!(batch_end(&transmit(Some(1400), Some(3)), 1400, 64), 2800);
        assert_eq!(
            batch_end(&transmit(Some(99_999), None), 99_999, 64),
            100_000
        );
    }
}
