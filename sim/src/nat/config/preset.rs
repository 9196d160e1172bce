//! The combinations of a NAT's axes that people name. Decides nothing.

use std::fmt;
use std::str::FromStr;

use super::names::{UnknownName, find};
use super::{Allocation, Behavior, NatConfig, State};

/// The combinations that people name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Preset {
    /// A plain router: public addresses, nothing refused.
    Open,
    /// No translation; only answers come in: an IPv6 firewall as RFC 6092 describes it.
    Firewall,
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
    /// Linux's masquerade: the inside port while no other connection has the same ends, each connection with a timer.
    Linux,
}

impl Preset {
    /// All of them, from the kindest on.
    pub const ALL: [Self; 8] = [
        Self::Open,
        Self::Firewall,
        Self::FullCone,
        Self::Restricted,
        Self::PortRestricted,
        Self::Linux,
        Self::Symmetric,
        Self::SymmetricSequential,
    ];

    /// As on command lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Firewall => "firewall",
            Self::FullCone => "full-cone",
            Self::Restricted => "restricted",
            Self::PortRestricted => "port-restricted",
            Self::Symmetric => "symmetric",
            Self::SymmetricSequential => "symmetric-sequential",
            Self::Linux => "linux",
        }
    }

    /// What it stands for.
    #[must_use]
    pub fn config(self) -> NatConfig {
        use Allocation::{Preserving, Random, Sequential};
        use Behavior::{AddressAndPortDependent, AddressDependent, EndpointIndependent, None};
        let (mapping, filtering, allocation) = match self {
            Self::Open => (None, None, Preserving),
            Self::Firewall => (None, AddressAndPortDependent, Preserving),
            Self::FullCone => (EndpointIndependent, EndpointIndependent, Preserving),
            Self::Restricted => (EndpointIndependent, AddressDependent, Preserving),
            Self::PortRestricted => (EndpointIndependent, AddressAndPortDependent, Preserving),
            Self::Symmetric => (AddressAndPortDependent, AddressAndPortDependent, Random),
            Self::SymmetricSequential => {
                (AddressAndPortDependent, AddressAndPortDependent, Sequential)
            }
            Self::Linux => return linux(),
        };
        NatConfig::of(mapping, filtering, allocation)
    }
}

fn linux() -> NatConfig {
    let dependent = Behavior::AddressAndPortDependent;
    let mut config = NatConfig::of(dependent, dependent, Allocation::Preserving);
    config.ports.overloading = true;
    config.timers.state = State::PerSession;
    config.reuse_inbound = true;
    config
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
