//! What a NAT is told about the ends of its mappings, and about how many it has. Decides nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::packet::Protocol;

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
    /// With state per filter: how long a filter stays open for a silent remote endpoint, where not as long as a mapping.
    #[serde(
        with = "crate::duration::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub filter: Option<Duration>,
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
            filter: None,
        }
    }
}

impl Timers {
    pub(in crate::nat) const fn idle(&self, protocol: Protocol, replied: bool) -> Duration {
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

    /// Whether any of them would end a mapping as soon as it is made.
    pub(super) fn has_zero(&self) -> bool {
        let idle = [&self.udp, &self.tcp, &self.icmp];
        let idle = idle.into_iter().flat_map(|t| [t.unreplied, t.replied]);
        idle.chain(self.lifetime)
            .chain(self.filter)
            .any(|time| time.is_zero())
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
    /// The mapping, and each remote endpoint beside it: silence closes the filter for that one, and the mapping lives on.
    PerFilter,
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
    /// New sessions per second of all hosts; a second's worth may come at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_per_second: Option<u32>,
    /// What happens at a limit of entries.
    pub overflow: Overflow,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            mappings: 65_536,
            mappings_per_host: 65_536,
            sessions: 65_536,
            sessions_per_host: 65_536,
            new_per_second: None,
            overflow: Overflow::Refuse,
        }
    }
}

impl Limits {
    pub(super) fn has_zero(&self) -> bool {
        let counts = [
            self.mappings,
            self.mappings_per_host,
            self.sessions,
            self.sessions_per_host,
        ];
        counts.contains(&0) || self.new_per_second == Some(0)
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
