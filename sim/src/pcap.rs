//! Captured packets as a pcap file (the classic format, nanosecond variant), for Wireshark and tcpdump. Remembers nothing.
//!
//! ```text
//!   magic 4 │ version 2+2 │ 0 4 │ 0 4 │ snap length 4 │ link type 4
//!   then for each packet: seconds 4 │ nanoseconds 4 │ kept 4 │ length 4 │ the packet
//! ```

use crate::network::Captured;

/// The file's bytes; time 0 is the network's start.
#[must_use]
pub fn write<'a>(packets: impl IntoIterator<Item = &'a Captured>) -> Vec<u8> {
    let mut file = Vec::new();
    file.extend(MAGIC_NANOSECONDS.to_le_bytes());
    file.extend(2u16.to_le_bytes());
    file.extend(4u16.to_le_bytes());
    file.extend([0; 8]);
    file.extend(65_535u32.to_le_bytes());
    file.extend(LINKTYPE_RAW.to_le_bytes());
    for captured in packets {
        let bytes = captured.packet.emit();
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let seconds = u32::try_from(captured.at.as_secs()).unwrap_or(u32::MAX);
        file.extend(seconds.to_le_bytes());
        file.extend(captured.at.subsec_nanos().to_le_bytes());
        file.extend(length.to_le_bytes());
        file.extend(length.to_le_bytes());
        file.extend(bytes);
    }
    file
}

const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
/// The packet starts with its IP header.
const LINKTYPE_RAW: u32 = 101;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::packet::Packet;

    #[test]
    fn the_file_is_as_the_format_says() {
        let endpoint = "192.0.2.1:1".parse().expect("an endpoint");
        let captured = Captured {
            at: Duration::new(7, 9),
            packet: Packet::udp(endpoint, endpoint, vec![1, 2, 3]),
        };
        let file = write([&captured]);
        assert_eq!(file[..4], [0x4d, 0x3c, 0xb2, 0xa1]);
        assert_eq!(file[20..24], [101, 0, 0, 0]);
        assert_eq!(
            file[24..40],
            [7, 0, 0, 0, 9, 0, 0, 0, 31, 0, 0, 0, 31, 0, 0, 0]
        );
        assert_eq!(Packet::parse(&file[40..]), Ok(captured.packet));
    }
}
