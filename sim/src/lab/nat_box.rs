//! A box between two existing interfaces of the thread's network namespace: a NAT and a link of the model, for any programs
//! on either side. It has an address on each side, which the kernel must not have, and answers for it itself.
//!
//! ```text
//!   programs ── inside interface ─┤ packet socket │ Network: lan ─ router (NAT, link) ─ world │ packet socket ├─ outside ──
//! ```
//!
//! IPv4 alone: neighbours are found by ARP.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use nix::ifaddrs::getifaddrs;

use super::card::Card;
use super::neighbours::{Mac, Neighbours};
use super::real_time::{RealTime, Traffic};
use super::refusal::{Refusal, Step};
use crate::nat::NatConfig;
use crate::network::{Access, Network, NetworkError, RouterConfig};
use crate::rules::Rules;

/// Where the box stands, and what it is.
#[derive(Clone, Debug)]
pub struct BoxConfig {
    /// Before the programs that are behind the NAT.
    pub inside: Side,
    /// Towards the others.
    pub outside: Side,
    /// What leads further from the outside interface, if anything does.
    pub gateway: Option<Ipv4Addr>,
    /// Its behaviour.
    pub nat: NatConfig,
    /// What may be spoken through it.
    pub rules: Rules,
    /// Its link outwards.
    pub access: Access,
    /// Everything random follows from it.
    pub seed: u64,
}

/// One side of the box.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// The interface's name.
    pub interface: String,
    /// The box's addresses there, all of one network.
    pub addresses: Vec<Ipv4Addr>,
    /// That network's prefix length.
    pub prefix: u8,
}

/// Why there is no box. One sentence each.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BoxError {
    /// A name that no interface has.
    #[error(
        "there is no interface {name} with an Ethernet address in this network namespace; there are: {others}"
    )]
    NoInterface {
        /// As it was asked for.
        name: String,
        /// What there is.
        others: String,
    },
    /// Both sides are one.
    #[error("{0} cannot be inside and outside at once")]
    SameInterface(String),
    /// A side without an address.
    #[error("the box needs an address on {0}")]
    NoAddress(String),
    /// The kernel would answer in the box's place.
    #[error(
        "{address} is the kernel's on {interface}, which would answer in the box's place; take it away (ip address del {address} dev {interface})"
    )]
    KernelHasAddress {
        /// The address.
        address: Ipv4Addr,
        /// Where it is.
        interface: String,
    },
    /// The kernel would pass the packets on, beside the box.
    #[error(
        "the kernel forwards packets here, past the box; switch it off (sysctl net.ipv4.ip_forward=0)"
    )]
    KernelForwards,
    /// Frames may not be read and written here.
    #[error(
        "no right to the frames of {interface} ({cause}); run it as root, with CAP_NET_RAW, or in a namespace of your own (unshare -rn)"
    )]
    NoRight {
        /// The interface.
        interface: String,
        /// What the kernel says.
        cause: io::Error,
    },
    /// The NAT's options contradict each other, or an address is there twice.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The kernel refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// A running box. Stops when dropped.
#[derive(Debug)]
pub struct NatBox {
    real_time: RealTime,
    router: crate::network::RouterId,
}

impl NatBox {
    /// Puts it between the two interfaces.
    ///
    /// # Errors
    /// One sentence that says what is in the way.
    pub fn start(config: BoxConfig) -> Result<Self, BoxError> {
        if config.inside.interface == config.outside.interface {
            return Err(BoxError::SameInterface(config.inside.interface));
        }
        let (mut network, start) = (Network::new(config.seed, Instant::now()), Network::INTERNET);
        network.set_hops(start, 0);
        let addresses = |side: &Side| side.addresses.iter().copied().map(IpAddr::V4).collect();
        let (router, lan) = network.add_router(
            start,
            RouterConfig {
                outside: addresses(&config.outside),
                inside: addresses(&config.inside),
                nat: config.nat,
                ipv6: crate::nat::Preset::Open.config(),
                rules: config.rules,
                access: config.access,
            },
        )?;
        let mut cards = BTreeMap::new();
        for (segment, side, gateway) in [
            (lan, &config.inside, None),
            (start, &config.outside, config.gateway),
        ] {
            let host = network.add_host();
            network.attach(host, segment, &[], Access::default())?;
            network.set_default(host);
            cards.insert(host, open(side, gateway)?);
        }
        let forwards = fs::read_to_string("/proc/sys/net/ipv4/ip_forward");
        if forwards.is_ok_and(|text| text.trim() == "1") {
            return Err(BoxError::KernelForwards);
        }
        let real_time = RealTime::start(network, cards).step("a thread")?;
        Ok(Self { real_time, router })
    }

    /// What went through it.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.real_time.traffic()
    }

    /// How many mappings and sessions its NAT has now.
    #[must_use]
    pub fn entries(&self) -> (usize, usize) {
        self.real_time.network(|network, now| {
            let nat = network.nat_mut(self.router);
            nat.map_or((0, 0), |nat| {
                nat.handle_timeout(now);
                (nat.mapping_count(), nat.session_count())
            })
        })
    }
}

fn open(side: &Side, gateway: Option<Ipv4Addr>) -> Result<Card, BoxError> {
    let mac = look(side)?;
    let neighbours = Neighbours::new(mac, side.addresses.clone(), side.prefix, gateway);
    Card::existing(&side.interface, neighbours).map_err(|cause| {
        let interface = side.interface.clone();
        if cause.kind() == io::ErrorKind::PermissionDenied {
            BoxError::NoRight { interface, cause }
        } else {
            Refusal::new("a packet socket", cause).into()
        }
    })
}

/// The interface's hardware address, if it is there and the box's addresses are free.
fn look(side: &Side) -> Result<Mac, BoxError> {
    if side.addresses.is_empty() {
        return Err(BoxError::NoAddress(side.interface.clone()));
    }
    let all = getifaddrs().step("the list of interfaces")?;
    let (mut mac, mut others) = (None, Vec::new());
    for entry in all {
        let Some(address) = entry.address else {
            continue;
        };
        let named = entry.interface_name == side.interface;
        if let Some(link) = address.as_link_addr().and_then(|link| link.addr()) {
            mac = if named { Some(link) } else { mac };
            others.push(entry.interface_name);
        } else if let Some(ip) = address.as_sockaddr_in().map(|address| address.ip())
            && side.addresses.contains(&ip)
        {
            return Err(BoxError::KernelHasAddress {
                address: ip,
                interface: entry.interface_name,
            });
        }
    }
    others.retain(|name| name != "lo");
    mac.ok_or_else(|| BoxError::NoInterface {
        name: side.interface.clone(),
        others: others.join(", "),
    })
}
