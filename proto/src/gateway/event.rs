//! What the virtual host tells (REQUIREMENTS E19), and the rows of its session table (E9).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::Serialize;

use super::access::Protocol;
use super::tcp::End;
use crate::wire::ethernet::MacAddr;

/// Something that the log keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum NatEvent {
    /// A station's new TCP connection; the other host is being called.
    TcpCreated {
        /// Counts connections up.
        session: u64,
        /// The station.
        source: SocketAddr,
        /// Where it wants to go.
        destination: SocketAddr,
    },
    /// The other host has answered.
    TcpConnected {
        /// As in `TcpCreated`.
        session: u64,
        /// The other host, as really connected.
        host: IpAddr,
        /// Its port.
        port: u16,
    },
    /// The other host has not answered, or refused.
    TcpFailed {
        /// As in `TcpCreated`.
        session: u64,
        /// Where it was to go.
        destination: SocketAddr,
        /// Why.
        reason: String,
    },
    /// A TCP connection is over.
    TcpDeleted {
        /// As in `TcpCreated`.
        session: u64,
        /// The station.
        source: SocketAddr,
        /// The other side.
        destination: SocketAddr,
        /// Why.
        reason: End,
        /// Bytes from the station.
        sent: u64,
        /// Bytes to the station.
        received: u64,
    },
    /// A station's new UDP mapping.
    UdpCreated {
        /// Counts up together with TCP.
        session: u64,
        /// The station.
        source: SocketAddr,
        /// The first destination.
        destination: SocketAddr,
    },
    /// A UDP mapping is over.
    UdpDeleted {
        /// As in `UdpCreated`.
        session: u64,
        /// The station.
        source: SocketAddr,
        /// Bytes from the station.
        sent: u64,
        /// Bytes to the station.
        received: u64,
    },
    /// The rules do not let a station go there.
    Refused {
        /// The station.
        source: IpAddr,
        /// Where it wanted to go.
        destination: SocketAddr,
        /// How.
        protocol: Protocol,
    },
    /// This machine's own traffic comes back in at the virtual host: its way out leads through the virtual network.
    Loop {
        /// An address of this machine.
        source: IpAddr,
        /// Where it wanted to go.
        destination: IpAddr,
    },
    /// The system does not let this user ping.
    PingNotPermitted,
    /// No resolver answers.
    ResolverSilent {
        /// The last that was asked.
        resolver: SocketAddr,
    },
    /// A bound is reached; what came is dropped until there is room.
    LimitReached {
        /// Which.
        what: &'static str,
        /// Who wanted more.
        source: IpAddr,
    },
    /// A published port leads to a member that does not answer ARP.
    MemberAbsent {
        /// The member's address.
        member: IpAddr,
    },
    /// The DHCP server has given out an address.
    DhcpCreated {
        /// Counts leases up.
        id: u64,
        /// The card.
        mac: MacAddr,
        /// The address.
        address: Ipv4Addr,
        /// The name that the station says it has.
        host_name: String,
        /// For how long.
        seconds: u64,
    },
    /// A lease is over.
    DhcpDeleted {
        /// As in `DhcpCreated`.
        id: u64,
        /// The address.
        address: Ipv4Addr,
        /// Released, declined or expired.
        reason: &'static str,
    },
    /// No address is left.
    DhcpExhausted {
        /// Who wanted one.
        mac: MacAddr,
    },
}

/// A row of the session table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NatRow {
    /// As in the log.
    pub session: u64,
    /// What is spoken.
    pub protocol: Protocol,
    /// The station.
    pub source: SocketAddr,
    /// The other side; for UDP the latest.
    pub destination: SocketAddr,
    /// Seconds since it began.
    pub age_seconds: u64,
    /// Seconds since something was last said.
    pub idle_seconds: u64,
    /// Bytes from the station.
    pub sent: u64,
    /// Bytes to the station.
    pub received: u64,
    /// "connecting", "open" and so on.
    pub state: &'static str,
}

/// What the NAT has done since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NatCounters {
    /// Frames from stations.
    pub frames: u64,
    /// Not for it, or of a kind that it does not speak.
    pub ignored: u64,
    /// Cut short, wrong checksum, impossible addresses or options.
    pub malformed: u64,
    /// Fragments that overlap, are too many, or were not completed.
    pub dropped_fragments: u64,
    /// Forbidden by the rules.
    pub refused: u64,
    /// This machine's own, in a loop.
    pub loops: u64,
    /// A bound was reached.
    pub dropped_limit: u64,
    /// Another station uses the address of a connection's.
    pub spoofed: u64,
    /// Segments and datagrams of no session.
    pub unknown: u64,
    /// Datagrams from hosts that the station has not written to.
    pub filtered: u64,
    /// Frames for the switch that nobody fetched in time.
    pub dropped_queue: u64,
    /// Events that nobody fetched in time.
    pub dropped_events: u64,
    /// Answers by ICMP that were not sent, because there were too many.
    pub errors_limited: u64,
}
