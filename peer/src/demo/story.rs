//! What happens in the demo, in order: the rendezvous, the office and its hub, a desk that joins it, the home that comes
//! in from outside; then pings, a transfer, and what a listener has seen.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use kuguri_sim::lab::Lab;
use serde_json::Value;

use super::ping::{self, Series};
use super::report::Report;
use super::stage::VPS;
use super::summary::Row;
use super::transfer::{self, MARKER, Transfer};
use crate::cast::{Cast, Line, Rights};

/// How the home's connection came up.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    /// The home's address in the virtual LAN.
    pub(super) home: Ipv4Addr,
    /// The desk's.
    pub(super) desk: Ipv4Addr,
    /// The hub's virtual host, if it has one.
    pub(super) gateway: Option<Ipv4Addr>,
    /// From the start of `connect` to the link with the hub, which is by relay.
    pub(super) linked_ms: f64,
    /// To the first answered ping.
    pub(super) first_ping_ms: f64,
    /// To the first frame that the hub got.
    pub(super) first_frame_ms: f64,
    /// Which way that came: relayed or direct.
    pub(super) first_frame: String,
    /// To the direct path.
    pub(super) direct_ms: Option<f64>,
}

/// The VPS: a rendezvous.
pub(super) fn open_rendezvous(cast: &mut Cast<'_>, report: &Report) -> anyhow::Result<()> {
    cast.start("vps", &["rendezvous"], Rights::None)?;
    let listening = cast.event("vps", "listening", SOON)?;
    let key = shortened(listening.text("key"), 8);
    report.step(
        "vps",
        &format!("kuguri rendezvous: listens at {VPS}, its key begins with {key}"),
    );
    Ok(())
}

/// The office: a hub without any right, and its invite.
pub(super) fn open_office(cast: &mut Cast<'_>, report: &Report) -> anyhow::Result<String> {
    let rendezvous = VPS.to_string();
    let arguments = ["serve", "office", "--rendezvous", &rendezvous];
    cast.start("office", &arguments, Rights::None)?;
    let registered = cast.event("office", "registered", SOON)?;
    let observed = registered.text("observed");
    report.step(
        "office",
        &format!(
            "kuguri serve office: registered, seen as {observed}; no capability, no port forwarding"
        ),
    );
    let invite = cast.event("office", "invite", SOON)?;
    report.step(
        "office",
        &format!("invite {}", shortened(invite.text("invite"), 40)),
    );
    Ok(invite.text("invite").to_owned())
}

/// A desk in the office joins; its address in the virtual LAN.
pub(super) fn seat_desk(
    cast: &mut Cast<'_>,
    report: &Report,
    invite: &str,
) -> anyhow::Result<Ipv4Addr> {
    cast.start("desk", &["connect", invite], Rights::Root)?;
    let joined = joined(cast, "desk")?;
    let address = address_of(&joined)?;
    report.step(
        "desk",
        &format!("kuguri connect: a member of the hub with address {address}"),
    );
    Ok(address)
}

/// The home comes in: relayed first, then direct where the NATs let it.
pub(super) fn come_home(
    cast: &mut Cast<'_>,
    lab: &Lab,
    report: &Report,
    invite: &str,
    desk: Ipv4Addr,
) -> anyhow::Result<Arrival> {
    let start = cast.start("home", &["connect", invite], Rights::Root)?;
    let since = |at: Instant| at.saturating_duration_since(start).as_secs_f64() * 1e3;
    let (linked, joined) = introduction(cast, report)?;
    // Not before the card has its address: until then a ping would go out in the open.
    let answered = lab.run_in("home", || ping::first_answer(desk, MARKER, SOON))??;
    let Some(answered) = answered else {
        bail!("the desk ({desk}) does not answer the home's pings");
    };
    let home = address_of(&joined)?;
    let first_frame = first_frame(cast, home)?;
    let (way, ms) = (first_frame.text("path"), since(first_frame.at));
    let mut steps = vec![
        (
            first_frame.at,
            format!("first frame, {way}, {ms:.0} ms after connect"),
        ),
        (
            answered,
            format!(
                "the desk answers a ping, {:.0} ms after connect",
                since(answered)
            ),
        ),
    ];
    if !cast.heard("home", is_direct) {
        tell(report, &mut steps);
    }
    let direct = cast.hear("home", "direct path", PUNCHING, is_direct).ok();
    if let Some(line) = &direct {
        let (address, ms) = (line.text("address"), since(line.at));
        steps.push((
            line.at,
            format!("direct to {address}, {ms:.0} ms after connect"),
        ));
    }
    tell(report, &mut steps);
    if direct.is_none() {
        report.step(
            "home",
            "no direct path between these NATs: it stays relayed",
        );
    }
    Ok(Arrival {
        home,
        desk,
        gateway: joined.text("gateway").parse().ok(),
        linked_ms: since(linked),
        first_ping_ms: since(answered),
        first_frame: way.to_owned(),
        first_frame_ms: ms,
        direct_ms: direct.map(|line| since(line.at)),
    })
}

/// Until the hub has let the home in: when they were linked, and its welcome.
fn introduction(cast: &mut Cast<'_>, report: &Report) -> anyhow::Result<(Instant, Line)> {
    let line = cast.event("home", "registered", SOON)?;
    let text = format!(
        "kuguri connect: registered, seen as {}",
        line.text("observed")
    );
    report.step_at(line.at, "home", &text);
    let line = cast.event("home", "link-up", SOON)?;
    let linked = line.at;
    let text = format!(
        "introduced to the hub and linked with it by relay, {}",
        line.text("cipher")
    );
    report.step_at(linked, "home", &text);
    let line = joined(cast, "home")?;
    let text = format!("a member of the hub with address {}", line.text("address"));
    report.step_at(line.at, "home", &text);
    Ok((linked, line))
}

/// The first frame that the hub got from the home.
fn first_frame(cast: &mut Cast<'_>, home: Ipv4Addr) -> anyhow::Result<Line> {
    let peer = key_of(cast, home)?;
    cast.hear("office", "first frame", SOON, |line| {
        line.event() == "first-frame" && line.text("peer") == peer
    })
}

/// The key of the member with this address, as the hub says it.
fn key_of(cast: &mut Cast<'_>, member: Ipv4Addr) -> anyhow::Result<String> {
    let address = member.to_string();
    let line = cast.hear("office", "member-joined", SOON, |line| {
        line.event() == "member-joined" && line.text("address") == address
    })?;
    Ok(line.text("peer").to_owned())
}

/// Steps of the home, in the order in which they happened, once.
fn tell(report: &Report, steps: &mut Vec<(Instant, String)>) {
    steps.sort();
    for (at, text) in steps.drain(..) {
        report.step_at(at, "home", &text);
    }
}

/// The ping table: the bare network for comparison, then through the hub.
pub(super) fn ping_all(lab: &Lab, arrival: &Arrival) -> anyhow::Result<Vec<Row>> {
    let mut rows = vec![Row {
        what: format!("home to vps, {VPS} (bare network)"),
        series: pings(lab, VPS, OPEN_TEXT, PINGS)?,
    }];
    // The hub's virtual host is a courtesy: not every hub has one that answers.
    if let Some(gateway) = arrival.gateway.filter(|gateway| *gateway != arrival.desk)
        && pings(lab, gateway, MARKER, 1).is_ok_and(|probe| probe.answered == 1)
    {
        rows.push(Row {
            what: format!("home to office, {gateway} (through Kuguri)"),
            series: pings(lab, gateway, MARKER, PINGS)?,
        });
    }
    rows.push(Row {
        what: format!("home to desk, {} (through Kuguri)", arrival.desk),
        series: pings(lab, arrival.desk, MARKER, PINGS)?,
    });
    Ok(rows)
}

fn pings(lab: &Lab, target: Ipv4Addr, text: &'static str, count: u16) -> anyhow::Result<Series> {
    lab.run_in("home", || ping::series(target, text, count))?
        .with_context(|| format!("home cannot ping {target}"))
}

/// Home sends to the desk.
pub(super) fn transfer(lab: &Lab, desk: Ipv4Addr) -> anyhow::Result<Transfer> {
    let to = SocketAddr::from((desk, TRANSFER_PORT));
    let listener = lab
        .run_in("desk", || TcpListener::bind(to))?
        .with_context(|| format!("the desk cannot listen at {to}"))?;
    thread::scope(|scope| {
        let receiver = scope.spawn(|| transfer::receive(&listener));
        let sent = lab.run_in("home", || transfer::send(to, TRANSFER_TIME))?;
        if sent.is_err() {
            // Nobody may have come: the receiver must not wait for ever.
            let _ = lab.run_in("desk", || {
                std::net::TcpStream::connect_timeout(&to, AT_ONCE)
            });
        }
        let received = receiver
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let sent = sent.context("the transfer from home to the desk broke")?;
        received.context("the desk did not get what was sent")?;
        Ok(sent)
    })
}

/// What `status` says of the link between home and office, on both sides.
pub(super) fn paths(cast: &mut Cast<'_>, arrival: &Arrival) -> anyhow::Result<[String; 2]> {
    let home = key_of(cast, arrival.home)?;
    Ok([
        path(&cast.status("home")?, |_| true),
        path(&cast.status("office")?, |peer| peer == home),
    ])
}

/// The path of the first link to such a peer.
fn path(status: &Value, is_peer: impl Fn(&str) -> bool) -> String {
    status
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|process| process["node"]["links"].as_array())
        .flatten()
        .find(|link| link["peer"].as_str().is_some_and(&is_peer))
        .and_then(|link| link["path"].as_str())
        .unwrap_or("no link")
        .to_owned()
}

/// Waits for the hub's welcome, or says why there is none.
fn joined(cast: &mut Cast<'_>, who: &'static str) -> anyhow::Result<Line> {
    let line = cast.hear(who, "joined", SOON, |line| {
        matches!(line.event(), "joined" | "refused")
    })?;
    if line.event() == "refused" {
        bail!("the hub refused {who}: {}", line.text("reason"));
    }
    // The address can be used once the card has it.
    cast.hear(who, "card", SOON, |line| {
        line.event() == "card" && !line.text("address").is_empty()
    })?;
    Ok(line)
}

fn address_of(joined: &Line) -> anyhow::Result<Ipv4Addr> {
    let text = joined.text("address");
    let (address, _) = text.split_once('/').unwrap_or((text, ""));
    match address.parse() {
        Ok(IpAddr::V4(address)) => Ok(address),
        _ => bail!("the hub gave {} no IPv4 address but {text:?}", joined.who),
    }
}

fn is_direct(line: &Line) -> bool {
    line.event() == "path-changed" && line.text("path") == "direct"
}

fn shortened(text: &str, length: usize) -> String {
    match text.char_indices().nth(length) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// How long a step may take: far more than it does.
const SOON: Duration = Duration::from_secs(8);
/// How long hole punching is waited for.
const PUNCHING: Duration = Duration::from_secs(5);
const AT_ONCE: Duration = Duration::from_millis(100);
const PINGS: u16 = 10;
/// What a ping in the open carries.
const OPEN_TEXT: &str = "an ordinary ping";
const TRANSFER_PORT: u16 = 5001;
const TRANSFER_TIME: Duration = Duration::from_secs(2);
