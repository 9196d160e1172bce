//! One try to get two peers together through two NATs: whether, when, and what it cost.

use std::time::{Duration, Instant};

use kuguri_proto::node::Event;
use kuguri_proto::traversal::SearchCounters;
use kuguri_sim::link::LinkConfig;
use kuguri_sim::nat::{Allocation, Behavior, NatConfig};
use kuguri_sim::network::{HostId, Logging};

use crate::world::{Scene, World};

/// Endpoint-independent, as TRAVERSAL's tables abbreviate it.
pub const EI: Behavior = Behavior::EndpointIndependent;
/// Address-dependent.
pub const AD: Behavior = Behavior::AddressDependent;
/// Address-and-port-dependent.
pub const AP: Behavior = Behavior::AddressAndPortDependent;

/// Mapping and filtering of a NAT.
pub type Cell = (Behavior, Behavior);

/// What is tried.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Everything random follows from it.
    pub seed: u64,
    /// The NAT before the office.
    pub office: NatConfig,
    /// The NAT before the home.
    pub home: NatConfig,
    /// Each side's access link, one way.
    pub access: LinkConfig,
    /// Flows that others begin each second behind each NAT.
    pub flows: f64,
    /// When to stop waiting.
    pub patience: Duration,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// From when both had keys until both sent directly.
    pub after_keys: Option<Duration>,
    /// From when home asked for the link.
    pub after_asking: Option<Duration>,
    /// What each side's search used: office, home.
    pub search: [SearchCounters; 2],
    /// The most mappings in each NAT.
    pub mappings: [usize; 2],
    /// Whether an end says that it is direct.
    pub claims_direct: bool,
}

impl Attempt {
    /// Two NATs of this allocation, 10 ms to the core, nobody else.
    #[must_use]
    pub fn new(seed: u64, office: Cell, home: Cell, allocation: Allocation) -> Self {
        let nat = |(mapping, filtering)| NatConfig::of(mapping, filtering, allocation);
        Self {
            seed,
            office: nat(office),
            home: nat(home),
            access: LinkConfig::delay(Duration::from_millis(10)),
            flows: 0.0,
            patience: Duration::from_secs(25),
        }
    }

    /// A world in which it begins now.
    #[must_use]
    pub fn world(&self) -> World {
        let mut world = World::new(&Scene {
            seed: self.seed,
            office: self.office.clone(),
            home: self.home.clone(),
            access: self.access.clone(),
            logging: Logging::Off,
        });
        if self.flows > 0.0 {
            for place in [world.office, world.home] {
                world.add_neighbour(place, self.flows);
            }
        }
        world
    }

    /// Tries it.
    #[must_use]
    pub fn run(&self) -> Outcome {
        let mut world = self.world();
        let long = Duration::from_secs(60);
        let (office, home) = (world.office, world.home);
        let asked = world.try_wait_for(home, long, |event| {
            matches!(event, Event::Registered { .. })
        });
        let keys: Vec<Instant> = [home, office]
            .into_iter()
            .filter_map(|host| {
                world.try_wait_for(host, long, |event| matches!(event, Event::LinkUp { .. }))
            })
            .collect();
        let start = world.simulation.now();
        let left = |world: &World| (start + self.patience).duration_since(world.simulation.now());
        let direct: Vec<Instant> = [home, office]
            .into_iter()
            .filter_map(|host| {
                let left = left(&world);
                world.try_wait_for(host, left, is_direct)
            })
            .collect();
        let both = direct.into_iter().collect::<Vec<_>>();
        let at = (both.len() == 2).then(|| both.into_iter().max()).flatten();
        let since = |from: Option<Instant>| Some(at?.saturating_duration_since(from?));
        let search = |host: HostId| world.link(host).search;
        let mappings = |host: HostId| {
            let nat = world.simulation.network().nat(world.router(host));
            nat.map_or(0, |nat| nat.counters().most_mappings)
        };
        Outcome {
            after_keys: since(keys.into_iter().max()),
            after_asking: since(asked),
            search: [search(office), search(home)],
            mappings: [mappings(office), mappings(home)],
            claims_direct: [office, home]
                .iter()
                .any(|&host| world.path(host) == "direct"),
        }
    }
}

/// Whether a link goes directly now.
#[must_use]
pub const fn is_direct(event: &Event) -> bool {
    matches!(
        event,
        Event::PathChanged {
            direct: Some(_),
            ..
        }
    )
}

/// The nine kinds of NAT, in the order of TRAVERSAL's table.
#[must_use]
pub fn cells() -> Vec<Cell> {
    [EI, AD, AP]
        .into_iter()
        .flat_map(|mapping| [EI, AD, AP].map(|filtering| (mapping, filtering)))
        .collect()
}

/// How many ends' ports must be guessed, if NATs choose them at random: TRAVERSAL's table, section 5.
#[must_use]
pub fn sides(first: Cell, second: Cell) -> u8 {
    const TABLE: [&[u8; 9]; 9] = [
        b"000000000",
        b"000000000",
        b"000111111",
        b"001001001",
        b"001011011",
        b"001112112",
        b"001001002",
        b"001011012",
        b"001112222",
    ];
    let at = |cell: Cell| cells().iter().position(|it| *it == cell).unwrap_or(0);
    TABLE[at(first)][at(second)] - b'0'
}
