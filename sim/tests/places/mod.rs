//! Namespaces made by the system's own means, the system calls and `ip`, as a person would make them: nothing of the
//! laboratory is in them.
#![allow(dead_code, reason = "each test program uses a part")]

use std::fs::File;
use std::process::{Command, Stdio};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace that lives as long as this, on a veth pair with the one where it was made.
pub(crate) struct Place(File);

impl Place {
    /// `near` is the interface that stays here; the other end is `far` and the number. None where there is no `ip`, or no
    /// right.
    pub(crate) fn new(
        number: u8,
        near: &str,
        address: &str,
        gateway: Option<&str>,
    ) -> Option<Self> {
        let own = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).ok()?;
            File::open("/proc/thread-self/ns/net").ok()
        });
        let place = Self(own.join().ok()??);
        place.ip_here(&format!(
            "link add {near} type veth peer name far{number} netns {THERE}"
        ))?;
        ip(&format!("link set {near} up arp off"))?;
        place.ip("link set lo up")?;
        place.ip(&format!("address add {address} dev far{number}"))?;
        place.ip(&format!("link set far{number} up"))?;
        if let Some(gateway) = gateway {
            place.ip(&format!("route add default via {gateway}"))?;
        }
        Some(place)
    }

    /// Moves an interface from here to there.
    pub(crate) fn take(&self, interface: &str) -> Option<()> {
        self.ip_here(&format!("link set {interface} netns {THERE}"))
    }

    /// `ip` there.
    pub(crate) fn ip(&self, arguments: &str) -> Option<()> {
        self.run(|| ip(arguments))
    }

    /// A line for the shell there.
    pub(crate) fn shell(&self, line: &str) -> Option<()> {
        let status = self.run(|| Command::new("sh").args(["-c", line]).status());
        status.ok()?.success().then_some(())
    }

    /// Runs `body` on a thread there.
    pub(crate) fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).expect("it is ours");
                body()
            });
            inside.join().expect("it does not panic")
        })
    }

    /// `ip` here, with the namespace as [`THERE`].
    fn ip_here(&self, arguments: &str) -> Option<()> {
        let file = self.0.try_clone().ok()?;
        let mut command = Command::new("ip");
        let command = command.args(arguments.split(' ')).stdin(Stdio::from(file));
        command.status().ok()?.success().then_some(())
    }
}

/// `ip` here.
pub(crate) fn ip(arguments: &str) -> Option<()> {
    let mut command = Command::new("ip");
    let status = command.args(arguments.split(' ')).status();
    status.ok()?.success().then_some(())
}

/// A namespace that is a program's standard input.
const THERE: &str = "/proc/self/fd/0";
