//! The requests to the kernel for which there is no safe wrapper: TUNSETIFF, ethtool's switches, packet sockets.
#![allow(
    unsafe_code,
    reason = "ioctl, bind and setsockopt with the kernel's own structures"
)]

use std::ffi::{c_int, c_short, c_uint, c_ulong, c_void};
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};

/// Makes the opened `/dev/net/tun` a TAP interface of that name, with or without a `virtio_net_hdr` before frames.
pub(super) fn make_tap(tun: &impl AsFd, name: &str, header: bool) -> io::Result<()> {
    let mut request = named(name);
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | if header { libc::IFF_VNET_HDR } else { 0 };
    request.ifr_ifru.ifru_flags =
        c_short::try_from(flags).expect("TUN flags without multi-queue fit in 15 bits");
    ioctl(tun, libc::TUNSETIFF, &mut request)
}

/// Says what the kernel may leave to this end of a TAP.
pub(super) fn set_offload(tun: &impl AsFd, flags: c_uint) -> io::Result<()> {
    let fd = tun.as_fd().as_raw_fd();
    // SAFETY: the request takes its argument by value.
    check(unsafe { libc::ioctl(fd, libc::TUNSETOFFLOAD, c_ulong::from(flags)) })
}

/// Brings `name` up and lets it carry frames as large as it can, in the network namespace of `socket`.
pub(super) fn bring_up(socket: &impl AsFd, name: &str, mtu: c_int) -> io::Result<()> {
    let mut request = named(name);
    request.ifr_ifru.ifru_mtu = mtu;
    ioctl(socket, libc::SIOCSIFMTU, &mut request)?;
    let mut request = named(name);
    request.ifr_ifru.ifru_flags =
        c_short::try_from(libc::IFF_UP).expect("IFF_UP is the lowest bit");
    ioctl(socket, libc::SIOCSIFFLAGS, &mut request)
}

/// The index of `name` in the network namespace of `socket`.
pub(super) fn index(socket: &impl AsFd, name: &str) -> io::Result<c_int> {
    let mut request = named(name);
    ioctl(socket, libc::SIOCGIFINDEX, &mut request)?;
    // SAFETY: the kernel has filled in this member of the union, and any bits are an integer.
    Ok(unsafe { request.ifr_ifru.ifru_ifindex })
}

/// Switches off what leaves frames unfinished (checksums, segmentation) on the interface `name`.
pub(super) fn finish_frames(socket: &impl AsFd, name: &str) -> io::Result<()> {
    for command in [ETHTOOL_STXCSUM, ETHTOOL_STSO, ETHTOOL_SGSO] {
        let mut off = EthtoolValue { command, data: 0 };
        let mut request = named(name);
        request.ifr_ifru.ifru_data = (&raw mut off).cast();
        ioctl(socket, libc::SIOCETHTOOL, &mut request)?;
    }
    Ok(())
}

/// Lets a packet socket see every frame that comes in at the interface `index`, and none that it sends itself.
///
/// What it sends bypasses the queue: that begins to work some time after the interface is up, and until then the kernel
/// takes frames and drops them.
pub(super) fn bind_packets(socket: &impl AsFd, index: c_int) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    let on: c_int = 1;
    for option in [PACKET_IGNORE_OUTGOING, libc::PACKET_QDISC_BYPASS] {
        // SAFETY: the option's value is an integer, which outlives the call, with its length.
        let set = unsafe {
            libc::setsockopt(
                fd,
                libc::SOL_PACKET,
                option,
                (&raw const on).cast(),
                length_of::<c_int>(),
            )
        };
        check(set)?;
    }
    // SAFETY: all zeros are a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).expect("address families are small");
    address.sll_protocol = every_protocol();
    address.sll_ifindex = index;
    // SAFETY: the address is a sockaddr_ll, which outlives the call, with its length.
    check(unsafe {
        libc::bind(
            fd,
            (&raw const address).cast(),
            length_of::<libc::sockaddr_ll>(),
        )
    })
}

/// Lets a packet socket have a `virtio_net_hdr` before every frame, both ways; before it is bound.
pub(super) fn ask_for_headers(socket: &impl AsFd) -> io::Result<()> {
    let on: c_int = 1;
    // SAFETY: the option's value is an integer, which outlives the call, with its length.
    check(unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_PACKET,
            PACKET_VNET_HDR,
            (&raw const on).cast(),
            length_of::<c_int>(),
        )
    })
}

/// ETH_P_ALL as the kernel wants it, in network order.
pub(super) fn every_protocol() -> u16 {
    u16::try_from(libc::ETH_P_ALL)
        .expect("ETH_P_ALL is 3")
        .to_be()
}

/// A request about the interface `name`, which has been checked to be shorter than the field.
fn named(name: &str) -> libc::ifreq {
    // SAFETY: all zeros are a valid ifreq.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request
}

fn ioctl(fd: &impl AsFd, code: c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    let pointer: *mut c_void = (&raw mut *request).cast();
    // SAFETY: every request here takes an ifreq, exclusively borrowed for the call; what it points to outlives it too.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), code, pointer) })
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("a small structure")
}

/// linux/ethtool.h: `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// linux/if_tun.h: checksums may stay open.
pub(super) const OFFLOAD_CSUM: c_uint = 0x01;
/// TCP over IPv4 and IPv6 in super-frames, also with ECN.
pub(super) const OFFLOAD_TCP: c_uint = 0x02 | 0x04 | 0x08;
/// UDP over IPv4 and IPv6 in super-frames.
pub(super) const OFFLOAD_UDP: c_uint = 0x20 | 0x40;
/// linux/ethtool.h: checksums of sent frames.
const ETHTOOL_STXCSUM: u32 = 0x17;
/// linux/ethtool.h: TCP segmentation.
const ETHTOOL_STSO: u32 = 0x1f;
/// linux/ethtool.h: generic segmentation.
const ETHTOOL_SGSO: u32 = 0x24;
/// linux/if_packet.h.
const PACKET_VNET_HDR: c_int = 15;
/// linux/if_packet.h.
const PACKET_IGNORE_OUTGOING: c_int = 23;
