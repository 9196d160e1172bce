//! An IPv4 network and the virtual host's address in it.

use std::net::Ipv4Addr;

/// An address and the length of its network's prefix: 192.168.30.1/24.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    address: Ipv4Addr,
    prefix: u8,
}

/// Not an address that a host can have in that network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0}/{1} cannot be the virtual host's address: take an ordinary address with a prefix from 1 to 30, such as 192.168.30.1/24"
)]
pub struct NotAHost(pub Ipv4Addr, pub u8);

impl Subnet {
    /// The network of `address`.
    ///
    /// # Errors
    /// When the prefix leaves no room for a second host, or when no host can have that address: the network's own,
    /// its broadcast address, 0.0.0.0/8, 127.0.0.0/8, multicast and above.
    pub const fn new(address: Ipv4Addr, prefix: u8) -> Result<Self, NotAHost> {
        let subnet = Self { address, prefix };
        if matches!(prefix, 1..=30) && subnet.may_be_a_host(address) {
            Ok(subnet)
        } else {
            Err(NotAHost(address, prefix))
        }
    }

    /// The virtual host's address.
    #[must_use]
    pub const fn address(self) -> Ipv4Addr {
        self.address
    }

    /// Bits of the network's prefix.
    #[must_use]
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// The network's own address, the first.
    #[must_use]
    pub const fn network(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() & self.mask())
    }

    /// The address for everybody in the network, the last.
    #[must_use]
    pub const fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() | !self.mask())
    }

    /// Whether an address belongs to the network.
    #[must_use]
    pub const fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask() == self.network().to_bits()
    }

    /// Whether an answer may go to `address`: one host, and another than we (RFC 1122, section 3.2.1.3).
    pub(super) fn may_be_answered(self, address: Ipv4Addr) -> bool {
        self.may_be_a_host(address) && address != self.address
    }

    const fn may_be_a_host(self, address: Ipv4Addr) -> bool {
        let [first, ..] = address.octets();
        let reserved = first == 0 || first == 127 || first >= 224;
        let bits = address.to_bits();
        !reserved && bits != self.network().to_bits() && bits != self.broadcast().to_bits()
    }

    const fn mask(self) -> u32 {
        match u32::MAX.checked_shr(self.prefix as u32) {
            Some(host_bits) => !host_bits,
            None => u32::MAX,
        }
    }
}

impl Default for Subnet {
    /// 192.168.30.1/24 (REQUIREMENTS E5).
    fn default() -> Self {
        Self {
            address: Ipv4Addr::new(192, 168, 30, 1),
            prefix: 24,
        }
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl std::fmt::Debug for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_default_is_a_subnet() {
        let default = Subnet::default();
        assert_eq!(Subnet::new(default.address, default.prefix), Ok(default));
        assert_eq!(default.to_string(), "192.168.30.1/24");
        assert_eq!(default.broadcast(), Ipv4Addr::new(192, 168, 30, 255));
    }

    #[test]
    fn what_no_host_can_have_is_refused() {
        for (address, prefix) in [
            ([192, 168, 30, 0], 24),
            ([192, 168, 30, 255], 24),
            ([192, 168, 30, 1], 31),
            ([192, 168, 30, 1], 32),
            ([192, 168, 30, 1], 33),
            ([192, 168, 30, 1], 255),
            ([192, 168, 30, 1], 0),
            ([0, 0, 0, 1], 8),
            ([127, 0, 0, 1], 8),
            ([224, 0, 0, 1], 24),
            ([255, 255, 255, 254], 24),
        ] {
            let address = Ipv4Addr::from(address);
            assert_eq!(Subnet::new(address, prefix), Err(NotAHost(address, prefix)),);
        }
    }

    proptest! {
        #[test]
        fn a_network_begins_and_ends_where_smoltcp_says(address: u32, prefix: u8) {
            if let Ok(subnet) = Subnet::new(Ipv4Addr::from_bits(address), prefix) {
                let other = smoltcp::wire::Ipv4Cidr::new(subnet.address(), prefix);
                prop_assert_eq!(subnet.network(), other.network().address());
                prop_assert_eq!(Some(subnet.broadcast()), other.broadcast());
            }
        }
    }
}
