//! Other programs to compare with: each is described by a small file, so that anybody can add one.
//!
//! ```toml
//! name = "openvpn"                 # its name in the table
//! package = "openvpn"              # what to install, for who lacks it
//! needs = ["openvpn"]              # commands that must be there
//! addresses = ["10.9.0.1", "10.9.0.2"]   # of a and b in the virtual network, once it is up
//! prepare = "…"                    # shell, once, before the machines' programs start (keys); optional
//! [start]                          # shell, on each machine that takes part; what it starts may stay in the foreground
//! a = "…"
//! b = "…"
//! c = "…"                          # optional
//! [stop]                           # optional; what is left running is killed in any case
//! ```
//!
//! Scripts run by `sh -e` in a directory of their own, which all of them share, with the machines' addresses in `$A`,
//! `$B` and `$C`.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use kuguri_sim::lab::Machines;
use serde::Deserialize;

use super::load::{self, Ends};
use super::scene::{A, B, C, Scene};

/// A description.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Program {
    pub(super) name: String,
    pub(super) package: String,
    needs: Vec<String>,
    addresses: [Ipv4Addr; 2],
    #[serde(default)]
    prepare: String,
    start: BTreeMap<Machine, String>,
    #[serde(default)]
    stop: BTreeMap<Machine, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Machine {
    C,
    B,
    A,
}

impl Machine {
    const fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::C => "c",
        }
    }
}

/// The descriptions that Kuguri comes with.
const DESCRIBED: [&str; 6] = [
    include_str!("programs/wireguard-go.toml"),
    include_str!("programs/openvpn.toml"),
    include_str!("programs/tinc.toml"),
    include_str!("programs/n2n.toml"),
    include_str!("programs/nebula.toml"),
    include_str!("programs/softether.toml"),
];

/// All of them.
///
/// # Errors
/// One cannot be read, which a test excludes.
pub(super) fn described() -> anyhow::Result<Vec<Program>> {
    let read = |text: &&str| toml::from_str(text).context("a description of Kuguri's own");
    DESCRIBED.iter().map(read).collect()
}

/// Prints one as it is, as a pattern for others.
pub(super) fn show(name: &str) -> anyhow::Result<ExitCode> {
    let wanted = format!("name = {name:?}\n");
    let Some(text) = DESCRIBED.iter().find(|text| text.contains(&wanted)) else {
        let names: Vec<String> = described()?.into_iter().map(|it| it.name).collect();
        bail!(
            "there is no description of {name:?}; there are {}",
            names.join(", ")
        );
    };
    anstream::print!("{text}");
    Ok(ExitCode::SUCCESS)
}

impl Program {
    /// From a file.
    pub(super) fn read(file: &Path) -> anyhow::Result<Self> {
        let text =
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        toml::from_str(&text)
            .with_context(|| format!("{} is no description of a program", file.display()))
    }

    /// A command that it needs and that is not here.
    pub(super) fn missing(&self) -> Option<String> {
        self.needs
            .iter()
            .find(|command| find(command).is_none())
            .cloned()
    }

    /// Starts it on its machines and waits until something flows.
    pub(super) fn start<'a>(&self, scene: &'a Scene) -> anyhow::Result<Started<'a>> {
        if let Some(command) = self.missing() {
            bail!(
                "there is no {command} on this machine; install the package {}",
                self.package
            );
        }
        let directory = scene.files.join(&self.name);
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let mut started = Started {
            program: self.clone(),
            scene,
            directory,
            children: Vec::new(),
        };
        started.run(Machine::C, &self.prepare)?;
        for (&machine, script) in &self.start {
            started.spawn(machine, script)?;
        }
        started.wait()?;
        Ok(started)
    }
}

/// A program that runs.
pub(super) struct Started<'a> {
    program: Program,
    scene: &'a Scene,
    directory: PathBuf,
    children: Vec<Child>,
}

impl Started<'_> {
    pub(super) const fn ends(&self) -> Ends {
        let [a, b] = self.program.addresses;
        Ends {
            from: ("a", a),
            to: ("b", b),
        }
    }

    /// Ends it with all that it has started.
    pub(super) fn stop(self) {
        drop(self);
    }

    fn command(&self, machine: Machine, script: &str) -> anyhow::Result<Command> {
        let log = self.directory.join(format!("{}.log", machine.name()));
        let log = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new("sh");
        command
            .args(["-e", "-c", script])
            .current_dir(&self.directory)
            .env("PATH", search_path())
            .env("A", A.to_string())
            .env("B", B.to_string())
            .env("C", C.to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        Ok(command)
    }

    fn spawn(&mut self, machine: Machine, script: &str) -> anyhow::Result<()> {
        let mut command = self.command(machine, script)?;
        let child = self.scene.wired.spawn(machine.name(), &mut command)?;
        self.children.push(child);
        Ok(())
    }

    fn run(&self, machine: Machine, script: &str) -> anyhow::Result<()> {
        let mut command = self.command(machine, script)?;
        let status = self
            .scene
            .wired
            .spawn(machine.name(), &mut command)?
            .wait()?;
        if !status.success() {
            bail!(
                "{} cannot be prepared: {}",
                self.program.name,
                self.last_words()
            );
        }
        Ok(())
    }

    /// Until b answers a.
    fn wait(&self) -> anyhow::Result<()> {
        let end = Instant::now() + SOON;
        loop {
            match load::is_reachable(self.scene, self.ends()) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= end => {
                    return Err(error).with_context(|| {
                        let name = &self.program.name;
                        format!("{name} carries nothing: {}", self.last_words())
                    });
                }
                // Not yet: its interface or its address is not there.
                Err(_) => thread::sleep(LOOK),
            }
        }
    }

    /// The last line that it wrote on any machine.
    fn last_words(&self) -> String {
        let last = |name| {
            let text = fs::read_to_string(self.directory.join(name)).unwrap_or_default();
            let line = text.lines().rev().find(|line| !line.trim().is_empty());
            line.map(|line| format!("{name}: {}", line.trim()))
        };
        let lines: Vec<String> = ["a.log", "b.log", "c.log"]
            .into_iter()
            .filter_map(last)
            .collect();
        if lines.is_empty() {
            "it said nothing".to_owned()
        } else {
            lines.join("; ")
        }
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        for (&machine, script) in &self.program.stop {
            // What does not listen is killed below.
            let _ = self.run(machine, script);
        }
        // Everything on the machines is the program's; also what has left its parent.
        let end = Instant::now() + SOON;
        while !self.scene.processes().is_empty() && Instant::now() < end {
            self.scene.kill_processes();
            for child in &mut self.children {
                let _ = child.try_wait();
            }
            thread::sleep(LOOK);
        }
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Where a command is; servers are not in every user's path.
fn find(command: &str) -> Option<PathBuf> {
    let path = search_path();
    env::split_paths(&path)
        .map(|directory| directory.join(command))
        .find(|file| file.is_file())
}

fn search_path() -> std::ffi::OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/local/sbin:/usr/sbin:/sbin");
    path
}

/// How long it may take to come up, or to end.
const SOON: Duration = Duration::from_secs(20);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_description_is_whole() {
        let all = described().expect("they can be read");
        assert_eq!(all.len(), DESCRIBED.len());
        for program in all {
            assert!(program.start.contains_key(&Machine::A), "{}", program.name);
            assert!(program.start.contains_key(&Machine::B), "{}", program.name);
            assert!(!program.needs.is_empty() && !program.package.is_empty());
            assert!(show(&program.name).is_ok());
        }
    }

    #[test]
    fn a_wrong_description_is_named_with_its_line() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("wrong.toml");
        fs::write(&file, "name = \"x\"\ncolour = 1\n").expect("written");
        let error = format!("{:#}", Program::read(&file).expect_err("refused"));
        assert!(
            error.contains("wrong.toml") && error.contains("colour"),
            "{error}"
        );
    }
}
