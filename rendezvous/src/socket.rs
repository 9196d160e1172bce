//! A UDP socket for both families, read and written in batches; IPv4 addresses always appear as IPv4.

use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll};

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Somebody else has it.
    #[error(
        "UDP port {port} is in use by another program; end that one, or choose another by --port"
    )]
    InUse {
        /// The port.
        port: u16,
    },
    /// There is no next port for STUN.
    #[error(
        "UDP port 65535 has no next one, at which STUN must answer too; choose a lower one by --port"
    )]
    NoNext,
    /// The system refuses the second address.
    #[error(
        "UDP port {port} at {address} cannot be had ({error}); check --second-address and --port"
    )]
    SecondRefused {
        /// Where.
        address: IpAddr,
        /// The port.
        port: u16,
        /// What the system says.
        error: io::Error,
    },
    /// The system refuses.
    #[error("UDP port {port} at {address} cannot be had ({error}); check --listen and --port")]
    Refused {
        /// Where.
        address: IpAddr,
        /// The port.
        port: u16,
        /// What the system says.
        error: io::Error,
    },
}

/// A UDP socket, in batches.
pub struct UdpEndpoint {
    io: UdpSocket,
    batches: UdpSocketState,
    /// The socket is of IPv6: IPv4 destinations must be written as mapped ones.
    is_v6: bool,
    port: u16,
}

impl UdpEndpoint {
    /// The sockets at `port` and the next port; with port 0, at any two. Without an address at all addresses of both families.
    ///
    /// # Errors
    /// When one of them is in use, or is none, or the system refuses it.
    pub fn bind_pair(listen: Option<IpAddr>, port: u16) -> Result<(Self, Self), BindError> {
        let next = match port {
            0 => 0,
            _ => port.checked_add(1).ok_or(BindError::NoNext)?,
        };
        Ok((Self::bind(listen, port)?, Self::bind(listen, next)?))
    }

    /// One socket. Without an address at all addresses of both families, or of IPv4 where there is no IPv6.
    ///
    /// # Errors
    /// When it is in use or the system refuses it.
    pub fn bind(listen: Option<IpAddr>, port: u16) -> Result<Self, BindError> {
        let Some(address) = listen else {
            return match Self::bind_to(Ipv6Addr::UNSPECIFIED.into(), port) {
                Err(BindError::Refused { .. }) => Self::bind_to(Ipv4Addr::UNSPECIFIED.into(), port),
                result => result,
            };
        };
        Self::bind_to(address, port)
    }

    /// A socket at the second address.
    ///
    /// # Errors
    /// When it is in use or the system refuses it.
    pub fn bind_second(address: IpAddr, port: u16) -> Result<Self, BindError> {
        Self::open(address, port).map_err(|error| BindError::SecondRefused {
            address,
            port,
            error,
        })
    }

    fn bind_to(address: IpAddr, port: u16) -> Result<Self, BindError> {
        Self::open(address, port).map_err(|error| {
            if error.kind() == ErrorKind::AddrInUse {
                return BindError::InUse { port };
            }
            BindError::Refused {
                address,
                port,
                error,
            }
        })
    }

    fn open(address: IpAddr, port: u16) -> io::Result<Self> {
        let local = SocketAddr::new(address, port);
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&local.into())?;
        let io = UdpSocket::from_std(socket.into())?;
        let batches = UdpSocketState::new((&io).into())?;
        // The system may give less; what does not fit is lost, as on any network.
        let _ = batches.set_recv_buffer_size((&io).into(), BUFFER);
        let _ = batches.set_send_buffer_size((&io).into(), BUFFER);
        Ok(Self {
            port: io.local_addr()?.port(),
            is_v6: address.is_ipv6(),
            io,
            batches,
        })
    }

    /// The port that it has.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// How many datagrams one send may carry.
    #[must_use]
    pub fn max_segments(&self) -> usize {
        self.batches.max_gso_segments()
    }

    /// Waits until there is something to read.
    ///
    /// # Errors
    /// When the socket is broken.
    pub async fn readable(&self) -> io::Result<()> {
        self.io.readable().await
    }

    /// The same for who waits for several at once.
    ///
    /// # Errors
    /// When the socket is broken.
    pub fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_recv_ready(context)
    }

    /// Reads a batch; `WouldBlock` when there is nothing.
    ///
    /// # Errors
    /// What the system says.
    pub fn receive(
        &self,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> io::Result<usize> {
        self.io.try_io(Interest::READABLE, || {
            self.batches.recv((&self.io).into(), buffers, meta)
        })
    }

    /// Sends one datagram, or several of one size to one place. What does not fit into the socket's buffer is lost.
    pub fn send(
        &self,
        destination: SocketAddr,
        contents: &[u8],
        segment_size: usize,
        source: Option<IpAddr>,
    ) {
        let at_once = segment_size.saturating_mul(self.max_segments()).max(1);
        for contents in contents.chunks(at_once) {
            let transmit = Transmit {
                destination: self.written(destination),
                ecn: None,
                contents,
                segment_size: (contents.len() > segment_size).then_some(segment_size),
                src_ip: source,
            };
            // Not by the runtime: after one full buffer it would hold back everything until somebody waits for room.
            let _ = self.batches.try_send((&self.io).into(), &transmit);
        }
    }

    /// A destination as the socket wants it.
    fn written(&self, destination: SocketAddr) -> SocketAddr {
        match destination {
            SocketAddr::V4(v4) if self.is_v6 => {
                SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())
            }
            SocketAddr::V4(_) | SocketAddr::V6(_) => destination,
        }
    }
}

/// An address as everybody but the socket wants it: an IPv4 address that the socket shows as IPv6 is said as IPv4.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// Where a socket that listens there can be reached, as far as this machine knows; its loopback address when it has no other.
#[must_use]
pub fn reachable_at(listen: Option<IpAddr>, port: u16) -> Vec<SocketAddr> {
    let addresses = match listen {
        Some(address) if !address.is_unspecified() => vec![address],
        Some(IpAddr::V4(_)) => own_addresses(|ip| ip.is_ipv4()),
        Some(IpAddr::V6(_)) | None => own_addresses(|_| true),
    };
    let addresses = addresses.into_iter();
    addresses.map(|ip| SocketAddr::new(ip, port)).collect()
}

fn own_addresses(wanted: impl Fn(&IpAddr) -> bool) -> Vec<IpAddr> {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip())))
    });
    let mut addresses: Vec<IpAddr> = addresses
        .filter(wanted)
        .filter(|ip| !ip.is_loopback() && !is_link_local(ip))
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() {
        addresses.push(Ipv4Addr::LOCALHOST.into());
    }
    addresses
}

const fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// Room in the kernel for what comes while we are busy, in bytes.
const BUFFER: usize = 4 << 20;
