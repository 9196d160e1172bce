//! Ethernet II headers (IEEE 802.3): just what a switch reads.

use std::fmt;
use std::str::FromStr;

/// Bytes of a header without a VLAN tag.
pub const HEADER: usize = 14;

/// A MAC address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// All ones: for everybody.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether it names a group (the I/G bit): broadcast and multicast.
    #[must_use]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// The address with the locally-administered bit set and the group bit clear (IEEE 802, section 8.4).
    #[must_use]
    pub const fn locally_administered(mut bytes: [u8; 6]) -> Self {
        bytes[0] = (bytes[0] | 0b10) & !0b01;
        Self(bytes)
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not a MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a MAC address is six pairs of hexadecimal digits, such as 02:00:5e:10:00:01")]
pub struct NotAMac;

impl FromStr for MacAddr {
    type Err = NotAMac;

    fn from_str(text: &str) -> Result<Self, NotAMac> {
        let mut bytes = [0; 6];
        let mut pairs = text.split([':', '-']);
        for byte in &mut bytes {
            let pair = pairs.next().filter(|pair| pair.len() == 2).ok_or(NotAMac)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| NotAMac)?;
        }
        if pairs.next().is_some() {
            Err(NotAMac)
        } else {
            Ok(Self(bytes))
        }
    }
}

impl serde::Serialize for MacAddr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The two addresses at the start of a frame; `None` when it is shorter than a header.
#[must_use]
pub fn addresses(frame: &[u8]) -> Option<(MacAddr, MacAddr)> {
    let header: &[u8; HEADER] = frame.first_chunk()?;
    let destination = MacAddr([
        header[0], header[1], header[2], header[3], header[4], header[5],
    ]);
    let source = MacAddr([
        header[6], header[7], header[8], header[9], header[10], header[11],
    ]);
    Some((destination, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        let mac = MacAddr([0x02, 0, 0x5e, 0x10, 0, 1]);
        assert_eq!(mac.to_string().parse(), Ok(mac));
        for bad in [
            "",
            "02:00:5e:10:00",
            "02:00:5e:10:00:01:02",
            "0:00:5e:10:00:011",
            "zz:00:5e:10:00:01",
        ] {
            assert_eq!(bad.parse::<MacAddr>(), Err(NotAMac), "{bad}");
        }
    }

    #[test]
    fn a_short_frame_has_no_addresses() {
        assert_eq!(addresses(&[0; HEADER - 1]), None);
        assert!(addresses(&[0; HEADER]).is_some());
    }
}
