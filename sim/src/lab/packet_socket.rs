//! A packet socket (packet(7)): all Ethernet frames of one interface, read and written raw. Where no TUN device may be
//! opened it reads the box's end of a veth pair, and it can stand on any existing interface as well.
#![allow(
    unsafe_code,
    reason = "binding to an interface and switching its offloads off take C structures"
)]

use std::fs::File;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};

/// A socket that reads every frame which comes in by the interface of this index in the thread's namespace, and whose
/// writes leave by it. Reads and writes do not block.
pub(super) fn open(interface: u32) -> io::Result<File> {
    // SAFETY: socket(2) takes no pointers; the new descriptor belongs to nobody else.
    let socket = unsafe {
        let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // Protocol 0: nothing is received until the bind says from which interface.
        File::from_raw_fd(Errno::result(libc::socket(libc::AF_PACKET, flags, 0))?)
    };
    ignore_own_frames(&socket)?;
    // As much as the system allows; a veth pair has no queue of its own.
    let _ = setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER);
    bind(&socket, interface)?;
    Ok(socket)
}

fn bind(socket: &File, interface: u32) -> io::Result<()> {
    // SAFETY: `sockaddr_ll` is plain numbers, for which zero is valid.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET.try_into().map_err(|_| Errno::EINVAL)?;
    address.sll_protocol = ETH_P_ALL.to_be();
    address.sll_ifindex = interface.try_into().map_err(|_| Errno::ENODEV)?;
    // SAFETY: the address is a `sockaddr_ll` of just that size, and lives until the call is over.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            length_of(&address),
        )
    };
    Errno::result(result)?;
    Ok(())
}

fn ignore_own_frames(socket: &File) -> io::Result<()> {
    switch_on(socket, libc::PACKET_IGNORE_OUTGOING)
}

/// From now on each frame has a header of [`OFFLOAD_HEADER`] bytes before it, in both directions, which says what was left
/// to others: checksums, and several packets in one (`struct virtio_net_hdr`).
pub(super) fn with_offload_header(socket: &File) -> io::Result<()> {
    switch_on(socket, PACKET_VNET_HDR)
}

fn switch_on(socket: &File, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is one int, which lives until the call is over.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            (&raw const on).cast(),
            length_of(&on),
        )
    };
    Errno::result(result)?;
    Ok(())
}

/// Lets the kernel complete checksums, and so cut super-packets, before they leave by this interface of the thread's
/// namespace: a packet socket would see them incomplete.
pub(super) fn switch_offloads_off(name: &str) -> io::Result<()> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    for command in [ETHTOOL_STXCSUM, ETHTOOL_STSO] {
        let mut value = EthtoolValue { command, data: 0 };
        let mut request = ifreq(name);
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: SIOCETHTOOL reads one `ifreq` and the ethtool_value that it points to; both outlive the call.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
        Errno::result(result)?;
    }
    Ok(())
}

/// How many frames the socket dropped since the last call because they came faster than they were read.
pub(super) fn take_drops(socket: &File) -> u64 {
    let mut statistics = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut length = length_of(&statistics);
    // SAFETY: the kernel writes at most `length` bytes, the size of the structure.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        statistics.tp_drops.into()
    } else {
        0
    }
}

/// An `ifreq` for the interface of this name, cut at the 15 bytes that the kernel allows.
pub(super) fn ifreq(name: &str) -> libc::ifreq {
    // SAFETY: `ifreq` is plain numbers and pointers, for which zero is valid.
    let mut request: libc::ifreq = unsafe { zeroed() };
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(room)) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request
}

fn length_of<T>(_value: &T) -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("these structures are a few bytes long")
}

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Bytes of that header; bytes 4 and 5 are the size of each packet's data.
pub(super) const OFFLOAD_HEADER: usize = 10;
/// Of linux/if_packet.h.
const PACKET_VNET_HDR: libc::c_int = 15;
/// All protocols, as linux/if_ether.h numbers them.
const ETH_P_ALL: u16 = 3;
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_STSO: u32 = 0x1f;
const SIOCETHTOOL: libc::Ioctl = 0x8946;
const RECEIVE_BUFFER: usize = 8 << 20;
