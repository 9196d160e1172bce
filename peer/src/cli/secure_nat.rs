//! Flags of `kuguri serve` about the virtual host.

use std::net::SocketAddr;
use std::time::Duration;

use kuguri_proto::gateway::access::{NotARule, Rule};
use kuguri_proto::gateway::{NatSettings, Publish, Subnet};

use crate::driver::secure_nat::Wanted;

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
    /// Lead a port of this machine to a member: tcp:PORT:ADDRESS:PORT
    #[arg(long, value_name = "MAPPING")]
    pub(super) publish: Vec<Publish>,
    /// Ask these resolvers members' questions, instead of this machine's own
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = resolver)]
    pub(super) resolver: Vec<SocketAddr>,
    /// Answer every ping of members by itself, whether its target is there or not
    #[arg(long)]
    pub(super) dummy_ping: bool,
    /// End TCP connections that are silent for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 7200)]
    pub(super) tcp_idle: u64,
    /// End UDP mappings that are silent for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
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
            settings,
            resolvers: self.resolver.clone(),
        }
    }
}

fn resolver(text: &str) -> Result<SocketAddr, NotARule> {
    let with_port = text.parse::<SocketAddr>();
    with_port.or_else(|_| {
        let address = text.parse().map_err(|_| NotARule::Net)?;
        Ok(SocketAddr::new(address, 53))
    })
}
