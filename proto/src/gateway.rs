//! The hub's virtual host: a station behind one port of the switch, entirely in user mode (REQUIREMENTS E5).
//!
//! It answers ARP for its own address (RFC 826, RFC 5227) and ICMP echo (RFC 792, RFC 1122), and nothing else.
//!
//! ```text
//!   switch ──frame──▶ Ethernet ─┬─ ARP ──▶ arp ───┬──▶ queue ──frame──▶ switch
//!                               └─ IPv4 ─▶ icmp ──┘
//!                     everything else, damaged or not for us: counted
//! ```
//!
//! It answers the station that asked, by the Ethernet address that the question came from; it has no routes, no ARP
//! cache and starts no conversation, so nobody can make it keep anything. It knows nothing of links, members or the switch.
//! [`Pool`] beside it gives out the other addresses of its network.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use aws_lc_rs::digest::{SHA256, digest};
use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr};

use crate::wire::ethernet::MacAddr;
use ndp::Ndp;

pub mod access;
mod arp;
mod control;
mod dhcp;
mod event;
mod fragment;
mod icmp;
mod nat;
mod ndp;
mod out;
mod packet;
pub mod pool;
mod segment;
mod settings;
mod slots;
pub mod sockets;
pub mod subnet;
mod tcp;

pub use control::Unreachable;
pub use dhcp::{Dhcp, DhcpCounters, DhcpRow, KeptLease};
pub use event::{NatCounters, NatEvent, NatRow};
pub use nat::{HostError, Nat};
pub use ndp::ipv6_from_seed;
pub use out::{Frame, Port};
pub use pool::Pool;
pub use settings::{DhcpSettings, Limits, NatSettings, NotAPublish, Publish};
pub use subnet::{NotAHost, Subnet};
pub use tcp::End;

/// The virtual host.
#[derive(Debug)]
pub struct Gateway {
    mac: MacAddr,
    subnet: Subnet,
    mtu: u16,
    queue: VecDeque<Vec<u8>>,
    counters: Counters,
    ndp: Option<Ndp>,
}

/// What the virtual host has done since its start, in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// ARP requests answered.
    pub arp_answered: u64,
    /// Solicitations of IPv6 neighbours and routers answered.
    pub neighbours_answered: u64,
    /// Echo requests answered.
    pub echo_answered: u64,
    /// Not for it, or of a kind that it does not speak.
    pub ignored: u64,
    /// Fragments of IPv4 packets; it does not put them together.
    pub ignored_fragments: u64,
    /// Cut short, wrong checksum, impossible addresses.
    pub malformed: u64,
    /// Another station says that it has our address (RFC 5227, section 2.4).
    pub address_conflicts: u64,
    /// Answers dropped because nobody fetched those before them.
    pub dropped_queue: u64,
}

/// What becomes of a frame.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The payload of the answer, and its station.
    Answer(MacAddr, EthernetProtocol, Vec<u8>),
    Ignored,
    Fragment,
    Malformed,
    Conflict,
}

impl Gateway {
    /// A virtual host with an Ethernet and an IP address, in a network whose IP packets have at most `mtu` bytes.
    #[must_use]
    pub fn new(mac: MacAddr, subnet: Subnet, mtu: u16) -> Self {
        Self {
            mac,
            subnet,
            mtu,
            queue: VecDeque::new(),
            counters: Counters::default(),
            ndp: None,
        }
    }

    /// Has that IPv6 address from now on and advertises its prefix, or no more.
    pub fn set_ipv6(&mut self, address: Option<Ipv6Addr>, now: Instant) {
        self.ndp = address.map(|address| Ndp::new(self.mac, address, self.mtu, now));
        self.handle_timeout(now);
    }

    /// The time of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(frame) = self.ndp.as_mut().and_then(|ndp| ndp.poll(now)) {
            self.add_frame(frame);
        }
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.ndp.as_ref().map(Ndp::deadline)
    }

    /// Tells every station where the address is (RFC 5227, section 2.3): at the start, and when the address has changed.
    pub fn announce(&mut self) {
        let announcement = arp::announcement(self.mac, self.subnet.address());
        self.send(MacAddr::BROADCAST, EthernetProtocol::Arp, &announcement);
    }

    /// The switch sent a frame to this port.
    pub fn handle_frame(&mut self, frame: &[u8], now: Instant) {
        let _ = now; // Nothing here takes time; the verb is the same as everywhere.
        if self.ndp.is_some() && self.take_ipv6(frame) {
            return;
        }
        match self.judge(frame).unwrap_or(Verdict::Malformed) {
            Verdict::Answer(to, protocol, payload) => {
                self.count_answer(protocol);
                self.send(to, protocol, &payload);
            }
            Verdict::Ignored => self.counters.ignored += 1,
            Verdict::Fragment => self.counters.ignored_fragments += 1,
            Verdict::Malformed => self.counters.malformed += 1,
            Verdict::Conflict => self.counters.address_conflicts += 1,
        }
    }

    /// Something beside it, such as the DHCP server, has a frame for the switch.
    pub fn add_frame(&mut self, frame: Vec<u8>) {
        if self.queue.len() < MAX_QUEUE {
            self.queue.push_back(frame);
        } else {
            self.counters.dropped_queue += 1;
        }
    }

    /// The next frame for the switch, if any.
    pub fn poll_frame(&mut self) -> Option<Vec<u8>> {
        self.queue.pop_front()
    }

    /// Its Ethernet address.
    #[must_use]
    pub const fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Its address and network.
    #[must_use]
    pub const fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// What it has done.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether the frame was IPv6, and so is dealt with.
    fn take_ipv6(&mut self, frame: &[u8]) -> bool {
        let (Ok(frame), Some(ndp)) = (packet::Frame::parse(frame), &self.ndp) else {
            return false;
        };
        if frame.kind != packet::IPV6 || frame.from == self.mac || frame.from.is_group() {
            return false;
        }
        match ndp.handle_packet(frame.from, frame.payload) {
            Ok(Some(answer)) => {
                self.counters.neighbours_answered += 1;
                self.add_frame(answer);
            }
            Ok(None) => self.counters.ignored += 1,
            Err(_) => self.counters.malformed += 1,
        }
        true
    }

    fn judge(&self, frame: &[u8]) -> Result<Verdict, smoltcp::wire::Error> {
        let frame = EthernetFrame::new_checked(frame)?;
        let (destination, source) = (MacAddr(frame.dst_addr().0), MacAddr(frame.src_addr().0));
        let for_us = destination == self.mac || destination == MacAddr::BROADCAST;
        if !for_us || source == self.mac {
            return Ok(Verdict::Ignored);
        }
        if source.is_group() {
            return Ok(Verdict::Malformed);
        }
        match frame.ethertype() {
            EthernetProtocol::Arp => arp::judge(self.mac, self.subnet.address(), frame.payload()),
            // RFC 1122, section 3.3.6: a packet to one host in a frame to everybody is not answered.
            EthernetProtocol::Ipv4 if destination == self.mac => {
                icmp::judge(self.subnet, self.mtu, source, frame.payload())
            }
            EthernetProtocol::Ipv4 | EthernetProtocol::Ipv6 | EthernetProtocol::Unknown(_) => {
                Ok(Verdict::Ignored)
            }
        }
    }

    const fn count_answer(&mut self, protocol: EthernetProtocol) {
        if matches!(protocol, EthernetProtocol::Arp) {
            self.counters.arp_answered += 1;
        } else {
            self.counters.echo_answered += 1;
        }
    }

    fn send(&mut self, to: MacAddr, protocol: EthernetProtocol, payload: &[u8]) {
        if self.queue.len() >= MAX_QUEUE {
            self.counters.dropped_queue += 1;
            return;
        }
        let header = EthernetRepr {
            src_addr: EthernetAddress(self.mac.0),
            dst_addr: EthernetAddress(to.0),
            ethertype: protocol,
        };
        let mut frame = EthernetFrame::new_unchecked(vec![0; header.buffer_len() + payload.len()]);
        header.emit(&mut frame);
        frame.payload_mut().copy_from_slice(payload);
        self.queue.push_back(frame.into_inner());
    }
}

/// The frame by which a station tells its address to all (RFC 5227, section 2.3).
#[must_use]
pub fn announcement(mac: MacAddr, address: Ipv4Addr) -> Vec<u8> {
    let packet = arp::announcement(mac, address);
    let header = EthernetRepr {
        src_addr: EthernetAddress(mac.0),
        dst_addr: EthernetAddress::BROADCAST,
        ethertype: EthernetProtocol::Arp,
    };
    let mut frame = EthernetFrame::new_unchecked(vec![0; header.buffer_len() + packet.len()]);
    header.emit(&mut frame);
    frame.payload_mut().copy_from_slice(&packet);
    frame.into_inner()
}

/// Whether a frame that came to the virtual host with that MAC address is the NAT's: IP for it alone, but DHCP; and ARP's
/// answers, which both want to know.
#[must_use]
pub fn is_for_nat(mac: MacAddr, frame: &[u8]) -> ForNat {
    let Ok(parsed) = packet::Frame::parse(frame) else {
        return ForNat::No;
    };
    if parsed.to != mac {
        return ForNat::No;
    }
    match parsed.kind {
        packet::ARP => ForNat::Too,
        packet::IPV4 if is_dhcp(parsed.payload) => ForNat::No,
        packet::IPV4 => ForNat::Only,
        packet::IPV6 if is_neighbour_discovery(parsed.payload) => ForNat::Too,
        packet::IPV6 => ForNat::Only,
        _ => ForNat::No,
    }
}

/// Whose frame it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForNat {
    /// The NAT's alone.
    Only,
    /// The NAT's and the virtual host's own.
    Too,
    /// Not the NAT's.
    No,
}

/// UDP to port 67.
fn is_dhcp(packet: &[u8]) -> bool {
    let header_len = packet
        .first()
        .map_or(0, |first| usize::from(first & 15) * 4);
    packet.get(9) == Some(&packet::UDP)
        && packet.get(header_len + 2..header_len + 4) == Some(&[0, 67])
}

/// ICMPv6 of types 133 to 137.
fn is_neighbour_discovery(packet: &[u8]) -> bool {
    packet.get(6) == Some(&packet::ICMPV6)
        && packet
            .get(40)
            .is_some_and(|kind| (133..=137).contains(kind))
}

/// The virtual host's Ethernet address: 00:AC and four bytes that follow from `seed` (REQUIREMENTS E5). Seeded by the
/// hub's key it is the same after every restart, and so no member's ARP cache goes stale.
#[must_use]
pub fn mac_from_seed(seed: &[u8; 32]) -> MacAddr {
    let hash = digest(&SHA256, &[MAC_CONTEXT, seed].concat());
    let tail = hash.as_ref().first_chunk();
    let [a, b, c, d] = *tail.expect("SHA-256 has 32 bytes");
    MacAddr([0x00, 0xac, a, b, c, d])
}

/// Separates this use of a seed from every other.
const MAC_CONTEXT: &[u8] = b"kuguri virtual host mac";
/// No more answers wait than this, in frames.
const MAX_QUEUE: usize = 256;

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test may begin at any instant")]
mod tests;
