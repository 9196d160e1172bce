//! What only the kernel's own interface can say: socket options without a safe wrapper.
#![allow(
    unsafe_code,
    reason = "setsockopt and ioctl take pointers to plain numbers"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Bytes that a TCP socket has not got acknowledged yet (SIOCOUTQ, tcp(7)).
pub(super) fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open while it is borrowed, and the kernel writes one int where the pointer leads.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Where the next look (`MSG_PEEK`) into a stream begins (SO_PEEK_OFF, socket(7); for TCP since Linux 6.9).
pub(super) fn set_peek_offset(socket: BorrowedFd<'_>, offset: usize) -> io::Result<()> {
    let offset = libc::c_int::try_from(offset).map_err(io::Error::other)?;
    set(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF, offset)
}

/// Whether datagrams may be fragmented (IP_MTU_DISCOVER, ip(7)).
pub(super) fn forbid_fragments(socket: BorrowedFd<'_>, v6: bool, forbid: bool) -> io::Result<()> {
    let (level, name) = if v6 {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER)
    } else {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER)
    };
    let value = if forbid {
        libc::IP_PMTUDISC_DO
    } else {
        libc::IP_PMTUDISC_DONT
    };
    set(socket, level, name, value)
}

/// Whether ICMP errors are queued whole (IP_RECVERR, ip(7)).
pub(super) fn queue_errors(socket: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
    if v6 {
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)
    } else {
        set(socket, libc::IPPROTO_IP, libc::IP_RECVERR, 1)
    }
}

fn set(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open while it is borrowed, and the kernel reads one int where the pointer leads.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            length,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// As many descriptors as this user may have: every connection takes one.
pub(super) fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::debug!(%error, "the limit of descriptors stays as it is");
    }
}

/// Copies the first `length` bytes that the kernel has written to `from`.
pub(super) fn copy_received(
    from: &[std::mem::MaybeUninit<u8>],
    into: &mut [u8],
    length: usize,
) -> Result<kuguri_proto::gateway::sockets::Peeked, kuguri_proto::gateway::sockets::Failure> {
    let length = length.min(from.len()).min(into.len());
    for (to, byte) in into.iter_mut().zip(&from[..length]) {
        // SAFETY: the kernel says that it has written that many bytes.
        *to = unsafe { byte.assume_init() };
    }
    Ok(kuguri_proto::gateway::sockets::Peeked::Bytes(length))
}
