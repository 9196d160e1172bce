//! The bench's machines: `a` and `b`, between which everything is measured, and `c`, where what stands between them runs.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use kuguri_sim::lab::{Refusal, Wired, World};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Three machines on one Ethernet.
pub(super) struct Scene {
    pub(super) wired: Wired,
    pub(super) files: PathBuf,
    /// Namespaces of the machines, by the kernel's names for them.
    networks: BTreeSet<PathBuf>,
}

impl Scene {
    /// Builds it. `files` is where programs keep theirs.
    pub(super) fn build(world: &World, files: &Path) -> anyhow::Result<Self> {
        let machines = [("a", A), ("b", B), ("c", C)];
        let wired = Wired::start(
            world,
            &machines.map(|(name, address)| (name, address.into(), 24)),
        )?;
        let network = |(name, _)| wired.run_in(name, || fs::read_link("/proc/thread-self/ns/net"));
        let networks = machines
            .into_iter()
            .map(network)
            .map(Result::flatten)
            .collect::<io::Result<_>>()
            .map_err(|error| Refusal::new("a look at a network namespace", error))?;
        Ok(Self {
            wired,
            files: files.to_owned(),
            networks,
        })
    }

    /// The processes that run on the machines now, by their numbers in `/proc`: the subject's, whoever started them.
    ///
    /// The bench itself lives outside of the machines; only its threads go in.
    pub(super) fn processes(&self) -> Vec<u32> {
        let number = |name: &str| name.parse().ok();
        let here = |pid: &u32| {
            fs::read_link(format!("/proc/{pid}/ns/net"))
                .is_ok_and(|network| self.networks.contains(&network))
        };
        fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str().and_then(number))
            .filter(here)
            .collect()
    }

    /// Kills what runs on the machines now.
    pub(super) fn kill_processes(&self) {
        for pid in self.processes().into_iter().filter_map(inside) {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// The number of a process in this world: `/proc` is still the one of outside, and says of each process its numbers from
/// the outermost to the innermost (`NSpid`, proc(5)).
fn inside(pid: u32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let numbers = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    numbers.split_whitespace().last()?.parse().ok()
}

/// The machines' own addresses.
pub(super) const A: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
pub(super) const B: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
pub(super) const C: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 3);
