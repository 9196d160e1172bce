//! Two peers and a rendezvous in the simulator: first by relay, then direct where the NATs allow it.

use std::time::{Duration, Instant};

use kuguri_proto::node::Event;
use kuguri_sim::link::LinkConfig;
use kuguri_sim::nat::{NatConfig, Preset};
use kuguri_sim::network::Logging;
use kuguri_tests::world::{Scene, World};

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

fn broadcast(marker: u8) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([0x02, 0, 0, 0, 0, 2, 0x88, 0xb5]);
    frame.resize(100, marker);
    frame
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
    world.send_frame(home, &broadcast(1));
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
    assert_eq!(path_of(&world, home), "direct");
    assert_eq!(path_of(&world, office), "direct");
}

fn path_of(world: &World, host: kuguri_sim::network::HostId) -> String {
    let status = world.peer(host).node.status(world.simulation.now());
    status
        .links
        .first()
        .map(|link| link.path.clone())
        .unwrap_or_default()
}

#[test]
fn show() {
    let mut world = World::new(&scene(Preset::PortRestricted, Preset::PortRestricted));
    world.simulation.network_mut().set_logging(Logging::Lines);
    let t0 = Instant::now();
    world.run_for(Duration::from_secs(3));
    eprintln!("real {:?}", t0.elapsed());
    for e in world.simulation.network().log().entries() {
        eprintln!("{e}");
    }
    eprintln!("office {:#?}", world.told(world.office));
    eprintln!("home {:#?}", world.told(world.home));
    eprintln!(
        "{:#?}",
        world.peer(world.home).node.status(world.simulation.now())
    );
}
