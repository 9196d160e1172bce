//! Getting through NATs where plain punching does not: classes, predictions, searches, and what they cost.

use std::time::{Duration, Instant};

use kuguri_proto::node::Event;
use kuguri_proto::wire::control::{Allocation as Seen, Dependence, NatClass};
use kuguri_sim::link::LinkConfig;
use kuguri_sim::nat::{Allocation, Behavior, NatConfig};
use kuguri_sim::network::{HostId, Logging};
use kuguri_tests::world::{Scene, World};

const ACCESS: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(10);
const EI: Behavior = Behavior::EndpointIndependent;
const AD: Behavior = Behavior::AddressDependent;
const AP: Behavior = Behavior::AddressAndPortDependent;

fn scene(seed: u64, office: &NatConfig, home: &NatConfig) -> Scene {
    Scene {
        seed,
        office: office.clone(),
        home: home.clone(),
        access: LinkConfig::delay(ACCESS),
        logging: Logging::Off,
    }
}

const fn is_direct(event: &Event) -> bool {
    matches!(
        event,
        Event::PathChanged {
            direct: Some(_),
            ..
        }
    )
}

/// How long after asking for the link both ends were direct.
fn time_to_direct(world: &mut World, patience: Duration) -> Option<Duration> {
    let asked = world.wait_for(world.home, PATIENCE, |event| {
        matches!(event, Event::Registered { .. })
    });
    let both: Option<Vec<Instant>> = [world.home, world.office]
        .into_iter()
        .map(|host| world.try_wait_for(host, patience, is_direct))
        .collect();
    both.and_then(|both| both.into_iter().max())
        .map(|at| at - asked)
}

fn class(world: &World, host: HostId) -> NatClass {
    world
        .peer(host)
        .node
        .status(world.simulation.now())
        .nat
        .class
}

const fn dependence(behavior: Behavior) -> Dependence {
    match behavior {
        Behavior::None | Behavior::EndpointIndependent => Dependence::Independent,
        Behavior::AddressDependent => Dependence::Address,
        Behavior::AddressAndPortDependent => Dependence::AddressAndPort,
    }
}

#[test]
fn every_class_is_told_on_both_axes() {
    for mapping in Behavior::ALL {
        for filtering in Behavior::ALL {
            for allocation in Allocation::ALL {
                let nat = NatConfig::of(mapping, filtering, allocation);
                let mut world = World::new(&scene(3, &nat, &nat));
                world.run_for(Duration::from_secs(5));
                let class = class(&world, world.home);
                assert_eq!(class.mapping, dependence(mapping), "{nat:?}");
                assert_eq!(class.filtering, dependence(filtering), "{nat:?}");
                let expected = match allocation {
                    Allocation::Preserving => Seen::Preserving,
                    Allocation::Sequential => Seen::Sequential { step: 1 },
                    Allocation::Random => Seen::Random,
                };
                assert_eq!(class.allocation, expected, "{nat:?}");
            }
        }
    }
}

#[test]
fn one_sided_pairs_of_predictable_ports_are_direct_at_once() {
    for allocation in [Allocation::Preserving, Allocation::Sequential] {
        let hard = NatConfig::of(AP, AP, allocation);
        let easy = NatConfig::of(EI, AP, Allocation::Preserving);
        for seed in 0..20 {
            for (office, home) in [(&hard, &easy), (&easy, &hard)] {
                let mut world = World::new(&scene(seed, office, home));
                let time = time_to_direct(&mut world, PATIENCE);
                assert!(
                    time.is_some_and(|time| time <= Duration::from_millis(1000)),
                    "{allocation} seed {seed}: {time:?}"
                );
            }
        }
    }
}

#[test]
fn random_ports_are_found_from_one_side() {
    let hard = NatConfig::of(AP, AP, Allocation::Random);
    let easy = NatConfig::of(EI, AP, Allocation::Preserving);
    let mut times = Vec::new();
    for seed in 0..20 {
        let mut world = World::new(&scene(seed, &hard, &easy));
        times.extend(time_to_direct(&mut world, Duration::from_secs(25)));
    }
    times.sort();
    println!("{times:?}");
    assert_eq!(times.len(), 20, "{times:?}");
}

#[test]
fn two_sequences_meet() {
    let nat = NatConfig::of(AP, AP, Allocation::Sequential);
    let mut times = Vec::new();
    for seed in 0..20 {
        let mut world = World::new(&scene(seed, &nat, &nat));
        times.extend(time_to_direct(&mut world, Duration::from_secs(10)));
    }
    println!("{times:?}");
    assert_eq!(times.len(), 20, "{times:?}");
}

#[test]
fn two_preserving_ones_meet() {
    let nat = NatConfig::of(AP, AP, Allocation::Preserving);
    let other = NatConfig::of(AP, AP, Allocation::Sequential);
    for seed in 0..20 {
        for other in [&nat, &other] {
            let mut world = World::new(&scene(seed, &nat, other));
            let time = time_to_direct(&mut world, Duration::from_secs(10));
            assert!(time.is_some(), "seed {seed}");
        }
    }
}

#[test]
fn every_cell_has_the_verdict_of_theory() {
    let cells: Vec<_> = Behavior::ALL
        .into_iter()
        .flat_map(|mapping| [EI, AD, AP].map(|filtering| (mapping, filtering)))
        .collect();
    let mut failed = Vec::new();
    for &office in &cells {
        for &home in &cells {
            for allocation in Allocation::ALL {
                let nat = |(mapping, filtering)| NatConfig::of(mapping, filtering, allocation);
                let mut world = World::new(&scene(1, &nat(office), &nat(home)));
                let direct = time_to_direct(&mut world, Duration::from_secs(25)).is_some();
                let hopeless = allocation == Allocation::Random && two_sided(office, home);
                if direct == hopeless {
                    failed.push((office, home, allocation, direct));
                }
                world.run_for(Duration::from_secs(5));
                for host in [world.office, world.home] {
                    let peer = world.peer(host);
                    let path = world.path(host);
                    assert_eq!(path == "direct", direct, "{office:?} {home:?} {allocation}");
                    assert!(
                        peer.sockets.len() <= 4,
                        "only what carries a path stays: {:?} {office:?} {home:?} {allocation}",
                        peer.sockets
                    );
                    assert!(peer.most_sockets <= 256 + 7);
                }
            }
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

/// The cells of TRAVERSAL's table in which both ends' ports would have to be guessed.
fn two_sided(first: (Behavior, Behavior), second: (Behavior, Behavior)) -> bool {
    let strict = |(mapping, filtering)| mapping != EI && filtering == AP;
    let strictest = |end| end == (AP, AP);
    let by_port = |(mapping, _)| mapping == AP;
    (strict(first) && strict(second))
        || (strictest(first) && by_port(second))
        || (strictest(second) && by_port(first))
}
