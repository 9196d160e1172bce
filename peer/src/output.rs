//! What a running peer says: lines for people on stderr (the invite alone on stdout), or with `--json` one object per
//! line on stdout.
//!
//! Every object has `"event"` and `"ms"`, the milliseconds since the process started. Keys are text of 43 characters.
//!
//! | `event` | further fields |
//! |---|---|
//! | `invite` | `invite`: `kuguri://…` |
//! | `card` | `interface`, `address` (with prefix length, or null), `mac`, `mtu`, `kind`: `tap` or `veth` |
//! | `registered` | `key`, `observed` |
//! | `rendezvous-failed` | `reason`, `fatal` |
//! | `peer-absent` | `peer` |
//! | `link-up` | `peer`, `cipher` |
//! | `path-changed` | `peer`, `path`: `direct` or `relayed`, `address` (null when relayed) |
//! | `link-down` | `peer`, `reason` |
//! | `joined` | `hub_name`, `address` (with prefix length, or null), `gateway`, `mtu` |
//! | `refused` | `reason`: `unknown-token`, `full`, `no-address` or `not-a-hub` |
//! | `member-joined` | `peer`, `host_name`, `address` |
//! | `member-refused` | `peer`, `reason`: as in `refused` |
//! | `first-frame` | `peer`, `path`: `direct` or `relayed` |
//! | `network` | `routes`, `own`, `dns`, `domain`: what is behind the hub's virtual host |
//! | `nat` | `nat`: one of `tcp-created`, `tcp-connected`, `tcp-failed`, `tcp-deleted`, `udp-created`, `udp-deleted`, `refused`, `loop`, `dhcp-created`, …, and its fields |
//! | `way` | `way`: how the rendezvous is reached from now on: `udp`, `https`, `https through …` |
//! | `note` | `text`: anything else that a person should read |
//! | `stopped` | |
//!
//! Answers to pings go to who asked and are not here. Lines are written by a thread of their own, so that a reader who
//! does not read never stops the network; what it does not take is lost.

use std::io::{self, IsTerminal, Write};
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use kuguri_proto::gateway::NatEvent;
use kuguri_proto::node::Event;
use kuguri_proto::wire::control::Refusal;
use serde_json::{Value, json};

use crate::stdout;
use crate::tap::CardKind;

mod nat;

/// The virtual LAN card as it stands now.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct CardState {
    /// Its interface's name.
    pub interface: String,
    /// Address and prefix length, such as `192.168.30.2/24`.
    pub address: Option<String>,
    /// Its MAC address.
    pub mac: String,
    /// Its MTU in bytes of IP packet, once it is up.
    pub mtu: Option<u16>,
    /// How it is made.
    pub kind: CardKind,
}

/// Something to say.
#[derive(Clone, Debug)]
pub enum Saying<'a> {
    /// The node's event.
    Node(&'a Event),
    /// The hub's invite.
    Invite(&'a str),
    /// The virtual LAN card is up, or has another address now.
    Card(&'a CardState),
    /// What happened at the virtual host's NAT or DHCP server.
    Nat(&'a NatEvent),
    /// The card's routes, and what else the hub's network has.
    Network(&'a NetworkState),
    /// How the rendezvous is reached from now on.
    Way(&'a str),
    /// One sentence.
    Note(&'a str),
}

/// What a hub's network has for a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct NetworkState {
    /// Networks that are reached through the virtual LAN card now.
    pub routes: Vec<String>,
    /// Networks there that this machine is in itself, and so reaches by its own card.
    pub own: Vec<String>,
    /// Resolvers there.
    pub dns: Vec<IpAddr>,
    /// The domain of names there.
    pub domain: String,
}

/// Where sayings go.
#[derive(Debug)]
pub struct Output {
    json: bool,
    qr: bool,
    started: Instant,
    lines: Option<SyncSender<Line>>,
    finished: Receiver<()>,
    last_failure: Option<String>,
    /// It ends because of an error, which says so itself.
    failed: bool,
    /// The rendezvous has known us; never to have been is such an error.
    registered: bool,
}

#[derive(Debug)]
enum Line {
    Out(String),
    Err(String),
}

impl Output {
    /// For people, or with `json` for programs; `qr` shows the invite as a picture too.
    #[must_use]
    pub fn new(json: bool, qr: bool, started: Instant) -> Self {
        let (lines, to_write) = sync_channel(QUEUE);
        let (finish, finished) = sync_channel(1);
        std::thread::spawn(move || {
            write_all(&to_write);
            // The other side may have stopped waiting.
            let _ = finish.send(());
        });
        Self {
            json,
            qr,
            started,
            lines: Some(lines),
            finished,
            last_failure: None,
            failed: false,
            registered: false,
        }
    }

    /// Says it.
    pub fn say(&mut self, saying: &Saying<'_>) {
        let elapsed = self.started.elapsed();
        if self.json {
            if let Some(object) = object(saying, elapsed) {
                self.write(Line::Out(object.to_string()));
            }
            return;
        }
        if let Saying::Invite(invite) = saying {
            self.say_invite(invite);
        } else if let Some(text) = self.text(saying) {
            let dim = anstyle::Style::new().dimmed();
            let seconds = elapsed.as_secs_f64();
            self.write(Line::Err(format!("{dim}{seconds:9.3} s{dim:#}  {text}")));
        }
    }

    fn say_invite(&self, invite: &str) {
        self.write(Line::Err(
            "\nGive this invite to members (kuguri connect INVITE); who has it may join:\n"
                .to_owned(),
        ));
        if self.qr {
            match crate::qr::picture(invite) {
                Some(picture) => self.write(Line::Err(picture)),
                None => self.write(Line::Err("(too long for a QR code)".to_owned())),
            }
        }
        self.write(Line::Out(invite.to_owned()));
        self.write(Line::Err(String::new()));
    }

    /// The same again and again (no rendezvous, no hub) is said once, until something else has happened.
    fn text(&mut self, saying: &Saying<'_>) -> Option<String> {
        if let Saying::Node(Event::Refused(_) | Event::RendezvousFailed { fatal: true, .. }) =
            saying
        {
            self.failed = true;
        }
        // The error that ended it is the last that is said.
        if matches!(saying, Saying::Node(Event::Registered { .. })) {
            self.registered = true;
        }
        let stopped = matches!(saying, Saying::Node(Event::Stopped));
        if stopped && (self.failed || !self.registered) {
            return None;
        }
        let text = text(saying)?;
        if let Saying::Node(Event::RendezvousFailed { .. } | Event::PeerAbsent { .. }) = saying {
            if self.last_failure.as_ref() == Some(&text) {
                return None;
            }
            self.last_failure = Some(text.clone());
        } else {
            self.last_failure = None;
        }
        Some(text)
    }

    fn write(&self, line: Line) {
        if let Some(lines) = &self.lines {
            // Full: nobody reads. Gone: the writer has ended. Either way the network goes on.
            let _ = lines.try_send(line);
        }
    }
}

impl Drop for Output {
    /// Lets the last lines be written, unless nobody reads them.
    fn drop(&mut self) {
        self.lines = None;
        let _ = self.finished.recv_timeout(LAST_WORDS);
    }
}

/// Whether the invite is shown as a picture when the user did not say.
#[must_use]
pub fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

fn write_all(lines: &Receiver<Line>) {
    let mut err = anstream::stderr();
    for line in lines {
        // A reader that went away ends its output, never the network.
        let _ = match line {
            Line::Out(line) => match stdout::write(&format!("{line}\n")) {
                true => writeln!(err, "{}", stdout::failure().unwrap_or_default()),
                false => Ok(()),
            },
            Line::Err(line) => writeln!(err, "{line}"),
        };
    }
}

fn object(saying: &Saying<'_>, elapsed: Duration) -> Option<Value> {
    let (event, mut fields) = match saying {
        Saying::Node(event) => node_object(event)?,
        Saying::Invite(invite) => ("invite", json!({ "invite": invite })),
        Saying::Card(card) => ("card", json!(card)),
        Saying::Nat(event) => nat::object(event)?,
        Saying::Network(network) => ("network", json!(network)),
        Saying::Way(way) => ("way", json!({ "way": way })),
        Saying::Note(text) => ("note", json!({ "text": text })),
    };
    let milliseconds = (elapsed.as_secs_f64() * 1e6).round() / 1e3;
    fields["event"] = json!(event);
    fields["ms"] = json!(milliseconds);
    Some(fields)
}

fn node_object(event: &Event) -> Option<(&'static str, Value)> {
    Some(match event {
        Event::Registered { key, observed } => {
            ("registered", json!({ "key": key, "observed": observed }))
        }
        Event::RendezvousFailed { reason, fatal } => (
            "rendezvous-failed",
            json!({ "reason": reason, "fatal": fatal }),
        ),
        Event::PeerAbsent { peer } => ("peer-absent", json!({ "peer": peer })),
        Event::LinkUp { peer, cipher } => ("link-up", json!({ "peer": peer, "cipher": cipher })),
        Event::PathChanged { peer, direct } => (
            "path-changed",
            json!({ "peer": peer, "path": path(direct.is_some()), "address": direct }),
        ),
        Event::LinkDown { peer, reason } => {
            ("link-down", json!({ "peer": peer, "reason": reason }))
        }
        Event::Joined {
            hub_name,
            address,
            gateway,
            mtu,
        } => (
            "joined",
            json!({ "hub_name": hub_name, "address": address.map(with_prefix), "gateway": gateway, "mtu": mtu }),
        ),
        Event::Dhcp(event) => return nat::object(event),
        // The driver says what has become of it.
        Event::Network { .. } | Event::LeasesChanged => return None,
        Event::Refused(refusal) => ("refused", json!({ "reason": refusal_code(*refusal) })),
        Event::MemberJoined {
            peer,
            host_name,
            address,
        } => (
            "member-joined",
            json!({ "peer": peer, "host_name": host_name, "address": address }),
        ),
        Event::FirstFrame { peer, direct } => (
            "first-frame",
            json!({ "peer": peer, "path": path(*direct) }),
        ),
        Event::MemberRefused { peer, refusal } => (
            "member-refused",
            json!({ "peer": peer, "reason": refusal_code(*refusal) }),
        ),
        Event::Stopped => ("stopped", json!({})),
        // What is set on the card is told when it is set.
        Event::Card { .. } | Event::Pong { .. } | Event::PingLost { .. } => return None,
    })
}

fn text(saying: &Saying<'_>) -> Option<String> {
    Some(match saying {
        Saying::Node(event) => return node_text(event),
        Saying::Invite(invite) => (*invite).to_owned(),
        Saying::Nat(event) => return nat::text(event),
        Saying::Network(network) => return nat::network(network),
        Saying::Way(way) => format!("the rendezvous is reached by {way} now"),
        Saying::Note(text) => (*text).to_owned(),
        Saying::Card(card) => {
            let address = card.address.as_deref().unwrap_or("no address");
            let CardState { interface, mac, .. } = card;
            format!("{interface} is up: {address}, {mac}")
        }
    })
}

fn node_text(event: &Event) -> Option<String> {
    Some(match event {
        // By a carrier it sees that, and not us.
        Event::Registered { observed, .. } if observed.ip().is_loopback() => {
            "registered at the rendezvous".to_owned()
        }
        Event::Registered { observed, .. } => {
            format!("registered at the rendezvous, which sees us as {observed}")
        }
        // What ends the process is said by its last words.
        Event::RendezvousFailed { fatal: true, .. } | Event::Refused(_) => return None,
        Event::RendezvousFailed { reason, .. } => reason.clone(),
        Event::PeerAbsent { peer } => format!(
            "the hub {} is not registered at the rendezvous now; waiting until `kuguri serve` runs there",
            peer.short()
        ),
        Event::LinkUp { peer, cipher } => format!("linked to {} ({cipher})", peer.short()),
        Event::PathChanged { peer, direct } => match direct {
            Some(address) => format!("path to {}: direct, {address}", peer.short()),
            None => format!("path to {}: relayed", peer.short()),
        },
        Event::LinkDown { peer, reason } => format!("link to {} is down: {reason}", peer.short()),
        Event::Joined {
            hub_name, address, ..
        } => {
            let name = printable(hub_name);
            match address {
                Some(address) => format!("joined {name} with address {}", with_prefix(*address)),
                None => format!("joined {name}"),
            }
        }
        Event::MemberJoined {
            peer,
            host_name,
            address,
        } => {
            let address =
                address.map_or_else(String::new, |address| format!(" with address {address}"));
            let name = printable(host_name);
            format!("member {name} ({}) joined{address}", peer.short())
        }
        Event::FirstFrame { peer, direct } => {
            format!("first frame from {}, {}", peer.short(), path(*direct))
        }
        Event::MemberRefused { peer, refusal } => {
            let why = match refusal {
                Refusal::UnknownToken => "it shows a token that is not this hub's",
                Refusal::Full => "there are as many members as this hub takes",
                Refusal::NoAddress => {
                    "no address is left; give the hub a larger network with --address"
                }
                Refusal::NotAHub => "this peer is not a hub",
            };
            format!("refused {}: {why}", peer.short())
        }
        Event::Stopped => "stopped".to_owned(),
        Event::Dhcp(event) => return nat::text(event),
        // What is set on the card is told when it is set.
        Event::Card { .. }
        | Event::Pong { .. }
        | Event::PingLost { .. }
        | Event::Network { .. }
        | Event::LeasesChanged => return None,
    })
}

/// What a refusal means for who was refused.
#[must_use]
pub const fn refusal_text(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::UnknownToken => {
            "the hub does not know this invite (withdrawn, used up or expired); ask its owner for a new one"
        }
        Refusal::Full => "the hub has as many members as it takes; ask its owner to make room",
        Refusal::NoAddress => {
            "the hub has no address left to give; ask its owner for a larger network"
        }
        Refusal::NotAHub => {
            "the peer that this invite names is not a hub; ask for an invite printed by kuguri serve"
        }
    }
}

/// "direct" or "relayed".
#[must_use]
pub const fn path(direct: bool) -> &'static str {
    if direct { "direct" } else { "relayed" }
}

/// A name from outside without what would move a terminal's cursor.
#[must_use]
pub fn printable(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

fn with_prefix((address, prefix): (IpAddr, u8)) -> String {
    format!("{address}/{prefix}")
}

const fn refusal_code(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::UnknownToken => "unknown-token",
        Refusal::Full => "full",
        Refusal::NoAddress => "no-address",
        Refusal::NotAHub => "not-a-hub",
    }
}

/// Lines that wait for a slow reader.
const QUEUE: usize = 1024;
/// How long the last lines may take.
const LAST_WORDS: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use kuguri_proto::identity::PeerId;

    use super::*;

    fn every_event() -> Vec<Event> {
        let peer = PeerId([0; 32]);
        let address = "192.0.2.1:7777".parse().expect("an address");
        let host: IpAddr = [192, 168, 30, 2].into();
        vec![
            Event::Registered {
                key: peer,
                observed: address,
            },
            Event::RendezvousFailed {
                reason: "no".into(),
                fatal: false,
            },
            Event::PeerAbsent { peer },
            Event::LinkUp {
                peer,
                cipher: "AES-256-GCM",
            },
            Event::PathChanged {
                peer,
                direct: Some(address),
            },
            Event::PathChanged { peer, direct: None },
            Event::LinkDown {
                peer,
                reason: "gone".into(),
            },
            Event::Joined {
                hub_name: "office\x1b[2J\r".into(),
                address: Some((host, 24)),
                gateway: None,
                mtu: 1400,
            },
            Event::Refused(Refusal::UnknownToken),
            Event::MemberJoined {
                peer,
                host_name: "home\x1b[2J".into(),
                address: Some(host),
            },
            Event::MemberRefused {
                peer,
                refusal: Refusal::Full,
            },
            Event::FirstFrame {
                peer,
                direct: false,
            },
            Event::Stopped,
        ]
    }

    #[test]
    fn every_event_is_one_object_with_name_and_time() {
        let names: Vec<_> = every_event()
            .iter()
            .map(|event| {
                let object =
                    object(&Saying::Node(event), Duration::from_micros(12_345)).expect("said");
                assert_eq!(object["ms"], 12.345);
                object["event"].as_str().expect("text").to_owned()
            })
            .collect();
        let expected = "registered rendezvous-failed peer-absent link-up path-changed path-changed link-down joined \
                        refused member-joined member-refused first-frame stopped";
        assert_eq!(names.join(" "), expected);
    }

    #[test]
    fn addresses_are_plain_text() {
        let objects: Vec<_> = every_event()
            .iter()
            .filter_map(|event| object(&Saying::Node(event), Duration::ZERO))
            .collect();
        assert_eq!(objects[4]["address"], "192.0.2.1:7777");
        assert_eq!(objects[4]["path"], "direct");
        assert_eq!(objects[5]["address"], Value::Null);
        assert_eq!(objects[7]["address"], "192.168.30.2/24");
        assert_eq!(objects[8]["reason"], "unknown-token");
    }

    #[test]
    fn people_get_one_line_without_control_characters() {
        for event in every_event() {
            let line = node_text(&event).unwrap_or_default();
            assert!(!line.chars().any(char::is_control), "{line:?}");
        }
    }

    #[test]
    fn the_same_failure_is_said_once_until_it_has_worked_again() {
        let mut output = Output::new(false, false, Instant::now());
        let failed = Event::RendezvousFailed {
            reason: "no".into(),
            fatal: false,
        };
        let registered = &every_event()[0];
        assert!(output.text(&Saying::Node(&failed)).is_some());
        assert!(output.text(&Saying::Node(&failed)).is_none());
        assert!(output.text(&Saying::Node(registered)).is_some());
        assert!(output.text(&Saying::Node(&failed)).is_some());
    }

    #[test]
    fn the_card_is_said_with_its_kind() {
        let card = CardState {
            interface: "kuguri0".into(),
            address: None,
            mac: "02:00:00:00:00:01".into(),
            mtu: Some(1400),
            kind: CardKind::Veth,
        };
        let object = object(&Saying::Card(&card), Duration::ZERO).expect("said");
        assert_eq!(
            (&object["kind"], &object["event"]),
            (&json!("veth"), &json!("card"))
        );
    }
}
