//! The Internet checksum (RFC 1071): sums of 16-bit words with the carry added in again.
//!
//! Sums are of words in the machine's own order, which RFC 1071, section 2 (B), allows: only the bytes of the result matter.

use super::layout::{Layout, Version};

/// The sum of `bytes`, of which only the last piece of a checked whole may have an odd length.
#[must_use]
pub fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut total: u64 = words
        .iter()
        .map(|word| u64::from(u32::from_ne_bytes(*word)))
        .sum();
    let (pairs, odd) = rest.as_chunks::<2>();
    for pair in pairs {
        total += u64::from(u16::from_ne_bytes(*pair));
    }
    for last in odd {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    total
}

/// A sum in 16 bits, not complemented.
#[must_use]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    #[allow(
        clippy::cast_possible_truncation,
        reason = "two foldings leave 16 bits"
    )]
    {
        sum as u16
    }
}

/// The sum of the pseudo-header (RFC 9293, section 3.1; RFC 8200, section 8.1) of `length` bytes of TCP or UDP.
#[must_use]
pub fn pseudo(frame: &[u8], layout: &Layout, length: usize) -> u64 {
    let addresses = match layout.version {
        Version::V4 => layout.network + 12..layout.network + 20,
        Version::V6 => layout.network + 8..layout.network + 40,
    };
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    let protocol = [0, layout.protocol.number()];
    sum(frame.get(addresses).unwrap_or_default()) + sum(&length) + sum(&protocol)
}

/// Whether the TCP or UDP checksum of a whole frame is right. (UDP without one, which is a zero, is not said to be.)
#[must_use]
pub fn is_right(frame: &[u8], layout: &Layout) -> bool {
    let Some(segment) = frame.get(layout.transport..layout.end) else {
        return false;
    };
    let field = layout.transport + layout.protocol.checksum_offset();
    if frame.get(field..field + 2) == Some(&[0, 0]) && layout.protocol == super::Protocol::Udp {
        return false;
    }
    fold(pseudo(frame, layout, segment.len()) + sum(segment)) == 0xffff
}

/// Puts the checksum of `frame[start..end]` at `start + offset`, where the sum of the pseudo-header stands already.
/// Does nothing when there is no such place.
pub fn finish(frame: &mut [u8], start: usize, offset: usize, end: usize) {
    let Some(field) = start.checked_add(offset) else {
        return;
    };
    let Some(bytes) = frame.get(start..end) else {
        return;
    };
    let total = !fold(sum(bytes));
    // RFC 768: a sum of zero is sent as all ones. In TCP both mean the same.
    let total = if total == 0 { 0xffff } else { total };
    if let Some(place) = frame.get_mut(field..).and_then(<[u8]>::first_chunk_mut) {
        *place = total.to_ne_bytes();
    }
}

/// Finishes the checksum that a frame with an open one waits for. False when it is no TCP or UDP over IP.
pub fn finish_frame(frame: &mut [u8]) -> bool {
    let Some(layout) = Layout::parse(frame) else {
        return false;
    };
    let offset = layout.protocol.checksum_offset();
    finish(frame, layout.transport, offset, layout.end);
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smoltcp::wire::{IpAddress, IpProtocol};

    use super::super::split::tests::{tcp4, udp6};
    use super::*;

    #[test]
    fn the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes)).to_ne_bytes(), [0xdd, 0xf2]);
    }

    #[test]
    fn a_finished_checksum_is_right_and_a_changed_byte_makes_it_wrong() {
        for mut frame in [tcp4(&[7; 333], 5), udp6(&[9; 100])] {
            let layout = Layout::parse(&frame).expect("well made");
            let field = layout.transport + layout.protocol.checksum_offset();
            let open = fold(pseudo(&frame, &layout, layout.end - layout.transport));
            frame[field..field + 2].copy_from_slice(&open.to_ne_bytes());
            assert!(!is_right(&frame, &layout));
            assert!(finish_frame(&mut frame));
            assert!(is_right(&frame, &layout));
            let last = frame.len() - 1;
            frame[last] ^= 1;
            assert!(!is_right(&frame, &layout));
        }
    }

    proptest! {
        /// smoltcp computes it another way.
        #[test]
        fn agrees_with_smoltcp(bytes: Vec<u8>, source: u32, destination: u32) {
            let expected = smoltcp::wire::checksum::data(&bytes);
            prop_assert_eq!(u16::from_be_bytes(fold(sum(&bytes)).to_ne_bytes()) % 0xffff, expected % 0xffff);
            let frame = tcp4(&bytes, 1);
            let mut frame = frame[..].to_vec();
            frame[26..30].copy_from_slice(&source.to_be_bytes());
            frame[30..34].copy_from_slice(&destination.to_be_bytes());
            let layout = Layout::parse(&frame).expect("well made");
            let length = layout.end - layout.transport;
            let expected = smoltcp::wire::checksum::pseudo_header(
                &IpAddress::Ipv4(source.into()), &IpAddress::Ipv4(destination.into()), IpProtocol::Tcp,
                u32::try_from(length).expect("short"));
            let ours = fold(pseudo(&frame, &layout, length));
            prop_assert_eq!(u16::from_be_bytes(ours.to_ne_bytes()) % 0xffff, expected % 0xffff);
        }
    }
}
