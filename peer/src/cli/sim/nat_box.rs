//! `kuguri sim nat-box`: flags into the box's settings, and a line when something changed.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Args;
use kuguri_sim::duration;
use kuguri_sim::lab::{BoxConfig, NatBox, Side};
use kuguri_sim::link::{LinkConfig, Probability};
use kuguri_sim::nat::{Allocation, Behavior, Hairpin, IdleTimers, NatConfig, Preset};
use kuguri_sim::network::Access;
use kuguri_sim::rules::Rules;

use crate::stdout::line as print;

/// A box between two interfaces: any NAT and any link, for programs that know nothing of it
///
/// Runs in the current network namespace until it is stopped. The box has an address of its own on each side, which the
/// interfaces must not have; programs inside use the inside one as their gateway. IPv4; needs CAP_NET_RAW.
#[derive(Debug, Args)]
pub(in crate::cli) struct Flags {
    /// The interface towards the others
    #[arg(long, value_name = "IF")]
    outside: String,
    /// The interface before the programs behind the NAT
    #[arg(long, value_name = "IF")]
    inside: String,
    /// The box's outside addresses, with the prefix length
    #[arg(long, value_name = "ADDRESS/N", value_parser = network, required = true)]
    outside_address: Vec<(Ipv4Addr, u8)>,
    /// The box's inside address, with the prefix length
    #[arg(long, value_name = "ADDRESS/N", value_parser = network)]
    inside_address: (Ipv4Addr, u8),
    /// What leads further from the outside interface
    #[arg(long, value_name = "ADDRESS")]
    gateway: Option<Ipv4Addr>,
    /// A kind of NAT to begin with: open, firewall, full-cone, restricted, port-restricted, linux, symmetric,
    /// symmetric-sequential
    #[arg(long, value_name = "NAME", default_value = "port-restricted")]
    nat: Preset,
    /// For which destinations a port stays the same: endpoint-independent (ei), address-dependent (ad),
    /// address-and-port-dependent (ap)
    #[arg(long, value_name = "BEHAVIOUR")]
    mapping: Option<Behavior>,
    /// Who may send to a mapping: ei, ad, ap
    #[arg(long, value_name = "BEHAVIOUR")]
    filtering: Option<Behavior>,
    /// How ports are chosen: preserving, sequential, random
    #[arg(long, value_name = "ALLOCATION")]
    ports: Option<Allocation>,
    /// Lets inside hosts reach each other by their outside endpoints
    #[arg(long)]
    hairpin: bool,
    /// How long a UDP mapping bears silence
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    timeout: Option<Duration>,
    /// When a mapping ends, however busy it is
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    lifetime: Option<Duration>,
    /// What may be spoken: everything, udp-blocked, only-443, nothing
    #[arg(long, value_name = "RULES", default_value = "everything")]
    rules: Rules,
    /// How long a packet travels, each way
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = duration::parse)]
    delay: Duration,
    /// Up to so much is added
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = duration::parse)]
    jitter: Duration,
    /// The part of packets that is lost each way, from 0 to 1
    #[arg(long, value_name = "PART", default_value = "0", value_parser = probability)]
    loss: Probability,
    /// The part that is held back, so that later ones overtake
    #[arg(long, value_name = "PART", default_value = "0", value_parser = probability)]
    reorder: Probability,
    /// The part that arrives twice
    #[arg(long, value_name = "PART", default_value = "0", value_parser = probability)]
    duplicate: Probability,
    /// Bits per second, each way
    #[arg(long, value_name = "BITS")]
    rate: Option<u64>,
    /// The largest packet in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1500)]
    mtu: u16,
    /// Larger packets vanish without a word
    #[arg(long)]
    black_hole: bool,
    /// Everything random follows from it
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
}

pub(super) fn run(flags: Flags) -> anyhow::Result<ExitCode> {
    let (inside, outside) = (flags.inside.clone(), flags.outside.clone());
    let config = flags.config()?;
    let nat = (config.nat.mapping, config.nat.filtering);
    let running = NatBox::start(config)?;
    print(&format!(
        "between {inside} and {outside}: {} mapping, {} filtering; stop it with Ctrl-C",
        nat.0, nat.1
    ));
    let mut before = (running.traffic(), running.entries());
    loop {
        thread::sleep(REPORT);
        let now = (running.traffic(), running.entries());
        if now != before {
            let (traffic, (mappings, sessions)) = now;
            let (sent, delivered) = (traffic.sent, traffic.delivered);
            let mut err = anstream::stderr();
            let _ = writeln!(
                err,
                "{sent} packets in, {delivered} out; {mappings} mappings, {sessions} sessions"
            );
        }
        before = now;
    }
}

impl Flags {
    fn config(self) -> anyhow::Result<BoxConfig> {
        let nat = self.nat_config();
        let link = LinkConfig {
            delay: self.delay,
            jitter: self.jitter,
            loss: self.loss,
            reorder: self.reorder,
            duplicate: self.duplicate,
            rate: self.rate,
            mtu: self.mtu,
            black_hole: self.black_hole,
            ..LinkConfig::default()
        };
        let prefix = self
            .outside_address
            .first()
            .map_or(32, |(_, prefix)| *prefix);
        anyhow::ensure!(
            self.outside_address
                .iter()
                .all(|(_, other)| *other == prefix),
            "the outside addresses must have one prefix length"
        );
        Ok(BoxConfig {
            inside: Side {
                interface: self.inside,
                addresses: vec![self.inside_address.0],
                prefix: self.inside_address.1,
            },
            outside: Side {
                interface: self.outside,
                addresses: self.outside_address.iter().map(|(ip, _)| *ip).collect(),
                prefix,
            },
            gateway: self.gateway,
            nat,
            rules: self.rules,
            access: Access::symmetric(link),
            seed: self.seed,
        })
    }

    fn nat_config(&self) -> NatConfig {
        let mut nat = self.nat.config();
        nat.mapping = self.mapping.unwrap_or(nat.mapping);
        nat.filtering = self.filtering.unwrap_or(nat.filtering);
        nat.ports.allocation = self.ports.unwrap_or(nat.ports.allocation);
        if self.hairpin {
            nat.hairpin = Hairpin::ExternalSource;
        }
        if let Some(time) = self.timeout {
            nat.timers.udp = IdleTimers {
                unreplied: time,
                replied: time,
            };
        }
        nat.timers.lifetime = self.lifetime;
        nat
    }
}

fn network(text: &str) -> Result<(Ipv4Addr, u8), String> {
    let wrong = || format!("`{text}` is no address with a prefix length, such as 192.168.1.1/24");
    let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let address = address.parse::<IpAddr>().map_err(|_| wrong())?;
    let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32);
    match (address, prefix) {
        (IpAddr::V4(address), Some(prefix)) => Ok((address, prefix)),
        _ => Err(wrong()),
    }
}

fn probability(text: &str) -> Result<Probability, String> {
    let number: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    Probability::new(number).map_err(|error| error.to_string())
}

/// Between two reports of what went through.
const REPORT: Duration = Duration::from_secs(5);
