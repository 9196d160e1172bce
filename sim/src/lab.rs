//! The laboratory: the same links and NATs as in memory, for real programs. Each simulated machine is a network
//! namespace with one interface, which leads into our box; the box plays the [`Network`] by the clock. So the whole
//! Internet between the machines is our model, and no bridge, no packet filter and no right of root is needed.
//!
//! ```text
//!   world    user, network and PID namespaces: everything in them ends with us   (fork: the way in)
//!   ┌──────────────────────────────────────────────────────────────────────────────┐
//!   │  namespace      namespace      namespace      one each: the machines         │
//!   │   office           home           vps         real programs run in them      │
//!   │    eth0            eth0           eth0         (netlink sets them up)        │
//!   │     │ card          │ card         │ card     TUN, or veth and packet_socket │
//!   │  ┌──┴───────────────┴──────────────┴──┐                                      │
//!   │  │ real_time: Network by the clock    │       links · NATs · routers         │
//!   │  └────────────────────────────────────┘                                      │
//!   └──────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! `nat_box` puts the same models between two interfaces that are there already.
//!
//! It knows the kernel and the network's verbs; it must not know what a NAT or a link does, nor what the programs say.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Child, Command};
use std::time::Instant;

use crate::network::{HostId, Network};

mod card;
mod fork;
mod host_name;
mod namespace;
mod nat_box;
mod neighbours;
mod netlink;
mod packet_socket;
mod real_time;
mod refusal;
mod tun;
mod wired;
pub mod world;

pub use card::Attachment;
pub use nat_box::{BoxConfig, BoxError, NatBox, Side};
pub use real_time::Traffic;
pub use refusal::Refusal;
pub use wired::Wired;
pub use world::World;

use card::{Card, MACHINE_END};
use namespace::Namespace;
use real_time::RealTime;
use refusal::Step;

/// One machine of the laboratory, and which host of the network it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its name in this laboratory, and its host name.
    pub name: String,
    /// The host of the network that it is.
    pub host: HostId,
    /// Addresses of its interface `eth0`, with prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
    /// The default gateway, at most one of each family; without one everything goes straight out of `eth0`.
    pub gateways: Vec<IpAddr>,
    /// MTU of `eth0` in bytes.
    pub mtu: u16,
}

/// A running laboratory. Its machines are gone when it is dropped and the last of their programs has ended.
#[derive(Debug)]
pub struct Lab {
    machines: BTreeMap<String, Namespace>,
    real_time: RealTime,
}

impl Lab {
    /// Builds the machines and starts the network between them.
    ///
    /// # Errors
    /// What the kernel refused, in one sentence.
    pub fn start(
        _world: &World,
        network: Network,
        machines: Vec<Machine>,
        attachment: Attachment,
    ) -> Result<Self, Refusal> {
        let mut namespaces = BTreeMap::new();
        let mut cards = BTreeMap::new();
        for machine in machines {
            let (namespace, card) = build(&machine, attachment)?;
            cards.insert(machine.host, card);
            namespaces.insert(machine.name, namespace);
        }
        Ok(Self {
            machines: namespaces,
            real_time: RealTime::start(network, cards).step("a thread")?,
        })
    }

    /// Runs `body` on a thread on a machine: sockets that it opens are the machine's, wherever they are used later.
    ///
    /// # Errors
    /// There is no such machine, or no more threads.
    pub fn run_in<T: Send>(&self, machine: &str, body: impl FnOnce() -> T + Send) -> io::Result<T> {
        self.machines
            .get(machine)
            .ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, format!("no machine {machine}"))
            })?
            .run(body)
    }

    /// Looks at the network or changes it while it runs: cuts a link, replaces a NAT, asks for a capture.
    pub fn network<T>(&self, body: impl FnOnce(&mut Network, Instant) -> T) -> T {
        self.real_time.network(body)
    }

    /// Gives a machine another address in place of one that it has, and the default route that goes with it. The
    /// network must be told as well ([`Self::network`]).
    ///
    /// # Errors
    /// There is no such machine, or the kernel refuses.
    pub fn change_address(
        &self,
        machine: &str,
        old: (IpAddr, u8),
        new: (IpAddr, u8),
        gateway: Option<IpAddr>,
    ) -> io::Result<()> {
        self.run_in(machine, || {
            let index = card::index_of(MACHINE_END)?;
            netlink::remove_address(index, old.0, old.1)?;
            netlink::add_address(index, new.0, new.1)?;
            // The old route may have gone with the address or not.
            match netlink::add_default_route(index, new.0, gateway) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                other => other,
            }
        })?
    }

    /// What went through the box so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.real_time.traffic()
    }
}

/// Machines on which programs can be started.
pub trait Machines {
    /// Starts a program on a machine.
    ///
    /// # Errors
    /// There is no such machine, or the program cannot be started.
    fn spawn(&self, machine: &str, command: &mut Command) -> io::Result<Child>;
}

impl Machines for Lab {
    fn spawn(&self, machine: &str, command: &mut Command) -> io::Result<Child> {
        // What runs on a machine may build a world of its own; it must not take the machine for one.
        command.env_remove(world::MARK);
        self.run_in(machine, || command.spawn())?
    }
}

/// Makes a command start without any capability in the world: as an ordinary user's program.
pub fn without_capabilities(command: &mut Command) -> &mut Command {
    fork::start_without_capabilities(command);
    command
}

/// One machine: namespace, loopback, interface, addresses, routes.
fn build(machine: &Machine, attachment: Attachment) -> Result<(Namespace, Card), Refusal> {
    let namespace = Namespace::new(&machine.name).step("a network namespace")?;
    namespace
        .run(set_up_loopback)
        .flatten()
        .step("to bring the loopback interface up")?;
    let card = Card::plug(&namespace, machine.mtu, attachment)?;
    namespace
        .run(|| set_addresses(machine))
        .flatten()
        .step("an address or a route")?;
    Ok((namespace, card))
}

fn set_up_loopback() -> io::Result<()> {
    netlink::set_up(card::index_of("lo")?, None, true)?;
    // Ping sockets for everybody (icmp(7)); where /proc/sys is read-only, raw sockets must do.
    let _ = std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0");
    Ok(())
}

fn set_addresses(machine: &Machine) -> io::Result<()> {
    let index = card::index_of(MACHINE_END)?;
    for &(address, prefix) in &machine.addresses {
        netlink::add_address(index, address, prefix)?;
    }
    for any in [
        IpAddr::from(Ipv4Addr::UNSPECIFIED),
        Ipv6Addr::UNSPECIFIED.into(),
    ] {
        let same = |address: &IpAddr| address.is_ipv4() == any.is_ipv4();
        if machine.addresses.iter().any(|(address, _)| same(address)) {
            let gateway = machine.gateways.iter().copied().find(same);
            netlink::add_default_route(index, any, gateway)?;
        }
    }
    Ok(())
}
