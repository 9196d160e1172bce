//! Any bytes as an IP packet of the simulator, as they are and with true checksums: what is read is written again.

#![no_main]

use kuguri_sim::packet::{Body, Packet};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    check(&mended(bytes));
});

fn check(bytes: &[u8]) {
    let Ok(mut packet) = Packet::parse(bytes) else {
        return;
    };
    let written = packet.emit();
    assert_eq!(written.len(), packet.len());
    assert_eq!(Packet::parse(&written).as_ref(), Ok(&packet));
    if let Some(flow) = packet.flow() {
        packet.set_source(flow.source);
        packet.set_destination(flow.destination);
        assert_eq!(packet.flow(), Some(flow));
    }
    if let Body::IcmpError { quote, .. } = &mut packet.body
        && let Some(flow) = quote.flow()
    {
        quote.set_source(flow.source);
        quote.set_destination(flow.destination);
        assert_eq!(quote.flow(), Some(flow));
    }
    let _ = packet.reported_mtu();
}

/// An IPv4 header's checksum put right, so that more than one packet in 65,536 gets past it.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut packet = bytes.to_vec();
    let length = usize::from(bytes.first().map_or(0, |first| first & 0x0f)) * 4;
    if let Some(header) = packet.get_mut(..length.max(20)) {
        header[10..12].fill(0);
        let sum: u32 = header
            .chunks_exact(2)
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
            .sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or(u16::MAX);
        header[10..12].copy_from_slice(&(!sum).to_be_bytes());
    }
    packet
}
