//! The header before every frame of a card with offloads: `struct virtio_net_hdr` of linux/virtio_net.h, in its old form of
//! ten bytes and in the machine's byte order.
//!
//! ```text
//!   0       1          2         4          6            8             10
//!  ┌───────┬──────────┬─────────┬──────────┬────────────┬─────────────┐
//!  │ flags │ gso_type │ hdr_len │ gso_size │ csum_start │ csum_offset │ frame …
//!  └───────┴──────────┴─────────┴──────────┴────────────┴─────────────┘
//! ```

/// Bytes of the header.
pub const LEN: usize = 10;

/// What is said of the frame behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// The checksum from `csum_start` on is open: at `csum_offset` behind it stands the sum of the pseudo-header.
    pub needs_csum: bool,
    /// The kernel has seen that the checksum is right.
    pub data_valid: bool,
    /// Whether the frame stands for several.
    pub gso: Gso,
    /// The last piece of TCP that the sender's congestion control reduced its window for is among them (CWR).
    pub ecn: bool,
    /// Bytes of all headers together; a hint.
    pub hdr_len: u16,
    /// Bytes of payload of each piece but the last.
    pub gso_size: u16,
    /// Where the checksum begins.
    pub csum_start: u16,
    /// Where from there it stands.
    pub csum_offset: u16,
}

/// How a frame is to be cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gso {
    /// It is one frame.
    #[default]
    None,
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP datagrams (USO: `VIRTIO_NET_HDR_GSO_UDP_L4`).
    Udp,
}

/// A way to cut that nobody asked the kernel for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame to be cut in the unknown way {0}")]
pub struct UnknownGso(pub u8);

impl VnetHeader {
    /// Reads the header.
    ///
    /// # Errors
    /// When the kernel speaks of a way to cut that is not known here.
    pub const fn parse(bytes: &[u8; LEN]) -> Result<Self, UnknownGso> {
        let &[flags, kind, h0, h1, g0, g1, s0, s1, o0, o1] = bytes;
        let gso = match kind & !GSO_ECN {
            0 => Gso::None,
            GSO_TCPV4 => Gso::Tcp4,
            GSO_TCPV6 => Gso::Tcp6,
            GSO_UDP_L4 => Gso::Udp,
            other => return Err(UnknownGso(other)),
        };
        Ok(Self {
            needs_csum: flags & NEEDS_CSUM != 0,
            data_valid: flags & DATA_VALID != 0,
            gso,
            ecn: kind & GSO_ECN != 0,
            hdr_len: u16::from_ne_bytes([h0, h1]),
            gso_size: u16::from_ne_bytes([g0, g1]),
            csum_start: u16::from_ne_bytes([s0, s1]),
            csum_offset: u16::from_ne_bytes([o0, o1]),
        })
    }

    /// The header's bytes.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; LEN] {
        let mut flags = 0;
        if self.needs_csum {
            flags |= NEEDS_CSUM;
        }
        if self.data_valid {
            flags |= DATA_VALID;
        }
        let kind = match self.gso {
            Gso::None => 0,
            Gso::Tcp4 => GSO_TCPV4,
            Gso::Tcp6 => GSO_TCPV6,
            Gso::Udp => GSO_UDP_L4,
        };
        let kind = if self.ecn { kind | GSO_ECN } else { kind };
        let [h0, h1] = self.hdr_len.to_ne_bytes();
        let [g0, g1] = self.gso_size.to_ne_bytes();
        let [s0, s1] = self.csum_start.to_ne_bytes();
        let [o0, o1] = self.csum_offset.to_ne_bytes();
        [flags, kind, h0, h1, g0, g1, s0, s1, o0, o1]
    }
}

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn unknown_ways_to_cut_are_refused() {
        let with = |kind| VnetHeader::parse(&[0, kind, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            with(3),
            Err(UnknownGso(3)),
            "IP fragmentation of UDP, gone from kernels"
        );
        assert_eq!(
            with(0x81).map(|header| (header.gso, header.ecn)),
            Ok((Gso::Tcp4, true))
        );
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_again(mut bytes: [u8; LEN]) {
            bytes[0] &= 3;
            if let Ok(header) = VnetHeader::parse(&bytes) {
                prop_assert_eq!(header.to_bytes(), bytes);
            }
        }
    }
}
