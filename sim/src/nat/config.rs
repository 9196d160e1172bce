//! What a NAT is told: its behaviour as independent axes, in the words of RFC 4787. Decides only which axes contradict
//! each other.

use std::time::Duration;

use serde::{Deserialize, Serialize};

mod names;
mod ports;
mod preset;
mod services;
mod timers;

pub use names::UnknownName;
pub use ports::{Allocation, PortBlock, PortConfig};
pub use preset::Preset;
pub use services::{MappingAnswer, Nat64Prefix, NotAPrefix, PortMapping};
pub use timers::{IdleTimers, Limits, Overflow, Refresh, State, Timers};

/// A NAT's behaviour. The default is a `port-restricted` one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct NatConfig {
    /// For which destinations an inside endpoint keeps its outside endpoint (RFC 4787, section 4.1). `none` translates
    /// nothing: with `filtering` it makes a firewall, without a plain router.
    pub mapping: Behavior,
    /// Who may send to a mapping (RFC 4787, section 5). `none` admits everybody.
    pub filtering: Behavior,
    /// How outside ports are chosen.
    pub ports: PortConfig,
    /// Whether inside hosts reach each other by their outside endpoints (RFC 4787, section 6).
    pub hairpin: Hairpin,
    /// Which outside address a host gets, when there are several (RFC 4787, section 4.1).
    pub pooling: Pooling,
    /// When mappings end.
    pub timers: Timers,
    /// How much is remembered.
    pub limits: Limits,
    /// What a packet gets that nobody inside waits for.
    pub unsolicited: Unsolicited,
    /// An inside host's answer leaves by the mapping by which the packet came in, even where `mapping` would choose
    /// another (only of use with per-session state, which remembers such packets).
    pub reuse_inbound: bool,
    /// What becomes of ICMP errors from outside about packets that left.
    pub icmp_errors: IcmpErrors,
    /// What becomes of fragments (RFC 4787, section 11).
    pub fragments: Fragments,
    /// Packets that must not be fragmented leave as such that may be.
    pub clear_dont_fragment: bool,
    /// What goes wrong in a mapping's life.
    pub quirks: Quirks,
    /// A server that makes mappings when asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_mapping: Option<PortMapping>,
    /// IPv6-only hosts reach IPv4 by addresses of this prefix (RFC 6146).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nat64: Option<Nat64Prefix>,
}

impl Default for NatConfig {
    fn default() -> Self {
        Self {
            mapping: Behavior::EndpointIndependent,
            filtering: Behavior::AddressAndPortDependent,
            ports: PortConfig::default(),
            hairpin: Hairpin::None,
            pooling: Pooling::Paired,
            timers: Timers::default(),
            limits: Limits::default(),
            unsolicited: Unsolicited::Drop,
            reuse_inbound: false,
            icmp_errors: IcmpErrors::Translate,
            fragments: Fragments::AnyOrder,
            clear_dont_fragment: false,
            quirks: Quirks::default(),
            port_mapping: None,
            nat64: None,
        }
    }
}

impl NatConfig {
    /// The 3 × 3 × 3 of the matrix; everything else as usual.
    #[must_use]
    pub fn of(mapping: Behavior, filtering: Behavior, allocation: Allocation) -> Self {
        Self {
            mapping,
            filtering,
            ports: PortConfig {
                allocation,
                ..PortConfig::default()
            },
            ..Self::default()
        }
    }

    /// It neither translates nor refuses anything.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.mapping == Behavior::None && self.filtering == Behavior::None
    }

    /// # Errors
    /// When options contradict each other.
    pub fn validate(&self) -> Result<(), NatConfigError> {
        let rules = [
            (self.is_without_endpoints(), NatConfigError::NeedsMapping),
            (
                self.mapping == Behavior::None && self.hairpin != Hairpin::None,
                NatConfigError::Hairpin,
            ),
            (
                self.reuse_inbound && self.timers.state != State::PerSession,
                NatConfigError::ReuseInbound,
            ),
            (self.limits.has_zero(), NatConfigError::Limit),
            (
                self.timers.has_zero() || self.quirks.has_zero() || self.unsolicited.is_zero(),
                NatConfigError::Timer,
            ),
            (
                self.timers.filter.is_some() && self.timers.state != State::PerFilter,
                NatConfigError::FilterTimer,
            ),
            (
                self.quirks.dual_mapping_after.is_some()
                    && self.mapping != Behavior::EndpointIndependent,
                NatConfigError::DualMapping,
            ),
        ];
        self.check_ports()?;
        first_broken(&rules)
    }

    fn check_ports(&self) -> Result<(), NatConfigError> {
        let ports = &self.ports;
        let size = u32::from(ports.last.saturating_sub(ports.first)) + 1;
        let block_fits = |block: PortBlock| {
            block.size > 0 && block.per_host > 0 && u32::from(block.size) <= size
        };
        first_broken(&[
            (
                ports.first == 0 || ports.first > ports.last,
                NatConfigError::PortRange(ports.first, ports.last),
            ),
            (ports.step == 0, NatConfigError::Step),
            (
                !(0.0..=MOST_FLOWS).contains(&ports.background),
                NatConfigError::BackgroundRate,
            ),
            (
                ports.background > 0.0 && (!ports.is_sequential() || ports.block.is_some()),
                NatConfigError::Background,
            ),
            (
                ports.block.is_some_and(|block| !block_fits(block)),
                NatConfigError::Block,
            ),
            (
                ports.overloading && self.mapping != Behavior::AddressAndPortDependent,
                NatConfigError::Overloading,
            ),
            (
                ports.parity && ports.first == ports.last,
                NatConfigError::Parity,
            ),
        ])
    }

    /// It translates nothing, and yet has options that change outside endpoints.
    fn is_without_endpoints(&self) -> bool {
        self.mapping == Behavior::None
            && (self.nat64.is_some()
                || self.unsolicited == Unsolicited::Poison
                || self.quirks.rebind_every.is_some())
    }
}

fn first_broken(rules: &[(bool, NatConfigError)]) -> Result<(), NatConfigError> {
    let broken = rules.iter().find(|(broken, _)| *broken);
    broken.map_or(Ok(()), |(_, error)| Err(*error))
}

/// Options that contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NatConfigError {
    /// No port could be chosen.
    #[error("ports {0} to {1}: the first must be at least 1 and not above the last")]
    PortRange(u16, u16),
    /// The sequence would not move.
    #[error("a sequential NAT's step must not be 0")]
    Step,
    /// Nobody has as many flows.
    #[error("`background` is a number of new flows per second, from 0 to 100000")]
    BackgroundRate,
    /// There is no sequence to move.
    #[error(
        "`background` moves a sequence that all hosts share: it needs sequential ports and no blocks"
    )]
    Background,
    /// A block is a part of the ports.
    #[error(
        "a block needs at least one port and not more than there are, and a host at least one block"
    )]
    Block,
    /// Two hosts' packets could not be told apart.
    #[error(
        "`overloading` needs `mapping = \"address-and-port-dependent\"`: else two hosts' packets cannot be told apart"
    )]
    Overloading,
    /// There are no even and odd ones.
    #[error("`parity` needs more than one port")]
    Parity,
    /// Nothing could ever be remembered.
    #[error("a limit of 0 lets nothing through; `mapping = \"none\"` makes a plain router")]
    Limit,
    /// Nothing could ever be answered.
    #[error("a timer of 0 forgets before anything can come back")]
    Timer,
    /// Filters end with something else.
    #[error("a timer for filters needs `state = \"per-filter\"`")]
    FilterTimer,
    /// There is no outside endpoint to come back by.
    #[error("`hairpin` needs a mapping: with `mapping = \"none\"` there are no outside endpoints")]
    Hairpin,
    /// There is no outside endpoint to change.
    #[error(
        "`nat64`, `poison` and `rebind-every` need a mapping: with `mapping = \"none\"` there are no outside endpoints"
    )]
    NeedsMapping,
    /// There is one mapping for each remote endpoint anyway.
    #[error(
        "`dual-mapping-after` needs `mapping = \"endpoint-independent\"`: others have more than one mapping anyway"
    )]
    DualMapping,
    /// Nothing remembers what came in.
    #[error("`reuse-inbound` needs `state = \"per-session\"`")]
    ReuseInbound,
    /// A NAT must have somewhere to send from.
    #[error("a NAT that translates needs an outside address")]
    NoOutsideAddress,
}

impl NatConfigError {
    /// The option that is at fault, by its place in the file, as far as there is one.
    #[must_use]
    pub const fn option(self) -> &'static [&'static str] {
        match self {
            Self::PortRange(..) => &["ports", "first"],
            Self::Step => &["ports", "step"],
            Self::BackgroundRate | Self::Background => &["ports", "background"],
            Self::Block => &["ports", "block"],
            Self::Overloading => &["ports", "overloading"],
            Self::Parity => &["ports", "parity"],
            Self::Limit => &["limits"],
            Self::Timer => &["timers"],
            Self::FilterTimer => &["timers", "filter"],
            Self::Hairpin => &["hairpin"],
            Self::NeedsMapping => &["mapping"],
            Self::DualMapping => &["quirks", "dual-mapping-after"],
            Self::ReuseInbound => &["reuse-inbound"],
            Self::NoOutsideAddress => &["outside"],
        }
    }
}

/// How far a decision depends on the other side (RFC 4787, sections 4.1 and 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Behavior {
    /// There is no such function.
    None,
    /// On nothing.
    EndpointIndependent,
    /// On its address.
    AddressDependent,
    /// On its address and port.
    AddressAndPortDependent,
}

impl Behavior {
    /// The three that RFC 4787 names.
    pub const ALL: [Self; 3] = [
        Self::EndpointIndependent,
        Self::AddressDependent,
        Self::AddressAndPortDependent,
    ];
}

/// What happens to a packet from inside to an outside endpoint of the same NAT (RFC 4787, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hairpin {
    /// It is dropped.
    None,
    /// It comes back in with its inside source.
    InternalSource,
    /// It comes back in with its outside source, as REQ-9 wants.
    ExternalSource,
}

/// Which outside address a host gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// Always the same (REQ-2).
    Paired,
    /// Any, for each mapping anew.
    Arbitrary,
}

/// What a packet gets that nobody inside waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unsolicited {
    /// Silence.
    Drop,
    /// ICMP port unreachable.
    Icmp,
    /// Silence, and its two ends are taken as those of a connection of the gateway's own: a flow from inside with the same
    /// ends has to leave by another port (seen with Linux where its own input is not filtered).
    Poison,
    /// Silence, and for as long all packets from its address are dropped.
    BlockSource(#[serde(with = "crate::duration")] Duration),
}

impl Unsolicited {
    fn is_zero(self) -> bool {
        self == Self::BlockSource(Duration::ZERO)
    }
}

/// What becomes of ICMP errors from outside about packets that left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IcmpErrors {
    /// They pass, about the packet as it was inside (RFC 5508, section 4.1).
    Translate,
    /// They are dropped.
    Drop,
    /// They pass, and end the mapping, against REQ-10: an opener that dies on the way closes what it opened.
    EndMapping,
}

/// What becomes of fragments (RFC 4787, section 11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fragments {
    /// They are dropped.
    Drop,
    /// They pass if they come in order.
    InOrder,
    /// They pass.
    AnyOrder,
}

/// What goes wrong in a mapping's life.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Quirks {
    /// A mapping gets another outside port each time that so much time has passed, however busy it is.
    #[serde(
        with = "crate::duration::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub rebind_every: Option<Duration>,
    /// After so long a mapping is for its old remote endpoints alone, and others get a second one (seen with Palo Alto's
    /// persistent DIPP).
    #[serde(
        with = "crate::duration::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub dual_mapping_after: Option<Duration>,
}

impl Quirks {
    fn has_zero(&self) -> bool {
        let times = [self.rebind_every, self.dual_mapping_after];
        times.into_iter().flatten().any(|time| time.is_zero())
    }
}

/// More would be a bug of the scenario.
const MOST_FLOWS: f64 = 100_000.0;

#[cfg(test)]
mod tests;
