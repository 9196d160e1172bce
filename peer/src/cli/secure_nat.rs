//! `kuguri secure-nat`, `nat`, `dhcp`: the virtual host of a hub that runs; and its flags of `kuguri serve`.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Subcommand;
use kuguri_proto::gateway::access::{NotARule, Rule};
use kuguri_proto::gateway::{NatSettings, Publish, Subnet};
use serde_json::Value;

use super::serve::hub_name;
use super::table::{bytes, duration, table};
use crate::admin::{self, AdminError, DhcpChange, NatChange, Process, Request, VirtualHost};
use crate::config::state::State;
use crate::driver::secure_nat::{LONGEST, Wanted};
use crate::output::printable;
use crate::stdout;

/// SecureNAT: members reach the network that this machine is in, without any privilege here
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "SecureNAT")]
#[group(skip)]
pub(super) struct Flags {
    /// Let members reach the network that this machine is in (NAT), and serve addresses and names (DHCP, DNS)
    ///
    /// Needs no privilege. Members reach what this machine reaches, but not its own loopback addresses.
    #[arg(long)]
    pub(super) secure_nat: bool,
    /// Let members go to NETWORK[:PORT[-PORT]][/tcp|/udp|/icmp]; the first rule that fits holds
    #[arg(long, value_name = "RULE", value_parser = |text: &str| Rule::parse(true, text))]
    pub(super) allow: Vec<Rule>,
    /// Do not let members go to NETWORK[:PORT[-PORT]][/tcp|/udp|/icmp]; --deny comes after every --allow
    #[arg(long, value_name = "RULE", value_parser = |text: &str| Rule::parse(false, text))]
    pub(super) deny: Vec<Rule>,
    /// Lead a port of this machine to a member: tcp:PORT:ADDRESS:PORT or udp:PORT:ADDRESS:PORT
    #[arg(long, value_name = "MAPPING")]
    pub(super) publish: Vec<Publish>,
    /// Ask these resolvers members' questions, instead of this machine's own
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = resolver)]
    pub(super) resolver: Vec<SocketAddr>,
    /// Answer every ping of members by itself, whether its target is there or not
    #[arg(long)]
    pub(super) dummy_ping: bool,
    /// End TCP connections that are silent for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 7200, value_parser = clap::value_parser!(u64).range(1..=LONGEST))]
    pub(super) tcp_idle: u64,
    /// End UDP mappings that are silent for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=LONGEST))]
    pub(super) udp_idle: u64,
}

impl Flags {
    /// What they mean for a network.
    pub(super) fn wanted(&self, subnet: Subnet) -> Wanted {
        let rules = self.allow.iter().chain(&self.deny);
        let settings = NatSettings {
            tcp_idle: Duration::from_secs(self.tcp_idle),
            udp_idle: Duration::from_secs(self.udp_idle),
            dummy_ping: self.dummy_ping,
            rules: rules.copied().collect(),
            publish: self.publish.clone(),
            ..NatSettings::new(subnet)
        };
        Wanted {
            nat: self.secure_nat,
            dhcp: self.secure_nat,
            settings,
            resolvers: self.resolver.clone(),
            ..Wanted::off(subnet)
        }
    }
}

/// Turn the virtual host's NAT and DHCP server on or off together, or show how they are set
///
///   $ kuguri secure-nat on
///   $ kuguri secure-nat status --json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
#[group(skip)]
pub(super) struct SecureNat {
    #[command(subcommand)]
    verb: Switch,
    #[command(flatten)]
    which: Which,
}

/// Let members into the network that the hub's machine is in, or not; show who is on the way
///
///   $ kuguri nat table
///   $ kuguri nat set --deny 192.168.1.1
///   $ kuguri nat off
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
#[group(skip)]
pub(super) struct Nat {
    #[command(subcommand)]
    verb: NatVerb,
    #[command(flatten)]
    which: Which,
}

/// Give addresses to stations of the virtual network, or not; show who has which
///
///   $ kuguri dhcp table
///   $ kuguri dhcp set --first 192.168.30.50 --last 192.168.30.99
///   $ kuguri dhcp set --gateway none      # stations keep their own default route
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
#[group(skip)]
pub(super) struct Dhcp {
    #[command(subcommand)]
    verb: DhcpVerb,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, clap::Args)]
#[group(skip)]
struct Which {
    /// The hub; needed when several run here
    #[arg(long, global = true, value_name = "NAME", value_parser = hub_name)]
    hub: Option<String>,
    /// One JSON object
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Switch {
    /// Both run from now on
    On,
    /// Both end now; connections are closed
    Off,
    /// How they are set
    Status,
}

#[derive(Debug, Subcommand)]
enum NatVerb {
    /// It runs from now on
    On,
    /// It ends now; its connections are closed
    Off,
    /// How it is set
    Status,
    /// Change settings; what is not said stays
    Set(NatFlags),
    /// Every session
    Table,
}

#[derive(Debug, Subcommand)]
enum DhcpVerb {
    /// It runs from now on
    On,
    /// It ends now
    Off,
    /// How it is set
    Status,
    /// Change settings; what is not said stays, "none" leaves an option out
    Set(DhcpFlags),
    /// Every lease
    Table,
}

#[derive(Debug, clap::Args)]
#[group(skip)]
struct NatFlags {
    /// End TCP connections that are silent for so many seconds
    #[arg(long, value_name = "SECONDS")]
    tcp_idle: Option<u64>,
    /// End UDP mappings that are silent for so many seconds
    #[arg(long, value_name = "SECONDS")]
    udp_idle: Option<u64>,
    /// Answer every ping of members by itself
    #[arg(long, value_name = "BOOL")]
    dummy_ping: Option<bool>,
    /// All rules anew: these first
    #[arg(long, value_name = "RULE", value_parser = |text: &str| Rule::parse(true, text))]
    allow: Vec<Rule>,
    /// All rules anew: these after those
    #[arg(long, value_name = "RULE", value_parser = |text: &str| Rule::parse(false, text))]
    deny: Vec<Rule>,
    /// No rules of the user's any more
    #[arg(long, conflicts_with_all = ["allow", "deny"])]
    no_rules: bool,
    /// All published ports anew
    #[arg(long, value_name = "MAPPING")]
    publish: Vec<Publish>,
    /// No published ports any more
    #[arg(long, conflicts_with = "publish")]
    no_publish: bool,
}

#[derive(Debug, clap::Args)]
#[group(skip)]
struct DhcpFlags {
    /// First address that is given out
    #[arg(long, value_name = "ADDRESS")]
    first: Option<Ipv4Addr>,
    /// Last address that is given out
    #[arg(long, value_name = "ADDRESS")]
    last: Option<Ipv4Addr>,
    /// For how long
    #[arg(long, value_name = "SECONDS")]
    lease: Option<u64>,
    /// The default gateway
    #[arg(long, value_name = "ADDRESS")]
    gateway: Option<String>,
    /// Resolvers, with commas between
    #[arg(long, value_name = "ADDRESSES")]
    dns: Option<String>,
    /// The domain of names
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
    /// Networks through the virtual host (option 121), with commas between; "lan" for those that the machine is in
    #[arg(long, value_name = "NETWORKS")]
    routes: Option<String>,
    /// All reservations anew
    #[arg(long, value_name = "MAC=ADDRESS")]
    reserve: Vec<String>,
    /// No reservations any more
    #[arg(long, conflicts_with = "reserve")]
    no_reserve: bool,
}

pub(super) fn secure_nat(flags: &SecureNat, state: &State) -> anyhow::Result<ExitCode> {
    let ask = match flags.verb {
        Switch::On | Switch::Off => {
            let on = Some(matches!(flags.verb, Switch::On));
            VirtualHost::Switch { nat: on, dhcp: on }
        }
        Switch::Status => VirtualHost::Status,
    };
    run(ask, &flags.which, state, settings)
}

pub(super) fn nat(flags: Nat, state: &State) -> anyhow::Result<ExitCode> {
    let switch = |on| VirtualHost::Switch {
        nat: Some(on),
        dhcp: None,
    };
    let (ask, show): (_, fn(&Value) -> String) = match flags.verb {
        NatVerb::On => (switch(true), settings),
        NatVerb::Off => (switch(false), settings),
        NatVerb::Status => (VirtualHost::Status, settings),
        NatVerb::Set(flags) => (VirtualHost::NatSet(flags.change()), settings),
        NatVerb::Table => (VirtualHost::NatTable, sessions),
    };
    run(ask, &flags.which, state, show)
}

pub(super) fn dhcp(flags: Dhcp, state: &State) -> anyhow::Result<ExitCode> {
    let switch = |on| VirtualHost::Switch {
        nat: None,
        dhcp: Some(on),
    };
    let (ask, show): (_, fn(&Value) -> String) = match flags.verb {
        DhcpVerb::On => (switch(true), settings),
        DhcpVerb::Off => (switch(false), settings),
        DhcpVerb::Status => (VirtualHost::Status, settings),
        DhcpVerb::Set(flags) => (VirtualHost::DhcpSet(flags.change()), settings),
        DhcpVerb::Table => (VirtualHost::DhcpTable, leases),
    };
    run(ask, &flags.which, state, show)
}

impl NatFlags {
    fn change(self) -> NatChange {
        let rules = self.allow.iter().chain(&self.deny).map(ToString::to_string);
        let rules: Vec<String> = rules.collect();
        let publish: Vec<String> = self.publish.iter().map(ToString::to_string).collect();
        NatChange {
            tcp_idle: self.tcp_idle,
            udp_idle: self.udp_idle,
            dummy_ping: self.dummy_ping,
            rules: (self.no_rules || !rules.is_empty()).then_some(rules),
            publish: (self.no_publish || !publish.is_empty()).then_some(publish),
        }
    }
}

impl DhcpFlags {
    fn change(self) -> DhcpChange {
        let blank = |text: String| if text == "none" { String::new() } else { text };
        DhcpChange {
            first: self.first,
            last: self.last,
            lease: self.lease,
            gateway: self.gateway.map(blank),
            dns: self.dns.map(blank),
            domain: self.domain.map(blank),
            routes: self.routes.map(blank),
            reserve: (self.no_reserve || !self.reserve.is_empty()).then_some(self.reserve),
        }
    }
}

fn run(
    ask: VirtualHost,
    which: &Which,
    state: &State,
    show: fn(&Value) -> String,
) -> anyhow::Result<ExitCode> {
    let answer = super::block_on(async {
        let wanted = which.hub.as_ref().map(|name| format!("hub-{name}"));
        let is_wanted = |hub: &Process| match &wanted {
            Some(wanted) => hub.name() == wanted,
            None => hub.name().starts_with("hub-"),
        };
        let mut hubs = Vec::new();
        for hub in admin::processes(state)?.into_iter().filter(is_wanted) {
            // One that was killed has left its socket.
            let status = hub.ask(&Request::Status).await;
            if !matches!(status, Err(AdminError::Absent(_))) {
                hubs.push(hub);
            }
        }
        if hubs.len() > 1 {
            let names: Vec<&str> = hubs
                .iter()
                .filter_map(|hub| hub.name().strip_prefix("hub-"))
                .collect();
            bail!(
                "several hubs run here; say which: --hub {}",
                names.join(", --hub ")
            );
        }
        let hub = hubs.first().context("no such hub runs here; start `kuguri serve`, or name its state directory with --state DIR")?;
        Ok(hub.ask(&Request::VirtualHost { ask }).await?)
    })?;
    if let Some(error) = answer["error"].as_str() {
        bail!("{error}");
    }
    if which.json {
        stdout::line(&serde_json::to_string_pretty(&answer)?);
    } else {
        stdout::line(show(&answer).trim_end());
    }
    Ok(ExitCode::SUCCESS)
}

fn settings(answer: &Value) -> String {
    let Some(fields) = answer.as_object() else {
        return String::new();
    };
    let plain = fields
        .iter()
        .filter(|(name, _)| !name.ends_with("_counters"));
    let counters = fields
        .iter()
        .filter(|(name, _)| name.ends_with("_counters"));
    let counters = counters
        .filter_map(|(_, counters)| counters.as_object())
        .flatten();
    let counted = counters.filter(|(_, count)| count.as_u64() != Some(0));
    let rows: Vec<Vec<String>> = plain
        .chain(counted)
        .map(|(name, value)| vec![name.replace('_', " "), word(value)])
        .collect();
    table(&["SETTING", "VALUE"], &rows)
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "on".to_owned(),
        Value::Bool(false) => "off".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => printable(text),
        Value::Array(all) if all.is_empty() => "-".to_owned(),
        Value::Array(all) => all.iter().map(word).collect::<Vec<_>>().join(", "),
        Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

fn sessions(answer: &Value) -> String {
    let number = |row: &Value, name: &str| row[name].as_u64().unwrap_or(0);
    let seconds =
        |row: &Value, name: &str| duration(Duration::from_secs(number(row, name)).as_secs_f64());
    let row = |row: &Value| {
        vec![
            number(row, "session").to_string(),
            word(&row["protocol"]),
            word(&row["source"]),
            word(&row["destination"]),
            word(&row["state"]),
            seconds(row, "age_seconds"),
            seconds(row, "idle_seconds"),
            bytes(number(row, "sent")),
            bytes(number(row, "received")),
        ]
    };
    let header = [
        "ID",
        "PROTOCOL",
        "SOURCE",
        "DESTINATION",
        "STATE",
        "AGE",
        "IDLE",
        "SENT",
        "RECEIVED",
    ];
    table(&header, &rows(&answer["sessions"], row))
}

fn leases(answer: &Value) -> String {
    let seconds = |row: &Value, name: &str| {
        duration(Duration::from_secs(row[name].as_u64().unwrap_or(0)).as_secs_f64())
    };
    let row = |row: &Value| {
        vec![
            word(&row["id"]),
            word(&row["mac"]),
            word(&row["address"]),
            word(&row["host_name"]),
            seconds(row, "granted_seconds"),
            seconds(row, "left_seconds"),
        ]
    };
    table(
        &["ID", "MAC", "ADDRESS", "NAME", "GRANTED", "LEFT"],
        &rows(&answer["leases"], row),
    )
}

fn rows(value: &Value, row: impl Fn(&Value) -> Vec<String>) -> Vec<Vec<String>> {
    value.as_array().into_iter().flatten().map(row).collect()
}

/// The names that these verbs had in vpncmd, in any case, in our words.
pub(super) fn translate(verb: &str) -> Option<&'static [&'static str]> {
    Some(match verb.to_ascii_lowercase().as_str() {
        "securenatenable" => &["secure-nat", "on"],
        "securenatdisable" => &["secure-nat", "off"],
        "securenatstatusget" | "securenathostget" => &["secure-nat", "status"],
        "natenable" => &["nat", "on"],
        "natdisable" => &["nat", "off"],
        "natget" => &["nat", "status"],
        "natset" => &["nat", "set"],
        "nattable" => &["nat", "table"],
        "dhcpenable" => &["dhcp", "on"],
        "dhcpdisable" => &["dhcp", "off"],
        "dhcpget" => &["dhcp", "status"],
        "dhcpset" => &["dhcp", "set"],
        "dhcptable" => &["dhcp", "table"],
        _ => return None,
    })
}

fn resolver(text: &str) -> Result<SocketAddr, NotARule> {
    let with_port = text.parse::<SocketAddr>();
    with_port.or_else(|_| {
        let address = text.parse().map_err(|_| NotARule::Net)?;
        Ok(SocketAddr::new(address, 53))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_old_names_are_understood_in_any_case() {
        assert_eq!(translate("NatTable"), Some(&["nat", "table"][..]));
        assert_eq!(
            translate("SECURENATENABLE"),
            Some(&["secure-nat", "on"][..])
        );
        assert_eq!(translate("nat"), None);
    }

    #[test]
    fn a_session_is_one_line() {
        let answer = json!({ "sessions": [{
            "session": 3, "protocol": "tcp", "source": "192.168.30.10:40000", "destination": "192.168.1.20:80",
            "state": "open", "age_seconds": 61, "idle_seconds": 2, "sent": 1000, "received": 2_000_000,
        }] });
        let line = sessions(&answer);
        let words: Vec<&str> = line
            .lines()
            .nth(1)
            .expect("a row")
            .split_whitespace()
            .collect();
        let expected = "3 tcp 192.168.30.10:40000 192.168.1.20:80 open 1 min 1 s 2 s 1.0 kB 2.0 MB";
        assert_eq!(words.join(" "), expected);
    }
}
