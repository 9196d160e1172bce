//! The TCP ports of HTTPS: which are taken, and what is said of those that cannot be had.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpStream;

/// Where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// All addresses of both families without one.
    pub address: Option<IpAddr>,
    /// The port; 0 takes a free one.
    pub port: u16,
}

impl std::str::FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "write PORT or ADDRESS:PORT, such as 443 or 192.0.2.1:443".to_owned();
        if let Ok(port) = text.parse() {
            let address = None;
            return Ok(Self { address, port });
        }
        let address: SocketAddr = text.parse().map_err(|_| wrong())?;
        Ok(Self {
            address: Some(address.ip()),
            port: address.port(),
        })
    }
}

/// The sockets of those ports that can be had, and a sentence about each of the others.
#[must_use]
pub fn bind(wanted: &[Wanted]) -> (Vec<TcpListener>, Vec<String>) {
    let (mut listeners, mut problems) = (Vec::new(), Vec::new());
    for wanted in wanted {
        match bind_one(*wanted) {
            Ok(listener) => listeners.push(listener),
            Err(error) => problems.push(sentence(*wanted, &error)),
        }
    }
    (listeners, problems)
}

fn bind_one(Wanted { address, port }: Wanted) -> io::Result<TcpListener> {
    let Some(address) = address else {
        return match open(Ipv6Addr::UNSPECIFIED.into(), port) {
            Err(error) if is_about_the_port(&error) => Err(error),
            Err(_) => open(Ipv4Addr::UNSPECIFIED.into(), port),
            done => done,
        };
    };
    open(address, port)
}

fn open(address: IpAddr, port: u16) -> io::Result<TcpListener> {
    let local = SocketAddr::new(address, port);
    let socket = Socket::new(
        Domain::for_address(local),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // A port whose former connections are still being forgotten is free all the same.
    socket.set_reuse_address(true)?;
    socket.bind(&local.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn is_about_the_port(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::AddrInUse | ErrorKind::PermissionDenied
    )
}

fn sentence(Wanted { address, port }: Wanted, error: &io::Error) -> String {
    let at = address.map_or_else(String::new, |address| format!(" at {address}"));
    let why = if error.kind() == ErrorKind::PermissionDenied {
        ": ports below 1024 need a right (CAP_NET_BIND_SERVICE, or root)".to_owned()
    } else if error.kind() == ErrorKind::AddrInUse {
        ": another program has it".to_owned()
    } else {
        format!(" ({error})")
    };
    format!("no HTTPS on TCP port {port}{at}{why}; the others go on")
}

/// What a carrier's connection needs on either side: small things at once, little that waits in the kernel where nobody can
/// drop it any more, and an end when the other side is gone.
pub fn tune(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    // Whatever the system does not do, it works without.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_notsent_lowat(UNSENT);
    let _ = socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
}

/// As many open files as are wanted, or as many as the system lets us have.
pub(super) fn room_for_files(wanted: usize) -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return wanted.min(FEW);
    };
    let needed = u64::try_from(wanted)
        .unwrap_or(u64::MAX)
        .saturating_add(OTHERS);
    let mut has = soft;
    if soft < needed && setrlimit(Resource::RLIMIT_NOFILE, needed.min(hard), hard).is_ok() {
        has = needed.min(hard);
    }
    let room = usize::try_from(has.saturating_sub(OTHERS)).unwrap_or(usize::MAX);
    room.clamp(FEW, wanted.max(FEW))
}

/// Bytes read at once from a carrier's connection.
pub const READ: usize = 32 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 256;
/// Bytes that are written and not sent yet.
const UNSENT: u32 = 64 * 1024;
/// What was sent and nobody acknowledged for so long ends the connection (RFC 5482).
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);
/// Files for everything else: connections that are no carriers, first of all.
const OTHERS: u64 = 1100;
/// Of carriers, where files are few.
const FEW: usize = 64;
