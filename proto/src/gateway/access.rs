//! Where members may go through the NAT: the user's rules in their order, then what holds without any.
//!
//! Without a rule: everywhere that the host's own routes lead, so the LAN that it is in; but never to the host's loopback
//! (services that trust their own machine), to the address where clouds answer with their machines' secrets
//! (169.254.169.254, fd00:ec2::254), to many hosts at once, or to addresses that mean nothing. The host's own
//! addresses in its LAN are part of that LAN: what listens only on loopback stays out of reach.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A network: an address and how many of its bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Net {
    address: IpAddr,
    prefix: u8,
}

impl Net {
    /// The network of an address.
    ///
    /// # Errors
    /// When there are not that many bits.
    pub const fn new(address: IpAddr, prefix: u8) -> Result<Self, NotARule> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        if prefix > bits {
            return Err(NotARule::Net);
        }
        let address = match address {
            IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask32(prefix))),
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask128(prefix))),
        };
        Ok(Self { address, prefix })
    }

    /// Its first address.
    #[must_use]
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// How many bits count.
    #[must_use]
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether an address belongs to it.
    #[must_use]
    pub const fn contains(self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                own.to_bits() == other.to_bits() & mask32(self.prefix)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                own.to_bits() == other.to_bits() & mask128(self.prefix)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl FromStr for Net {
    type Err = NotARule;

    fn from_str(text: &str) -> Result<Self, NotARule> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NotARule::Net)?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().map_err(|_| NotARule::Net)?,
            None => whole,
        };
        Self::new(address, prefix)
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP echo.
    Icmp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        })
    }
}

/// One rule: `NETWORK[/PREFIX][:PORT[-PORT]][/tcp|/udp|/icmp]`, an IPv6 network in brackets when a port follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Whether it allows or forbids.
    pub allow: bool,
    /// Where to.
    pub net: Net,
    /// Which ports, when only some.
    pub ports: Option<(u16, u16)>,
    /// Which protocol, when only one.
    pub protocol: Option<Protocol>,
}

/// Text that is no rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotARule {
    /// The network.
    #[error("write a network as ADDRESS or ADDRESS/PREFIX, such as 192.168.1.0/24")]
    Net,
    /// The ports.
    #[error("write ports as PORT or FIRST-LAST, such as 192.168.1.0/24:80-443")]
    Ports,
}

impl Rule {
    /// The rule that `text` is.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(allow: bool, text: &str) -> Result<Self, NotARule> {
        let (text, protocol) = match text.rsplit_once('/') {
            Some((rest, "tcp")) => (rest, Some(Protocol::Tcp)),
            Some((rest, "udp")) => (rest, Some(Protocol::Udp)),
            Some((rest, "icmp")) => (rest, Some(Protocol::Icmp)),
            _ => (text, None),
        };
        let (net, ports) = match text.strip_prefix('[') {
            Some(rest) => {
                let (net, ports) = rest.split_once(']').ok_or(NotARule::Net)?;
                (net, ports.strip_prefix(':'))
            }
            None if text.matches(':').count() == 1 => {
                let (net, ports) = text.split_once(':').ok_or(NotARule::Net)?;
                (net, Some(ports))
            }
            None => (text, None),
        };
        Ok(Self {
            allow,
            net: net.parse()?,
            ports: ports.map(parse_ports).transpose()?,
            protocol,
        })
    }

    fn matches(&self, protocol: Protocol, to: IpAddr, port: u16) -> bool {
        self.net.contains(to)
            && self.protocol.is_none_or(|wanted| wanted == protocol)
            && self
                .ports
                .is_none_or(|(first, last)| (first..=last).contains(&port))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = if self.allow { "allow" } else { "deny" };
        match self.ports {
            Some((first, last)) if self.net.address.is_ipv4() => {
                write!(f, "{action} {}:{first}-{last}", self.net)?;
            }
            Some((first, last)) => write!(f, "{action} [{}]:{first}-{last}", self.net)?,
            None => write!(f, "{action} {}", self.net)?,
        }
        self.protocol
            .map_or(Ok(()), |protocol| write!(f, "/{protocol}"))
    }
}

fn parse_ports(text: &str) -> Result<(u16, u16), NotARule> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let first: u16 = first.parse().map_err(|_| NotARule::Ports)?;
    let last: u16 = last.parse().map_err(|_| NotARule::Ports)?;
    if first <= last {
        Ok((first, last))
    } else {
        Err(NotARule::Ports)
    }
}

/// Whether a member may go there: by the first rule that says something, or else by what holds without any.
#[must_use]
pub fn may(rules: &[Rule], protocol: Protocol, to: IpAddr, port: u16) -> bool {
    if means_nothing(to) {
        return false;
    }
    let guarded = is_guarded(to);
    // Whoever allows the whole world does not think of these.
    let meant = |rule: &&Rule| !(rule.allow && guarded && rule.net.prefix < 8);
    let said = rules
        .iter()
        .filter(meant)
        .find(|rule| rule.matches(protocol, to, port));
    said.map_or(!guarded, |rule| rule.allow)
}

/// What no rule can allow: nobody, everybody, and groups.
fn means_nothing(to: IpAddr) -> bool {
    match to {
        IpAddr::V4(v4) => v4.octets()[0] == 0 || v4.is_multicast() || v4.octets()[0] >= 240,
        IpAddr::V6(v6) => {
            v6.is_unspecified()
                || v6.is_multicast()
                || v6.is_unicast_link_local()
                || v6.to_ipv4_mapped().is_some()
        }
    }
}

fn is_guarded(to: IpAddr) -> bool {
    match to {
        IpAddr::V4(v4) => v4.is_loopback() || v4 == METADATA_V4,
        IpAddr::V6(v6) => v6.is_loopback() || v6 == METADATA_V6,
    }
}

const fn mask32(prefix: u8) -> u32 {
    match u32::MAX.checked_shr(prefix as u32) {
        Some(host) => !host,
        None => u32::MAX,
    }
}

const fn mask128(prefix: u8) -> u128 {
    match u128::MAX.checked_shr(prefix as u32) {
        Some(host) => !host,
        None => u128::MAX,
    }
}

/// Where clouds tell their machines' secrets.
const METADATA_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn without_rules_the_lan_is_open_and_the_host_itself_is_not() {
        for open in [
            "192.168.1.20",
            "10.0.0.1",
            "198.51.100.1",
            "2001:db8::1",
            "fd12::1",
        ] {
            assert!(may(&[], Protocol::Tcp, ip(open), 80), "{open}");
        }
        for shut in [
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "169.254.169.254",
            "fd00:ec2::254",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "ff02::1",
            "fe80::1",
            "::",
            "::ffff:127.0.0.1",
        ] {
            assert!(!may(&[], Protocol::Tcp, ip(shut), 80), "{shut}");
        }
    }

    #[test]
    fn the_first_rule_that_says_something_holds() {
        let rule = |allow, text| Rule::parse(allow, text).expect("a rule");
        let rules = [
            rule(true, "127.0.0.1:5432/tcp"),
            rule(false, "192.168.1.1"),
            rule(true, "192.168.1.0/24:80-443"),
            rule(false, "0.0.0.0/0"),
            rule(true, "[::1]:53/udp"),
        ];
        assert!(may(&rules, Protocol::Tcp, ip("127.0.0.1"), 5432));
        assert!(!may(&rules, Protocol::Udp, ip("127.0.0.1"), 5432));
        assert!(!may(&rules, Protocol::Tcp, ip("192.168.1.1"), 80));
        assert!(may(&rules, Protocol::Tcp, ip("192.168.1.2"), 80));
        assert!(!may(&rules, Protocol::Tcp, ip("192.168.1.2"), 22));
        assert!(may(&rules, Protocol::Udp, ip("::1"), 53));
        assert!(!may(&rules, Protocol::Udp, ip("::1"), 54));
        let world = [rule(true, "0.0.0.0/0")];
        assert!(!may(&world, Protocol::Tcp, ip("224.0.0.1"), 80));
        assert!(!may(&world, Protocol::Tcp, ip("169.254.169.254"), 80));
        let meant = [rule(true, "169.254.169.254")];
        assert!(may(&meant, Protocol::Tcp, ip("169.254.169.254"), 80));
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for text in [
            "",
            "x",
            "192.168.1.0/33",
            "192.168.1.1:0-x",
            "192.168.1.1:9-8",
            "[::1",
            "::1/129",
        ] {
            assert!(Rule::parse(true, text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_rule_is_written_as_it_is_read(address: u32, prefix in 0u8..=32, first: u16, last: u16, allow: bool) {
            let (first, last) = (first.min(last), first.max(last));
            let rule = Rule {
                allow,
                net: Net::new(IpAddr::V4(Ipv4Addr::from_bits(address)), prefix).expect("short"),
                ports: Some((first, last)),
                protocol: Some(Protocol::Udp),
            };
            let text = rule.to_string();
            let (_, text) = text.split_once(' ').expect("two words");
            prop_assert_eq!(Rule::parse(allow, text), Ok(rule));
        }
    }
}
