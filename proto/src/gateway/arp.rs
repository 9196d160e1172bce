//! ARP for one address (RFC 826), with the courtesies of address conflict detection (RFC 5227).

use std::net::Ipv4Addr;

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, Error, EthernetAddress, EthernetProtocol};

use super::Verdict;
use crate::wire::ethernet::MacAddr;

/// What becomes of an ARP packet when `mac` has `address`.
pub(super) fn judge(mac: MacAddr, address: Ipv4Addr, payload: &[u8]) -> Result<Verdict, Error> {
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = ArpRepr::parse(&ArpPacket::new_checked(payload)?)?
    else {
        return Ok(Verdict::Ignored);
    };
    let sender = MacAddr(source_hardware_addr.0);
    if sender.is_group() {
        return Ok(Verdict::Malformed);
    }
    if source_protocol_addr == address && sender != mac {
        return Ok(Verdict::Conflict);
    }
    if operation != ArpOperation::Request || target_protocol_addr != address {
        return Ok(Verdict::Ignored);
    }
    // A probe, whose sender has no address yet (0.0.0.0), is answered like any request: the address is taken.
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(mac.0),
        source_protocol_addr: address,
        target_hardware_addr: source_hardware_addr,
        target_protocol_addr: source_protocol_addr,
    };
    Ok(Verdict::Answer(
        sender,
        EthernetProtocol::Arp,
        bytes(&reply),
    ))
}

/// An ARP announcement (RFC 5227, section 2.3): a request for one's own address.
pub(super) fn announcement(mac: MacAddr, address: Ipv4Addr) -> Vec<u8> {
    bytes(&ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(mac.0),
        source_protocol_addr: address,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: address,
    })
}

fn bytes(repr: &ArpRepr) -> Vec<u8> {
    let mut packet = ArpPacket::new_unchecked(vec![0; repr.buffer_len()]);
    repr.emit(&mut packet);
    packet.into_inner()
}
