//! A card without `/dev/net/tun`: a veth pair of which this process reads one end by a packet socket.
//!
//! Our end stands in a network namespace that nothing but two sockets of this process holds. So nobody else sees it, and
//! when the process ends, however it does, the kernel takes the namespace away and with it both ends.
//!
//! Frames with a VLAN tag arrive without it: the kernel takes tags off before packet sockets.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Protocol, Socket, Type};

use super::{CardError, Offload, Opened, index_of, io_error, ioctl};
use crate::route::{RouteError, Routes};

/// Where our end is.
struct Room {
    /// The namespace, when it is not the one of everybody.
    namespace: Option<File>,
    /// For frames.
    packets: Socket,
    /// For requests about interfaces there.
    requests: Socket,
}

/// Makes the veth interface `name`, whose frames are read and written without waiting.
pub(super) async fn open(name: &str, routes: &Routes) -> Result<Opened, CardError> {
    let room = make_room().map_err(io_error(name, "opening a packet socket"))?;
    let ours = format!("kg{:x}", std::process::id());
    add_pair(name, &ours, routes).await?;
    if let Some(namespace) = &room.namespace {
        let index = index_of(&ours)?;
        routes.move_to(index, namespace.as_fd().as_raw_fd()).await?;
    }
    let with_header = ioctl::ask_for_headers(&room.packets).is_ok();
    let asked = || -> io::Result<()> {
        ioctl::bring_up(&room.requests, &ours, LARGEST_MTU)?;
        ioctl::bind_packets(&room.packets, ioctl::index(&room.requests, &ours)?)?;
        if with_header {
            return Ok(());
        }
        let here = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        ioctl::finish_frames(&here, name)
    };
    asked().map_err(io_error(name, "reading the other end of a veth pair"))?;
    Ok(Opened {
        fd: room.packets.into(),
        index: index_of(name)?,
        offload: Offload {
            header: with_header,
            checksum: with_header,
            tcp: with_header,
            udp: with_header,
        },
    })
}

/// After a crash the kernel needs a moment to take the last pair of this name away.
async fn add_pair(name: &str, ours: &str, routes: &Routes) -> Result<(), CardError> {
    for _ in 0..ATTEMPTS {
        match routes.add_veth(name, ours).await {
            Ok(()) => return Ok(()),
            Err(RouteError::Exists) => tokio::time::sleep(PAUSE).await,
            Err(RouteError::NoRight) => return Err(CardError::NoRight),
            Err(other) => return Err(other.into()),
        }
    }
    Err(CardError::NameTaken(name.to_owned()))
}

/// Only a thread's own namespace can be left, and sockets stay where they were made: a short thread makes them.
fn make_room() -> io::Result<Room> {
    let made = std::thread::spawn(|| {
        let apart = unshare(CloneFlags::CLONE_NEWNET).is_ok();
        let namespace = if apart {
            // Our end is to say nothing by itself. Where that cannot be set, the kernel asks for routers there in vain.
            let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
            Some(File::open("/proc/thread-self/ns/net")?)
        } else {
            None
        };
        let packets = Socket::new(Domain::PACKET, Type::RAW, None)?;
        packets.set_nonblocking(true)?;
        // Room for some super-frames; what the system lets us have is good enough.
        let _ = packets.set_recv_buffer_size(PACKET_BUFFER);
        let _ = packets.set_send_buffer_size(PACKET_BUFFER);
        Ok(Room {
            namespace,
            packets,
            requests: Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?,
        })
    });
    made.join()
        .map_err(|_panic| io::Error::other("a thread ended early"))?
}

/// What a veth interface carries at most (ETH_MAX_MTU); the other end's own MTU is the one that counts.
const LARGEST_MTU: libc::c_int = 65_535;
/// Bytes of frames that wait in the packet socket.
const PACKET_BUFFER: usize = 2 << 20;
/// How often a taken name is tried again.
const ATTEMPTS: u32 = 5;
/// Between attempts.
const PAUSE: Duration = Duration::from_millis(100);
