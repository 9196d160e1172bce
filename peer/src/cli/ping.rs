//! `kuguri ping`: the round trip to a linked peer, inside the link.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admin::{self, AdminError, Process, Request};
use crate::config::state::State;
use crate::driver::find_peer;
use crate::output::printable;
use crate::stdout;

/// Measure the round trip to a linked peer, and say whether it goes directly
///
///   $ kuguri ping               # the only linked peer
///   $ kuguri ping home          # by its machine's name
///   $ kuguri ping 3fUq -c 10    # by the beginning of its key
///
/// Exit code 1 when no answer came.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Flags {
    /// Its key, the beginning of its key, or its machine's name; may be left away when only one is linked
    peer: Option<String>,
    /// How many times
    #[arg(short, long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Seconds between them
    #[arg(short, long, value_name = "SECONDS", default_value_t = 0.5, value_parser = seconds, allow_negative_numbers = true)]
    interval: f64,
    /// One JSON object per line: peer, ms, path; or peer, lost
    #[arg(long)]
    json: bool,
}

pub(super) fn run(flags: &Flags, state: &State) -> anyhow::Result<ExitCode> {
    super::block_on(async {
        let (process, peer) = find(state, flags.peer.as_deref()).await?;
        let mut times = Vec::new();
        for number in 0..flags.count {
            if number > 0 {
                tokio::time::sleep(Duration::from_secs_f64(flags.interval)).await;
            }
            let answer = match ping(&process, &peer.peer).await {
                Ok(answer) => answer,
                // The peer, or the process, has gone meanwhile.
                Err(error) if number > 0 => {
                    if !flags.json {
                        stdout::line(&summary(number, &times));
                    }
                    return Err(error);
                }
                Err(error) => return Err(error),
            };
            stdout::line(&line(&answer, &peer, flags.json));
            times.extend(answer.ms);
        }
        if !flags.json {
            stdout::line(&summary(flags.count, &times));
        }
        Ok(if times.is_empty() {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    })
}

/// The process that has a link to the peer, and the peer.
async fn find(state: &State, wanted: Option<&str>) -> anyhow::Result<(Process, Link)> {
    let mut all: Vec<(Process, Link)> = Vec::new();
    let (mut live, mut problem) = (false, None);
    for process in admin::processes(state)? {
        match process.ask(&Request::Status).await {
            Ok(mut answer) => {
                live = true;
                if let Some(reason) = answer["error"].as_str() {
                    let (name, reason) = (process.name().to_owned(), printable(reason));
                    problem = Some(AdminError::Refused { name, reason });
                    continue;
                }
                let links: Vec<Link> = serde_json::from_value(answer["node"]["links"].take())
                    .with_context(|| {
                        format!("{} has another version; restart it", process.name())
                    })?;
                all.extend(links.into_iter().map(|link| (process.clone(), link)));
            }
            Err(AdminError::Absent(_)) => {}
            Err(silent) => problem = Some(silent),
        }
    }
    match problem {
        Some(problem) if all.is_empty() => return Err(problem.into()),
        None if !live => bail!("{}", super::nothing_runs(state)),
        Some(_) | None => {}
    }
    let pairs = all
        .iter()
        .map(|(_, link)| (link.peer.as_str(), link.name.as_str()));
    let key = find_peer(pairs, wanted)
        .map_err(|sentence| anyhow!(sentence))?
        .to_owned();
    all.into_iter()
        .find(|(_, link)| link.peer == key)
        .context("the peer is gone")
}

async fn ping(process: &Process, peer: &str) -> anyhow::Result<Answer> {
    let peer = Some(peer.to_owned());
    let answer: Value = process.ask(&Request::Ping { peer }).await?;
    if let Some(error) = answer["error"].as_str() {
        bail!("{error}");
    }
    serde_json::from_value(answer)
        .with_context(|| format!("{} has another version; restart it", process.name()))
}

fn line(answer: &Answer, peer: &Link, as_json: bool) -> String {
    let short: String = peer.peer.chars().take(8).collect();
    let name = printable(&peer.name);
    match (answer.ms, as_json) {
        (Some(ms), true) => json!({ "peer": peer.peer, "ms": ms, "path": answer.path }).to_string(),
        (None, true) => json!({ "peer": peer.peer, "lost": true }).to_string(),
        (Some(ms), false) => {
            let path = answer.path.as_deref().unwrap_or("?");
            format!("{name} ({short}): {ms:.1} ms, {path}")
        }
        (None, false) => format!("{name} ({short}): no answer"),
    }
}

fn summary(sent: u32, times: &[f64]) -> String {
    let answered = times.len();
    let Some(least) = times.iter().copied().reduce(f64::min) else {
        return format!("{sent} sent, none answered");
    };
    let most = times.iter().copied().fold(least, f64::max);
    let count = f64::from(u32::try_from(answered).unwrap_or(u32::MAX));
    let mean = times.iter().sum::<f64>() / count;
    format!(
        "{sent} sent, {answered} answered; least {least:.1} ms, mean {mean:.1} ms, most {most:.1} ms"
    )
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("write a number of seconds from 0 to 3600, such as 0.5".to_owned()),
    }
}

#[derive(Debug, Deserialize)]
struct Link {
    peer: String,
    #[serde(default)]
    name: String,
}

#[derive(Debug, Deserialize)]
struct Answer {
    ms: Option<f64>,
    path: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_losses_are_lines() {
        let peer = Link {
            peer: "AbCdEfGhIjKl".into(),
            name: "home\x07".into(),
        };
        let answered = Answer {
            ms: Some(21.44),
            path: Some("direct".into()),
        };
        let lost = Answer {
            ms: None,
            path: None,
        };
        assert_eq!(
            line(&answered, &peer, false),
            "home? (AbCdEfGh): 21.4 ms, direct"
        );
        assert_eq!(line(&lost, &peer, false), "home? (AbCdEfGh): no answer");
        let object: Value = serde_json::from_str(&line(&answered, &peer, true)).expect("an object");
        assert_eq!(
            object,
            json!({ "peer": "AbCdEfGhIjKl", "ms": 21.44, "path": "direct" })
        );
    }

    #[test]
    fn the_summary_counts() {
        assert_eq!(summary(3, &[]), "3 sent, none answered");
        assert_eq!(
            summary(3, &[1.0, 3.0]),
            "3 sent, 2 answered; least 1.0 ms, mean 2.0 ms, most 3.0 ms"
        );
    }
}
