//! What is measured: the bare network, Kuguri by one of its ways, or another program.
//!
//! ```text
//!   raw       a ──────────── b
//!   direct    a (connect) ══ b (serve, with a card)          c: rendezvous
//!   hub       a (connect) ══ c (serve, rendezvous) ══ b (connect)
//!   relay     a (connect) ══ c (rendezvous) ══ b (serve, with a card)
//! ```

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, bail};

use super::Options;
use super::load::Ends;
use super::program::{Program, Started};
use super::scene::{A, B, C, Scene};
use crate::cast::{Cast, Line, Rights};

/// A thing to be measured.
#[derive(Clone, Debug)]
pub(super) enum Subject {
    /// Nothing: the kernel's own network.
    Raw,
    /// Kuguri.
    Kuguri(Way),
    /// Another program.
    Other(Box<Program>),
}

/// How Kuguri carries frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// From peer to peer.
    Direct,
    /// The same, sealed by ChaCha20-Poly1305.
    ChaCha,
    /// From member to member, through their hub.
    Hub,
    /// From peer to peer, through the rendezvous.
    Relay,
}

impl Subject {
    /// The word for it.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Raw => "raw".to_owned(),
            Self::Kuguri(way) => way.to_string(),
            Self::Other(program) => program.name.clone(),
        }
    }

    /// Sets it up, until something can flow.
    pub(super) fn start<'a>(&self, scene: &'a Scene) -> anyhow::Result<Running<'a>> {
        match self {
            Self::Raw => Ok(Running::Raw),
            Self::Kuguri(way) => way.start(scene),
            Self::Other(program) => Ok(Running::Other(program.start(scene)?)),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::ChaCha => "chacha",
            Self::Hub => "hub",
            Self::Relay => "relay",
        })
    }
}

/// Subjects in the order in which they are measured.
///
/// # Errors
/// A name that nobody has, or a description that cannot be read.
pub(super) fn choose(options: &Options) -> anyhow::Result<Vec<Subject>> {
    let mut all = vec![Subject::Raw];
    all.extend([Way::Direct, Way::ChaCha, Way::Hub, Way::Relay].map(Subject::Kuguri));
    let own = all.len();
    let described = super::program::described()?;
    all.extend(described.into_iter().map(Box::new).map(Subject::Other));
    let known = all.len();
    for file in &options.program {
        all.push(Subject::Other(Box::new(Program::read(file)?)));
    }
    if options.only.is_empty() {
        let wanted = |(index, subject): (usize, Subject)| {
            let described = (own..known).contains(&index);
            (!described || options.others && is_here(&subject)).then_some(subject)
        };
        return Ok(all.into_iter().enumerate().filter_map(wanted).collect());
    }
    let named = |name: &String| {
        let subject = all.iter().find(|subject| subject.name() == *name);
        subject.cloned().with_context(|| {
            let names: Vec<String> = all.iter().map(Subject::name).collect();
            format!(
                "there is no subject {name:?}; there are {}",
                names.join(", ")
            )
        })
    };
    options.only.iter().map(named).collect()
}

/// Whether it can be measured on this machine; says so where not.
fn is_here(subject: &Subject) -> bool {
    let Subject::Other(program) = subject else {
        return true;
    };
    let missing = program.missing();
    if let Some(command) = &missing {
        let name = &program.name;
        let package = &program.package;
        anstream::eprintln!("{name} is left out: there is no {command} here (package {package})");
    }
    missing.is_none()
}

/// A subject that is up.
pub(super) enum Running<'a> {
    Raw,
    Kuguri(Box<Cast<'a>>, Ends),
    Other(Started<'a>),
}

impl Running<'_> {
    /// Between which addresses something can flow.
    pub(super) fn ends(&self) -> Ends {
        match self {
            Self::Raw => Ends {
                from: ("a", A),
                to: ("b", B),
            },
            Self::Kuguri(_, ends) => *ends,
            Self::Other(started) => started.ends(),
        }
    }

    /// Takes it away.
    pub(super) fn stop(self) {
        match self {
            Self::Raw => {}
            Self::Kuguri(mut cast, _) => cast.stop(),
            Self::Other(started) => started.stop(),
        }
    }
}

impl Way {
    fn start<'a>(self, scene: &'a Scene) -> anyhow::Result<Running<'a>> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let files = scene.files.join(self.to_string());
        let mut cast = Cast::new(&scene.wired, program, files);
        cast.start("c", &["rendezvous"], Rights::None)?;
        cast.event("c", "listening", SOON)?;
        let ends = match self {
            Self::Hub => self.members(&mut cast)?,
            Self::Direct | Self::ChaCha | Self::Relay => self.pair(&mut cast)?,
        };
        Ok(Running::Kuguri(Box::new(cast), ends))
    }

    /// A hub with a card of its own, and one member.
    fn pair(self, cast: &mut Cast<'_>) -> anyhow::Result<Ends> {
        let rendezvous = C.to_string();
        let mut serve = vec!["serve", "bench", "--card", "--rendezvous", &rendezvous];
        serve.extend(self.options());
        cast.start("b", &serve, Rights::Root)?;
        let invite = invite(cast, "b")?;
        let b = card(cast, "b")?;
        let mut connect = vec!["connect", &invite];
        connect.extend(self.options());
        cast.start("a", &connect, Rights::Root)?;
        let a = card(cast, "a")?;
        self.settle(cast, "a")?;
        Ok(Ends {
            from: ("a", a),
            to: ("b", b),
        })
    }

    /// A hub between two members.
    fn members(self, cast: &mut Cast<'_>) -> anyhow::Result<Ends> {
        let rendezvous = C.to_string();
        cast.start(
            "c",
            &["serve", "bench", "--rendezvous", &rendezvous],
            Rights::None,
        )?;
        let invite = invite(cast, "c")?;
        let mut member = |who| {
            cast.start(who, &["connect", &invite], Rights::Root)?;
            let address = card(cast, who)?;
            self.settle(cast, who)?;
            anyhow::Ok((who, address))
        };
        Ok(Ends {
            from: member("a")?,
            to: member("b")?,
        })
    }

    const fn options(self) -> &'static [&'static str] {
        match self {
            Self::Direct | Self::Hub => &[],
            Self::ChaCha => &["--cipher", "chacha20-poly1305"],
            Self::Relay => &["--relay-only"],
        }
    }

    /// Waits until the link goes the way that is to be measured.
    fn settle(self, cast: &mut Cast<'_>, who: &'static str) -> anyhow::Result<()> {
        if self == Self::Relay {
            return Ok(());
        }
        let is_direct =
            |line: &Line| line.event() == "path-changed" && line.text("path") == "direct";
        cast.hear(who, "direct path", SOON, is_direct)?;
        Ok(())
    }
}

fn invite(cast: &mut Cast<'_>, who: &'static str) -> anyhow::Result<String> {
    let line = cast.event(who, "invite", SOON)?;
    Ok(line.text("invite").to_owned())
}

/// The address of a machine's virtual LAN card, once it is set.
fn card(cast: &mut Cast<'_>, who: &'static str) -> anyhow::Result<Ipv4Addr> {
    let line = cast.event(who, "card", SOON)?;
    let address = line
        .text("address")
        .split('/')
        .next()
        .unwrap_or_default()
        .parse();
    let Ok(address) = address else {
        bail!("{who} has no address: {}", line.said);
    };
    Ok(address)
}

/// How long anything may take to come up.
const SOON: Duration = Duration::from_secs(10);
