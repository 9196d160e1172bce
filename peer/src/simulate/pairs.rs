//! One cell of the matrix, once: a hub behind one NAT, a member behind the other. What they say of their link is not taken
//! for the truth: who claims to be direct is asked to show it by a ping.

use std::time::{Duration, Instant};

use kuguri_proto::node::{Command, Event};
use kuguri_sim::link::LinkConfig;
use kuguri_sim::matrix::{RoundTrips, RunOutcome, Setup};
use kuguri_sim::network::{HostId, Logging};
use kuguri_sim::run::Simulation;

use super::world::{Machine, Scene, World};

/// How far the machines of a run are from each other.
pub const TRIPS: RoundTrips = RoundTrips {
    server: Duration::from_millis(20),
    peers: Duration::from_millis(40),
};

/// Lets real nodes try for `patience`.
#[must_use]
pub fn run(setup: &Setup, patience: Duration) -> RunOutcome {
    let [office, home] = setup.nats.clone();
    let mut world = World::new(&Scene {
        seed: setup.seed,
        office,
        home,
        access: LinkConfig::delay(ACCESS),
        logging: Logging::Hash,
    });
    let (start, both) = (world.start, [world.office, world.home]);
    let joined = |event: &Event| matches!(event, Event::Joined { .. });
    let connected = world.try_wait_for(world.home, patience, joined);
    let deadline = start + patience;
    let is_direct =
        |world: &Simulation<Machine>| both.iter().all(|&host| goes_directly(world, host));
    let found = world.simulation.run_until_some(deadline, is_direct);
    let direct = (found == Ok(true)).then(|| world.simulation.now() - start);
    let asked = told_at(&world, |event| matches!(event, Event::Registered { .. }));
    let searches = both.map(|host| world.search(host));
    let packets = both.map(|host| world.peer(host).sent).iter().sum();
    let entries = world.routers.iter().filter_map(|&router| {
        let nat = world.simulation.network().nat(router)?;
        Some(nat.counters().most_sessions)
    });
    let entries = entries.max().unwrap_or(0);
    let pretends = direct.is_some() && !shows_it(&mut world);
    RunOutcome {
        connected: connected.map(|at| at - start),
        direct,
        after_asking: direct.map(|time| time.saturating_sub(asked)),
        searched: searches.iter().any(|search| search.found > 0),
        pretends,
        packets,
        entries,
        sockets: both
            .map(|host| world.peer(host).most_sockets)
            .into_iter()
            .max()
            .unwrap_or(0),
        probes: searches
            .iter()
            .map(|search| search.probes)
            .max()
            .unwrap_or(0),
        in_a_second: searches
            .iter()
            .map(|search| search.most_in_a_second)
            .max()
            .unwrap_or(0),
        hash: world.simulation.network().log().hash(),
    }
}

/// From the beginning until home told such an event.
fn told_at(world: &World, wanted: impl Fn(&Event) -> bool) -> Duration {
    let mut events = world.peer(world.home).events.iter();
    let found = events.find(|(_, event)| wanted(event));
    found.map_or(Duration::ZERO, |(at, _)| *at - world.start)
}

/// Whether a node's frames go directly now, by its own account.
fn goes_directly(simulation: &Simulation<Machine>, host: HostId) -> bool {
    let Some(Machine::Peer(peer)) = simulation.host(host) else {
        return false;
    };
    let told = peer.events.iter().rev().find_map(|(_, event)| {
        if let Event::PathChanged { direct, .. } = event {
            Some(direct.is_some())
        } else {
            matches!(event, Event::LinkDown { .. }).then_some(false)
        }
    });
    told.unwrap_or(false)
}

/// Each pings the other, and both answers come directly. One of a few is enough: the path may have changed meanwhile.
fn shows_it(world: &mut World) -> bool {
    (0..PINGS).any(|id| {
        let now = world.simulation.now();
        for (from, to) in [(world.office, world.home), (world.home, world.office)] {
            let peer = world.id(to);
            let node = &mut world.peer_mut(from).node;
            node.handle_command(Command::Ping { peer, id }, now);
        }
        world.run_for(PING_PATIENCE);
        [world.office, world.home].map(|host| ponged(world, host, now)) == [true, true]
    })
}

fn ponged(world: &World, host: HostId, since: Instant) -> bool {
    let events = world.peer(host).events.iter();
    events
        .rev()
        .take_while(|(at, _)| *at >= since)
        .any(|(_, event)| matches!(event, Event::Pong { direct: true, .. }))
}

/// Between a peer and the core, one way.
const ACCESS: Duration = Duration::from_millis(10);
const PINGS: u64 = 3;
const PING_PATIENCE: Duration = Duration::from_secs(1);
