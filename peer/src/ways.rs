//! The ways to the rendezvous: UDP, and carriers for networks that do not let it out.
//!
//! ```text
//!                    ┌ UDP ───────────────────────────────────────────────────────┐
//!   node ─ socket ───┤                                                           rendezvous
//!                    └ 127.0.0.1:* ═ carrier ═ straight · HTTP proxy · SOCKS · ssh ┘
//! ```
//!
//! A carrier is a middle box that belongs to us: for the rest of the peer the rendezvous just has another address. When which way
//! is taken is decided in `kuguri_proto::rendezvous::ways`; here it is done.

use std::sync::atomic::Ordering;
use std::time::Instant;

use kuguri_proto::identity::PeerId;
use kuguri_proto::node::{Command, Node};
use kuguri_proto::rendezvous::client::Way;
use kuguri_proto::rendezvous::ways::{self as choice, Action, Failure};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::config::address::HostPort;

mod carrier;
mod problem;
mod stream;
mod upgrade;
pub mod via;

pub(crate) use carrier::Told;
use carrier::{Plan, Running, What};
use via::{Route, Via};

/// The ways, and which of them is taken.
#[derive(Debug)]
pub struct Ways {
    choice: choice::Ways,
    plans: Vec<Plan>,
    running: Vec<Option<Running>>,
    /// Whether UDP to the rendezvous may leave this machine.
    udp: bool,
    /// The main socket's.
    port: u16,
    attempts: u64,
    /// The way that was told.
    taken: String,
    tell: mpsc::Sender<Told>,
    told: mpsc::Receiver<Told>,
}

/// Something that the user should hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// The rendezvous is reached this way now.
    Taken(String),
    /// A way cannot be had.
    Problem(String),
}

impl Ways {
    /// UDP alone.
    #[must_use]
    pub fn udp(now: Instant) -> Self {
        Self::new(true, Vec::new(), 0, now)
    }

    /// As `via` says, to the rendezvous at `server` with that key. `known` says whether its UDP address is known; `environment` is
    /// what the environment says of proxies.
    #[must_use]
    pub fn plan(
        via: &Via,
        (server, key): (&HostPort, PeerId),
        known: bool,
        environment: Option<Route>,
        port: u16,
        now: Instant,
    ) -> Self {
        let routes = match via {
            Via::Udp => Vec::new(),
            Via::Only(route) => vec![route.clone()],
            Via::Auto => [Some(Route::Straight), environment]
                .into_iter()
                .flatten()
                .collect(),
        };
        let plan = |route: Route| {
            let mut ports = vec![server.port()];
            if server.port() != HTTPS_PORT {
                // Proxies let through to 443, if to anything.
                let at = if route == Route::Straight { 1 } else { 0 };
                ports.insert(at, HTTPS_PORT);
            }
            let host = server.host().to_owned();
            Plan {
                route,
                host,
                ports,
                key,
            }
        };
        let udp = known && !matches!(via, Via::Only(_));
        Self::new(udp, routes.into_iter().map(plan).collect(), port, now)
    }

    fn new(udp: bool, plans: Vec<Plan>, port: u16, now: Instant) -> Self {
        let (tell, told) = mpsc::channel(WORDS);
        Self {
            choice: choice::Ways::new(udp, plans.len(), rand::random(), now),
            running: plans.iter().map(|_| None).collect(),
            plans,
            udp,
            port,
            attempts: 0,
            taken: "udp".to_owned(),
            tell,
            told,
        }
    }

    /// What a carrier tells.
    pub(crate) async fn next(&mut self) -> Told {
        match self.told.recv().await {
            Some(told) => told,
            // Cannot be: we have a sender.
            None => std::future::pending().await,
        }
    }

    /// A carrier has told this.
    pub(crate) fn take(&mut self, told: Told, now: Instant) -> Option<News> {
        let Told {
            number,
            attempt,
            what,
        } = told;
        let running = self.running.get_mut(number)?;
        if running.as_ref().is_none_or(|it| it.attempt != attempt) {
            return None;
        }
        match what {
            What::Open(address) => {
                self.choice.opened(number, address, now);
                None
            }
            What::Ended(problem) => {
                *running = None;
                self.choice.failed(number, problem.failure, now);
                Some(News::Problem(problem.sentence))
            }
        }
    }

    /// The machine has other addresses.
    pub(crate) fn network_changed(&mut self, now: Instant) {
        self.choice.network_changed(now);
    }

    /// Does what is to be done now.
    pub(crate) fn turn(&mut self, node: &mut Node, now: Instant) -> Vec<News> {
        self.choice
            .handle(node.rendezvous_owes_since(), node.udp_answered(), now);
        let mut news = Vec::new();
        while let Some(action) = self.choice.poll_action() {
            match action {
                Action::Open(number) => self.open(number, now),
                Action::Close(number) => {
                    if let Some(running) = self.running.get_mut(number) {
                        *running = None;
                    }
                }
                Action::Use(way) => {
                    let ask_by_udp = self.udp;
                    node.handle_command(Command::Way { way, ask_by_udp }, now);
                    let name = self.name();
                    if way != Way::Closed && name != self.taken {
                        self.taken.clone_from(&name);
                        news.push(News::Taken(name));
                    }
                }
            }
        }
        news
    }

    fn open(&mut self, number: usize, now: Instant) {
        self.attempts += 1;
        let Some(plan) = self.plans.get(number) else {
            return;
        };
        let which = (number, self.attempts);
        match carrier::start(plan.clone(), which, self.port, self.tell.clone()) {
            Ok(running) => self.running[number] = Some(running),
            Err(error) => {
                tracing::warn!(%error, "no thread for HTTPS");
                self.choice.failed(number, Failure::Passing, now);
            }
        }
    }

    /// When to call [`Self::turn`] at the latest.
    pub(crate) fn next_timer(&self, node: &Node, now: Instant) -> Option<Instant> {
        self.choice.poll_timeout(node.rendezvous_owes_since(), now)
    }

    /// The way in use, for people.
    #[must_use]
    pub fn name(&self) -> String {
        let plan = self
            .choice
            .carrier()
            .and_then(|number| self.plans.get(number));
        plan.map_or_else(|| "udp".to_owned(), |plan| plan.route.to_string())
    }

    /// What `kuguri status` shows.
    #[must_use]
    pub fn report(&self) -> Value {
        let running = self
            .choice
            .carrier()
            .and_then(|number| self.running.get(number));
        let counters = running.and_then(Option::as_ref).map(|running| {
            let counters = &running.counters;
            json!({
                "sent": counters.sent.load(Ordering::Relaxed),
                "received": counters.received.load(Ordering::Relaxed),
                "dropped": counters.dropped.load(Ordering::Relaxed),
            })
        });
        json!({ "name": self.name(), "counters": counters })
    }
}

/// Where proxies and firewalls expect HTTPS.
const HTTPS_PORT: u16 = 443;
/// Words of carriers that wait.
const WORDS: usize = 16;

#[cfg(test)]
mod tests;
