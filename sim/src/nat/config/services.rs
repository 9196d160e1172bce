//! What a gateway is told about the protocols by which hosts ask it for a mapping, and about IPv6-only hosts. Decides
//! nothing.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A server for PCP (RFC 6887) and NAT-PMP (RFC 6886) at the gateway's inside address, UDP port 5351.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PortMapping {
    /// It speaks PCP.
    pub pcp: bool,
    /// It speaks NAT-PMP.
    pub nat_pmp: bool,
    /// What it does when asked for a mapping.
    pub answer: MappingAnswer,
    /// The longest lifetime that it grants.
    #[serde(with = "crate::duration")]
    pub longest: Duration,
}

impl Default for PortMapping {
    fn default() -> Self {
        Self {
            pcp: true,
            nat_pmp: true,
            answer: MappingAnswer::Works,
            longest: Duration::from_hours(2),
        }
    }
}

/// What a gateway does when it is asked for a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MappingAnswer {
    /// It makes it.
    Works,
    /// It says "not authorized".
    Refuses,
    /// It says yes and makes none.
    MapsNothing,
    /// It makes it, and names another outside address than its own.
    WrongAddress,
    /// It makes it, and names another outside port.
    WrongPort,
}

/// A NAT64's prefix (RFC 6052): 96 bits, then an IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Nat64Prefix(Ipv6Addr);

/// Text that is no such prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no NAT64 prefix: write 96 bits, for example 64:ff9b::/96")]
pub struct NotAPrefix(String);

impl Nat64Prefix {
    /// RFC 6052, section 2.1.
    pub const WELL_KNOWN: Self = Self(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0));

    /// The IPv6 address that stands for an IPv4 one.
    #[must_use]
    pub fn embed(self, address: Ipv4Addr) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.0.to_bits() | u128::from(address.to_bits()))
    }

    /// The IPv4 address that an IPv6 one stands for.
    #[must_use]
    pub fn extract(self, address: IpAddr) -> Option<Ipv4Addr> {
        let IpAddr::V6(address) = address else {
            return None;
        };
        let low = u32::try_from(address.to_bits() & 0xffff_ffff).ok()?;
        let embedded = Ipv4Addr::from_bits(low);
        (self.embed(embedded) == address).then_some(embedded)
    }
}

impl FromStr for Nat64Prefix {
    type Err = NotAPrefix;

    fn from_str(text: &str) -> Result<Self, NotAPrefix> {
        let refused = || NotAPrefix(text.to_owned());
        let (address, bits) = text.split_once('/').ok_or_else(refused)?;
        let address: Ipv6Addr = address.parse().map_err(|_| refused())?;
        let fits = bits == "96" && address.to_bits() & 0xffff_ffff == 0;
        fits.then_some(Self(address)).ok_or_else(refused)
    }
}

impl TryFrom<String> for Nat64Prefix {
    type Error = NotAPrefix;

    fn try_from(text: String) -> Result<Self, NotAPrefix> {
        text.parse()
    }
}

impl From<Nat64Prefix> for String {
    fn from(prefix: Nat64Prefix) -> Self {
        prefix.to_string()
    }
}

impl fmt::Display for Nat64Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/96", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_96_bits_are_a_prefix() {
        assert_eq!("64:ff9b::/96".parse(), Ok(Nat64Prefix::WELL_KNOWN));
        for wrong in [
            "64:ff9b::",
            "64:ff9b::/64",
            "64:ff9b::1/96",
            "1.2.3.4/96",
            "/96",
        ] {
            assert!(wrong.parse::<Nat64Prefix>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_embedded_is_extracted(bits: u32, other: u128) {
            let (prefix, address) = (Nat64Prefix::WELL_KNOWN, Ipv4Addr::from_bits(bits));
            prop_assert_eq!(prefix.extract(prefix.embed(address).into()), Some(address));
            let foreign = Ipv6Addr::from_bits(other | 1 << 127);
            prop_assert_eq!(prefix.extract(foreign.into()), None);
        }
    }
}
