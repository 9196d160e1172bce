//! What a NAT is told: its behaviour as independent axes, in the words of RFC 4787, and the well-known combinations by
//! name. Decides nothing.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::packet::Protocol;

/// A NAT's behaviour. The default is a `port-restricted` one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
        let ports = &self.ports;
        if ports.first == 0 || ports.first > ports.last {
            return Err(NatConfigError::PortRange(ports.first, ports.last));
        }
        if ports.step == 0 {
            return Err(NatConfigError::Step);
        }
        if self.mapping == Behavior::None && self.hairpin != Hairpin::None {
            return Err(NatConfigError::Hairpin);
        }
        if self.reuse_inbound && self.timers.state == State::PerMapping {
            return Err(NatConfigError::ReuseInbound);
        }
        let limits = &self.limits;
        if [
            limits.mappings,
            limits.mappings_per_host,
            limits.sessions,
            limits.sessions_per_host,
        ]
        .contains(&0)
        {
            return Err(NatConfigError::Limit);
        }
        Ok(())
    }
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
    /// Nothing could ever be remembered.
    #[error("a limit of 0 lets nothing through; `mapping = \"none\"` makes a plain router")]
    Limit,
    /// There is no outside endpoint to come back by.
    #[error("`hairpin` needs a mapping: with `mapping = \"none\"` there are no outside endpoints")]
    Hairpin,
    /// Nothing remembers what came in.
    #[error("`reuse-inbound` needs `state = \"per-session\"`")]
    ReuseInbound,
    /// A NAT must have somewhere to send from.
    #[error("a NAT that translates needs an outside address")]
    NoOutsideAddress,
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

    /// As in files and on command lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::EndpointIndependent => "endpoint-independent",
            Self::AddressDependent => "address-dependent",
            Self::AddressAndPortDependent => "address-and-port-dependent",
        }
    }
}

/// How outside ports are chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PortConfig {
    /// The first choice.
    pub allocation: Allocation,
    /// What a preserving NAT does when the port is taken or out of range: `preserving` gives up.
    pub fallback: Allocation,
    /// The lowest port that is given out.
    pub first: u16,
    /// The highest.
    pub last: u16,
    /// From one sequential port to the next; may be negative.
    pub step: i32,
}

impl Default for PortConfig {
    fn default() -> Self {
        Self {
            allocation: Allocation::Preserving,
            fallback: Allocation::Random,
            first: 1024,
            last: 65535,
            step: 1,
        }
    }
}

/// One way to choose a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Allocation {
    /// The inside port, while it is free.
    Preserving,
    /// The next one of the outside address.
    Sequential,
    /// Any free one.
    Random,
}

impl Allocation {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Preserving, Self::Sequential, Self::Random];

    /// As in files and on command lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Preserving => "preserving",
            Self::Sequential => "sequential",
            Self::Random => "random",
        }
    }
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

/// When mappings end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Timers {
    /// For UDP.
    pub udp: IdleTimers,
    /// For TCP.
    pub tcp: IdleTimers,
    /// For ICMP echo.
    pub icmp: IdleTimers,
    /// Which packets keep a mapping alive (REQ-6).
    pub refresh: Refresh,
    /// What has a timer of its own.
    pub state: State,
    /// A mapping ends then, however busy it is.
    #[serde(
        with = "crate::duration::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub lifetime: Option<Duration>,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            udp: IdleTimers::seconds(30, 120),
            tcp: IdleTimers::seconds(120, 7440),
            icmp: IdleTimers::seconds(30, 60),
            refresh: Refresh::Both,
            state: State::PerMapping,
            lifetime: None,
        }
    }
}

impl Timers {
    pub(super) const fn idle(&self, protocol: Protocol, replied: bool) -> Duration {
        let timers = match protocol {
            Protocol::Udp => &self.udp,
            Protocol::Tcp => &self.tcp,
            Protocol::Icmp => &self.icmp,
        };
        if replied {
            timers.replied
        } else {
            timers.unreplied
        }
    }
}

/// How long silence is borne.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct IdleTimers {
    /// While nothing has come back.
    #[serde(with = "crate::duration")]
    pub unreplied: Duration,
    /// Afterwards.
    #[serde(with = "crate::duration")]
    pub replied: Duration,
}

impl IdleTimers {
    /// Both in seconds.
    #[must_use]
    pub const fn seconds(unreplied: u64, replied: u64) -> Self {
        Self {
            unreplied: Duration::from_secs(unreplied),
            replied: Duration::from_secs(replied),
        }
    }
}

/// Which packets keep a mapping alive (RFC 4787, section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refresh {
    /// Those from inside.
    Out,
    /// Those from outside that are admitted.
    In,
    /// Both.
    Both,
}

/// What has a timer of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The mapping; who was once admitted stays so while it lives.
    PerMapping,
    /// Each pair of a mapping and a remote endpoint, as in Linux: silence closes the filter for that remote endpoint,
    /// and the mapping ends with its last session. Admitted packets from outside make sessions, too.
    PerSession,
}

/// How much is remembered. A session is a pair of a mapping and a remote endpoint: what a connection-tracking table holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Limits {
    /// Mappings of all hosts.
    pub mappings: usize,
    /// Mappings of one host.
    pub mappings_per_host: usize,
    /// Sessions of all hosts.
    pub sessions: usize,
    /// Sessions of one host.
    pub sessions_per_host: usize,
    /// What happens at a limit.
    pub overflow: Overflow,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            mappings: 65_536,
            mappings_per_host: 65_536,
            sessions: 65_536,
            sessions_per_host: 65_536,
            overflow: Overflow::Refuse,
        }
    }
}

/// What happens at a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overflow {
    /// The new one is refused.
    Refuse,
    /// The one that was made first goes, the same host's where its own limit is reached.
    EvictOldest,
}

/// What a packet gets that nobody inside waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unsolicited {
    /// Silence.
    Drop,
    /// ICMP port unreachable.
    Icmp,
}

/// The combinations that people name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Preset {
    /// A plain router: public addresses, nothing refused.
    Open,
    /// Endpoint-independent mapping and filtering.
    FullCone,
    /// Endpoint-independent mapping, address-dependent filtering.
    Restricted,
    /// Endpoint-independent mapping, address-and-port-dependent filtering: most homes.
    PortRestricted,
    /// Address-and-port-dependent both, with random ports.
    Symmetric,
    /// Address-and-port-dependent both, with one port after the other.
    SymmetricSequential,
}

impl Preset {
    /// All of them, from the kindest on.
    pub const ALL: [Self; 6] = [
        Self::Open,
        Self::FullCone,
        Self::Restricted,
        Self::PortRestricted,
        Self::Symmetric,
        Self::SymmetricSequential,
    ];

    /// As on command lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::FullCone => "full-cone",
            Self::Restricted => "restricted",
            Self::PortRestricted => "port-restricted",
            Self::Symmetric => "symmetric",
            Self::SymmetricSequential => "symmetric-sequential",
        }
    }

    /// What it stands for.
    #[must_use]
    pub fn config(self) -> NatConfig {
        use Behavior::{AddressAndPortDependent, AddressDependent, EndpointIndependent, None};
        let (mapping, filtering, allocation) = match self {
            Self::Open => (None, None, Allocation::Preserving),
            Self::FullCone => (
                EndpointIndependent,
                EndpointIndependent,
                Allocation::Preserving,
            ),
            Self::Restricted => (
                EndpointIndependent,
                AddressDependent,
                Allocation::Preserving,
            ),
            Self::PortRestricted => (
                EndpointIndependent,
                AddressAndPortDependent,
                Allocation::Preserving,
            ),
            Self::Symmetric => (
                AddressAndPortDependent,
                AddressAndPortDependent,
                Allocation::Random,
            ),
            Self::SymmetricSequential => (
                AddressAndPortDependent,
                AddressAndPortDependent,
                Allocation::Sequential,
            ),
        };
        NatConfig::of(mapping, filtering, allocation)
    }
}

impl From<Preset> for NatConfig {
    fn from(preset: Preset) -> Self {
        preset.config()
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Preset {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        if text == "cone" {
            return Ok(Self::PortRestricted);
        }
        find(text, "NAT", &Self::ALL, |preset| preset.name())
    }
}

impl fmt::Display for Behavior {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Behavior {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let all = [
            Self::None,
            Self::EndpointIndependent,
            Self::AddressDependent,
            Self::AddressAndPortDependent,
        ];
        find(text, "behaviour", &all, |behavior| behavior.name())
    }
}

impl fmt::Display for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Allocation {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        find(text, "port allocation", &Self::ALL, |allocation| {
            allocation.name()
        })
    }
}

/// A word that names nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{word}` is no {kind}; there are: {names}")]
pub struct UnknownName {
    word: String,
    kind: &'static str,
    names: String,
}

fn find<T: Copy>(
    word: &str,
    kind: &'static str,
    all: &[T],
    name: fn(T) -> &'static str,
) -> Result<T, UnknownName> {
    let known = all.iter().copied().find(|&one| name(one) == word);
    known.ok_or_else(|| UnknownName {
        word: word.to_owned(),
        kind,
        names: all
            .iter()
            .map(|&one| name(one))
            .collect::<Vec<_>>()
            .join(", "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for preset in Preset::ALL {
            assert_eq!(preset.name().parse(), Ok(preset));
            assert_eq!(preset.config().validate(), Ok(()));
        }
        assert_eq!("cone".parse(), Ok(Preset::PortRestricted));
        let error = "cones".parse::<Preset>().expect_err("no such NAT");
        assert!(error.to_string().contains("full-cone"), "{error}");
        for behavior in Behavior::ALL {
            assert_eq!(behavior.name().parse(), Ok(behavior));
        }
        for allocation in Allocation::ALL {
            assert_eq!(allocation.name().parse(), Ok(allocation));
        }
    }

    #[test]
    fn files_say_the_axes_in_words() {
        let text = "
            mapping = 'address-dependent'
            hairpin = 'external-source'
            [ports]
            allocation = 'sequential'
            step = -2
            [timers]
            udp = { unreplied = '15s', replied = '2m' }
            lifetime = '50s'
            [limits]
            sessions = 2048
            overflow = 'evict-oldest'
        ";
        let config: NatConfig = toml::from_str(text).expect("a good file");
        assert_eq!(config.mapping, Behavior::AddressDependent);
        assert_eq!(config.timers.udp, IdleTimers::seconds(15, 120));
        assert_eq!(config.timers.lifetime, Some(Duration::from_secs(50)));
        assert_eq!((config.ports.step, config.limits.sessions), (-2, 2048));
        let written = toml::to_string(&config).expect("writable");
        assert_eq!(toml::from_str(&written), Ok(config));
        let error = toml::from_str::<NatConfig>("mapping = 'cone'").expect_err("no such mapping");
        assert!(
            error.to_string().contains("endpoint-independent"),
            "{error}"
        );
    }

    #[test]
    fn contradictions_are_refused() {
        type Change = fn(&mut NatConfig);
        let cases: [(Change, NatConfigError); 5] = [
            (|c| c.ports.first = 0, NatConfigError::PortRange(0, 65535)),
            (|c| c.ports.step = 0, NatConfigError::Step),
            (|c| c.limits.sessions = 0, NatConfigError::Limit),
            (|c| c.reuse_inbound = true, NatConfigError::ReuseInbound),
            (
                |c| (c.mapping, c.hairpin) = (Behavior::None, Hairpin::InternalSource),
                NatConfigError::Hairpin,
            ),
        ];
        for (change, error) in cases {
            let mut config = NatConfig::default();
            change(&mut config);
            assert_eq!(config.validate(), Err(error));
        }
    }
}
