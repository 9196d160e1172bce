//! `kuguri invite`: shows a hub's invite again, or makes another one.

use std::process::ExitCode;

use anyhow::{Context, bail};
use kuguri_rendezvous::keyfile;
use serde_json::json;

use super::serve::{hub_name, make_invite};
use crate::admin::{self, AdminError, Request};
use crate::config::hub::{HubFile, Token};
use crate::config::state::State;
use crate::output::stdout_is_terminal;
use crate::qr;
use crate::stdout;

/// Show a hub's invite again, or make a new one
///
///   $ kuguri invite                # of the only hub here
///   $ kuguri invite office --new   # another token; those before stay good
///
/// Whoever has an invite may join, so give it away as you would a password.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Flags {
    /// The hub; needed when this state directory has several
    #[arg(value_parser = hub_name)]
    name: Option<String>,
    /// Make a new token; a hub that runs takes it at once
    #[arg(long)]
    new: bool,
    /// Show it as a QR code too, also when stdout is no terminal
    #[arg(long)]
    qr: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(flags: &Flags, state: &State) -> anyhow::Result<ExitCode> {
    let name = match &flags.name {
        Some(name) => name.clone(),
        None => only_hub(state)?,
    };
    let path = state.file(&format!("hub-{name}.toml"));
    let mut file = HubFile::open(&path)?
        .with_context(|| format!("there is no hub {name} here; `kuguri serve {name}` makes it"))?;
    let key_file = state.file(&format!("hub-{name}.key"));
    let identity = keyfile::load(&key_file)?.with_context(|| {
        format!(
            "the hub's key {} is gone; put it back from a copy, or remove {} as well and start `kuguri serve {name}` for a new one",
            key_file.display(),
            path.display()
        )
    })?;
    let (address, key) = file.rendezvous().with_context(|| {
        format!("the hub {name} has not been registered yet; start `kuguri serve {name} --rendezvous HOST` first")
    })?;
    let address = address.parse()?;
    if flags.new {
        add_token(state, &name, &mut file)?;
    }
    let invite = make_invite(identity.id(), &name, &address, key, &file)?;
    if flags.json {
        stdout::line(&json!({ "hub": name, "invite": invite }).to_string());
        return Ok(ExitCode::SUCCESS);
    }
    if flags.qr || stdout_is_terminal() {
        stdout::line(&qr::picture(&invite).context("the invite is too long for a QR code")?);
    }
    stdout::line(&invite);
    Ok(ExitCode::SUCCESS)
}

/// Into the file first: a hub that starts just now reads it there.
fn add_token(state: &State, name: &str, file: &mut HubFile) -> anyhow::Result<()> {
    let token = Token(rand::random());
    file.add_token(token.0)?;
    let request = Request::AddToken {
        token: token.into(),
    };
    let process = format!("hub-{name}");
    super::block_on(async {
        let processes = admin::processes(state)?.into_iter();
        for running in processes.filter(|it| it.name() == process) {
            match running.ask(&request).await {
                Ok(_) | Err(AdminError::Absent(_)) => {}
                Err(problem) => bail!(
                    "{problem}; the new token is in {}, and the hub takes it at its next start",
                    file.path().display()
                ),
            }
        }
        Ok(())
    })
}

fn only_hub(state: &State) -> anyhow::Result<String> {
    let mut hubs = state.names("hub-", ".toml")?;
    if hubs.len() > 1 {
        // One that was begun and never registered has no invite to show.
        let registered = |name: &String| {
            let file = HubFile::open(&state.file(&format!("hub-{name}.toml")));
            !matches!(file, Ok(Some(file)) if file.rendezvous().is_none())
        };
        hubs.retain(registered);
    }
    match (hubs.pop(), hubs.is_empty()) {
        (Some(hub), true) => Ok(hub),
        (None, _) => bail!(
            "there is no hub here that was ever registered; `kuguri serve NAME --rendezvous HOST` makes one"
        ),
        (Some(last), false) => {
            bail!(
                "several hubs are here; say which: {}, {last}",
                hubs.join(", ")
            )
        }
    }
}
