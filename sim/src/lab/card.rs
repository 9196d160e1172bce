//! A machine's one interface, and its other end, which is the box's: whole IP packets in and out.
//!
//! ```text
//!   machine's namespace │ world's namespace
//!   eth0 (TUN) ─────────┼─ file                         where /dev/net/tun may be opened
//!   eth0 (veth) ────────┼─ veth ─ packet socket         everywhere else
//! ```
//!
//! No neighbour is ever asked for: everything that leaves the machine goes into the box, whoever it is for.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU16, Ordering};

use nix::net::if_::if_nametoindex;

use super::namespace::Namespace;
use super::neighbours::Neighbours;
use super::netlink::{self, VethEnd};
use super::packet_socket::OFFLOAD_HEADER;
use super::refusal::{Refusal, Step};
use super::{packet_socket, tun};

/// What the machine's interface is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attachment {
    /// A TUN device where it may be opened, else a veth pair.
    #[default]
    Auto,
    /// A TUN device; refused without a right to `/dev/net/tun`.
    Tun,
    /// A veth pair and a packet socket; needs no device file.
    Veth,
}

/// The box's end of a machine's interface.
#[derive(Debug)]
pub(super) struct Card {
    file: File,
    framing: Framing,
}

#[derive(Debug)]
enum Framing {
    /// Bare IP packets.
    Packet,
    /// Ethernet frames: the addresses to put before a packet for the machine.
    Ethernet { to_machine: [u8; 12] },
    /// Ethernet frames among neighbours, each with an offload header before it.
    Neighbours(RefCell<Neighbours>),
}

/// What a machine sent: an IP packet, and the size of each packet's data if it stands for several.
pub(super) struct Received<'a> {
    pub(super) packet: &'a [u8],
    pub(super) segment_size: usize,
    /// Checksums were left to others.
    pub(super) offloaded: bool,
}

impl Card {
    /// Gives the namespace its interface `eth0` and keeps the other end.
    pub(super) fn plug(
        namespace: &Namespace,
        mtu: u16,
        attachment: Attachment,
    ) -> Result<Self, Refusal> {
        let tun = match attachment {
            Attachment::Auto => tun::is_allowed(),
            Attachment::Tun => true,
            Attachment::Veth => false,
        };
        let card = if tun {
            Self::tun(namespace)?
        } else {
            Self::veth(namespace, mtu)?
        };
        namespace
            .run(|| netlink::set_up(index_of(MACHINE_END)?, Some(mtu.into()), false))
            .flatten()
            .step("to bring an interface up")?;
        Ok(card)
    }

    /// An interface that is there already, with whoever is behind it.
    pub(super) fn existing(name: &str, neighbours: Neighbours) -> io::Result<Self> {
        let file = packet_socket::open(index_of(name)?)?;
        packet_socket::with_offload_header(&file)?;
        let framing = Framing::Neighbours(RefCell::new(neighbours));
        Ok(Self { file, framing })
    }

    fn tun(namespace: &Namespace) -> Result<Self, Refusal> {
        let file = namespace
            .run(|| tun::create(MACHINE_END))
            .flatten()
            .step("a TUN interface (/dev/net/tun)")?;
        let framing = Framing::Packet;
        Ok(Self { file, framing })
    }

    fn veth(namespace: &Namespace, mtu: u16) -> Result<Self, Refusal> {
        // The kernel takes its time to clear a machine away: its successor must not have the same names.
        static NUMBER: AtomicU16 = AtomicU16::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let [high, low] = number.to_be_bytes();
        let near_name = format!("box{number}");
        let near = VethEnd {
            name: &near_name,
            mac: [0x02, 0xb0, 0, 0, high, low],
            mtu: LARGEST_PACKET,
        };
        let far = VethEnd {
            name: MACHINE_END,
            mac: [0x02, 0xa0, 0, 0, high, low],
            mtu: mtu.into(),
        };
        netlink::add_veth(near, far, namespace.network()).step("a veth pair")?;
        namespace
            .run(|| packet_socket::switch_offloads_off(MACHINE_END))
            .flatten()
            .step("to switch an interface's offloads off")?;
        let file = Self::listen(&near_name).step("a packet socket")?;
        let mut to_machine = [0; 12];
        to_machine[..6].copy_from_slice(&far.mac);
        to_machine[6..].copy_from_slice(&near.mac);
        let framing = Framing::Ethernet { to_machine };
        Ok(Self { file, framing })
    }

    /// The packet socket stands before the interface is up, so that nothing is missed.
    fn listen(near: &str) -> io::Result<File> {
        let index = index_of(near)?;
        let file = packet_socket::open(index)?;
        netlink::set_up(index, None, false)?;
        Ok(file)
    }

    /// The next IP packet that the machine sent, in `buffer`; `None` when there is none now.
    pub(super) fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<Received<'a>>> {
        loop {
            let length = match (&self.file).read(buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let header = match &self.framing {
                Framing::Packet => 0,
                Framing::Ethernet { .. } if is_ip(&buffer[..length]) => ETHERNET_HEADER,
                Framing::Ethernet { .. } => continue,
                Framing::Neighbours(neighbours) => {
                    let frame = buffer.get(OFFLOAD_HEADER..length).unwrap_or_default();
                    let is_packet = neighbours.borrow_mut().handle_frame(frame).is_some();
                    self.flush(neighbours)?;
                    if !is_packet {
                        continue;
                    }
                    OFFLOAD_HEADER + ETHERNET_HEADER
                }
            };
            let offloaded = matches!(self.framing, Framing::Neighbours(_));
            let size = [buffer[4], buffer[5]];
            return Ok(Some(Received {
                packet: &buffer[header..length],
                segment_size: if offloaded {
                    u16::from_ne_bytes(size).into()
                } else {
                    0
                },
                offloaded,
            }));
        }
    }

    /// Hands the machine an IP packet. One that it cannot take now is lost, as on a wire.
    pub(super) fn send(&self, destination: IpAddr, packet: &[u8]) -> io::Result<()> {
        let written = match &self.framing {
            Framing::Packet => (&self.file).write(packet),
            Framing::Ethernet { to_machine } => {
                let ether_type = match packet.first().map(|byte| byte >> 4) {
                    Some(6) => ETHER_TYPE_IPV6,
                    _ => ETHER_TYPE_IPV4,
                };
                let parts = [to_machine.as_slice(), &ether_type, packet].map(IoSlice::new);
                (&self.file).write_vectored(&parts)
            }
            Framing::Neighbours(neighbours) => {
                neighbours.borrow_mut().send(destination, packet);
                return self.flush(neighbours);
            }
        };
        written.map(drop)
    }

    fn flush(&self, neighbours: &RefCell<Neighbours>) -> io::Result<()> {
        let mut neighbours = neighbours.borrow_mut();
        while let Some(frame) = neighbours.poll_frame() {
            let parts = [&[0; OFFLOAD_HEADER][..], &frame].map(IoSlice::new);
            // A packet socket takes a frame whole or not at all.
            let _whole = (&self.file).write_vectored(&parts)?;
        }
        Ok(())
    }

    /// How many packets of the machine were lost since the last call because the box was too slow.
    pub(super) fn take_drops(&self) -> u64 {
        match self.framing {
            Framing::Packet => 0,
            Framing::Ethernet { .. } | Framing::Neighbours(_) => {
                packet_socket::take_drops(&self.file)
            }
        }
    }
}

impl AsFd for Card {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The index of an interface of the thread's namespace.
pub(super) fn index_of(name: &str) -> io::Result<u32> {
    Ok(if_nametoindex(name)?)
}

fn is_ip(frame: &[u8]) -> bool {
    matches!(frame.get(12..14), Some(kind) if kind == ETHER_TYPE_IPV4 || kind == ETHER_TYPE_IPV6)
}

/// The interface's name in its machine.
pub(super) const MACHINE_END: &str = "eth0";
/// Bytes of an Ethernet header.
pub(super) const ETHERNET_HEADER: usize = 14;
/// Bytes of the largest IP packet.
const LARGEST_PACKET: u32 = 65_535;
const ETHER_TYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHER_TYPE_IPV6: [u8; 2] = [0x86, 0xdd];
