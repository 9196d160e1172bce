//! The loop's side of SecureNAT: starts and stops the thread beside it, and carries frames, events and orders to and fro.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use kuguri_proto::gateway::access::{Net, Rule};
use kuguri_proto::gateway::{DhcpSettings, Frame, NatEvent, NatSettings, Port, Subnet};
use kuguri_proto::node::{Command, Node};
use kuguri_proto::wire::control::Network;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::admin::{DhcpChange, NatChange, VirtualHost};
use crate::config::leases;
use crate::config::state::StateError;
use crate::dataplane::DataPlane;
use crate::outside::{Outside, Parcel, lan};

/// What the user wants of the virtual host.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Whether the NAT runs.
    pub nat: bool,
    /// Whether the DHCP server runs.
    pub dhcp: bool,
    /// The NAT's settings; addresses and resolvers of the machine are filled in when it starts.
    pub settings: NatSettings,
    /// The DHCP server's settings; what `automatic` says is filled in when it starts.
    pub dhcp_settings: DhcpSettings,
    /// What the user has left to us.
    pub automatic: Automatic,
    /// Resolvers instead of the machine's own.
    pub resolvers: Vec<SocketAddr>,
    /// Where leases are kept.
    pub leases: Option<PathBuf>,
}

/// Options of the DHCP server that follow from the machine as long as the user has not set them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Automatic {
    /// The machine's domain.
    pub domain: bool,
    /// The networks that the machine is in.
    pub routes: bool,
}

impl Wanted {
    /// Nothing runs, everything as it is without a word.
    #[must_use]
    pub fn off(subnet: Subnet) -> Self {
        Self {
            nat: false,
            dhcp: false,
            settings: NatSettings::new(subnet),
            dhcp_settings: DhcpSettings::new(subnet),
            automatic: Automatic {
                domain: true,
                routes: true,
            },
            resolvers: Vec::new(),
            leases: None,
        }
    }
}

/// SecureNAT in the loop.
#[derive(Debug)]
pub(super) struct SecureNat {
    wanted: Wanted,
    outside: Option<Outside>,
    wake: Arc<Notify>,
    parcels: Vec<Parcel>,
    taken: Vec<Frame>,
    events: Vec<NatEvent>,
    restored: bool,
    keep_at: Option<Instant>,
}

impl SecureNat {
    pub(super) fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            outside: None,
            wake: Arc::new(Notify::new()),
            parcels: Vec::new(),
            taken: Vec::new(),
            events: Vec::new(),
            restored: false,
            keep_at: None,
        }
    }

    /// Starts, stops or changes what runs, after what is wanted.
    pub(super) fn apply(&mut self, node: &mut Node, plane: &mut DataPlane) -> anyhow::Result<()> {
        let Some(mac) = node.gateway_mac() else {
            return Ok(());
        };
        self.fill_in();
        self.wanted.settings.ipv6 = node.gateway_ipv6();
        let settings = self.wanted.settings.clone();
        match (&self.outside, self.wanted.nat) {
            (Some(outside), true) => outside.set(settings),
            (None, true) => {
                let port = Port {
                    mtu: MTU,
                    max_segment: Some(MAX_SEGMENT),
                };
                let wake = Arc::clone(&self.wake);
                let outside =
                    Outside::start(settings, mac, port, plane.gate(), move || wake.notify_one());
                let outside = outside.context("a published port may be in use")?;
                plane.set_door(Some(outside.door()));
                self.outside = Some(outside);
            }
            (_, false) => {
                plane.set_door(None);
                self.stop(node);
            }
        }
        let now = Instant::now();
        let command = Command::Nat {
            on: self.wanted.nat,
            network: self.network(),
        };
        node.handle_command(command, now);
        let dhcp = self.wanted.dhcp.then(|| self.dhcp_settings());
        node.handle_command(Command::Dhcp(dhcp), now);
        self.restore(node, now)
    }

    /// Whether the machine's addresses are others than the NAT knows.
    pub(super) fn is_outdated(&self) -> bool {
        self.wanted.nat && self.wanted.settings.own_addresses != lan::own_addresses()
    }

    /// Its connections end, and the stations hear of it.
    fn stop(&mut self, node: &mut Node) {
        if let Some(outside) = self.outside.take() {
            let (frames, mut events) = outside.stop();
            let now = Instant::now();
            for frame in frames {
                give_node(node, &frame, now);
            }
            self.events.append(&mut events);
            // For the events.
            self.wake.notify_one();
        }
    }

    /// What the machine says where the user has not.
    fn fill_in(&mut self) {
        let wanted = &mut self.wanted;
        wanted.settings.own_addresses = lan::own_addresses();
        wanted.settings.resolvers = if wanted.resolvers.is_empty() {
            lan::resolvers()
        } else {
            wanted.resolvers.clone()
        };
        if wanted.automatic.domain {
            wanted.dhcp_settings.domain = lan::domain();
        }
        if wanted.automatic.routes {
            let subnet = wanted.settings.subnet;
            wanted.dhcp_settings.routes = lan::networks(&[(subnet.network(), subnet.prefix())]);
        }
    }

    /// Without a NAT nobody is led to it (REQUIREMENTS E16).
    fn dhcp_settings(&self) -> DhcpSettings {
        let mut settings = self.wanted.dhcp_settings.clone();
        if !self.wanted.nat {
            let own = self.wanted.settings.subnet.address();
            settings.gateway = settings.gateway.filter(|gateway| *gateway != own);
            settings.dns.retain(|server| *server != own);
            settings.routes.clear();
        }
        settings
    }

    /// The same for members, which need no DHCP.
    fn network(&self) -> Network {
        if !self.wanted.nat {
            return Network::default();
        }
        let settings = self.dhcp_settings();
        let routes = settings.routes.iter();
        Network {
            routes: routes
                .map(|(net, prefix)| (IpAddr::V4(*net), *prefix))
                .collect(),
            dns: settings.dns.iter().copied().map(IpAddr::V4).collect(),
            domain: settings.domain,
        }
    }

    fn restore(&mut self, node: &mut Node, now: Instant) -> anyhow::Result<()> {
        if !self.wanted.dhcp || std::mem::replace(&mut self.restored, true) {
            return Ok(());
        }
        if let Some(path) = &self.wanted.leases {
            let kept = leases::read(path)?;
            node.handle_command(Command::RestoreLeases(kept), now);
        }
        Ok(())
    }

    /// Waits until the thread has something.
    pub(super) async fn ready(&self) {
        self.wake.notified().await;
    }

    /// Takes what the thread has: frames for the node; its events are left for [`Self::take_events`].
    pub(super) fn take(&mut self, node: &mut Node) {
        if let Some(outside) = &self.outside {
            outside.take(&mut self.taken, &mut self.events);
            let now = Instant::now();
            for frame in self.taken.drain(..) {
                give_node(node, &frame, now);
            }
        }
    }

    /// Gives the thread what the node has for it.
    pub(super) fn give(&mut self, node: &mut Node) {
        if let Some(outside) = &self.outside {
            let frames = std::iter::from_fn(|| node.poll_nat_frame());
            self.parcels.extend(frames.map(|bytes| Parcel {
                bytes,
                trusted: false,
            }));
            outside.door().send(&mut self.parcels);
        }
    }

    pub(super) fn take_events(&mut self) -> Vec<NatEvent> {
        std::mem::take(&mut self.events)
    }

    pub(super) const fn outside(&self) -> Option<&Outside> {
        self.outside.as_ref()
    }

    // ---- leases

    pub(super) const fn next_timer(&self) -> Option<Instant> {
        self.keep_at
    }

    pub(super) fn keep_soon(&mut self, now: Instant) {
        self.keep_at.get_or_insert(now + KEEP_AFTER);
    }

    pub(super) fn keep_if_due(&mut self, node: &Node, now: Instant) -> Result<(), StateError> {
        if self.keep_at.take_if(|at| *at <= now).is_none() {
            return Ok(());
        }
        self.keep(node, now)
    }

    pub(super) fn keep(&mut self, node: &Node, now: Instant) -> Result<(), StateError> {
        self.keep_at = None;
        match &self.wanted.leases {
            Some(path) => leases::write(path, &node.kept_leases(now)),
            None => Ok(()),
        }
    }

    // ---- questions and orders

    pub(super) fn ask(
        &mut self,
        ask: VirtualHost,
        node: &mut Node,
        plane: &mut DataPlane,
    ) -> anyhow::Result<Value> {
        match ask {
            VirtualHost::Status => return Ok(self.status(node)),
            VirtualHost::NatTable => return Ok(json!({ "sessions": [] })),
            VirtualHost::DhcpTable => {
                let rows = node.dhcp().map(|dhcp| dhcp.table(Instant::now()));
                return Ok(json!({ "leases": rows.unwrap_or_default() }));
            }
            VirtualHost::Switch { nat, dhcp } => {
                self.wanted.nat = nat.unwrap_or(self.wanted.nat);
                self.wanted.dhcp = dhcp.unwrap_or(self.wanted.dhcp);
            }
            VirtualHost::NatSet(change) => self.change_nat(change)?,
            VirtualHost::DhcpSet(change) => self.change_dhcp(change)?,
        }
        self.apply(node, plane)?;
        Ok(self.status(node))
    }

    fn change_nat(&mut self, change: NatChange) -> anyhow::Result<()> {
        let mut settings = self.wanted.settings.clone();
        if let Some(seconds) = change.tcp_idle {
            settings.tcp_idle = Duration::from_secs(seconds.clamp(1, LONGEST));
        }
        if let Some(seconds) = change.udp_idle {
            settings.udp_idle = Duration::from_secs(seconds.clamp(1, LONGEST));
        }
        settings.dummy_ping = change.dummy_ping.unwrap_or(settings.dummy_ping);
        if let Some(rules) = change.rules {
            settings.rules = rules
                .iter()
                .map(|text| rule(text))
                .collect::<Result<_, _>>()?;
        }
        if let Some(publish) = change.publish {
            let parsed: Result<_, _> = publish.iter().map(|text| text.parse()).collect();
            settings.publish = parsed?;
        }
        self.wanted.settings = settings;
        Ok(())
    }

    fn change_dhcp(&mut self, change: DhcpChange) -> anyhow::Result<()> {
        let mut settings = self.wanted.dhcp_settings.clone();
        let mut automatic = self.wanted.automatic;
        settings.first = change.first.unwrap_or(settings.first);
        settings.last = change.last.unwrap_or(settings.last);
        let subnet = self.wanted.settings.subnet;
        if settings.first > settings.last
            || !subnet.contains(settings.first)
            || !subnet.contains(settings.last)
        {
            return Err(anyhow!(
                "the range has to lie in {subnet}, the first address before the last"
            ));
        }
        if let Some(seconds) = change.lease {
            if !(MIN_LEASE..=LONGEST).contains(&seconds) {
                return Err(anyhow!("a lease is {MIN_LEASE} to {LONGEST} seconds"));
            }
            settings.lease = Duration::from_secs(seconds);
        }
        if let Some(text) = change.gateway {
            settings.gateway = list(&text)?.first().copied();
        }
        if let Some(text) = change.dns {
            settings.dns = list(&text)?;
        }
        if let Some(domain) = change.domain {
            automatic.domain = false;
            settings.domain = domain_name(domain)?;
        }
        if let Some(text) = change.routes {
            automatic.routes = text == "lan";
            settings.routes = if automatic.routes {
                Vec::new()
            } else {
                nets(&text)?
            };
        }
        if let Some(reserve) = change.reserve {
            settings.reservations = reserve
                .iter()
                .map(|text| reservation(text))
                .collect::<Result<_, _>>()?;
        }
        (self.wanted.dhcp_settings, self.wanted.automatic) = (settings, automatic);
        Ok(())
    }

    pub(super) fn status(&self, node: &Node) -> Value {
        let Wanted {
            nat,
            dhcp,
            settings,
            ..
        } = &self.wanted;
        let given = self.dhcp_settings();
        json!({
            "nat": nat,
            "dhcp": dhcp,
            "address": settings.subnet.to_string(),
            "mac": node.gateway_mac(),
            "mtu": MTU,
            "tcp_idle_seconds": settings.tcp_idle.as_secs(),
            "udp_idle_seconds": settings.udp_idle.as_secs(),
            "dummy_ping": settings.dummy_ping,
            "rules": settings.rules.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "publish": settings.publish.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "resolvers": settings.resolvers,
            "first": given.first,
            "last": given.last,
            "lease_seconds": given.lease.as_secs(),
            "gateway": given.gateway,
            "dns": given.dns,
            "domain": given.domain,
            "routes": given.routes.iter().map(|(net, prefix)| format!("{net}/{prefix}")).collect::<Vec<_>>(),
            "reservations": given.reservations.iter().map(|(mac, address)| format!("{mac}={address}")).collect::<Vec<_>>(),
            "dhcp_counters": node.dhcp().map(|dhcp| dhcp.counters()),
        })
    }
}

/// A frame that the gate did not take goes by the node, which takes none that is larger than its network's.
fn give_node(node: &mut Node, frame: &Frame, now: Instant) {
    let Ok(pieces) = frame.pieces(usize::MAX) else {
        return;
    };
    for index in 0..pieces.count() {
        let mut bytes = vec![0; pieces.piece_len(index)];
        pieces.write(index, true, &mut bytes);
        node.handle_nat_frame(&bytes, now);
    }
}

/// "allow RULE" or "deny RULE".
fn rule(text: &str) -> anyhow::Result<Rule> {
    let (action, rest) = text
        .split_once(' ')
        .context("a rule begins with allow or deny")?;
    match action {
        "allow" => Ok(Rule::parse(true, rest)?),
        "deny" => Ok(Rule::parse(false, rest)?),
        _ => Err(anyhow!("a rule begins with allow or deny")),
    }
}

fn list<T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    text: &str,
) -> anyhow::Result<Vec<T>> {
    let words = text
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty() && *word != "none");
    words
        .map(|word| word.parse().with_context(|| format!("{word} is none")))
        .collect()
}

fn nets(text: &str) -> anyhow::Result<Vec<(std::net::Ipv4Addr, u8)>> {
    let nets: Vec<Net> = list(text)?;
    nets.into_iter()
        .map(|net| match net.address() {
            IpAddr::V4(v4) => Ok((v4, net.prefix())),
            IpAddr::V6(_) => Err(anyhow!("DHCP tells of IPv4 networks only")),
        })
        .collect()
}

/// A name as RFC 1035 (section 2.3.4) bounds it, or none.
fn domain_name(text: String) -> anyhow::Result<String> {
    let letter = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let label = |label: &str| (1..=63).contains(&label.len()) && label.chars().all(letter);
    if text.is_empty() || (text.len() <= 253 && text.split('.').all(label)) {
        return Ok(text);
    }
    Err(anyhow!(
        "a domain is at most 253 letters, digits, '-' and '_', in labels of at most 63 with dots between"
    ))
}

fn reservation(
    text: &str,
) -> anyhow::Result<(kuguri_proto::wire::ethernet::MacAddr, std::net::Ipv4Addr)> {
    let (mac, address) = text.split_once('=').context("write MAC=ADDRESS")?;
    Ok((mac.parse()?, address.parse()?))
}

/// Bytes of a TCP segment that the data plane cuts into packets: what IPv4's length and the largest headers leave.
const MAX_SEGMENT: usize = 65_535 - 120;
/// Bytes of IP packet (E6).
const MTU: u16 = 1500;
/// Leases that follow one another are kept together.
const KEEP_AFTER: Duration = Duration::from_secs(1);
/// Seconds: ten years.
pub(crate) const LONGEST: u64 = 315_360_000;
/// Seconds; less would be nothing but renewals.
const MIN_LEASE: u64 = 15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_a_name() {
        for good in ["", "office.example", "a", &"x".repeat(63)] {
            assert_eq!(domain_name(good.to_owned()).expect("good"), good);
        }
        let long = "abcdefg.".repeat(32) + "a";
        for bad in ["a..b", ".", "two words", &"x".repeat(64), &long, "ä"] {
            assert!(domain_name(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
