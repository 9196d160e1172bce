//! A router's packet filter: which protocols and outside ends may be spoken at all. Stateless, and beside the NAT: who has
//! blocked UDP has blocked it for every mapping. Knows packets; neither mappings nor links.
//!
//! ```text
//!   outbound: the outside end is the destination     inbound: it is the source
//!   first rule that fits says it, else `otherwise`
//! ```

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::packet::{Body, Packet, Protocol};

/// Rules, the first that fits counts. The default lets everything pass.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Rules {
    /// In order.
    pub rule: Vec<Rule>,
    /// For what fits none.
    pub otherwise: Action,
}

/// What fits all that is said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Rule {
    /// What becomes of it.
    pub action: Action,
    /// Of this protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Spoken>,
    /// The outside end has this port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The outside end has this address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It goes on.
    #[default]
    Pass,
    /// It vanishes.
    Drop,
    /// It vanishes, and a sender inside is told so by ICMP.
    Reject,
}

/// A protocol, as rules name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spoken {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
    /// Echo and errors.
    Icmp,
}

/// A word that names no rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` are no rules; there are: everything, udp-blocked, only-443, nothing")]
pub struct NoSuchRules(String);

impl Rules {
    /// No UDP but DNS.
    #[must_use]
    pub fn udp_blocked() -> Self {
        Self {
            rule: vec![DNS, Rule::of(Action::Drop, Spoken::Udp)],
            otherwise: Action::Pass,
        }
    }

    /// TCP to port 443, and DNS.
    #[must_use]
    pub fn only_443() -> Self {
        let https = Rule {
            port: Some(443),
            ..Rule::of(Action::Pass, Spoken::Tcp)
        };
        Self {
            rule: vec![DNS, https],
            otherwise: Action::Drop,
        }
    }

    /// TCP to one host: a proxy, or a captive portal.
    #[must_use]
    pub fn only_proxy(proxy: IpAddr, port: Option<u16>) -> Self {
        let to_proxy = Rule {
            address: Some(proxy),
            port,
            ..Rule::of(Action::Pass, Spoken::Tcp)
        };
        Self {
            rule: vec![to_proxy],
            otherwise: Action::Reject,
        }
    }

    /// Nothing at all.
    #[must_use]
    pub const fn nothing() -> Self {
        Self {
            rule: Vec::new(),
            otherwise: Action::Drop,
        }
    }

    /// What becomes of a packet on its way out or in.
    #[must_use]
    pub fn judge(&self, packet: &Packet, outbound: bool) -> Action {
        if self.rule.is_empty() {
            return self.otherwise;
        }
        let found = self.rule.iter().find(|rule| rule.fits(packet, outbound));
        found.map_or(self.otherwise, |rule| rule.action)
    }
}

impl Rule {
    const fn of(action: Action, protocol: Spoken) -> Self {
        Self {
            action,
            protocol: Some(protocol),
            port: None,
            address: None,
        }
    }

    fn fits(&self, packet: &Packet, outbound: bool) -> bool {
        let flow = packet.flow();
        let end = flow.map(|flow| {
            if outbound {
                flow.destination
            } else {
                flow.source
            }
        });
        let address = if outbound {
            packet.destination
        } else {
            packet.source
        };
        self.protocol.is_none_or(|one| Some(one) == spoken(packet))
            && self
                .port
                .is_none_or(|port| end.is_some_and(|end| end.port() == port))
            && self.address.is_none_or(|one| one == address)
    }
}

fn spoken(packet: &Packet) -> Option<Spoken> {
    match (packet.flow().map(|flow| flow.protocol), &packet.body) {
        (Some(Protocol::Udp), _) => Some(Spoken::Udp),
        (Some(Protocol::Tcp), _) => Some(Spoken::Tcp),
        (Some(Protocol::Icmp), _) | (None, Body::IcmpError { .. }) => Some(Spoken::Icmp),
        (None, Body::Fragment { protocol: 17, .. }) => Some(Spoken::Udp),
        (None, Body::Fragment { protocol: 6, .. }) => Some(Spoken::Tcp),
        (None, _) => None,
    }
}

impl FromStr for Rules {
    type Err = NoSuchRules;

    fn from_str(text: &str) -> Result<Self, NoSuchRules> {
        match text {
            "everything" => Ok(Self::default()),
            "udp-blocked" => Ok(Self::udp_blocked()),
            "only-443" => Ok(Self::only_443()),
            "nothing" => Ok(Self::nothing()),
            _ => Err(NoSuchRules(text.to_owned())),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::Reject => "reject",
        })
    }
}

const DNS: Rule = Rule {
    action: Action::Pass,
    protocol: Some(Spoken::Udp),
    port: Some(53),
    address: None,
};

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(tcp: bool, destination: &str) -> Packet {
        let [source, destination] = ["192.0.2.1:5000", destination]
            .map(|end| end.parse::<std::net::SocketAddr>().expect("an endpoint"));
        let mut packet = Packet::udp(source, destination, Vec::new());
        if tcp {
            packet.body = Body::Tcp {
                source_port: source.port(),
                destination_port: destination.port(),
                segment: vec![0; 16],
            };
        }
        packet
    }

    #[test]
    fn the_named_ones_let_through_what_they_say() {
        let proxy = "198.51.100.9".parse().expect("an address");
        let cases = [
            (Rules::default(), [true, true, true, true]),
            (Rules::udp_blocked(), [false, true, true, true]),
            (Rules::only_443(), [false, true, true, false]),
            (
                Rules::only_proxy(proxy, Some(3128)),
                [false, false, false, true],
            ),
            (Rules::nothing(), [false; 4]),
        ];
        let packets = [
            packet(false, "198.51.100.1:7777"),
            packet(false, "198.51.100.1:53"),
            packet(true, "198.51.100.1:443"),
            packet(true, "198.51.100.9:3128"),
        ];
        for (rules, expected) in cases {
            let passed = packets
                .each_ref()
                .map(|packet| rules.judge(packet, true) == Action::Pass);
            assert_eq!(passed, expected, "{rules:?}");
        }
    }

    #[test]
    fn on_the_way_in_the_outside_end_is_the_source() {
        let answer = packet(true, "198.51.100.1:443");
        assert_eq!(Rules::only_443().judge(&answer, false), Action::Drop);
        let mut from_443 = answer;
        from_443.body = Body::Tcp {
            source_port: 443,
            destination_port: 5000,
            segment: vec![0; 16],
        };
        assert_eq!(Rules::only_443().judge(&from_443, false), Action::Pass);
    }

    #[test]
    fn files_say_them_in_words() {
        let text = "otherwise = 'reject'\n[[rule]]\naction = 'pass'\nprotocol = 'tcp'\naddress = '192.0.2.1'";
        let rules: Rules = toml::from_str(text).expect("good rules");
        assert_eq!(rules.rule[0].protocol, Some(Spoken::Tcp));
        assert_eq!(
            toml::from_str(&toml::to_string(&rules).expect("writable")),
            Ok(rules)
        );
        let error = "half".parse::<Rules>().expect_err("no such rules");
        assert!(error.to_string().contains("only-443"), "{error}");
    }
}
