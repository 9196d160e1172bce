//! What a NAT is told about its outside ports. Decides nothing.

use serde::{Deserialize, Serialize};

/// How outside ports are chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// New flows per second of hosts that are not modelled; each one takes a step of the sequence (Poisson).
    pub background: f64,
    /// Even inside ports get even outside ports, and odd ones odd ones (RFC 4787, section 4.2.2).
    pub parity: bool,
    /// Two mappings may have one outside port while their remote endpoints differ (RFC 4787, section 4.2.1, calls that
    /// overloading and forbids it; Linux does it).
    pub overloading: bool,
    /// Each inside host gets its ports from blocks of its own (RFC 6888, RFC 7422).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<PortBlock>,
}

impl Default for PortConfig {
    fn default() -> Self {
        Self {
            allocation: Allocation::Preserving,
            fallback: Allocation::Random,
            first: 1024,
            last: 65535,
            step: 1,
            background: 0.0,
            parity: false,
            overloading: false,
            block: None,
        }
    }
}

impl PortConfig {
    /// Whether any port may be chosen by the sequence.
    pub(in crate::nat) fn is_sequential(&self) -> bool {
        self.allocation == Allocation::Sequential
            || self.allocation == Allocation::Preserving && self.fallback == Allocation::Sequential
    }
}

/// A subscriber's share of the ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PortBlock {
    /// Ports in a block; carriers use 512 to 4096.
    pub size: u16,
    /// How many blocks one host gets at most, one after the other.
    #[serde(default = "one")]
    pub per_host: u16,
}

const fn one() -> u16 {
    1
}

/// One way to choose a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Allocation {
    /// The inside port, while it is free.
    Preserving,
    /// The next one of the outside address, or of the host's block.
    Sequential,
    /// Any free one.
    Random,
}

impl Allocation {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Preserving, Self::Sequential, Self::Random];
}
