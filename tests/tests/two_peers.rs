//! Two peers and a rendezvous in the simulator: first by relay, then direct where the NATs allow it.

use std::time::Duration;

use kuguri_proto::node::Event;
use kuguri_sim::link::{LinkConfig, Probability};
use kuguri_sim::nat::{NatConfig, Preset};
use kuguri_sim::network::Logging;
use kuguri_tests::frames::broadcast;
use kuguri_tests::world::{HOME_MAC, Scene, VPS, VPS_OTHER, World};

/// One way between a peer and the rendezvous.
const ACCESS: Duration = Duration::from_millis(10);
/// Round trip between a peer and the rendezvous.
const S: Duration = Duration::from_millis(20);
/// Round trip between the peers.
const R: Duration = Duration::from_millis(40);
const PATIENCE: Duration = Duration::from_secs(10);

fn scene(office: Preset, home: Preset) -> Scene {
    Scene {
        seed: 1,
        office: NatConfig::from(office),
        home: NatConfig::from(home),
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

#[test]
fn first_frame_by_relay_then_direct_between_two_cones() {
    let mut world = World::new(&scene(Preset::PortRestricted, Preset::PortRestricted));
    let (office, home) = (world.office, world.home);
    let asked = world.wait_for(home, PATIENCE, |event| {
        matches!(event, Event::Registered { .. })
    });
    let linked = world.wait_for(home, PATIENCE, |event| {
        matches!(event, Event::LinkUp { .. })
    });
    world.send_frame(home, &broadcast(HOME_MAC, 1));
    assert!(
        linked - asked <= 2 * S,
        "first frame sent after {:?}",
        linked - asked
    );
    let arrived = world.wait_for(office, PATIENCE, |event| {
        matches!(event, Event::FirstFrame { direct: false, .. })
    });
    assert!(
        arrived - asked <= 3 * S,
        "first frame there after {:?}",
        arrived - asked
    );
    let direct = world.wait_for(home, PATIENCE, is_direct);
    assert!(
        direct + R / 2 - asked <= 4 * S + R + R / 2,
        "direct after {:?}",
        direct - asked
    );
    let other = world.wait_for(office, PATIENCE, is_direct);
    assert!(
        other + R / 2 - asked <= 4 * S + R + R / 2,
        "direct after {:?}",
        other - asked
    );
    assert_eq!(world.path(home), "direct");
    assert_eq!(world.path(office), "direct");
}

#[test]
fn an_open_mapping_and_a_symmetric_one_meet_directly() {
    let mut world = World::new(&scene(Preset::FullCone, Preset::Symmetric));
    world.wait_for(world.home, PATIENCE, is_direct);
    world.wait_for(world.office, PATIENCE, is_direct);
}

#[test]
fn two_symmetric_ones_stay_relayed_and_frames_flow() {
    let mut world = World::new(&scene(Preset::Symmetric, Preset::Symmetric));
    let (office, home) = (world.office, world.home);
    world.wait_for(home, PATIENCE, |event| {
        matches!(event, Event::Joined { .. })
    });
    world.run_for(Duration::from_secs(30));
    assert_eq!(
        (world.path(office), world.path(home)),
        ("relayed".to_owned(), "relayed".to_owned())
    );
    assert!(
        world
            .peer(home)
            .events
            .iter()
            .all(|(_, event)| !is_direct(event))
    );
    assert_eq!(world.answered_pings(20, 56), 20);
}

/// Nor does the other one, who hides nothing, hear of an address or send anything there.
#[test]
fn who_wants_no_direct_path_has_none_and_tells_no_address() {
    for hidden_is_the_hub in [false, true] {
        let mut world = World::unpeopled(&scene(Preset::Open, Preset::FullCone));
        let (office, home) = (world.office, world.home);
        let mut hub = world.hub_config();
        let mut member = world.member_config(home);
        hub.relay_only = hidden_is_the_hub;
        member.relay_only = !hidden_is_the_hub;
        world.listen();
        world.start_node(office, hub);
        world.start_node(home, member);
        world.wait_for(home, PATIENCE, |event| {
            matches!(event, Event::Joined { .. })
        });
        assert_eq!(world.answered_pings(20, 56), 20);
        world.run_for(Duration::from_secs(120));
        for host in [office, home] {
            assert_eq!(world.path(host), "relayed");
        }
        let public = world.heard();
        assert!(!public.is_empty());
        for (source, destination) in public {
            assert!(
                [source, destination]
                    .iter()
                    .any(|it| [VPS, VPS_OTHER].contains(it)),
                "{source} to {destination}"
            );
        }
    }
}

#[test]
fn the_gateway_answers_over_every_pair_of_nats() {
    let pairs = Preset::ALL
        .into_iter()
        .flat_map(|office| Preset::ALL.map(|home| (office, home)));
    for (office, home) in pairs {
        let mut world = World::new(&scene(office, home));
        world.wait_for(world.home, PATIENCE, |event| {
            matches!(event, Event::Joined { .. })
        });
        assert_eq!(world.answered_pings(5, 1400), 5, "{office} and {home}");
    }
}

/// A fifth on each access link: by relay, more than a third of what one side sends does not get to the other.
#[test]
fn a_fifth_of_all_packets_lost_does_not_keep_them_apart() {
    for seed in 0..20 {
        let mut scene = Scene {
            seed,
            ..scene(Preset::PortRestricted, Preset::PortRestricted)
        };
        scene.access.loss = Probability::new(0.2).expect("between 0 and 1");
        let mut world = World::new(&scene);
        world.wait_for(world.home, Duration::from_secs(60), |event| {
            matches!(event, Event::Joined { .. })
        });
        world.wait_for(world.home, Duration::from_secs(60), is_direct);
    }
}

#[test]
fn one_seed_gives_one_event_log_and_another_seed_another() {
    let run = |seed| {
        let mut scene = Scene {
            seed,
            logging: Logging::Hash,
            ..scene(Preset::PortRestricted, Preset::Symmetric)
        };
        scene.access.loss = Probability::new(0.05).expect("between 0 and 1");
        scene.access.jitter = Duration::from_millis(5);
        let mut world = World::new(&scene);
        world.run_for(Duration::from_secs(20));
        let log = world.simulation.network().log();
        (
            log.count(),
            log.hash(),
            world.told(world.home),
            world.told(world.office),
        )
    };
    let first = run(7);
    assert!(first.0 > 100, "something happened");
    assert_eq!(first, run(7));
    assert_ne!(first.1, run(8).1);
}
