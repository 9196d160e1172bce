//! What happened to which packet: one line each, and one hash over all lines, so that two runs of one seed are compared by
//! one number. Sizes and addresses only: payloads may be encrypted with keys that no seed decides.

use std::fmt::{self, Write};
use std::time::Duration;

use super::{HostId, RouterId, SegmentId};
use crate::link::LinkDrop;
use crate::nat::DropReason;
use crate::packet::{Body, Flow, Packet};

/// How much is kept of what happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Logging {
    /// Nothing: for speed.
    #[default]
    Off,
    /// The hash alone.
    Hash,
    /// The hash and every entry.
    Lines,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Since the network's start.
    pub at: Duration,
    /// What happened.
    pub event: Event,
    /// To which packet.
    pub packet: Summary,
}

/// What happened to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A host sent it.
    Sent(HostId),
    /// A host got it.
    Received(HostId),
    /// A router let it out, as it is now.
    Outbound(RouterId),
    /// A router let it in, as it is now.
    Inbound(RouterId),
    /// A router sent it back inside, as it is now.
    Hairpin(RouterId),
    /// A router answered with it as a server.
    Served(RouterId),
    /// A link made two of it.
    Duplicated(Place),
    /// A router made it to report an error.
    Reported(Place),
    /// It was lost.
    Dropped(Place, Cause),
}

/// Where something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The link from or to a host.
    Host(HostId),
    /// A router, or the link from or to it.
    Router(RouterId),
    /// A segment; number 0 is the core.
    Segment(SegmentId),
}

/// Why a packet was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// A link lost it.
    Link(LinkDrop),
    /// A link's MTU was too small, and the sender is told.
    TooBig,
    /// A NAT or firewall dropped it.
    Nat(DropReason),
    /// A router's rules forbid it.
    Forbidden,
    /// Its TTL ran out, and the sender is told.
    TimeExceeded,
    /// Nobody has its destination address here.
    Unroutable,
    /// Its sender is not attached to anything.
    Detached,
}

/// As much of a packet as the log keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    what: What,
    /// IP length in bytes.
    pub len: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Flow(Flow),
    Error(u8, u8, std::net::IpAddr, std::net::IpAddr),
    Protocol(u8, std::net::IpAddr, std::net::IpAddr),
}

/// The entries, their hash, and how many there were.
#[derive(Debug)]
pub struct Log {
    logging: Logging,
    hash: Fnv,
    count: u64,
    entries: Vec<Entry>,
}

impl Log {
    pub(super) const fn new(logging: Logging) -> Self {
        Self {
            logging,
            hash: Fnv::new(),
            count: 0,
            entries: Vec::new(),
        }
    }

    pub(super) const fn set(&mut self, logging: Logging) {
        self.logging = logging;
    }

    pub(super) fn is_on(&self) -> bool {
        self.logging != Logging::Off
    }

    pub(super) fn push(&mut self, at: Duration, event: Event, packet: Summary) {
        let entry = Entry { at, event, packet };
        let _never_fails = writeln!(self.hash, "{entry}");
        self.count += 1;
        if self.logging == Logging::Lines && self.entries.len() < MAX_ENTRIES {
            self.entries.push(entry);
        }
    }

    /// FNV-1a, 64 bits, over all lines so far, each with its newline.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash.0
    }

    /// How many entries there were, kept or not.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The kept ones; each prints as one line.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entries
            .iter()
            .try_for_each(|entry| writeln!(f, "{entry}"))
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanos) = (self.at.as_secs(), self.at.subsec_nanos());
        write!(f, "{seconds:>4}.{nanos:09} {} {}", self.event, self.packet)
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent(host) => write!(f, "{host} sent"),
            Self::Received(host) => write!(f, "{host} received"),
            Self::Outbound(router) => write!(f, "{router} out"),
            Self::Inbound(router) => write!(f, "{router} in"),
            Self::Hairpin(router) => write!(f, "{router} hairpin"),
            Self::Served(router) => write!(f, "{router} answered"),
            Self::Duplicated(place) => write!(f, "{place} duplicated"),
            Self::Reported(place) => write!(f, "{place} reported"),
            Self::Dropped(place, cause) => write!(f, "{place} dropped ({cause})"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => host.fmt(f),
            Self::Router(router) => router.fmt(f),
            Self::Segment(segment) => segment.fmt(f),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(LinkDrop::Loss) => f.write_str("loss"),
            Self::Link(LinkDrop::QueueFull) => f.write_str("queue full"),
            Self::Link(LinkDrop::BlackHole) => f.write_str("MTU black hole"),
            Self::TooBig => f.write_str("too big"),
            Self::Nat(reason) => reason.fmt(f),
            Self::Forbidden => f.write_str("forbidden"),
            Self::TimeExceeded => f.write_str("TTL ran out"),
            Self::Unroutable => f.write_str("unroutable"),
            Self::Detached => f.write_str("detached"),
        }
    }
}

impl Summary {
    pub(super) fn of(packet: &Packet) -> Self {
        let (source, destination) = (packet.source, packet.destination);
        let what = match (&packet.body, packet.flow()) {
            (_, Some(flow)) => What::Flow(flow),
            (
                Body::IcmpError {
                    icmp_type, code, ..
                },
                None,
            ) => What::Error(*icmp_type, *code, source, destination),
            (body, None) => What::Protocol(body.protocol(source.is_ipv6()), source, destination),
        };
        Self {
            what,
            len: packet.len(),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.what {
            What::Flow(flow) => {
                let (protocol, source, destination) =
                    (flow.protocol, flow.source, flow.destination);
                write!(f, "{protocol} {source} > {destination}")?;
            }
            What::Error(icmp_type, code, source, destination) => {
                write!(f, "icmp error {icmp_type}/{code} {source} > {destination}")?;
            }
            What::Protocol(protocol, source, destination) => {
                write!(f, "protocol {protocol} {source} > {destination}")?;
            }
        }
        write!(f, " {} B", self.len)
    }
}

/// FNV-1a (RFC 9923): small, and the same everywhere for ever.
#[derive(Debug)]
struct Fnv(u64);

impl Fnv {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}

/// Beyond as many entries only the hash and the count go on.
const MAX_ENTRIES: usize = 4_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        let mut hash = Fnv::new();
        hash.write_str("foobar").expect("never fails");
        assert_eq!(hash.0, 0x8594_4171_f739_67e8);
    }
}
