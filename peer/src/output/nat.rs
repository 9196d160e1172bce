//! What happens at the virtual host, in words (REQUIREMENTS E19).

use kuguri_proto::gateway::NatEvent;
use serde_json::Value;

use super::NetworkState;

/// `{"event":"nat","nat":"tcp-created",…}`.
pub(super) fn object(event: &NatEvent) -> Option<(&'static str, Value)> {
    let mut fields = serde_json::to_value(event).ok()?;
    let kind = fields.get_mut("event")?.take();
    fields["nat"] = kind;
    Some(("nat", fields))
}

/// What people are told at once; the rest is in the log and in the tables.
pub(super) fn text(event: &NatEvent) -> Option<String> {
    Some(match event {
        NatEvent::Refused {
            source,
            destination,
            protocol,
        } => format!("{source} may not go to {destination} ({protocol}); see --allow"),
        NatEvent::Loop {
            source,
            destination,
        } => format!(
            "stopped a loop: this machine ({source}) reaches {destination} through its own virtual network; \
             take its default route or bridge away from it"
        ),
        NatEvent::PingNotPermitted => {
            "this user may not ping (see net.ipv4.ping_group_range), so members' pings to the LAN are refused; \
             --dummy-ping answers them all"
                .to_owned()
        }
        NatEvent::ResolverSilent { resolver } => {
            format!("the resolver {resolver} does not answer members' questions")
        }
        NatEvent::LimitReached { what, source } => {
            format!("{source} has, or all have, as many {what} as there may be")
        }
        NatEvent::MemberAbsent { member } => {
            format!("a published port leads to {member}, which does not answer")
        }
        NatEvent::DhcpCreated {
            mac,
            address,
            host_name,
            seconds,
            ..
        } => format!(
            "DHCP: {address} to {mac} ({}) for {seconds} s",
            super::printable(host_name)
        ),
        NatEvent::DhcpExhausted { mac } => {
            format!("DHCP: no address left for {mac}; give the hub a larger range")
        }
        // Sessions are for the log of programs.
        NatEvent::TcpCreated { .. }
        | NatEvent::TcpConnected { .. }
        | NatEvent::TcpFailed { .. }
        | NatEvent::TcpDeleted { .. }
        | NatEvent::UdpCreated { .. }
        | NatEvent::UdpDeleted { .. }
        | NatEvent::DhcpDeleted { .. }
        | _ => return None,
    })
}

pub(super) fn network(network: &NetworkState) -> Option<String> {
    let mut parts = Vec::new();
    if !network.routes.is_empty() {
        parts.push(format!(
            "reaching {} through the hub",
            network.routes.join(", ")
        ));
    }
    if !network.own.is_empty() {
        parts.push(format!(
            "{} is this machine's own network too and stays so",
            network.own.join(", ")
        ));
    }
    if !network.dns.is_empty() {
        let servers: Vec<String> = network.dns.iter().map(ToString::to_string).collect();
        parts.push(format!(
            "names of {} at {}",
            domain(&network.domain),
            servers.join(", ")
        ));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

const fn domain(domain: &str) -> &str {
    if domain.is_empty() {
        "the hub's network"
    } else {
        domain
    }
}
