//! `kuguri connect`: joins a hub with a virtual LAN card.

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use aws_lc_rs::digest::{SHA256, digest};
use kuguri_proto::identity::PeerId;
use kuguri_proto::invite::Invite;
use kuguri_proto::node::{MemberConfig, Role};
use kuguri_proto::wire::control::Credential;
use kuguri_proto::wire::ethernet::MacAddr;
use kuguri_rendezvous::keyfile;

use super::start::{self, Start, Wish};
use crate::config::address::HostPort;
use crate::config::state::State;
use crate::driver::Observe;
use crate::output::{Output, Saying};

/// Join a hub: this machine gets a virtual LAN card in the hub's network
///
/// Runs until Ctrl-C; reconnects by itself for ever, and the card stays up meanwhile. Needs the right
/// to make network interfaces (sudo, or CAP_NET_ADMIN).
///
///   $ sudo kuguri connect kuguri://…
///   $ sudo kuguri connect - < invite.txt     # not to be read in the list of processes
///   $ sudo kuguri connect invite.txt
///   $ KUGURI_INVITE=kuguri://… kuguri connect
///
/// The card's MAC address is the same every time. Card and addresses go when the process ends.
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
    /// A fixed UDP port; a free one otherwise
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(super) port: u16,
    #[command(flatten)]
    pub(super) reach: start::Reach,
    /// One JSON object per event on stdout
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(flags: Flags, state: &State, started: Instant) -> anyhow::Result<ExitCode> {
    let invite: Invite = read_invite(&flags.invite)?.parse()?;
    let rendezvous = rendezvous_of(&invite)?;
    let hub: String = invite.hub.to_string().chars().take(16).collect();
    let name = format!("member-{hub}");
    let _lock = state.lock(&name)?;
    let identity = keyfile::load_or_create(&state.file(&format!("{name}.key")), "member")?;
    let mac = flags.mac.unwrap_or_else(|| mac_of(identity.id()));
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
        port: flags.port,
        reach: flags.reach,
        wish: Some(Wish {
            interface: flags.interface,
            mac,
            with_address: !flags.no_address,
        }),
    };
    let guest = Guest(Output::new(flags.json, false, started));
    super::block_on(start::run(start, guest))?;
    Ok(ExitCode::SUCCESS)
}

/// Tells people.
struct Guest(Output);

impl Observe for Guest {
    fn observe(&mut self, saying: &Saying<'_>) -> anyhow::Result<()> {
        self.0.say(saying);
        Ok(())
    }
}

/// The invite's text: the argument itself, or what the file or stdin that it names has.
fn read_invite(argument: &str) -> anyhow::Result<String> {
    if argument == "-" {
        return read_text(std::io::stdin()).context("the invite cannot be read from stdin");
    }
    let path = Path::new(argument);
    if argument.contains("kuguri:") || !path.exists() {
        return Ok(argument.to_owned());
    }
    let file = std::fs::File::open(path);
    file.map_err(anyhow::Error::from)
        .and_then(read_text)
        .with_context(|| format!("the invite cannot be read from {argument}"))
}

fn read_text(from: impl Read) -> anyhow::Result<String> {
    let mut text = String::new();
    from.take(LONGEST_INVITE).read_to_string(&mut text)?;
    Ok(text)
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
