//! `kuguri serve`: hosts a hub.

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, bail};
use kuguri_proto::gateway::subnet::Subnet;
use kuguri_proto::identity::PeerId;
use kuguri_proto::invite::{Invite, RendezvousRef};
use kuguri_proto::node::{Event, HubConfig, MEMBERS_MAX, Role};
use kuguri_rendezvous::keyfile;

use super::connect::mac_of;
use super::start::{self, Start, Wish};
use crate::config::address::HostPort;
use crate::config::hub::HubFile;
use crate::config::state::State;
use crate::driver::Observe;
use crate::known::{Known, Source};
use crate::output::{Output, Saying, stdout_is_terminal};

/// Host a hub: a virtual Ethernet switch that members connect to
///
/// Prints an invite: one line, which is all that a member needs. Needs no privilege,
/// no port forwarding and no address of its own; runs until Ctrl-C.
///
///   $ kuguri serve office --rendezvous vps.example
///   $ kuguri serve office --rendezvous 192.0.2.1:7777 --address 10.9.0.1/24
///   $ kuguri serve office > invite.txt          # the rendezvous is remembered
///
/// The invite is printed once the rendezvous has proved its key. The hub's key is
/// kept, so that an invite stays good over restarts; kuguri invite shows it again.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Flags {
    /// The hub's name, for people: letters, digits, '-', '_' and '.'
    #[arg(value_parser = hub_name)]
    pub(super) name: String,
    /// The public server to register at [default: the one of last time; port 7777]
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(super) rendezvous: Option<HostPort>,
    /// The key that the rendezvous must show, as it prints it at its start
    ///
    /// Without it the first key is trusted, kept, and another one refused later.
    #[arg(long, value_name = "KEY")]
    pub(super) rendezvous_key: Option<PeerId>,
    /// The hub's own address and prefix length; members get addresses of the same network
    #[arg(long, value_name = "ADDRESS/PREFIX", default_value = "192.168.30.1/24", value_parser = subnet)]
    pub(super) address: Subnet,
    /// This machine is in the network too, by a virtual LAN card of this name; needs the right to make one
    ///
    /// It gets an address as a member does.
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "kuguri0")]
    pub(super) card: Option<String>,
    /// Show the invite as a QR code too, also when stdout is no terminal
    #[arg(long)]
    pub(super) qr: bool,
    #[command(flatten)]
    pub(super) common: start::Common,
    #[command(flatten)]
    pub(super) nat: super::secure_nat::Flags,
}

pub(super) fn run(flags: Flags, state: &State, started: Instant) -> anyhow::Result<ExitCode> {
    let name = format!("hub-{}", flags.name);
    let _lock = state.lock(&name)?;
    let (key, file) = (
        state.file(&format!("{name}.key")),
        state.file(&format!("{name}.toml")),
    );
    if file.exists() && !key.exists() {
        bail!(
            "{} is gone, and all invites in {} need it; put it back from a copy, or remove the other as well to begin with a \
             new key and new invites",
            key.display(),
            file.display()
        );
    }
    let identity = keyfile::load_or_create(&key, "hub")?;
    let file = HubFile::open_or_create(&file, rand::random())?;
    let rendezvous = flags.rendezvous.map_or_else(|| remembered(&file), Ok)?;
    let known = Known::open(state)?;
    let (expected, source) = known.expect(&rendezvous.to_string(), flags.rendezvous_key);
    let role = Role::Hub(HubConfig {
        name: flags.name.clone(),
        tokens: file.tokens(),
        subnet: flags.address,
        members_max: MEMBERS_MAX,
        card: flags.card.is_some(),
    });
    let mut wanted = flags.nat.wanted(flags.address);
    wanted.leases = Some(state.file(&format!("leases-{}.toml", flags.name)));
    let wish = flags.card.map(|interface| Wish {
        interface,
        mac: mac_of(identity.id()),
        with_address: true,
    });
    let qr = flags.qr || stdout_is_terminal();
    let host = Host {
        output: Output::new(flags.common.json, qr, started),
        hub: identity.id(),
        name: flags.name,
        rendezvous: rendezvous.clone(),
        known,
        source,
        expected,
        file,
        shown: None,
    };
    let start = Start {
        state,
        name,
        identity,
        role,
        rendezvous: vec![(rendezvous, expected)],
        common: flags.common,
        secure_nat: Some(wanted),
        wish,
    };
    super::block_on(start::run(start, host))?;
    Ok(ExitCode::SUCCESS)
}

/// Tells people, keeps keys, and shows the invite once the rendezvous has proved the key that stands in it.
struct Host {
    output: Output,
    hub: PeerId,
    name: String,
    rendezvous: HostPort,
    known: Known,
    source: Source,
    expected: Option<PeerId>,
    file: HubFile,
    shown: Option<String>,
}

impl Observe for Host {
    fn observe(&mut self, saying: &Saying<'_>) -> anyhow::Result<()> {
        self.output.say(saying);
        if let Saying::Node(Event::Registered { key, .. }) = saying {
            return self.registered(*key);
        }
        if let Saying::Node(Event::RendezvousFailed {
            reason,
            fatal: true,
        }) = saying
            && let Some(error) = start::wrong_key(reason, self.expected, self.advice())
        {
            return Err(error);
        }
        Ok(())
    }
}

impl Host {
    /// About another key than the expected one.
    const fn advice(&self) -> &'static str {
        match self.source {
            Source::Given => {
                "as --rendezvous-key says; copy the key again from what `kuguri rendezvous` prints there"
            }
            Source::Kept | Source::FirstUse => {
                "as before; if it was set up anew, accept its new key once with --rendezvous-key, else \
                 something else answers in its place"
            }
        }
    }

    fn registered(&mut self, key: PeerId) -> anyhow::Result<()> {
        let rendezvous = self.rendezvous.to_string();
        let new = self.known.keep(&rendezvous, key)?;
        if new && self.source == Source::FirstUse {
            let text = format!("the key of {rendezvous} is {key}; trusted from now on (first use)");
            self.output.say(&Saying::Note(&text));
        }
        self.file.set_rendezvous(&rendezvous, key)?;
        self.show_invite(key)
    }

    fn show_invite(&mut self, key: PeerId) -> anyhow::Result<()> {
        let invite = make_invite(self.hub, &self.name, &self.rendezvous, key, &self.file)?;
        if self.shown.as_ref() != Some(&invite) {
            self.output.say(&Saying::Invite(&invite));
            self.shown = Some(invite);
        }
        Ok(())
    }
}

/// The invite with the hub's newest token.
pub(super) fn make_invite(
    hub: PeerId,
    name: &str,
    rendezvous: &HostPort,
    key: PeerId,
    file: &HubFile,
) -> anyhow::Result<String> {
    let invite = Invite {
        hub,
        rendezvous: vec![RendezvousRef {
            host: rendezvous.host().to_owned(),
            port: rendezvous.port(),
            key,
        }],
        token: file.tokens().last().copied(),
        hub_name: name.to_owned(),
    };
    Ok(invite.to_text()?)
}

/// The rendezvous of last time.
fn remembered(file: &HubFile) -> anyhow::Result<HostPort> {
    let (address, _) = file
        .rendezvous()
        .context("say where to register: --rendezvous HOST (what runs `kuguri rendezvous`)")?;
    Ok(address.parse()?)
}

/// A name that can be part of a file's.
pub(super) fn hub_name(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if begins && text.len() <= LONGEST_NAME && text.chars().all(good) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "a hub's name is 1 to {LONGEST_NAME} letters, digits, '-', '_' or '.', and begins with a letter or digit"
        ))
    }
}

/// The virtual host's address with the length of its network's prefix.
fn subnet(text: &str) -> Result<Subnet, String> {
    let wrong = "write an IPv4 address and a prefix length, such as 192.168.30.1/24";
    let (address, prefix) = text.split_once('/').ok_or(wrong)?;
    let address: Ipv4Addr = address.parse().map_err(|_| wrong)?;
    let prefix: u8 = prefix.parse().map_err(|_| wrong)?;
    Subnet::new(address, prefix).map_err(|error| error.to_string())
}

/// Bytes of a hub's name.
const LONGEST_NAME: usize = 32;
