//! The picture of the claims: an office and a home behind NATs, and a VPS, each machine with a kernel network of its own.
//!
//! ```text
//!   office-machine ─┐
//!                  NAT ── the Internet ── NAT ── home-machine
//!   desk-machine ──┘          │
//!                        vps-machine
//! ```

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use kuguri::demo::stage::{Nats, Setting, payload};
use kuguri_sim::lab::{Lab, Machines, World, without_capabilities};
use kuguri_sim::nat::Preset;
use kuguri_sim::network::{Access, Network};
use serde_json::Value;
use tempfile::TempDir;

use super::process::{Ended, Running};
use super::program::Program;
use super::until;

/// Has the rendezvous.
pub const VPS: &str = "vps-machine";
/// Has the hub.
pub const OFFICE: &str = "office-machine";
/// In the same LAN as the office.
pub const DESK: &str = "desk-machine";
/// Behind another NAT.
pub const HOME: &str = "home-machine";
/// The address of the VPS.
pub use kuguri::demo::stage::VPS as VPS_ADDRESS;
/// The hub's virtual host.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 30, 1);

/// What a process may do on its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Nothing that needs a capability.
    None,
    /// All of it.
    Root,
}

/// The machines, and the directory where their processes keep their files.
#[derive(Debug)]
pub struct Scene {
    /// The machines and the network between them.
    pub lab: Lab,
    program: Program,
    files: TempDir,
}

impl Scene {
    /// Builds it; nothing runs yet. Whatever passes on the Internet is captured.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[must_use]
    pub fn new(world: &World, program: Program, office: Preset, home: Preset) -> Self {
        let setting = Setting {
            names: [VPS, OFFICE, DESK, HOME],
            access: Access::delay(Duration::from_millis(5)),
            seed: 1,
            captured: CAPTURED_PACKETS,
        };
        let lab = setting
            .build(world, Nats { office, home })
            .unwrap_or_else(|refusal| panic!("{refusal:#}"));
        let files = TempDir::new().expect("a temporary directory");
        Self {
            lab,
            program,
            files,
        }
    }

    /// The state directory of the processes on a machine.
    #[must_use]
    pub fn state(&self, machine: &str) -> PathBuf {
        self.files.path().join(machine)
    }

    /// Starts `kuguri` on a machine, with that machine's state directory.
    #[must_use]
    pub fn start(&self, machine: &str, rights: Rights, arguments: &[&str]) -> Running {
        let mut command = self.command(machine, rights, arguments);
        Running::start(&mut command, |command| self.lab.spawn(machine, command))
    }

    /// Runs `kuguri` on a machine until it ends.
    #[must_use]
    pub fn call(&self, machine: &str, arguments: &[&str]) -> Ended {
        self.start(machine, Rights::None, arguments).end()
    }

    /// The rendezvous, once it listens.
    #[must_use]
    pub fn rendezvous(&self) -> Running {
        let mut rendezvous = self.start(VPS, Rights::None, &["rendezvous", "--json"]);
        rendezvous.event("listening");
        rendezvous
    }

    /// A hub in the office without any right, once it is registered; and its invite.
    ///
    /// # Panics
    /// When it does not come about.
    #[must_use]
    pub fn hub(&self, name: &str, network: &str) -> (Running, String) {
        let address = VPS_ADDRESS.to_string();
        let arguments = [
            "serve",
            name,
            "--json",
            "--rendezvous",
            &address,
            "--address",
            network,
        ];
        let mut hub = self.start(OFFICE, Rights::None, &arguments);
        hub.event("registered");
        let invite = hub.event("invite");
        let invite = invite["invite"].as_str().expect("text").to_owned();
        (hub, invite)
    }

    /// A member of a hub, once its card has an address.
    ///
    /// # Panics
    /// When it does not come about.
    #[must_use]
    pub fn member(&self, machine: &str, invite: &str) -> Member {
        let arguments = ["connect", invite, "--json"];
        let mut process = self.start(machine, Rights::Root, &arguments);
        let card = process.hear("card", |event| {
            event["event"] == "card" && event["address"].is_string()
        });
        Member::new(process, &card)
    }

    /// What `kuguri status --json` says of the first process on a machine.
    ///
    /// # Panics
    /// When it says nothing.
    #[must_use]
    pub fn status(&self, machine: &str) -> Value {
        let mut command = self.command(machine, Rights::None, &["status", "--json"]);
        command.stdout(Stdio::piped());
        let child = self.lab.spawn(machine, &mut command).expect("starts");
        let output = child.wait_with_output().expect("ends");
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Waits until all links of the process on a machine have this path.
    pub fn wait_for_path(&self, machine: &str, path: &str) {
        until(&format!("{path} on {machine}"), || {
            let status = self.status(machine);
            let links = status[0]["node"]["links"].as_array()?;
            let all = !links.is_empty() && links.iter().all(|link| link["path"] == path);
            all.then_some(())
        });
    }

    /// Payloads of everything that has passed on the Internet.
    ///
    /// # Panics
    /// When something was missed.
    #[must_use]
    pub fn captured(&self) -> Vec<Vec<u8>> {
        self.lab.network(|network, _| {
            let capture = network.captured(Network::INTERNET).expect("it captures");
            assert_eq!(capture.missed(), 0, "the claim sends less");
            let packets = capture.packets().iter();
            packets
                .map(|seen| payload(&seen.packet.body).to_vec())
                .collect()
        })
    }

    fn command(&self, machine: &str, rights: Rights, arguments: &[&str]) -> Command {
        let mut command = self.program.command(arguments);
        command.arg("--state").arg(self.state(machine));
        if rights == Rights::None {
            without_capabilities(&mut command);
        }
        command
    }
}

/// A process with a virtual LAN card.
#[derive(Debug)]
pub struct Member {
    /// The process.
    pub process: Running,
    /// Its card's address.
    pub address: Ipv4Addr,
    /// Its card's MAC address.
    pub mac: [u8; 6],
    /// Bytes of IP packet that its card takes.
    pub mtu: usize,
}

impl Member {
    fn new(process: Running, card: &Value) -> Self {
        let address = card["address"].as_str().expect("text");
        let (address, _) = address.split_once('/').expect("with its prefix length");
        let mac = card["mac"].as_str().expect("text").split(':');
        let mac: Vec<u8> = mac
            .map(|byte| u8::from_str_radix(byte, 16).expect("a byte"))
            .collect();
        let mtu = card["mtu"].as_u64().expect("a number");
        Self {
            process,
            address: address.parse().expect("an IPv4 address"),
            mac: mac.try_into().expect("six bytes"),
            mtu: usize::try_from(mtu).expect("small"),
        }
    }
}

/// More than any claim sends.
const CAPTURED_PACKETS: usize = 200_000;
