//! Scenarios as data: a topology, its NATs and links, the hosts with their roles, a timeline, and what is expected. Files
//! are TOML; SCENARIOS.md says all of it. Knows no role's meaning: who plays binds programs to hosts by a [`Cast`].
//!
//! ```text
//!   text ─ file ─► Scenario ─ stage ─► Network, names ─ play(cast) ─► Report: outcomes, event log, hash
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::link::LinkConfig;
use crate::nat::{NatConfig, Preset};
use crate::network::Access;
use crate::rules::Rules;

mod file;
mod play;
mod stage;
mod toy_cast;

pub use file::ScenarioError;
pub use play::{Cast, Outcome, Part, PlayError, Report, Seen};
pub use stage::Stage;
pub use toy_cast::ToyCast;

/// A whole scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Scenario {
    /// A short name.
    pub name: String,
    /// What it shows, in a sentence.
    pub about: String,
    /// Whose complaint or figure it is.
    #[serde(default)]
    pub source: Option<String>,
    /// Everything random follows from it, unless another one is asked for.
    #[serde(default = "one")]
    pub seed: u64,
    /// How long it lasts.
    #[serde(with = "crate::duration", default = "a_minute")]
    pub duration: Duration,
    /// Links by name.
    #[serde(default)]
    pub links: BTreeMap<String, LinkConfig>,
    /// NATs by name.
    #[serde(default)]
    pub nats: BTreeMap<String, NatConfig>,
    /// Rules by name.
    #[serde(default)]
    pub rules: BTreeMap<String, Rules>,
    /// Routers, the outer ones first.
    #[serde(default)]
    pub router: Vec<RouterSpec>,
    /// Hosts.
    #[serde(default)]
    pub host: Vec<HostSpec>,
    /// The timeline.
    #[serde(default)]
    pub event: Vec<EventSpec>,
    /// What must be seen.
    #[serde(default)]
    pub expect: Vec<Expectation>,
}

/// A router with a segment inside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RouterSpec {
    /// Its name, and that of the segment inside.
    pub name: String,
    /// The segment outside.
    #[serde(default = "internet")]
    pub on: String,
    /// Its addresses there.
    #[serde(default)]
    pub outside: Vec<IpAddr>,
    /// Its addresses inside, for errors and for PCP.
    #[serde(default)]
    pub inside: Vec<IpAddr>,
    /// What it does to IPv4.
    #[serde(default)]
    pub nat: NatConfig,
    /// What it does to IPv6.
    #[serde(default = "open")]
    pub ipv6: NatConfig,
    /// What may be spoken through it.
    #[serde(default)]
    pub rules: Rules,
    /// Its link outside.
    #[serde(default)]
    pub link: Access,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HostSpec {
    /// Its name.
    pub name: String,
    /// What runs on it: a word for whoever plays.
    pub role: String,
    /// The segment that it is on: a router's name, or the Internet.
    #[serde(default = "internet")]
    pub on: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its link.
    #[serde(default)]
    pub link: Access,
    /// Where it is attached beside that.
    #[serde(default)]
    pub also: Vec<AttachmentSpec>,
    /// Anything that its role wants to know.
    #[serde(default)]
    pub settings: toml::Table,
}

/// One more attachment of a host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct AttachmentSpec {
    /// The segment.
    pub on: String,
    /// Its addresses there.
    pub addresses: Vec<IpAddr>,
    /// Its link there.
    #[serde(default)]
    pub link: Access,
}

/// Something that happens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct EventSpec {
    /// When, since the start.
    #[serde(with = "crate::duration")]
    pub at: Duration,
    /// What.
    #[serde(rename = "do")]
    pub verb: Verb,
    /// To which router.
    #[serde(default)]
    pub router: Option<String>,
    /// To which host.
    #[serde(default)]
    pub host: Option<String>,
    /// The new link.
    #[serde(default)]
    pub link: Option<Access>,
    /// The new NAT.
    #[serde(default)]
    pub nat: Option<NatConfig>,
    /// The new rules.
    #[serde(default)]
    pub rules: Option<Rules>,
    /// The new segment.
    #[serde(default)]
    pub on: Option<String>,
    /// The new addresses.
    #[serde(default)]
    pub addresses: Option<Vec<IpAddr>>,
    /// What is said to a program.
    #[serde(default)]
    pub text: Option<String>,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// A router's or host's link loses everything.
    Cut,
    /// It does what it did before.
    Mend,
    /// It does something else from now on: `link`.
    Link,
    /// A NAT forgets everything.
    Reboot,
    /// Each mapping of a NAT gets another port.
    Rebind,
    /// A NAT behaves otherwise, and remembers nothing: `nat`.
    Nat,
    /// Something else may be spoken through a router: `rules`.
    Rules,
    /// A router gets other outside addresses, and remembers nothing: `addresses`.
    Renumber,
    /// A host goes elsewhere: `on`, `addresses`, perhaps `link`.
    Move,
    /// A host's program is killed.
    Stop,
    /// It is started anew.
    Start,
    /// A host's program does nothing, and hears nothing, until it wakes.
    Sleep,
    /// It goes on.
    Wake,
    /// A program is told something: `text`.
    Say,
}

/// What must be seen between two hosts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Expectation {
    /// Who.
    pub between: [String; 2],
    /// How they are connected.
    pub path: PathKind,
    /// What was heard before does not count.
    #[serde(with = "crate::duration", default)]
    pub after: Duration,
    /// It must be so at some time, so long after `after` at most. Without it: until the end.
    #[serde(with = "crate::duration::optional", default)]
    pub within: Option<Duration>,
    /// It must not be so at any time from `after` on.
    #[serde(default)]
    pub never: bool,
    /// It is aimed at and not promised: that it is not so is told, and is no failure.
    #[serde(default)]
    pub goal: bool,
}

/// How two hosts are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathKind {
    /// Without anybody between them, both ways.
    Direct,
    /// By somebody else, at least one way.
    Relayed,
    /// One or the other.
    Connected,
}

impl PathKind {
    /// As in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relayed => "relayed",
            Self::Connected => "connected",
        }
    }
}

impl Scenario {
    /// Reads a file's text and checks all of it.
    ///
    /// # Errors
    /// What is wrong, with its line and field.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        file::parse(text)
    }
}

const fn one() -> u64 {
    1
}

const fn a_minute() -> Duration {
    Duration::from_mins(1)
}

fn internet() -> String {
    INTERNET.to_owned()
}

fn open() -> NatConfig {
    Preset::Open.config()
}

/// The name of the core.
pub(crate) const INTERNET: &str = "internet";

#[cfg(test)]
mod tests;
