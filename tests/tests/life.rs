//! What a link lives through: its rendezvous, its NATs, its way and its peer going and coming back; and how it ends.

use std::time::Duration;

use kuguri_proto::identity::{Identity, PeerId};
use kuguri_proto::node::{Command, Event, Role};
use kuguri_proto::wire::control::{Credential, Refusal};
use kuguri_sim::link::{LinkConfig, Probability};
use kuguri_sim::nat::{Allocation, IdleTimers, NatConfig, Preset, Refresh, State};
use kuguri_sim::network::{Access, HostId, Logging};
use kuguri_tests::frames::{broadcast, unicast};
use kuguri_tests::world::{Scene, World};

const ACCESS: Duration = Duration::from_millis(10);
const SECOND: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);
/// How long anything may take to be as it was.
const PINGS: u64 = 30;
const RECOVERY: Duration = Duration::from_secs(30);

fn scene(nat: &NatConfig) -> Scene {
    Scene {
        seed: 5,
        office: nat.clone(),
        home: nat.clone(),
        access: LinkConfig::delay(ACCESS),
        logging: Logging::Off,
    }
}

fn cone() -> NatConfig {
    NatConfig::from(Preset::PortRestricted)
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

const fn is_joined(event: &Event) -> bool {
    matches!(event, Event::Joined { .. })
}

/// Home and office, directly linked.
fn linked(nat: &NatConfig) -> World {
    let mut world = World::new(&scene(nat));
    for host in [world.home, world.office] {
        world.wait_for(host, PATIENCE, is_direct);
    }
    world
}

/// Home and office, linked by the relay.
fn relayed() -> World {
    let mut world = World::new(&scene(&NatConfig::from(Preset::Symmetric)));
    world.wait_for(world.home, PATIENCE, is_joined);
    world.run_for(5 * SECOND);
    assert_eq!(world.path(world.home), "relayed");
    world
}

/// What a host told since it had told `before` events.
fn news(world: &World, host: HostId, before: usize) -> Vec<Event> {
    let told = world.peer(host).events[before..].iter();
    told.map(|(_, event)| event.clone()).collect()
}

fn count(world: &World, host: HostId) -> usize {
    world.peer(host).events.len()
}

/// Waits for an event that was not told before.
fn wait_for_news(
    world: &mut World,
    host: HostId,
    before: usize,
    patience: Duration,
    wanted: impl Fn(&Event) -> bool,
) -> Duration {
    let start = world.simulation.now();
    while !news(world, host, before).iter().any(&wanted) {
        assert!(
            world.simulation.now() - start < patience,
            "{host} did not tell it within {patience:?}; it told {:?}",
            news(world, host, before)
        );
        world.run_for(Duration::from_millis(10));
    }
    world.simulation.now() - start
}

const fn is_link_down(event: &Event) -> bool {
    matches!(event, Event::LinkDown { .. })
}

fn assert_undisturbed(world: &World, host: HostId, before: usize) {
    let news = news(world, host, before);
    let disturbed =
        |event: &Event| is_link_down(event) || matches!(event, Event::PathChanged { .. });
    assert!(!news.iter().any(disturbed), "{host}: {news:?}");
}

#[test]
fn a_direct_link_outlives_a_restart_of_the_rendezvous_and_others_can_join_then() {
    let mut world = linked(&cone());
    let (home, office) = (world.home, world.office);
    let before = [home, office].map(|host| count(&world, host));
    world.start_rendezvous();
    assert_eq!(world.answered_pings(60, 1000), 60);
    for (host, before) in [home, office].into_iter().zip(before) {
        assert_undisturbed(&world, host, before);
        let again = |event: &Event| matches!(event, Event::Registered { .. });
        assert!(news(&world, host, before).iter().any(again), "{host}");
    }
    let second = world.add_home(&cone());
    world.start_node(second, world.member_config(second));
    world.wait_for(second, PATIENCE, is_joined);
    world.wait_for(second, PATIENCE, is_direct);
}

#[test]
fn a_hub_that_is_linked_is_never_said_to_be_absent() {
    // In about half of the runs the member registers before the hub, and is told that the hub is not registered.
    for seed in 0..10 {
        let mut world = World::new(&Scene {
            seed,
            ..scene(&cone())
        });
        for host in [world.home, world.office] {
            world.wait_for(host, PATIENCE, is_direct);
        }
        let before = count(&world, world.home);
        world.start_rendezvous();
        world.run_for(RECOVERY);
        let absent = |event: &Event| matches!(event, Event::PeerAbsent { .. });
        let news = news(&world, world.home, before);
        assert!(!news.iter().any(absent), "seed {seed}: {news:?}");
    }
}

/// What of the packets from and to the rendezvous is lost from now on.
fn set_vps_loss(world: &mut World, loss: Probability) {
    let link = LinkConfig {
        loss,
        ..LinkConfig::default()
    };
    let vps = world.vps;
    let network = world.simulation.network_mut();
    network.set_host_access(vps, &Access::symmetric(link));
}

/// Frames flow again within `limit`.
fn assert_recovers(world: &mut World, limit: Duration, what: &str) {
    let gap = world.recovery(3 * RECOVERY);
    assert!(
        gap.is_some_and(|gap| gap <= limit),
        "{what}: {gap:?}, {:?}",
        world.told(world.home)
    );
}

#[test]
fn a_relayed_link_comes_back_with_the_rendezvous() {
    let mut world = relayed();
    world.start_rendezvous();
    // The next sign of life to it, a pause, and what the slower of the two needs.
    assert_recovers(&mut world, 9 * SECOND, "the rendezvous started again");
}

#[test]
fn a_dead_rendezvous_is_noticed_by_everybody_and_said() {
    let mut world = linked(&cone());
    let hosts = [world.home, world.office];
    let state = |world: &World, host| {
        let status = world.peer(host).node.status(world.simulation.now());
        status.rendezvous
    };
    set_vps_loss(&mut world, Probability::ALWAYS);
    world.run_for(17 * SECOND);
    for host in hosts {
        let status = state(&world, host);
        assert_eq!(status.state, "connecting", "{host}");
        assert!(status.problem.is_some(), "{host}");
    }
    world.run_for(60 * SECOND);
    set_vps_loss(&mut world, Probability::NEVER);
    world.run_for(PATIENCE);
    for host in hosts {
        let status = state(&world, host);
        assert_eq!(status.state, "registered", "{host}");
        assert_eq!(status.problem, None, "{host}");
        assert_eq!(world.path(host), "direct");
    }
}

#[test]
fn a_member_joins_right_after_a_restart_of_the_rendezvous() {
    let mut world = linked(&cone());
    world.start_rendezvous();
    let second = world.add_home(&cone());
    world.start_node(second, world.member_config(second));
    // The hub finds out at its next sign of life to the rendezvous, and the member tries again and again.
    world.wait_for(second, 2 * RECOVERY, is_joined);
}

#[test]
fn a_reboot_of_the_nat_is_survived() {
    let mut random = cone();
    random.ports.allocation = Allocation::Random;
    for nat in [cone(), random] {
        let mut world = linked(&nat);
        let router = world.router(world.home);
        let network = world.simulation.network_mut();
        network.nat_mut(router).expect("a NAT").reboot();
        let gap = world.recovery(2 * RECOVERY);
        assert!(gap <= Some(RECOVERY) && gap.is_some(), "{gap:?}");
        world.run_for(RECOVERY);
        assert_eq!(world.answered_pings(3, 1000), 3);
        let paths = [world.path(world.home), world.path(world.office)];
        assert_eq!(paths, ["direct", "direct"], "{:?}", world.told(world.home));
    }
}

#[test]
fn a_relayed_link_outlives_a_reboot_of_a_nat() {
    for office in [false, true] {
        let mut world = relayed();
        let host = if office { world.office } else { world.home };
        let router = world.router(host);
        let network = world.simulation.network_mut();
        network.nat_mut(router).expect("a NAT").reboot();
        let before = [world.home, world.office].map(|it| count(&world, it));
        assert_recovers(&mut world, 8 * SECOND, "a relayed link's NAT");
        for (host, before) in [world.home, world.office].into_iter().zip(before) {
            assert_undisturbed(&world, host, before);
        }
    }
}

#[test]
fn a_silent_link_keeps_its_bindings() {
    let mut nat = cone();
    nat.timers.udp = IdleTimers::seconds(30, 30);
    nat.timers.refresh = Refresh::Out;
    nat.timers.state = State::PerSession;
    let mut world = linked(&nat);
    let hosts = [world.home, world.office];
    let before = hosts.map(|host| count(&world, host));
    world.run_for(Duration::from_secs(600));
    for (host, before) in hosts.into_iter().zip(before) {
        assert_eq!(world.path(host), "direct");
        assert_undisturbed(&world, host, before);
    }
    assert_eq!(world.answered_pings(3, 1000), 3);
}

#[test]
fn a_cut_line_is_found_again() {
    // After a very long one both sides have come to their longest pause between two attempts.
    for (cut, limit) in [
        (10, 3 * SECOND),
        (40, 12 * SECOND),
        (90, 12 * SECOND),
        (110, 12 * SECOND),
        (130, 12 * SECOND),
        (900, 2 * RECOVERY),
    ] {
        for office in [false, true] {
            let mut world = linked(&cone());
            let host = if office { world.office } else { world.home };
            let dead = LinkConfig {
                loss: Probability::ALWAYS,
                ..LinkConfig::delay(ACCESS)
            };
            world.set_access(host, dead);
            world.run_for(SECOND * cut);
            world.set_access(host, LinkConfig::delay(ACCESS));
            let gap = world.recovery(2 * limit);
            assert!(
                gap <= Some(limit) && gap.is_some(),
                "cut for {cut} s, office: {office}: {gap:?}, {:?}",
                world.told(world.home)
            );
            world.run_for(RECOVERY);
            let paths = [world.path(world.home), world.path(world.office)];
            assert_eq!(paths, ["direct", "direct"], "cut for {cut} s");
        }
    }
}

#[test]
fn who_stops_says_so_and_the_other_knows_at_once() {
    for direct in [true, false] {
        for office in [false, true] {
            let mut world = if direct { linked(&cone()) } else { relayed() };
            let (stops, stays) = if office {
                (world.office, world.home)
            } else {
                (world.home, world.office)
            };
            let before = count(&world, stays);
            let now = world.simulation.now();
            let node = &mut world.peer_mut(stops).node;
            node.handle_command(Command::Stop, now);
            let after = wait_for_news(&mut world, stays, before, 20 * SECOND, is_link_down);
            assert!(
                after <= SECOND,
                "direct: {direct}, office: {office}: {after:?}"
            );
            world.wait_for(stops, SECOND, |event| *event == Event::Stopped);
        }
    }
}

#[test]
fn a_member_comes_back_when_the_hub_does() {
    let mut world = linked(&cone());
    let (home, office) = (world.home, world.office);
    let before = count(&world, home);
    let now = world.simulation.now();
    let node = &mut world.peer_mut(office).node;
    node.handle_command(Command::Stop, now);
    wait_for_news(&mut world, home, before, SECOND, is_link_down);
    let absent = |event: &Event| matches!(event, Event::PeerAbsent { .. });
    wait_for_news(&mut world, home, before, PATIENCE, absent);
    world.run_for(20 * SECOND);
    let before = count(&world, home);
    world.start_node(office, world.hub_config());
    // The longest pause between two attempts, and a quarter.
    wait_for_news(&mut world, home, before, 38 * SECOND, is_joined);
    wait_for_news(&mut world, home, before, PATIENCE, is_direct);
    assert_eq!(world.answered_pings(3, 1000), 3);
}

#[test]
fn a_member_comes_back_when_the_hub_was_killed() {
    for direct in [true, false] {
        let mut world = if direct { linked(&cone()) } else { relayed() };
        let home = world.home;
        let before = count(&world, home);
        world.start_node(world.office, world.hub_config());
        assert_recovers(&mut world, 3 * SECOND, "a hub that was killed");
        assert!(news(&world, home, before).iter().any(is_link_down));
        assert!(news(&world, home, before).iter().any(is_joined));
        if direct {
            wait_for_news(&mut world, home, before, PATIENCE, is_direct);
        }
        world.run_for(RECOVERY);
        assert_eq!(world.answered_pings(3, 1000), 3);
        for host in [home, world.office] {
            let status = world.peer(host).node.status(world.simulation.now());
            assert_eq!(status.links.len(), 1, "{host}");
        }
    }
}

#[test]
fn a_member_shows_where_it_is_as_soon_as_it_has_an_address() {
    let world = linked(&cone());
    let hub = &world.peer(world.office).events;
    let first = |event: &Event| matches!(event, Event::FirstFrame { direct: false, .. });
    assert!(hub.iter().any(|(_, event)| first(event)), "by relay");
}

/// Whoever asks waits for one of the two, also when the link is replaced meanwhile.
#[test]
fn a_ping_is_answered_or_lost_also_when_its_link_is_replaced() {
    let mut world = linked(&cone());
    let (home, hub) = (world.home, world.id(world.office));
    let before = count(&world, home);
    world.start_node(world.office, world.hub_config());
    for id in 0..PINGS {
        let now = world.simulation.now();
        let node = &mut world.peer_mut(home).node;
        node.handle_command(Command::Ping { peer: hub, id }, now);
        world.run_for(Duration::from_millis(100));
    }
    world.run_for(RECOVERY);
    let news = news(&world, home, before);
    assert!(news.iter().any(is_link_down), "the link was replaced");
    let settled = |id: u64| {
        let of_it = |event: &&Event| matches!(event, Event::Pong { id: it, .. } | Event::PingLost { id: it, .. } if *it == id);
        news.iter().filter(of_it).count()
    };
    let open: Vec<u64> = (0..PINGS).filter(|&id| settled(id) != 1).collect();
    assert_eq!(open, Vec::<u64>::new(), "each is told once");
    let lost = |event: &&Event| matches!(event, Event::PingLost { .. });
    assert!(news.iter().filter(lost).count() > 0, "some were under way");
}

#[test]
fn a_hub_that_only_registers_anew_keeps_its_links() {
    let mut world = linked(&cone());
    let hosts = [world.home, world.office];
    let before = hosts.map(|host| count(&world, host));
    // The rendezvous is not heard for a moment, and the hub has a reason to ask whether it is there.
    let office = world.office;
    set_vps_loss(&mut world, Probability::ALWAYS);
    let addresses = ["192.168.1.10:40000", "192.168.1.11:40000"];
    let addresses = addresses.map(|it| it.parse().expect("an address"));
    let now = world.simulation.now();
    let node = &mut world.peer_mut(office).node;
    node.handle_command(Command::LocalAddresses(addresses.to_vec()), now);
    world.run_for(4 * SECOND);
    set_vps_loss(&mut world, Probability::NEVER);
    let again = |event: &Event| matches!(event, Event::Registered { .. });
    wait_for_news(&mut world, office, before[1], PATIENCE, again);
    world.run_for(PATIENCE);
    for (host, before) in hosts.into_iter().zip(before) {
        assert_undisturbed(&world, host, before);
    }
    assert_eq!(world.answered_pings(3, 1000), 3);
}

#[test]
fn a_killed_member_that_starts_again_takes_its_place_and_its_address() {
    let mut world = linked(&cone());
    let address = world.home_address();
    world.start_node(world.home, world.member_config(world.home));
    world.wait_for(world.home, PATIENCE, is_joined);
    world.wait_for(world.home, PATIENCE, is_direct);
    assert_eq!(world.home_address(), address);
    assert_eq!(world.answered_pings(3, 1000), 3);
    world.run_for(RECOVERY);
    let hub = world.peer(world.office).node.status(world.simulation.now());
    assert_eq!(hub.links.len(), 1, "the old link is gone");
}

/// How often each frame with this marker came out at a host.
fn received(world: &World, host: HostId, marker: u8) -> usize {
    let frames = world.peer(host).frames.iter();
    frames
        .filter(|(_, frame)| frame.last() == Some(&marker) && frame.len() == 100)
        .count()
}

#[test]
fn among_three_members_broadcasts_reach_the_others_and_unicast_its_owner() {
    let mut world = linked(&cone());
    let first = world.home;
    let others = [
        world.add_home(&cone()),
        world.add_home(&NatConfig::from(Preset::Symmetric)),
    ];
    for host in others {
        world.start_node(host, world.member_config(host));
        world.wait_for(host, PATIENCE, is_joined);
    }
    let members = [first, others[0], others[1]];
    for (marker, &sender) in (1..).zip(&members) {
        world.send_frame(sender, &broadcast(world.mac(sender), marker));
        world.run_for(SECOND);
        for &host in &members {
            let times = usize::from(host != sender);
            assert_eq!(received(&world, host, marker), times, "{sender} to {host}");
        }
    }
    // Now the hub has learnt where everybody is.
    let mut marker = 10;
    for &sender in &members {
        for &receiver in members.iter().filter(|&&host| host != sender) {
            let frame = unicast(world.mac(sender), world.mac(receiver), marker);
            world.send_frame(sender, &frame);
            world.run_for(SECOND);
            for &host in &members {
                let times = usize::from(host == receiver);
                assert_eq!(received(&world, host, marker), times, "{sender} to {host}");
            }
            marker += 1;
        }
    }
}

#[test]
fn a_wrong_token_is_refused_and_both_sides_are_told() {
    let mut world = World::unpeopled(&scene(&cone()));
    let (home, office) = (world.home, world.office);
    world.start_node(office, world.hub_config());
    let mut config = world.member_config(home);
    if let Role::Member(member) = &mut config.role {
        member.credential = Credential::Token([8; 16]);
    }
    world.start_node(home, config);
    world.wait_for(home, PATIENCE, |event| {
        *event == Event::Refused(Refusal::UnknownToken)
    });
    let peer = world.id(home);
    let refusal = Refusal::UnknownToken;
    world.wait_for(office, PATIENCE, |event| {
        *event == Event::MemberRefused { peer, refusal }
    });
    let (at_home, at_office) = (count(&world, home), count(&world, office));
    world.run_for(10 * RECOVERY);
    let again = |event: &Event| matches!(event, Event::LinkUp { .. } | Event::MemberRefused { .. });
    assert!(!news(&world, home, at_home).iter().any(again));
    assert!(
        !news(&world, office, at_office).iter().any(again),
        "asked once"
    );
}

#[test]
fn a_hub_that_is_not_there_is_said_to_be_absent_and_joined_once_it_is() {
    let mut world = World::unpeopled(&scene(&cone()));
    let (home, office) = (world.home, world.office);
    world.start_node(home, world.member_config(home));
    let hub = world.id(office);
    world.wait_for(home, PATIENCE, |event| {
        *event == Event::PeerAbsent { peer: hub }
    });
    world.run_for(Duration::from_secs(300));
    world.start_node(office, world.hub_config());
    world.wait_for(home, 38 * SECOND, is_joined);
    assert_eq!(world.answered_pings(3, 1000), 3);
}

#[test]
fn a_hub_with_another_key_is_absent_for_ever() {
    let mut world = World::unpeopled(&scene(&cone()));
    let (home, office) = (world.home, world.office);
    world.start_node(office, world.hub_config());
    let wrong = Identity::from_seed(&[99; 32]).id();
    let mut config = world.member_config(home);
    if let Role::Member(member) = &mut config.role {
        member.hub = wrong;
    }
    world.start_node(home, config);
    world.wait_for(home, PATIENCE, |event| {
        *event == Event::PeerAbsent { peer: wrong }
    });
    world.run_for(2 * RECOVERY);
    let up = |event: &Event| matches!(event, Event::LinkUp { .. });
    assert!(!news(&world, office, 0).iter().any(up));
}

#[test]
fn a_wrong_key_of_the_rendezvous_is_fatal_and_both_keys_are_named() {
    let mut world = World::unpeopled(&scene(&cone()));
    let home = world.home;
    let wrong: PeerId = Identity::from_seed(&[98; 32]).id();
    let mut config = world.member_config(home);
    config.rendezvous.key = Some(wrong);
    world.start_node(home, config);
    let named = |event: &Event, key: PeerId| matches!(event, Event::RendezvousFailed { reason, fatal: true } if reason.contains(&key.to_string()));
    let right = world.rendezvous_id();
    world.wait_for(home, PATIENCE, |event| {
        named(event, wrong) && named(event, right)
    });
    let before = world.peer(home).sent;
    world.run_for(RECOVERY);
    assert_eq!(world.peer(home).sent, before, "it does not try again");
}

#[test]
fn keys_change_under_traffic_and_no_frame_is_lost() {
    let mut world = linked(&cone());
    let (home, office) = (world.home, world.office);
    let before = count(&world, home);
    let frames = |world: &World| {
        let (home, office) = (world.link(home).counters, world.link(office).counters);
        [
            home.frames_sent - office.frames_received,
            office.frames_sent - home.frames_received,
        ]
    };
    assert_eq!(frames(&world), [0, 0]);
    assert_eq!(world.answered_pings(600, 1400), 600);
    assert_eq!(frames(&world), [0, 0]);
    for host in [home, office] {
        assert!(world.link(host).epoch >= 4, "{}", world.link(host).epoch);
        let counters = world.link(host).counters;
        assert_eq!((counters.dropped_forged, counters.dropped_queue), (0, 0));
    }
    assert_undisturbed(&world, home, before);
}
