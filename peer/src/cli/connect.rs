//! `kuguri connect`: joins a hub with a virtual LAN card.

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, anyhow};
use aws_lc_rs::digest::{SHA256, digest};
use kuguri_proto::identity::PeerId;
use kuguri_proto::invite::Invite;
use kuguri_proto::node::{Event, MemberConfig, Role};
use kuguri_proto::wire::control::Credential;
use kuguri_proto::wire::ethernet::MacAddr;
use kuguri_rendezvous::keyfile;

use super::start::{self, Start, Wish};
use crate::config::address::HostPort;
use crate::config::state::State;
use crate::driver::Observe;
use crate::output::{Output, Saying, printable};

/// Join a hub: this machine gets a virtual LAN card in the hub's network
///
/// Runs until Ctrl-C; reconnects by itself for ever, and the card stays up meanwhile.
/// Needs the right to make network interfaces (sudo, or capabilities).
///
///   $ sudo kuguri connect kuguri://…
///   $ sudo kuguri connect - < invite.txt     # not to be seen in the list of processes
///   $ sudo kuguri connect invite.txt
///   $ sudo KUGURI_INVITE=kuguri://… kuguri connect
///
/// With sudo it keeps its key in root's directory: sudo kuguri status shows it.
/// The card's MAC address is the same every time. Card and addresses go when the
/// process ends.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Flags {
    /// What `kuguri serve` printed; or a file that has it; or '-' to read it from stdin
    #[arg(env = "KUGURI_INVITE", hide_env_values = true)]
    pub(super) invite: String,
    /// The name of the virtual LAN card
    #[arg(long, value_name = "NAME", default_value = "kuguri0")]
    pub(super) interface: String,
    /// Another MAC address for the card than the one made from this member's key
    #[arg(long, value_name = "MAC", value_parser = unicast_mac)]
    pub(super) mac: Option<MacAddr>,
    /// Set no address on the card; something else will
    #[arg(long)]
    pub(super) no_address: bool,
    #[command(flatten)]
    pub(super) common: start::Common,
}

pub(super) fn run(flags: Flags, state: &State, started: Instant) -> anyhow::Result<ExitCode> {
    let invite = read_invite(&flags.invite)?;
    let rendezvous = rendezvous_of(&invite)?;
    let hub: String = invite.hub.to_string().chars().take(16).collect();
    let name = format!("member-{hub}");
    let _lock = state.lock(&name)?;
    let identity = keyfile::load_or_create(&state.file(&format!("{name}.key")), "member")?;
    let mac = flags.mac.unwrap_or_else(|| mac_of(identity.id()));
    let json = flags.common.json;
    let start = Start {
        state,
        name,
        role: Role::Member(MemberConfig {
            hub: invite.hub,
            credential: invite.token.map_or(Credential::Key, Credential::Token),
            mac,
        }),
        identity,
        rendezvous,
        common: flags.common,
        secure_nat: None,
        wish: Some(Wish {
            interface: flags.interface,
            mac,
            with_address: !flags.no_address,
        }),
    };
    let guest = Guest {
        output: Output::new(json, false, started),
        expected: start.rendezvous.iter().find_map(|(_, key)| *key),
    };
    super::block_on(start::run(start, guest))?;
    Ok(ExitCode::SUCCESS)
}

/// Tells people.
struct Guest {
    output: Output,
    /// The key that the rendezvous must show, as the invite says.
    expected: Option<PeerId>,
}

impl Observe for Guest {
    fn observe(&mut self, saying: &Saying<'_>) -> anyhow::Result<()> {
        self.output.say(saying);
        let advice = "as the invite says; ask the hub's owner for a new invite";
        if let Saying::Node(Event::RendezvousFailed {
            reason,
            fatal: true,
        }) = saying
            && let Some(error) = start::wrong_key(reason, self.expected, advice)
        {
            return Err(error);
        }
        Ok(())
    }
}

/// The invite: the argument itself, or what the file or stdin that it names has.
fn read_invite(argument: &str) -> anyhow::Result<Invite> {
    if argument == "-" {
        let text = read_text(std::io::stdin()).context("the invite cannot be read from stdin")?;
        return Ok(text.parse()?);
    }
    let path = Path::new(argument);
    if argument.is_empty() || argument.contains("kuguri:") {
        return Ok(argument.parse()?);
    }
    if !path.exists() {
        let parsed: Result<Invite, _> = argument.parse();
        return parsed
            .map_err(|error| anyhow!("{error}; and there is no file {}", printable(argument)));
    }
    let file = std::fs::File::open(path).map_err(anyhow::Error::from);
    let text = file
        .and_then(read_text)
        .with_context(|| format!("the invite cannot be read from {argument}"))?;
    text.parse().with_context(|| argument.to_owned())
}

/// What is no text is no invite either: that is said where it is parsed.
fn read_text(from: impl Read) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    from.take(LONGEST_INVITE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn rendezvous_of(invite: &Invite) -> anyhow::Result<Vec<(HostPort, Option<PeerId>)>> {
    let servers = invite.rendezvous.iter();
    servers
        .map(|server| Ok((HostPort::new(&server.host, server.port)?, Some(server.key))))
        .collect()
}

/// The same key has the same address always; two keys have two.
pub(super) fn mac_of(member: PeerId) -> MacAddr {
    let hash = digest(&SHA256, &[b"kuguri mac ".as_slice(), &member.0].concat());
    let first = hash.as_ref().first_chunk().expect("SHA-256 has 32 bytes");
    MacAddr::locally_administered(*first)
}

fn unicast_mac(text: &str) -> Result<MacAddr, String> {
    let mac: MacAddr = text
        .parse()
        .map_err(|error: kuguri_proto::wire::ethernet::NotAMac| error.to_string())?;
    if mac.is_group() || mac == MacAddr([0; 6]) {
        return Err(
            "a card's own address is not a group's; its first byte is even and it is not all zeros"
                .to_owned(),
        );
    }
    Ok(mac)
}

/// Bytes of a file that may be an invite.
const LONGEST_INVITE: u64 = 64 * 1024;
