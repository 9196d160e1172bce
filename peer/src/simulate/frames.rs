//! Ethernet frames that the claims send, made by hand so that they do not share code with what they test.

use std::net::Ipv4Addr;

use kuguri_proto::wire::ethernet::MacAddr;

/// A broadcast of an experimental EtherType (IEEE 802, 88B5), 100 bytes, filled with `marker`.
#[must_use]
pub fn broadcast(source: MacAddr, marker: u8) -> Vec<u8> {
    let mut frame = [MacAddr::BROADCAST.0, source.0].concat();
    frame.extend([0x88, 0xb5]);
    frame.resize(100, marker);
    frame
}

/// The same to one card.
#[must_use]
pub fn unicast(source: MacAddr, destination: MacAddr, marker: u8) -> Vec<u8> {
    let mut frame = broadcast(source, marker);
    frame[..6].copy_from_slice(&destination.0);
    frame
}

/// An ICMP echo request (RFC 792) in IPv4 in Ethernet, with `payload` bytes.
#[must_use]
pub fn echo_request(
    (source_mac, source): (MacAddr, Ipv4Addr),
    (destination_mac, destination): (MacAddr, Ipv4Addr),
    sequence: u16,
    payload: usize,
) -> Vec<u8> {
    let mut icmp = vec![8, 0, 0, 0, 0x12, 0x34];
    icmp.extend(sequence.to_be_bytes());
    icmp.resize(8 + payload, 0x61);
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let total = u16::try_from(20 + icmp.len()).expect("a small packet");
    let mut ip = vec![0x45, 0];
    ip.extend(total.to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 64, 1, 0, 0]);
    ip.extend(source.octets());
    ip.extend(destination.octets());
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = [destination_mac.0, source_mac.0].concat();
    frame.extend([0x08, 0x00]);
    frame.extend(ip);
    frame.extend(icmp);
    frame
}

/// Whether a frame is an ICMP echo reply.
#[must_use]
pub fn is_echo_reply(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x08, 0x00])
        && frame.get(23) == Some(&1)
        && frame.get(34) == Some(&0)
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}
