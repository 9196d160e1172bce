//! The host's sockets as the NAT asks for them: non-blocking, watched edge by edge.
//!
//! A stream's bytes stay in the kernel until the station has them: they are looked at with `MSG_PEEK` from where the last
//! look ended (`SO_PEEK_OFF`), and let go with `MSG_TRUNC`, which copies nothing. Where the kernel has no `SO_PEEK_OFF` for TCP
//! (before 6.9) each look begins at the first byte again and what is known already goes into a scratch buffer.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use kuguri_proto::gateway::sockets::{Datagrams, Failure, Peeked, Sending, SocketId, Sockets};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::sys::socket::{MsgFlags, recv, send};
use socket2::{Domain, MaybeUninitSlice, Protocol, SockAddr, Socket, TcpKeepalive, Type};

use super::{any, kernel};

/// All of them.
#[derive(Debug)]
pub(super) struct HostSockets {
    registry: Registry,
    open: Vec<Option<Open>>,
    scratch: Vec<u8>,
    /// The kernel can begin a look into a TCP stream in its middle.
    peeks_from_offset: bool,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Open {
    turn: u32,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    Stream(Stream),
    Datagrams(DatagramSocket),
}

/// A TCP socket.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) socket: Socket,
    pub(super) connected: bool,
    /// The other side has said its end.
    pub(super) ended: bool,
    /// Where the kernel would look next, from the first byte that is not consumed.
    looks_at: usize,
    /// What the kernel keeps for sending at most; looked up now and then, since it grows.
    send_buffer: usize,
    asked: u32,
}

/// A UDP or ping socket.
#[derive(Debug)]
pub(super) struct DatagramSocket {
    pub(super) socket: UdpSocket,
    pub(super) v6: bool,
    ttl: Option<u8>,
    no_fragments: Option<bool>,
}

impl HostSockets {
    pub(super) fn new(registry: Registry) -> Self {
        Self {
            registry,
            open: Vec::new(),
            scratch: vec![0; SCRATCH],
            peeks_from_offset: kernel_peeks_from_offset(),
        }
    }

    /// The socket with that id, if it is still open.
    pub(super) fn get_mut(&mut self, id: SocketId) -> Option<&mut Kind> {
        let open = self.open.get_mut(usize::try_from(id.place).ok()?)?.as_mut();
        open.filter(|open| open.turn == id.turn)
            .map(|open| &mut open.kind)
    }

    /// Takes a connection that came to a published port.
    pub(super) fn adopt(&mut self, id: SocketId, socket: Socket) -> Result<(), Failure> {
        let mut stream = self.prepare(socket)?;
        stream.connected = true;
        self.watch(id, &stream.socket)?;
        self.put(id, Kind::Stream(stream));
        Ok(())
    }

    /// Takes the socket of a published UDP port.
    pub(super) fn adopt_datagrams(
        &mut self,
        id: SocketId,
        socket: UdpSocket,
        v6: bool,
    ) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        kernel::queue_errors(socket.as_fd(), v6)?;
        self.watch(id, &socket).map_err(io::Error::other)?;
        let socket = DatagramSocket {
            socket,
            v6,
            ttl: None,
            no_fragments: None,
        };
        self.put(id, Kind::Datagrams(socket));
        Ok(())
    }

    fn prepare(&self, socket: Socket) -> Result<Stream, Failure> {
        let set = socket.set_nonblocking(true).and_then(|()| {
            socket.set_tcp_nodelay(true)?;
            // The other host may go without a word; the NAT has its own time-out for the station's side.
            socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEP_ALIVE))
        });
        set.map_err(|error| failure(&error))?;
        if self.peeks_from_offset {
            kernel::set_peek_offset(socket.as_fd(), 0).map_err(|error| failure(&error))?;
        }
        Ok(Stream {
            socket,
            connected: false,
            ended: false,
            looks_at: 0,
            send_buffer: 0,
            asked: 0,
        })
    }

    fn put(&mut self, id: SocketId, kind: Kind) {
        let place = usize::try_from(id.place).unwrap_or(usize::MAX);
        if place >= self.open.len() {
            self.open.resize_with(place + 1, || None);
        }
        let turn = id.turn;
        self.open[place] = Some(Open { turn, kind });
    }

    fn watch(&self, id: SocketId, socket: &impl AsRawFd) -> Result<(), Failure> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.registry
            .register(&mut SourceFd(&socket.as_raw_fd()), token(id), interest)
            .map_err(|error| failure(&error))
    }

    fn stream(&mut self, id: SocketId) -> Result<&mut Stream, Failure> {
        match self.get_mut(id) {
            Some(Kind::Stream(stream)) => Ok(stream),
            Some(Kind::Datagrams(_)) | None => Err(Failure::Other),
        }
    }
}

impl Sockets for HostSockets {
    fn connect(&mut self, id: SocketId, to: SocketAddr) -> Result<(), Failure> {
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(to), kind, Some(Protocol::TCP));
        let stream = self.prepare(socket.map_err(|error| failure(&error))?)?;
        match stream.socket.connect(&SockAddr::from(to)) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(failure(&error)),
        }
        self.watch(id, &stream.socket)?;
        self.put(id, Kind::Stream(stream));
        Ok(())
    }

    fn send(&mut self, id: SocketId, bytes: &[u8]) -> Result<usize, Failure> {
        let stream = self.stream(id)?;
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        match send(stream.socket.as_raw_fd(), bytes, flags) {
            Ok(taken) => Ok(taken),
            Err(nix::Error::EAGAIN | nix::Error::EINTR | nix::Error::ENOBUFS) => Ok(0),
            Err(error) => Err(failure(&error.into())),
        }
    }

    fn room(&mut self, id: SocketId) -> usize {
        self.stream(id).map_or(0, Stream::room)
    }

    fn tell_when_writable(&mut self, id: SocketId) {
        let Ok(stream) = self.stream(id) else {
            return;
        };
        // Watching it anew makes the kernel look whether it is writable now, and tell when it is.
        let fd = stream.socket.as_raw_fd();
        let interest = Interest::READABLE | Interest::WRITABLE;
        let watched = self
            .registry
            .reregister(&mut SourceFd(&fd), token(id), interest);
        if let Err(error) = watched {
            tracing::warn!(%error, "a socket is not watched any more");
        }
    }

    fn peek(&mut self, id: SocketId, offset: usize, into: &mut [u8]) -> Result<Peeked, Failure> {
        let looks_from_offset = self.peeks_from_offset;
        let mut scratch = std::mem::take(&mut self.scratch);
        let looked = self.stream(id).and_then(|stream| {
            if looks_from_offset {
                stream.peek_from(offset, into)
            } else {
                stream.peek_over(offset, into, &mut scratch)
            }
        });
        self.scratch = scratch;
        looked
    }

    fn consume(&mut self, id: SocketId, mut count: usize) {
        let mut scratch = std::mem::take(&mut self.scratch);
        if let Ok(stream) = self.stream(id) {
            stream.looks_at = stream.looks_at.saturating_sub(count);
            while count > 0 {
                let piece = count.min(SCRATCH);
                let flags = MsgFlags::MSG_TRUNC | MsgFlags::MSG_DONTWAIT;
                match recv(stream.socket.as_raw_fd(), &mut scratch[..piece], flags) {
                    Ok(0) | Err(_) => break,
                    Ok(gone) => count = count.saturating_sub(gone),
                }
            }
        }
        self.scratch = scratch;
    }

    fn shutdown(&mut self, id: SocketId) {
        if let Ok(stream) = self.stream(id) {
            // It fails only when the connection is gone already.
            let _ = stream.socket.shutdown(std::net::Shutdown::Write);
        }
    }

    fn close(&mut self, id: SocketId, reset: bool) {
        let Some(place) = usize::try_from(id.place)
            .ok()
            .and_then(|place| self.open.get_mut(place))
        else {
            return;
        };
        let Some(open) = place.take_if(|open| open.turn == id.turn) else {
            return;
        };
        if let (Kind::Stream(stream), true) = (&open.kind, reset) {
            // A close without lingering is a reset; if the connection is gone, so much the better.
            let _ = stream.socket.set_linger(Some(Duration::ZERO));
        }
    }

    fn open(&mut self, id: SocketId, kind: Datagrams, family: IpAddr) -> Result<(), Failure> {
        let v6 = family.is_ipv6();
        let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
        let protocol = match (kind, v6) {
            (Datagrams::Udp, _) => Protocol::UDP,
            (Datagrams::Ping, false) => Protocol::ICMPV4,
            (Datagrams::Ping, true) => Protocol::ICMPV6,
        };
        let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(protocol))
            .and_then(|socket| {
                kernel::queue_errors(socket.as_fd(), v6)?;
                socket.bind(&SockAddr::from(any(family)))?;
                Ok(socket)
            })
            .map_err(|error| failure(&error))?;
        self.watch(id, &socket)?;
        let socket = DatagramSocket {
            socket: socket.into(),
            v6,
            ttl: None,
            no_fragments: None,
        };
        self.put(id, Kind::Datagrams(socket));
        Ok(())
    }

    fn send_to(
        &mut self,
        id: SocketId,
        to: SocketAddr,
        how: Sending,
        bytes: &[u8],
    ) -> Result<(), Failure> {
        let Some(Kind::Datagrams(socket)) = self.get_mut(id) else {
            return Err(Failure::Other);
        };
        socket.set(how).map_err(|error| failure(&error))?;
        match socket.socket.send_to(bytes, to) {
            Ok(_) => Ok(()),
            // An ICMP error of an earlier datagram came in between; it is in the queue of errors too.
            Err(_) => match socket.socket.send_to(bytes, to) {
                Ok(_) => Ok(()),
                Err(error) => Err(failure(&error)),
            },
        }
    }
}

impl Stream {
    /// The kernel counts more than bytes, so not all of the buffer is for them.
    fn room(&mut self) -> usize {
        if self.asked.is_multiple_of(ASK_AGAIN) {
            self.send_buffer = self.socket.send_buffer_size().unwrap_or(0);
        }
        self.asked = self.asked.wrapping_add(1);
        let unacknowledged = kernel::unacknowledged(self.socket.as_fd()).unwrap_or(0);
        (self.send_buffer / 4 * 3).saturating_sub(unacknowledged)
    }

    fn peek_from(&mut self, offset: usize, into: &mut [u8]) -> Result<Peeked, Failure> {
        if self.looks_at != offset {
            kernel::set_peek_offset(self.socket.as_fd(), offset)
                .map_err(|error| failure(&error))?;
            self.looks_at = offset;
        }
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        let looked = recv(self.socket.as_raw_fd(), into, flags);
        let peeked = peeked(looked.map_err(io::Error::from));
        if let Ok(Peeked::Bytes(length)) = peeked {
            self.looks_at += length;
        }
        peeked
    }

    fn peek_over(
        &self,
        offset: usize,
        into: &mut [u8],
        scratch: &mut [u8],
    ) -> Result<Peeked, Failure> {
        let Some(known) = scratch.get_mut(..offset) else {
            return Ok(Peeked::Nothing);
        };
        let mut copy: Vec<MaybeUninit<u8>> = vec![MaybeUninit::uninit(); into.len()];
        let mut first: Vec<MaybeUninit<u8>> = vec![MaybeUninit::uninit(); known.len()];
        let mut slices = [
            MaybeUninitSlice::new(&mut first),
            MaybeUninitSlice::new(&mut copy),
        ];
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        let looked = self
            .socket
            .recv_vectored_with_flags(&mut slices, flags)
            .map(|(length, _)| length);
        match looked {
            Ok(0) => Ok(Peeked::End),
            Ok(length) if length <= offset => Ok(if self.ended {
                Peeked::End
            } else {
                Peeked::Nothing
            }),
            Ok(length) => kernel::copy_received(&copy, into, length - offset),
            Err(error) => peeked(Err(error)),
        }
    }
}

impl DatagramSocket {
    fn set(&mut self, how: Sending) -> io::Result<()> {
        if self.ttl != Some(how.ttl) {
            let socket = socket2::SockRef::from(&self.socket);
            if self.v6 {
                socket.set_unicast_hops_v6(how.ttl.into())?;
            } else {
                socket.set_ttl_v4(how.ttl.into())?;
            }
            self.ttl = Some(how.ttl);
        }
        if self.no_fragments != Some(how.dont_fragment) {
            kernel::forbid_fragments(self.socket.as_fd(), self.v6, how.dont_fragment)?;
            self.no_fragments = Some(how.dont_fragment);
        }
        Ok(())
    }
}

/// The name of a socket among the events.
pub(super) fn token(id: SocketId) -> Token {
    let number = u64::from(id.turn & MAX_TURN) << 32 | u64::from(id.place);
    Token(usize::try_from(number).unwrap_or(0))
}

/// The socket of that name.
pub(super) fn id(token: Token) -> Option<SocketId> {
    let number = u64::try_from(token.0).ok()?;
    Some(SocketId {
        place: u32::try_from(number & 0xffff_ffff).ok()?,
        turn: u32::try_from(number >> 32).ok()?,
    })
}

fn peeked(looked: io::Result<usize>) -> Result<Peeked, Failure> {
    match looked {
        Ok(0) => Ok(Peeked::End),
        Ok(length) => Ok(Peeked::Bytes(length)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ) =>
        {
            Ok(Peeked::Nothing)
        }
        Err(error) => Err(failure(&error)),
    }
}

fn kernel_peeks_from_offset() -> bool {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), Some(Protocol::TCP));
    socket.is_ok_and(|socket| kernel::set_peek_offset(socket.as_fd(), 0).is_ok())
}

/// What the system's error means.
pub(super) fn failure(error: &io::Error) -> Failure {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => Failure::Refused,
        Some(libc::ECONNRESET | libc::EPIPE | libc::ECONNABORTED) => Failure::Reset,
        Some(libc::EHOSTUNREACH | libc::EHOSTDOWN) => Failure::HostUnreachable,
        Some(libc::ENETUNREACH | libc::ENETDOWN | libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL) => {
            Failure::NetworkUnreachable
        }
        Some(libc::ETIMEDOUT) => Failure::TimedOut,
        Some(libc::EMSGSIZE) => Failure::TooLarge,
        Some(libc::EACCES | libc::EPERM | libc::EPROTONOSUPPORT) => Failure::NotPermitted,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => Failure::Exhausted,
        Some(libc::EAGAIN | libc::EINTR) => Failure::Busy,
        _ => Failure::Other,
    }
}

/// Also how much a station may have under way where the kernel cannot look from an offset.
const SCRATCH: usize = 1 << 20;
/// The send buffer's size is asked for once in so many times.
const ASK_AGAIN: u32 = 16;
/// The other host is asked for a sign of life after a silence of so long.
const KEEP_ALIVE: Duration = Duration::from_secs(600);
/// One bit is left for names that are no sockets.
const MAX_TURN: u32 = u32::MAX >> 1;
