//! Machines on one plain Ethernet: nothing of ours is between them, only a bridge of the kernel. What a program reaches
//! here it reaches by itself, so this is where programs are measured.
//!
//! ```text
//!   namespace    namespace    namespace      the machines
//!      a            b            c
//!    eth0         eth0         eth0          veth, with all offloads
//!      └────────────┼────────────┘
//!                 bridge                     in the world's own namespace
//! ```

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::process::{Child, Command};

use super::card::{MACHINE_END, index_of};
use super::namespace::Namespace;
use super::netlink::{self, VethEnd};
use super::refusal::{Refusal, Step};
use super::{Machines, World, set_up_loopback, world};

/// Machines that a bridge joins. They are gone when it is dropped and the last of their programs has ended.
#[derive(Debug)]
pub struct Wired {
    machines: BTreeMap<String, Namespace>,
}

impl Wired {
    /// Builds the bridge and a machine on it for each name, with that address and prefix length. One in a world.
    ///
    /// # Errors
    /// What the kernel refused, in one sentence.
    pub fn start(_world: &World, machines: &[(&str, IpAddr, u8)]) -> Result<Self, Refusal> {
        netlink::add_bridge(BRIDGE).step("a bridge")?;
        let bridge = index_of(BRIDGE).step("a bridge")?;
        netlink::set_up(bridge, None, true).step("to bring a bridge up")?;
        let mut namespaces = BTreeMap::new();
        for (number, &(name, address, prefix)) in (1..).zip(machines) {
            let namespace = Namespace::new(name).step("a network namespace")?;
            plug(&namespace, number, bridge).step("a veth pair")?;
            namespace
                .run(|| {
                    set_up_loopback()?;
                    let index = index_of(MACHINE_END)?;
                    netlink::set_up(index, None, true)?;
                    netlink::add_address(index, address, prefix)
                })
                .flatten()
                .step("an address")?;
            namespaces.insert(name.to_owned(), namespace);
        }
        Ok(Self {
            machines: namespaces,
        })
    }

    /// Runs `body` on a thread on a machine: sockets that it opens are the machine's, wherever they are used later.
    ///
    /// # Errors
    /// There is no such machine, or no more threads.
    pub fn run_in<T: Send>(&self, machine: &str, body: impl FnOnce() -> T + Send) -> io::Result<T> {
        let namespace = self.machines.get(machine).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("no machine {machine}"))
        })?;
        namespace.run(body)
    }
}

impl Machines for Wired {
    fn spawn(&self, machine: &str, command: &mut Command) -> io::Result<Child> {
        command.env_remove(world::MARK);
        self.run_in(machine, || command.spawn())?
    }
}

/// One machine's wire to the bridge.
fn plug(namespace: &Namespace, number: u8, bridge: u32) -> io::Result<()> {
    let near_name = format!("port{number}");
    let near = VethEnd {
        name: &near_name,
        mac: [0x02, 0xc0, 0, 0, 0, number],
        mtu: MTU,
    };
    let far = VethEnd {
        name: MACHINE_END,
        mac: [0x02, 0xd0, 0, 0, 0, number],
        mtu: MTU,
    };
    netlink::add_veth(near, far, namespace.network())?;
    let index = index_of(&near_name)?;
    netlink::set_bridge(index, bridge)?;
    netlink::set_up(index, None, true)
}

/// The bridge's name in the world's namespace.
const BRIDGE: &str = "wire";
/// An ordinary Ethernet's, in bytes.
const MTU: u32 = 1500;

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};
    use std::time::Duration;

    use super::*;
    use crate::lab::world::claim;

    #[test]
    fn machines_on_one_wire_hear_each_other() {
        claim(|world| {
            let address = |last| Ipv4Addr::new(10, 1, 0, last);
            let machines = [("a", address(1).into(), 24), ("b", address(2).into(), 24)];
            let wired = Wired::start(world, &machines).expect("a wire");
            let bind = |name, last| {
                let bind = || UdpSocket::bind((address(last), 9));
                wired.run_in(name, bind).expect("a thread").expect("a port")
            };
            let (a, b) = (bind("a", 1), bind("b", 2));
            b.set_read_timeout(Some(Duration::from_secs(5)))
                .expect("set");
            a.send_to(b"hello", (address(2), 9)).expect("sent");
            let mut buffer = [0; 16];
            let (length, from) = b.recv_from(&mut buffer).expect("within the limit");
            assert_eq!(
                (&buffer[..length], from),
                (&b"hello"[..], (address(1), 9).into())
            );
        });
    }
}
