//! One machine with nobody around, for programs that are refused something: state directories, a rendezvous and a hub on
//! loopback, and an ordinary user.

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use kuguri_proto::identity::Identity;
use kuguri_proto::invite::{Invite, RendezvousRef};
use kuguri_sim::lab::Machines;
use kuguri_sim::lab::{Attachment, Lab, Machine, World};
use kuguri_sim::network::{Access, Network};
use tempfile::TempDir;

use super::process::{Ended, Running};
use super::program::Program;

/// One machine with nobody around.
#[derive(Debug)]
pub struct Place<'l> {
    lab: Option<&'l Lab>,
    /// State directories and whatever else a claim needs.
    pub files: TempDir,
    program: Program,
}

impl Place<'static> {
    /// Here, where the claims run; for what makes no card.
    #[must_use]
    pub fn here(program: Program) -> Self {
        Self::new(program, None)
    }
}

impl<'l> Place<'l> {
    /// The only machine of this laboratory, or of the claims themselves.
    ///
    /// # Panics
    /// When there is no temporary directory.
    #[must_use]
    pub fn new(program: Program, lab: Option<&'l Lab>) -> Self {
        Self {
            lab,
            files: TempDir::new().expect("a directory"),
            program,
        }
    }

    /// A state directory of that name; not made.
    #[must_use]
    pub fn state(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// A call of the program with this state directory.
    #[must_use]
    pub fn command(&self, state: &str, arguments: &[&str]) -> Command {
        let mut command = self.program.command(arguments);
        command.arg("--state").arg(self.state(state));
        command
    }

    /// Starts the program with this state directory.
    #[must_use]
    pub fn start(&self, state: &str, arguments: &[&str]) -> Running {
        self.spawn(&mut self.command(state, arguments))
    }

    /// Starts a command on the machine.
    pub fn spawn(&self, command: &mut Command) -> Running {
        Running::start(command, |command| match self.lab {
            Some(lab) => lab.spawn(MACHINE, command),
            None => command.spawn(),
        })
    }

    /// Runs the program with this state directory to its end.
    #[must_use]
    pub fn run(&self, state: &str, arguments: &[&str]) -> Ended {
        self.start(state, arguments).end()
    }

    /// Runs it and expects it to be refused by one sentence with these words in it.
    ///
    /// # Panics
    /// When it is not.
    pub fn refused(&self, state: &str, arguments: &[&str], words: &[&str]) {
        is_refusal(&self.run(state, arguments), words);
    }

    /// A rendezvous on loopback, its address and its key.
    ///
    /// # Panics
    /// When it does not come about.
    #[must_use]
    pub fn rendezvous(&self, state: &str, port: &str) -> (Running, SocketAddr, String) {
        let arguments = [
            "rendezvous",
            "--json",
            "--listen",
            "127.0.0.1",
            "--port",
            port,
        ];
        let mut process = self.start(state, &arguments);
        let said = process.event("listening");
        let address = said["addresses"][0].as_str().expect("text");
        let key = said["key"].as_str().expect("text").to_owned();
        (process, address.parse().expect("an address"), key)
    }

    /// A hub with the state directory `hub`, once it is registered; and its invite.
    ///
    /// # Panics
    /// When it does not come about.
    #[must_use]
    pub fn hub(&self, rendezvous: SocketAddr) -> (Running, String) {
        let arguments = [
            "serve",
            "office",
            "--json",
            "--rendezvous",
            &rendezvous.to_string(),
        ];
        let mut hub = self.start("hub", &arguments);
        hub.event("registered");
        let invite = hub.event("invite")["invite"]
            .as_str()
            .expect("text")
            .to_owned();
        (hub, invite)
    }
}

/// Expects one sentence with these words in it.
///
/// # Panics
/// When there is another end.
pub fn is_refusal(ended: &Ended, words: &[&str]) {
    assert_eq!(ended.err.len(), 1, "{ended:?}");
    ends_with_refusal(ended, words);
}

/// The same as the last of several lines: something was told before.
///
/// # Panics
/// When it is not so.
pub fn ends_with_refusal(ended: &Ended, words: &[&str]) {
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let sentence = ended.err.last().expect("a sentence");
    assert!(sentence.starts_with("error: "), "{sentence}");
    for word in words {
        assert!(sentence.contains(word), "{word} is missing: {sentence}");
    }
}

/// An invite that is well made and leads to this rendezvous.
///
/// # Panics
/// When `key` is none.
#[must_use]
pub fn invite_to(rendezvous: SocketAddr, key: &str, token: [u8; 16]) -> Invite {
    Invite {
        hub: Identity::from_seed(&[9; 32]).id(),
        rendezvous: vec![RendezvousRef {
            host: rendezvous.ip().to_string(),
            port: rendezvous.port(),
            key: key.parse().expect("a key"),
        }],
        token: Some(token),
        hub_name: "office".into(),
    }
}

/// An invite that is well made and leads nowhere.
///
/// # Panics
/// Never: it is short.
#[must_use]
pub fn some_invite() -> String {
    let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
    let key = Identity::from_seed(&[8; 32]).id().to_string();
    let invite = invite_to(nobody, &key, [7; 16]);
    invite.to_text().expect("short")
}

/// A user without any right: nobody, when the claims are made by root; else who makes them.
#[derive(Debug)]
pub struct Ordinary<'p> {
    place: &'p Place<'p>,
    /// A copy that nobody may reach too.
    program: Option<PathBuf>,
}

impl<'p> Ordinary<'p> {
    /// Such a user at this place.
    ///
    /// # Panics
    /// When root may not do what root may do.
    #[must_use]
    pub fn new(place: &'p Place<'p>) -> Self {
        let root = nix::unistd::geteuid().is_root();
        let program = root.then(|| {
            let copy = place.files.path().join("kuguri");
            if !copy.exists() {
                // By another process: a child that a claim beside this one starts meanwhile would inherit our descriptor,
                // and a file that is open for writing cannot be executed (ETXTBSY).
                let mut copying = Command::new("cp");
                copying.arg(place.program.path()).arg(&copy);
                assert!(copying.status().expect("cp starts").success());
                let all = Permissions::from_mode(0o755);
                fs::set_permissions(place.files.path(), all.clone()).expect("ours");
                fs::set_permissions(&copy, all).expect("ours");
            }
            copy
        });
        Self { place, program }
    }

    /// Whether it is another one than who makes the claims.
    #[must_use]
    pub const fn is_another(&self) -> bool {
        self.program.is_some()
    }

    /// Gives a file or directory to this user.
    ///
    /// # Panics
    /// When it is not there.
    pub fn owns(&self, path: &Path) {
        if self.is_another() {
            chown(path, Some(NOBODY), Some(NOBODY)).expect("root may");
        }
    }

    /// Starts the program as this user.
    #[must_use]
    pub fn start(&self, state: &str, arguments: &[&str]) -> Running {
        let Some(copy) = &self.program else {
            return self.place.start(state, arguments);
        };
        let mut command = Command::new(copy);
        command
            .args(arguments)
            .arg("--state")
            .arg(self.place.state(state));
        command.uid(NOBODY).gid(NOBODY).env_clear().current_dir("/");
        self.place.spawn(&mut command)
    }

    /// Runs the program as this user to its end.
    #[must_use]
    pub fn run(&self, state: &str, arguments: &[&str]) -> Ended {
        self.start(state, arguments).end()
    }
}

/// A laboratory with one machine, for [`Place::new`].
///
/// # Panics
/// When the kernel refuses.
#[must_use]
pub fn lonely_machine(world: &World) -> Lab {
    let mut network = Network::new(1, Instant::now());
    let host = network.add_host();
    let address = Ipv4Addr::new(203, 0, 113, 10).into();
    network
        .attach(host, Network::INTERNET, &[address], Access::default())
        .expect("the address is free");
    let machine = Machine {
        name: MACHINE.to_owned(),
        host,
        addresses: vec![(address, 24)],
        gateways: Vec::new(),
        mtu: 1500,
    };
    Lab::start(world, network, vec![machine], Attachment::Auto)
        .unwrap_or_else(|refusal| panic!("{refusal}"))
}

/// The name of the machine of [`lonely_machine`].
pub const MACHINE: &str = "alone";
/// By its number, since the program has no list of users.
pub const NOBODY: u32 = 65534;
