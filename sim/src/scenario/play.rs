//! Plays a scenario: programs on its hosts, its timeline, and a note of what was seen when. Knows programs by [`Cast`] alone.
//!
//! ```text
//!   Cast::start(part) ─► Program on each host ─► events in order ─► expectations asked at each instant ─► Report
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::stage::{Places, Stage};
use super::{EventSpec, Expectation, HostSpec, PathKind, Scenario, Verb};
use crate::nat::Counters;
use crate::network::{HostId, Logging, Network, NetworkError, RouterId};
use crate::run::{Host, Simulation, Spinning};

/// Who plays: binds roles to programs.
pub trait Cast {
    /// What runs on the hosts.
    type Program: Host;

    /// The program for a host.
    ///
    /// # Errors
    /// There is no such role, or its settings make no sense: one sentence.
    fn start(&mut self, part: &Part<'_>, now: Instant) -> Result<Self::Program, String>;

    /// How a program is connected to another host now, if it is.
    fn path(&self, program: &Self::Program, to: &str) -> Option<Seen>;

    /// A program's host has other addresses now.
    fn moved(&mut self, _program: &mut Self::Program, _addresses: &[IpAddr], _now: Instant) {}

    /// A program is told something by the timeline.
    ///
    /// # Errors
    /// It does not understand: one sentence.
    fn say(&mut self, _program: &mut Self::Program, text: &str, _: Instant) -> Result<(), String> {
        Err(format!("nobody here understands `{text}`"))
    }
}

/// One host's part in a scenario.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The host.
    pub host: &'a HostSpec,
    /// Its addresses now.
    pub addresses: &'a [IpAddr],
    /// Everybody, in the order of the file.
    pub all: &'a [HostSpec],
    /// Of the run.
    pub seed: u64,
    /// How often this host's program was started before.
    pub starts: u32,
}

/// A connection as one of its ends sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Nobody is between them.
    pub direct: bool,
    /// When it last heard from the other end by it.
    pub heard: Instant,
}

/// Why a scenario could not be played to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlayError {
    /// It cannot be built so, or changed so.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The cast has nobody for this.
    #[error("host {host}: {message}")]
    Cast {
        /// Whose part it was.
        host: String,
        /// What it said.
        message: String,
    },
    /// A program never rests.
    #[error(transparent)]
    Spinning(#[from] Spinning),
}

/// What became of an expectation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What was expected.
    pub expected: String,
    /// Whether it was so.
    pub met: bool,
    /// Whether it is only aimed at.
    pub goal: bool,
    /// When it was first so, since the start.
    pub first: Option<Duration>,
}

/// How it went.
#[derive(Debug)]
pub struct Report {
    /// The seed that was used.
    pub seed: u64,
    /// In the order of the file.
    pub outcomes: Vec<Outcome>,
    /// The event log's hash: the same for the same file and seed.
    pub hash: u64,
    /// How many things happened to packets.
    pub events: u64,
    /// What the NATs did.
    pub nats: BTreeMap<String, Counters>,
    /// The network at the end, with its log.
    pub network: Network,
}

impl Report {
    /// Whether everything was as promised.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.outcomes
            .iter()
            .all(|outcome| outcome.met || outcome.goal)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match (self.met, self.goal) {
            (true, _) => "ok    ",
            (false, true) => "goal  ",
            (false, false) => "FAILED",
        };
        write!(f, "{mark} {}", self.expected)?;
        match self.first {
            Some(first) => write!(f, "; first so at {:.3} s", first.as_secs_f64()),
            None => write!(f, "; not once so"),
        }
    }
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b] = &self.between;
        let (path, after) = (self.path.name(), self.after.as_secs_f64());
        write!(f, "{a} and {b} ")?;
        match (self.never, self.within) {
            (true, _) => write!(f, "never {path} after {after} s"),
            (false, Some(within)) => {
                let by = within.as_secs_f64();
                write!(f, "{path} within {by} s after {after} s")
            }
            (false, None) => write!(f, "{path} after {after} s and at the end"),
        }
    }
}

impl Scenario {
    /// Plays it whole.
    ///
    /// # Errors
    /// When it cannot be played to its end; expectations that are not met are in the report.
    pub fn play<C: Cast>(
        &self,
        cast: &mut C,
        seed: u64,
        logging: Logging,
    ) -> Result<Report, PlayError> {
        let stage = self.stage(seed)?;
        let mut play = Play::new(self, stage, cast, seed, logging);
        play.start_all()?;
        play.run()?;
        Ok(play.report())
    }
}

struct Play<'a, C: Cast> {
    scenario: &'a Scenario,
    cast: &'a mut C,
    simulation: Simulation<C::Program>,
    hosts: BTreeMap<String, HostId>,
    routers: BTreeMap<String, RouterId>,
    places: Places,
    /// Programs of hosts that sleep.
    asleep: BTreeMap<HostId, C::Program>,
    addresses: BTreeMap<String, Vec<IpAddr>>,
    starts: BTreeMap<String, u32>,
    notes: Vec<Note>,
    start: Instant,
    seed: u64,
}

/// What was seen of an expectation so far.
#[derive(Clone, Copy, Default)]
struct Note {
    first: Option<Instant>,
    now: bool,
}

impl<'a, C: Cast> Play<'a, C> {
    fn new(
        scenario: &'a Scenario,
        stage: Stage,
        cast: &'a mut C,
        seed: u64,
        logging: Logging,
    ) -> Self {
        let (mut network, hosts, routers, places) = stage.split();
        network.set_logging(logging);
        let start = network.start();
        let addresses = scenario.host.iter().map(|host| {
            let also = host.also.iter().flat_map(|also| &also.addresses);
            let all = host.addresses.iter().chain(also).copied().collect();
            (host.name.clone(), all)
        });
        Self {
            scenario,
            cast,
            simulation: Simulation::new(network, start),
            hosts,
            routers,
            places,
            asleep: BTreeMap::new(),
            addresses: addresses.collect(),
            starts: BTreeMap::new(),
            notes: vec![Note::default(); scenario.expect.len()],
            start,
            seed,
        }
    }

    fn start_all(&mut self) -> Result<(), PlayError> {
        for host in &self.scenario.host {
            self.start_program(&host.name)?;
        }
        Ok(())
    }

    fn start_program(&mut self, name: &str) -> Result<(), PlayError> {
        let spec = self.scenario.host.iter().find(|host| host.name == name);
        let (Some(host), Some(&id)) = (spec, self.hosts.get(name)) else {
            return Ok(());
        };
        let starts = self.starts.entry(name.to_owned()).or_default();
        let part = Part {
            host,
            addresses: self.addresses.get(name).map_or(&[], Vec::as_slice),
            all: &self.scenario.host,
            seed: self.seed,
            starts: *starts,
        };
        *starts += 1;
        let program = self.cast.start(&part, self.simulation.now());
        self.asleep.remove(&id);
        self.simulation
            .insert(id, program.map_err(|message| refused(name, message))?);
        Ok(())
    }

    fn run(&mut self) -> Result<(), PlayError> {
        let mut events: Vec<&EventSpec> = self.scenario.event.iter().collect();
        events.sort_by_key(|event| event.at);
        for event in events {
            self.run_until(self.start + event.at)?;
            self.happen(event)?;
        }
        self.run_until(self.start + self.scenario.duration)
    }

    fn run_until(&mut self, deadline: Instant) -> Result<(), PlayError> {
        let Self {
            scenario,
            cast,
            hosts,
            notes,
            start,
            ..
        } = self;
        let look = |simulation: &Simulation<C::Program>| {
            for (note, expectation) in notes.iter_mut().zip(&scenario.expect) {
                look_at(*cast, simulation, hosts, *start, expectation, note);
            }
            false
        };
        self.simulation.run_until_some(deadline, look)?;
        Ok(())
    }

    fn happen(&mut self, event: &EventSpec) -> Result<(), PlayError> {
        let now = self.simulation.now();
        let name = event.host.as_deref().unwrap_or_default();
        let host = self.hosts.get(name).copied();
        let router = event.router.as_ref();
        let router = router.and_then(|name| self.routers.get(name)).copied();
        let network = self.simulation.network_mut();
        self.places.apply(event, network, host, router, now)?;
        let Some(id) = host else {
            return Ok(());
        };
        match event.verb {
            Verb::Stop => drop(self.simulation.remove(id)),
            Verb::Start => self.start_program(name)?,
            Verb::Sleep => self
                .asleep
                .extend(self.simulation.remove(id).map(|program| (id, program))),
            Verb::Wake => {
                if let Some(program) = self.asleep.remove(&id) {
                    self.simulation.insert(id, program);
                }
            }
            Verb::Move => {
                let addresses = event.addresses.clone().unwrap_or_default();
                if let Some(program) = self.simulation.host_mut(id) {
                    self.cast.moved(program, &addresses, now);
                }
                self.addresses.insert(name.to_owned(), addresses);
            }
            Verb::Say => {
                let text = event.text.as_deref().unwrap_or_default();
                if let Some(program) = self.simulation.host_mut(id) {
                    let said = self.cast.say(program, text, now);
                    said.map_err(|message| refused(name, message))?;
                }
            }
            Verb::Cut
            | Verb::Mend
            | Verb::Link
            | Verb::Reboot
            | Verb::Rebind
            | Verb::Nat
            | Verb::Rules
            | Verb::Renumber => {}
        }
        Ok(())
    }

    fn report(self) -> Report {
        let judged = self.scenario.expect.iter().zip(&self.notes);
        let outcomes = judged.map(|(expectation, note)| judge(expectation, *note, self.start));
        let outcomes = outcomes.collect();
        let network = self.simulation.into_network();
        let counters = |(name, &router): (&String, &RouterId)| {
            let nat = network.nat(router)?;
            Some((name.clone(), nat.counters()))
        };
        Report {
            seed: self.seed,
            outcomes,
            hash: network.log().hash(),
            events: network.log().count(),
            nats: self.routers.iter().filter_map(counters).collect(),
            network,
        }
    }
}

/// Notes whether it is so now.
fn look_at<C: Cast>(
    cast: &C,
    simulation: &Simulation<C::Program>,
    hosts: &BTreeMap<String, HostId>,
    start: Instant,
    expectation: &Expectation,
    note: &mut Note,
) {
    let (now, after) = (simulation.now(), start + expectation.after);
    if now < after {
        return;
    }
    // Once reached by its time it is not asked again, unless it has to be so at the end, too.
    let settled = expectation.within.is_some() || expectation.never;
    if settled && note.first.is_some() {
        return;
    }
    let [a, b] = &expectation.between;
    let sees = |from: &str, to: &str| {
        let program = simulation.host(*hosts.get(from)?)?;
        let seen = cast.path(program, to)?;
        (seen.heard >= after).then_some(seen.direct)
    };
    note.now = match (sees(a, b), sees(b, a), expectation.path) {
        (Some(there), Some(back), PathKind::Direct) => there && back,
        (Some(there), Some(back), PathKind::Relayed) => !there || !back,
        (Some(_), Some(_), PathKind::Connected) => true,
        _ => false,
    };
    if note.now && note.first.is_none() {
        note.first = Some(now);
    }
}

fn judge(expectation: &Expectation, note: Note, start: Instant) -> Outcome {
    let met = match (expectation.never, expectation.within, note.first) {
        (true, _, first) => first.is_none(),
        (false, Some(within), Some(first)) => first <= start + expectation.after + within,
        (false, Some(_), None) => false,
        (false, None, _) => note.now,
    };
    Outcome {
        expected: expectation.to_string(),
        met,
        goal: expectation.goal,
        first: note.first.map(|first| first - start),
    }
}

fn refused(host: &str, message: String) -> PlayError {
    PlayError::Cast {
        host: host.to_owned(),
        message,
    }
}
