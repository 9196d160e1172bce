//! What the user says about SecureNAT, and its defaults (REQUIREMENTS E5, E6, E15).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::access::{Protocol, Rule};
use super::subnet::Subnet;

/// The NAT's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatSettings {
    /// The virtual host's address and network.
    pub subnet: Subnet,
    /// Its IPv6 address, the first of a unique local /64 (RFC 4193).
    pub ipv6: Option<Ipv6Addr>,
    /// A TCP connection that is silent for so long ends (E6; RFC 5382 asks for 7440 s at least, and 7200 s is the documents').
    pub tcp_idle: Duration,
    /// A UDP mapping that is unused for so long ends (E6; RFC 4787, REQ-5).
    pub udp_idle: Duration,
    /// Every ping is answered by the virtual host itself, whether the target is there or not (E10).
    pub dummy_ping: bool,
    /// Where members may go.
    pub rules: Vec<Rule>,
    /// The host's own resolvers, for questions to the virtual host.
    pub resolvers: Vec<SocketAddr>,
    /// Ports of the host that lead to members.
    pub publish: Vec<Publish>,
    /// The host's own addresses: who sends from one of them is the host itself, in a loop (E12).
    pub own_addresses: Vec<IpAddr>,
    /// Bounds.
    pub limits: Limits,
}

impl NatSettings {
    /// The defaults for a network.
    #[must_use]
    pub fn new(subnet: Subnet) -> Self {
        Self {
            subnet,
            ipv6: None,
            tcp_idle: Duration::from_secs(7200),
            udp_idle: Duration::from_secs(600),
            dummy_ping: false,
            rules: Vec::new(),
            resolvers: Vec::new(),
            publish: Vec::new(),
            own_addresses: Vec::new(),
            limits: Limits::default(),
        }
    }
}

/// A port of the host that leads to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Of the host.
    pub port: u16,
    /// The member's address and port.
    pub to: SocketAddr,
}

/// Text that is no published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write tcp:PORT:ADDRESS:PORT or udp:PORT:ADDRESS:PORT, such as tcp:8080:192.168.30.10:80")]
pub struct NotAPublish;

impl std::str::FromStr for Publish {
    type Err = NotAPublish;

    fn from_str(text: &str) -> Result<Self, NotAPublish> {
        let (protocol, rest) = text.split_once(':').ok_or(NotAPublish)?;
        let (port, to) = rest.split_once(':').ok_or(NotAPublish)?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(NotAPublish),
        };
        let port = port.parse().ok().filter(|port| *port != 0);
        let port = port.ok_or(NotAPublish)?;
        let to: SocketAddr = to.parse().map_err(|_| NotAPublish)?;
        if to.port() == 0 {
            return Err(NotAPublish);
        }
        Ok(Self { protocol, port, to })
    }
}

impl std::fmt::Display for Publish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.protocol, self.port, self.to)
    }
}

/// Bounds of the NAT's memory and of what one station may take of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// TCP connections.
    pub tcp: usize,
    /// TCP connections that have not come about yet.
    pub half_open: usize,
    /// UDP mappings.
    pub udp: usize,
    /// Pings under way.
    pub pings: usize,
    /// Questions to resolvers under way.
    pub questions: usize,
    /// Of each of these, how much one station may take: one part in so many.
    pub station_share: usize,
    /// Bytes that all connections together keep of what came out of order or before a full socket.
    pub held_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tcp: 32_768,
            half_open: 4096,
            udp: 8192,
            pings: 1024,
            questions: 1024,
            station_share: 2,
            held_bytes: 64 << 20,
        }
    }
}

/// The DHCP server's settings; what is `None` or empty is left out of its answers (E16).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhcpSettings {
    /// First address that is given out.
    pub first: Ipv4Addr,
    /// Last address that is given out.
    pub last: Ipv4Addr,
    /// For how long.
    pub lease: Duration,
    /// The default gateway, when stations are to send everything through us.
    pub gateway: Option<Ipv4Addr>,
    /// Resolvers.
    pub dns: Vec<Ipv4Addr>,
    /// The domain's name.
    pub domain: String,
    /// Networks that are reached through the virtual host (option 121, RFC 3442).
    pub routes: Vec<(Ipv4Addr, u8)>,
    /// Addresses that are kept for certain cards.
    pub reservations: Vec<(crate::wire::ethernet::MacAddr, Ipv4Addr)>,
}
