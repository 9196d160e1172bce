//! The demo's Internet and its machines.
//!
//! ```text
//!                    vps 203.0.113.10  (kuguri rendezvous)
//!                         │
//!   ──────────────────────┴───────────── public side: here the listener stands ──────────
//!        │ NAT 198.51.100.7                                   │ NAT 192.0.2.44
//!   office LAN 192.168.1.0/24                            home LAN 192.168.7.0/24
//!     │ office .10  (kuguri serve, no rights)              │ home .10  (kuguri connect)
//!     │ desk   .20  (kuguri connect)
//! ```
//!
//! In the demo each of the three access links takes 10 ms each way and carries 100 Mbit/s, so that between any two of office,
//! home and VPS a round trip is 40 ms. The claims about real processes have the same stage in another [`Setting`].

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::time::{Duration, Instant};

use kuguri_sim::lab::{Attachment, Lab, Machine, World};
use kuguri_sim::link::LinkConfig;
use kuguri_sim::nat::{Behavior, Preset};
use kuguri_sim::network::{Access, Network, RouterConfig, SegmentId};
use kuguri_sim::packet::Body;
use kuguri_sim::pcap;

use super::listener::Notes;

/// The NATs of the demo, as in `office=symmetric,home=cone`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nats {
    /// Before the office.
    pub office: Preset,
    /// Before the home.
    pub home: Preset,
}

impl Default for Nats {
    fn default() -> Self {
        Self {
            office: Preset::PortRestricted,
            home: Preset::PortRestricted,
        }
    }
}

impl Nats {
    /// Whether neither of them gives a peer another port for each other peer: then there must be a direct path.
    pub(super) fn are_cones(self) -> bool {
        [self.office, self.home]
            .iter()
            .all(|nat| nat.config().mapping == Behavior::EndpointIndependent)
    }
}

impl fmt::Display for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "office={},home={}", self.office, self.home)
    }
}

impl FromStr for Nats {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut office, mut home) = (None, None);
        for part in text.split(',') {
            let (place, kind) = part.split_once('=').unwrap_or((part, ""));
            let place = place.trim();
            let nat = match place {
                "office" => &mut office,
                "home" => &mut home,
                _ => {
                    return Err(format!(
                        "write office=TYPE,home=TYPE or one of them; {TYPES}"
                    ));
                }
            };
            let kind: Preset = kind
                .trim()
                .parse()
                .map_err(|_| format!("write {place}=TYPE; {TYPES}"))?;
            if nat.replace(kind).is_some() {
                return Err(format!("{place} stands there twice; it has one NAT"));
            }
        }
        let usual = Self::default();
        Ok(Self {
            office: office.unwrap_or(usual.office),
            home: home.unwrap_or(usual.home),
        })
    }
}

/// What differs between one stage and another.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The names of the machines: VPS, office, desk, home.
    pub names: [&'static str; 4],
    /// How the VPS, the office's NAT and the home's are connected to the Internet.
    pub access: Access,
    /// Of the NATs' choices.
    pub seed: u64,
    /// Packets that the listener on the public side keeps.
    pub captured: usize,
}

impl Setting {
    /// The demo's.
    pub(super) fn demo() -> Self {
        Self {
            names: ["vps", "office", "desk", "home"],
            access: Access::symmetric(LinkConfig {
                rate: Some(RATE),
                queue: QUEUE,
                ..LinkConfig::delay(ACCESS_DELAY)
            }),
            seed: rand::random(),
            captured: CAPTURED_PACKETS,
        }
    }

    /// Builds it all and starts the clock.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn build(self, world: &World, nats: Nats) -> anyhow::Result<Lab> {
        let [vps, office, desk, home] = self.names;
        let mut plan = Plan {
            network: Network::new(self.seed, Instant::now()),
            machines: Vec::new(),
            access: self.access.clone(),
        };
        plan.machine(vps, Network::INTERNET, VPS, self.access)?;
        let lan = plan.lan(nats.office, [198, 51, 100, 7], [192, 168, 1, 1])?;
        plan.machine(office, lan, [192, 168, 1, 10].into(), Access::default())?;
        plan.machine(desk, lan, [192, 168, 1, 20].into(), Access::default())?;
        let lan = plan.lan(nats.home, [192, 0, 2, 44], [192, 168, 7, 1])?;
        plan.machine(home, lan, [192, 168, 7, 10].into(), Access::default())?;
        plan.network.capture(Network::INTERNET, self.captured);
        let lab = Lab::start(world, plan.network, plan.machines, Attachment::Auto)?;
        Ok(lab)
    }
}

/// What the listener on the public side saw so far.
pub(super) fn listen(lab: &Lab) -> Notes {
    let captured = lab.network(|network, _| {
        let capture = network.captured(Network::INTERNET);
        capture.map(|capture| capture.packets().to_vec())
    });
    let mut notes = Notes::default();
    for packet in captured
        .into_iter()
        .flatten()
        .map(|captured| captured.packet)
    {
        notes.take(packet.source, packet.destination, payload(&packet.body));
    }
    notes
}

/// The same as a file for Wireshark.
pub(super) fn pcap(lab: &Lab) -> Vec<u8> {
    lab.network(|network, _| {
        let capture = network.captured(Network::INTERNET);
        pcap::write(capture.into_iter().flat_map(|capture| capture.packets()))
    })
}

/// What a packet carries.
#[must_use]
pub fn payload(body: &Body) -> &[u8] {
    match body {
        Body::Udp { payload, .. }
        | Body::IcmpEcho { payload, .. }
        | Body::Fragment { payload, .. }
        | Body::Other { payload, .. } => payload,
        Body::Tcp { segment, .. } => segment,
        Body::IcmpError { quote, .. } => quote.as_bytes(),
    }
}

struct Plan {
    network: Network,
    machines: Vec<Machine>,
    access: Access,
}

impl Plan {
    /// A LAN behind a NAT.
    fn lan(&mut self, nat: Preset, outside: [u8; 4], inside: [u8; 4]) -> anyhow::Result<SegmentId> {
        let config = RouterConfig {
            inside: vec![inside.into()],
            ..RouterConfig::new(nat.config(), outside.into(), self.access.clone())
        };
        let (_, lan) = self.network.add_router(Network::INTERNET, config)?;
        Ok(lan)
    }

    /// A machine whose gateway is the first address of its network.
    fn machine(
        &mut self,
        name: &str,
        segment: SegmentId,
        address: Ipv4Addr,
        access: Access,
    ) -> anyhow::Result<()> {
        let [a, b, c, _] = address.octets();
        let host = self.network.add_host();
        self.network
            .attach(host, segment, &[address.into()], access)?;
        self.machines.push(Machine {
            name: name.to_owned(),
            host,
            addresses: vec![(address.into(), 24)],
            gateways: vec![Ipv4Addr::new(a, b, c, 1).into()],
            mtu: 1500,
        });
        Ok(())
    }
}

/// All that a person may write.
const TYPES: &str = "TYPE is open, firewall, full-cone, restricted, port-restricted (or cone), symmetric, symmetric-sequential or linux";
/// The rendezvous' address.
pub const VPS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const ACCESS_DELAY: Duration = Duration::from_millis(10);
/// Bits per second of an access link.
const RATE: u64 = 100_000_000;
/// Bytes that wait before it: about 20 ms.
const QUEUE: usize = 256 * 1024;
/// More than the demo sends; a bound for the memory if it is kept.
const CAPTURED_PACKETS: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nats_are_named_in_any_order_and_both_have_a_default() {
        let nats: Nats = "home=symmetric".parse().expect("fine");
        assert_eq!(
            (nats.office, nats.home),
            (Preset::PortRestricted, Preset::Symmetric)
        );
        assert!(!nats.are_cones() && Nats::default().are_cones());
        let nats: Nats = "home=full-cone,office=symmetric".parse().expect("fine");
        assert_eq!(
            (nats.office, nats.home),
            (Preset::Symmetric, Preset::FullCone)
        );
        assert_eq!(nats.to_string().parse(), Ok(nats));
        for wrong in [
            "",
            "office",
            "garden=cone",
            "home=bamboo",
            "home=cone;office=cone",
            "home=cone,home=cone",
        ] {
            let error = wrong.parse::<Nats>().expect_err(wrong);
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn every_type_is_named() {
        for name in TYPES.split(|c: char| !c.is_ascii_lowercase() && c != '-') {
            let known = name.parse::<Preset>().is_ok();
            assert!(known || ["", "is", "or"].contains(&name), "{name}");
        }
        for preset in Preset::ALL {
            assert!(TYPES.contains(&preset.to_string()), "{preset}");
        }
    }
}
