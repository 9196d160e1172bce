//! `kuguri status`: what runs here, and how its links go.

use std::fmt::Write;
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::Value;

use super::table::{bytes, duration, table};
use crate::admin::{self, AdminError, Request};
use crate::config::state::State;
use crate::output::printable;
use crate::stdout;

/// Show what runs here: registration, card, and each link's path, round trip, MTU, cipher and counters
///
///   $ kuguri status
///   $ sudo kuguri status          # of what was started with sudo
///   $ kuguri status --json | jq '.[].node.links[] | {name, path, rtt_ms}'
///
/// Asks every process of this state directory; exit code 1 when there is none, or
/// one does not answer.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Flags {
    /// One JSON array with an object per process
    #[arg(long)]
    json: bool,
}

pub(super) fn run(flags: &Flags, state: &State) -> anyhow::Result<ExitCode> {
    let (answers, problems) = super::block_on(ask_all(state))?;
    if answers.is_empty() && problems.is_empty() {
        bail!("{}", super::nothing_runs(state));
    }
    if !answers.is_empty() {
        if flags.json {
            stdout::line(&serde_json::to_string_pretty(&answers)?);
        } else {
            let shown: Result<Vec<_>, _> = answers.into_iter().map(show).collect();
            stdout::line(shown?.join("\n").trim_end());
        }
    }
    if !problems.is_empty() {
        bail!("{}", problems.join("; "));
    }
    Ok(ExitCode::SUCCESS)
}

/// The answers, and what is to be said of processes that do not answer.
async fn ask_all(state: &State) -> anyhow::Result<(Vec<Value>, Vec<String>)> {
    let (mut answers, mut problems) = (Vec::new(), Vec::new());
    for process in admin::processes(state)? {
        match process.ask(&Request::Status).await {
            Ok(answer) => match answer["error"].as_str() {
                Some(problem) => {
                    problems.push(format!("{}: {}", process.name(), printable(problem)));
                }
                None => answers.push(answer),
            },
            Err(AdminError::Absent(_)) => {}
            Err(problem) => problems.push(problem.to_string()),
        }
    }
    Ok((answers, problems))
}

fn show(answer: Value) -> anyhow::Result<String> {
    let report: Report = serde_json::from_value(answer)
        .context("a running process has another version; restart it")?;
    Ok(render(&report))
}

/// For people.
fn render(report: &Report) -> String {
    let node = &report.node;
    let mut text = format!("{}  ", report.name);
    let what = match &node.hub {
        Some(hub) => format!("{} of {}", node.role, printable(hub)),
        None => node.role.clone(),
    };
    // Writing to a string cannot fail, here and below.
    let _ = writeln!(
        text,
        "{what}, up {}, pid {}, key {}",
        duration(report.uptime_seconds),
        report.pid,
        node.id
    );
    let _ = writeln!(text, "  rendezvous: {}", rendezvous(&node.rendezvous));
    if let Some(way) = report.way.as_ref().filter(|way| way.name != "udp") {
        let _ = writeln!(text, "  way: {}", way_line(way));
    }
    if let Some(card) = &report.card {
        let _ = writeln!(text, "  card: {}", card_line(card));
    }
    if let Some(offload) = &report.offload {
        let _ = writeln!(text, "  offload: {}", offload_line(offload));
    }
    if node.refused_datagrams > 0 {
        let _ = writeln!(text, "  refused datagrams: {}", node.refused_datagrams);
    }
    if node.links.is_empty() {
        text.push_str("  no links\n");
    } else {
        let rows: Vec<_> = node.links.iter().map(row).collect();
        text.push_str(&table(&HEADER, &rows));
        for link in &node.links {
            if let Some(why) = &link.why_not_direct {
                let (name, why) = (printable(&link.name), printable(why));
                let _ = writeln!(text, "  {name} is not direct: {why}");
            }
        }
    }
    text
}

fn rendezvous(status: &Rendezvous) -> String {
    let mut text = status.state.clone();
    if let Some(address) = &status.address {
        let _ = write!(text, ", {address}");
    }
    if let Some(observed) = &status.observed {
        let _ = write!(text, " (sees us as {observed})");
    }
    if let Some(problem) = &status.problem {
        let _ = write!(text, ": {}", printable(problem));
    }
    text
}

fn way_line(way: &Way) -> String {
    let mut text = format!("by {}", printable(&way.name));
    if let Some(counters) = way.counters.as_ref().filter(|it| it.dropped > 0) {
        let all = counters.sent + counters.dropped;
        let _ = write!(text, " ({} of {all} datagrams dropped)", counters.dropped);
    }
    text
}

fn card_line(card: &Card) -> String {
    let address = card.address.as_deref().unwrap_or("no address yet");
    let mtu = card
        .mtu
        .map_or_else(String::new, |mtu| format!(", MTU {mtu}"));
    format!(
        "{} ({}), {address}, {}{mtu}",
        card.interface, card.kind, card.mac
    )
}

/// What the kernel does for us; whatever it does not costs time.
fn offload_line(offload: &Offload) -> String {
    let word = |has: bool, what: &str| {
        if has {
            what.to_owned()
        } else {
            format!("no {what}")
        }
    };
    let mut words = Vec::new();
    if let Some(card) = &offload.card {
        let all = card.header && card.checksum;
        words.push(word(all && card.tcp, "TCP super-frames"));
        words.push(word(all && card.udp, "UDP super-frames"));
    }
    words.push(word(offload.udp_gso, "GSO"));
    words.push(word(offload.udp_gro, "GRO"));
    words.join(", ")
}

fn row(link: &Link) -> Vec<String> {
    let counters = &link.counters;
    let dropped = counters.dropped_forged
        + counters.dropped_replayed
        + counters.dropped_malformed
        + counters.dropped_queue
        + counters.dropped_incomplete;
    let dash = || "-".to_owned();
    vec![
        link.peer.chars().take(8).collect(),
        printable(&link.name),
        link.path.clone(),
        duration(link.since_seconds),
        link.address.clone().unwrap_or_else(dash),
        link.rtt_ms.map_or_else(dash, |ms| format!("{ms:.1} ms")),
        link.mtu.to_string(),
        link.cipher.clone(),
        link.epoch.to_string(),
        bytes(counters.bytes_sent),
        bytes(counters.bytes_received),
        dropped.to_string(),
    ]
}

const HEADER: [&str; 12] = [
    "PEER", "NAME", "PATH", "SINCE", "ADDRESS", "RTT", "MTU", "CIPHER", "EPOCH", "SENT",
    "RECEIVED", "DROPPED",
];

/// What of an answer is shown; whatever an older process does not say is empty.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Report {
    name: String,
    pid: u32,
    uptime_seconds: f64,
    way: Option<Way>,
    card: Option<Card>,
    offload: Option<Offload>,
    node: Node,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Way {
    name: String,
    counters: Option<WayCounters>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WayCounters {
    sent: u64,
    dropped: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Offload {
    card: Option<CardOffload>,
    udp_gso: bool,
    udp_gro: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CardOffload {
    header: bool,
    checksum: bool,
    tcp: bool,
    udp: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Card {
    interface: String,
    address: Option<String>,
    mac: String,
    mtu: Option<u16>,
    kind: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Node {
    id: String,
    role: String,
    hub: Option<String>,
    rendezvous: Rendezvous,
    links: Vec<Link>,
    refused_datagrams: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Rendezvous {
    state: String,
    address: Option<String>,
    observed: Option<String>,
    problem: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Link {
    peer: String,
    name: String,
    path: String,
    address: Option<String>,
    since_seconds: f64,
    rtt_ms: Option<f64>,
    mtu: u64,
    cipher: String,
    epoch: u8,
    why_not_direct: Option<String>,
    counters: Counters,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Counters {
    bytes_sent: u64,
    bytes_received: u64,
    dropped_forged: u64,
    dropped_replayed: u64,
    dropped_malformed: u64,
    dropped_queue: u64,
    dropped_incomplete: u64,
}

#[cfg(test)]
mod tests {
    use kuguri_proto::node::status as proto;
    use serde_json::json;

    use super::*;

    fn link(path: &str) -> proto::LinkStatus {
        proto::LinkStatus {
            peer: "AbCdEfGhIjKl".into(),
            name: "home".into(),
            path: path.into(),
            address: (path == "direct").then(|| ([198, 51, 100, 7], 40_000).into()),
            since_seconds: 75.0,
            rtt_ms: (path == "direct").then_some(21.44),
            mtu: 1452,
            cipher: "AES-256-GCM".into(),
            epoch: 1,
            counters: proto::Counters {
                bytes_sent: 1_250_000,
                bytes_received: 999,
                dropped_forged: 1,
                dropped_replayed: 2,
                ..Default::default()
            },
            why_not_direct: (path != "direct").then(|| "no address has answered".into()),
            ..Default::default()
        }
    }

    fn answer() -> Value {
        let node = proto::Status {
            id: "KeyOfThisPeer".into(),
            role: "hub".into(),
            hub: Some("office".into()),
            rendezvous: proto::RendezvousStatus {
                state: "registered".into(),
                address: Some(([203, 0, 113, 1], 7777).into()),
                observed: Some(([198, 51, 100, 2], 1024).into()),
                ..Default::default()
            },
            links: vec![link("direct"), link("relayed")],
            ..Default::default()
        };
        json!({ "name": "hub-office", "pid": 42, "uptime_seconds": 3661.0, "node": node, "card": null })
    }

    #[test]
    fn a_hub_with_two_links_looks_like_this() {
        let expected = "\
hub-office  hub of office, up 1 h 1 min, pid 42, key KeyOfThisPeer
  rendezvous: registered, 203.0.113.1:7777 (sees us as 198.51.100.2:1024)
  PEER      NAME  PATH     SINCE       ADDRESS             RTT      MTU   CIPHER       EPOCH  SENT    RECEIVED  DROPPED
  AbCdEfGh  home  direct   1 min 15 s  198.51.100.7:40000  21.4 ms  1452  AES-256-GCM  1      1.2 MB  999 B     3
  AbCdEfGh  home  relayed  1 min 15 s  -                   -        1452  AES-256-GCM  1      1.2 MB  999 B     3
  home is not direct: no address has answered
";
        assert_eq!(show(answer()).expect("shown"), expected);
    }

    #[test]
    fn a_member_shows_its_card() {
        let mut answer = answer();
        answer["node"]["links"] = json!([]);
        answer["card"] = json!({
            "interface": "kuguri0", "address": "192.168.30.2/24", "mac": "02:00:00:00:00:01", "mtu": 1400, "kind": "tap",
        });
        let shown = show(answer).expect("shown");
        assert!(shown.contains(
            "  card: kuguri0 (tap), 192.168.30.2/24, 02:00:00:00:00:01, MTU 1400\n  no links\n"
        ));
    }

    #[test]
    fn what_the_kernel_does_for_it_is_shown_and_what_not() {
        let mut answer = answer();
        let card = json!({ "header": true, "checksum": true, "tcp": true, "udp": false });
        answer["offload"] = json!({ "card": card, "udp_gso": true, "udp_gro": false });
        let shown = show(answer).expect("shown");
        assert!(
            shown.contains("\n  offload: TCP super-frames, no UDP super-frames, GSO, no GRO\n"),
            "{shown}"
        );
    }

    #[test]
    fn an_answer_with_less_is_shown_and_another_thing_is_refused() {
        assert!(show(json!({})).is_ok());
        assert!(show(json!({ "pid": "x" })).is_err());
    }
}
