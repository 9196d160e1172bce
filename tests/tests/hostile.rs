//! What strangers, and the way itself, do to datagrams: whatever it is, it is dropped and counted, and a running link goes on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use kuguri_proto::gateway::subnet::Subnet;
use kuguri_proto::node::{Command, Event, HubConfig, Role};
use kuguri_proto::rendezvous::Channel;
use kuguri_proto::rendezvous::server::{Limits, RegistryLimits};
use kuguri_proto::wire::clear::Indices;
use kuguri_proto::wire::control::Refusal;
use kuguri_proto::wire::{self, relay, sealed, stun};
use kuguri_proto::{SocketId, Transmit};
use kuguri_sim::link::LinkConfig;
use kuguri_sim::nat::{NatConfig, Preset};
use kuguri_sim::network::{HostId, Logging};
use kuguri_tests::frames::{broadcast, echo_request, is_echo_reply};
use kuguri_tests::world::{HOME_MAC, PORT, Scene, VPS, World};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

const PATIENCE: Duration = Duration::from_secs(10);
/// Somebody on the Internet.
const STRANGER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 66)), 6666);
const RENDEZVOUS: SocketAddr = SocketAddr::new(VPS, PORT);

/// A member and a hub that are directly linked and have nothing to say at the moment.
fn linked() -> World {
    let cone = NatConfig::from(Preset::PortRestricted);
    let mut world = World::new(&Scene {
        seed: 3,
        office: cone.clone(),
        home: cone,
        access: LinkConfig::delay(Duration::from_millis(10)),
        logging: Logging::Off,
    });
    for host in [world.home, world.office] {
        world.wait_for(host, PATIENCE, |event| {
            matches!(
                event,
                Event::PathChanged {
                    direct: Some(_),
                    ..
                }
            )
        });
    }
    // Until the search for the path's MTU is over.
    world.run_for(Duration::from_secs(5));
    for host in [world.home, world.office] {
        let now = world.simulation.now();
        world.peer_mut(host).take_transmits(now);
    }
    world
}

/// What the link from `from` seals now for a ping to `to`, and does not reach the network.
fn sealed_datagram(world: &mut World, from: HostId, to: HostId) -> Transmit {
    let (peer, now) = (world.id(to), world.simulation.now());
    let node = &mut world.peer_mut(from).node;
    node.handle_command(Command::Ping { peer, id: 1 }, now);
    take_sealed(world, from)
}

fn take_sealed(world: &mut World, from: HostId) -> Transmit {
    let now = world.simulation.now();
    let sent = world.peer_mut(from).take_transmits(now);
    let sealed = sent
        .into_iter()
        .find(|sent| wire::classify(&sent.contents) == Some(wire::Kind::Sealed));
    sealed.expect("the link seals what it was asked to say")
}

/// The other side of a host's link, as the host sees it.
fn remote(world: &World, host: HostId) -> SocketAddr {
    world.link(host).address.expect("a direct path")
}

fn deliver(world: &mut World, host: HostId, from: SocketAddr, datagram: &[u8]) {
    let now = world.simulation.now();
    world.peer_mut(host).receive(from, datagram, now);
}

// Places in what `dropped` gives.
const UNKNOWN: usize = 0;
const FORGED: usize = 1;
const REPLAYED: usize = 2;

/// Datagrams that a host has dropped and counted so far: as no link's, as forged, replayed or malformed.
fn dropped(world: &World, host: HostId) -> [u64; 4] {
    let counters = world.link(host).counters;
    let status = world.peer(host).node.status(world.simulation.now());
    [
        status.refused_datagrams,
        counters.dropped_forged,
        counters.dropped_replayed,
        counters.dropped_malformed,
    ]
}

fn all_dropped(world: &World, host: HostId) -> u64 {
    dropped(world, host).iter().sum()
}

/// The link is the one that it was, direct, and carries frames.
fn unharmed(world: &mut World, told: [usize; 2]) {
    assert_eq!(world.answered_pings(3, 1000), 3);
    for (host, told) in [world.home, world.office].into_iter().zip(told) {
        assert_eq!(world.path(host), "direct");
        let news = &world.told(host)[told..];
        let moved = |event: &Event| {
            matches!(
                event,
                Event::LinkDown { .. } | Event::LinkUp { .. } | Event::PathChanged { .. }
            )
        };
        assert!(!news.iter().any(|(_, event)| moved(event)), "{news:?}");
    }
}

fn told(world: &World) -> [usize; 2] {
    [world.home, world.office].map(|host| world.peer(host).events.len())
}

#[test]
fn a_flipped_bit_anywhere_is_dropped_and_counted() {
    let mut world = linked();
    let before_all = told(&world);
    for (from, to) in [(world.home, world.office), (world.office, world.home)] {
        let datagram = sealed_datagram(&mut world, from, to).contents;
        let from = remote(&world, to);
        let opened = world.link(to).counters.datagrams_received;
        for byte in 0..datagram.len() {
            for bit in 0..8 {
                let mut flipped = datagram.clone();
                flipped[byte] ^= 1 << bit;
                let before = dropped(&world, to);
                deliver(&mut world, to, from, &flipped);
                let after = dropped(&world, to);
                let counted: Vec<usize> = (0..4).filter(|&it| after[it] != before[it]).collect();
                // The first byte and the receiver's index say whose it is; another sequence number may be an old one.
                let expected: &[usize] = match byte {
                    0 | 2..8 => &[UNKNOWN],
                    8..16 => &[FORGED, REPLAYED],
                    _ => &[FORGED],
                };
                let [counter] = counted[..] else {
                    panic!("byte {byte}, bit {bit}: {before:?}, {after:?}");
                };
                assert_eq!(after[counter], before[counter] + 1);
                assert!(expected.contains(&counter), "byte {byte}, bit {bit}");
            }
        }
        assert_eq!(world.link(to).counters.datagrams_received, opened);
        deliver(&mut world, to, from, &datagram);
        assert_eq!(
            world.link(to).counters.datagrams_received,
            opened + 1,
            "the true one is still welcome"
        );
    }
    unharmed(&mut world, before_all);
}

#[test]
fn a_truncated_datagram_is_dropped_and_counted() {
    let mut world = linked();
    let before_all = told(&world);
    let (home, office) = (world.home, world.office);
    let datagram = sealed_datagram(&mut world, home, office).contents;
    let from = remote(&world, office);
    let opened = world.link(office).counters.datagrams_received;
    for length in 0..datagram.len() {
        let before = all_dropped(&world, office);
        deliver(&mut world, office, from, &datagram[..length]);
        assert_eq!(all_dropped(&world, office), before + 1, "{length} bytes");
    }
    let longer = [datagram.as_slice(), &[0]].concat();
    let before = dropped(&world, office);
    deliver(&mut world, office, from, &longer);
    assert_eq!(
        dropped(&world, office)[FORGED],
        before[FORGED] + 1,
        "one byte more"
    );
    assert_eq!(world.link(office).counters.datagrams_received, opened);
    unharmed(&mut world, before_all);
}

#[test]
fn a_replayed_datagram_is_dropped_and_counted_and_no_frame_comes_out_twice() {
    let mut world = linked();
    let before_all = told(&world);
    let (home, office) = (world.home, world.office);
    let now = world.simulation.now();
    let (address, gateway) = (world.home_address(), world.gateway());
    let request = echo_request((HOME_MAC, address), gateway, 7, 50);
    world.peer_mut(home).node.handle_frame(&request, now);
    let datagram = take_sealed(&mut world, home).contents;
    let from = remote(&world, office);
    let before = world.link(office).counters;
    deliver(&mut world, office, from, &datagram);
    for count in 1..=3 {
        deliver(&mut world, office, from, &datagram);
        // From elsewhere it is no better.
        deliver(&mut world, office, STRANGER, &datagram);
        let now = world.link(office).counters;
        assert_eq!(now.dropped_replayed, before.dropped_replayed + 2 * count);
        assert_eq!(now.frames_received, before.frames_received + 1);
        world.run_for(Duration::from_secs(1));
    }
    let frames = &world.peer(home).frames;
    let replies = frames
        .iter()
        .filter(|(_, frame)| is_echo_reply(frame))
        .count();
    assert_eq!(replies, 1, "one answer to one question");
    unharmed(&mut world, before_all);
}

#[test]
fn a_way_that_doubles_every_packet_doubles_no_frame() {
    let mut world = linked();
    let (home, office) = (world.home, world.office);
    for host in [home, office] {
        world.set_access(
            host,
            LinkConfig {
                duplicate: kuguri_sim::link::Probability::ALWAYS,
                ..LinkConfig::delay(Duration::from_millis(10))
            },
        );
    }
    let before = world.link(office).counters;
    for marker in 0..20 {
        world.send_frame(home, &broadcast(HOME_MAC, marker));
        world.run_for(Duration::from_millis(100));
    }
    let after = world.link(office).counters;
    assert_eq!(after.frames_received - before.frames_received, 20);
    assert!(after.dropped_replayed >= before.dropped_replayed + 20);
}

/// What a stranger's program might send: noise behind every first byte.
fn garbage() -> Vec<Vec<u8>> {
    let mut rng = StdRng::seed_from_u64(11);
    let mut all = vec![Vec::new()];
    for first in 0..=u8::MAX {
        for length in [1, 2, 12, 20, 28, 31, 33, 48, 100, 1200, 1472] {
            let mut bytes = vec![0; length];
            rng.fill_bytes(&mut bytes);
            bytes[0] = first;
            all.push(bytes.clone());
            bytes[1..].fill(0);
            all.push(bytes);
        }
    }
    all
}

/// STUN and QUIC as they should be, from somebody who has no business here.
fn almost_right(rng: &mut StdRng) -> Vec<Vec<u8>> {
    let mut initial = vec![0; 1200];
    rng.fill_bytes(&mut initial);
    initial[..7].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8, 0]);
    let mut other_version = initial.clone();
    other_version[1..5].copy_from_slice(&[0x1a, 0x2a, 0x3a, 0x4a]);
    vec![
        stun::encode_request(rng.random(), None, None, None),
        stun::encode_response(rng.random(), STRANGER, None),
        initial,
        other_version,
    ]
}

#[test]
fn garbage_gets_no_answer_larger_than_the_question_and_harms_no_link() {
    let mut world = linked();
    let before_all = told(&world);
    let mut rng = StdRng::seed_from_u64(12);
    let questions = [garbage(), almost_right(&mut rng)].concat();
    let sources = [STRANGER, RENDEZVOUS];
    for question in &questions {
        for (host, from) in [world.home, world.office]
            .into_iter()
            .flat_map(|host| sources.map(|from| (host, from)))
        {
            deliver(&mut world, host, from, question);
            let now = world.simulation.now();
            let answers = world.peer_mut(host).take_transmits(now);
            no_larger(question, answers, &format!("{host}"));
        }
        for socket in [SocketId(0), SocketId(1)] {
            let now = world.simulation.now();
            let server = world.rendezvous_mut();
            let relayed = server.handle_datagram(socket, STRANGER, &mut question.clone(), now);
            assert_eq!(relayed, None, "{:?}", &question[..question.len().min(8)]);
            let answers = std::iter::from_fn(|| server.poll_transmit(now)).collect();
            no_larger(question, answers, "the rendezvous");
        }
    }
    unharmed(&mut world, before_all);
}

fn no_larger(question: &[u8], answers: Vec<Transmit>, who: &str) {
    let size: usize = answers.iter().map(|answer| answer.contents.len()).sum();
    assert!(
        size <= question.len(),
        "{who} answers {size} bytes to {} that begin with {:?}",
        question.len(),
        &question[..question.len().min(20)]
    );
}

#[test]
fn garbage_to_peers_that_nobody_knows_yet_is_harmless_too() {
    let cone = NatConfig::from(Preset::PortRestricted);
    let mut world = World::new(&Scene {
        seed: 4,
        office: cone.clone(),
        home: cone,
        access: LinkConfig::delay(Duration::from_millis(10)),
        logging: Logging::Off,
    });
    let questions = [garbage(), almost_right(&mut StdRng::seed_from_u64(13))].concat();
    // In the middle of every handshake that there is.
    for (at, chunk) in questions.chunks(questions.len() / 20).enumerate() {
        for question in chunk {
            for host in [world.home, world.office] {
                deliver(&mut world, host, STRANGER, question);
                deliver(&mut world, host, RENDEZVOUS, question);
            }
        }
        world.run_for(Duration::from_millis(if at < 19 { 11 } else { 1000 }));
    }
    assert_eq!(world.answered_pings(3, 1000), 3);
    assert_eq!(world.path(world.home), "direct");
}

/// The indices by which each side of the link is named, by home first.
fn indices(world: &mut World) -> (u32, u32) {
    let (home, office) = (world.home, world.office);
    let mut receiver = |from, to| {
        let datagram = sealed_datagram(world, from, to);
        let header = sealed::Header::parse(&datagram.contents).expect("a sealed datagram");
        header.receiver
    };
    let (of_office, of_home) = (receiver(home, office), receiver(office, home));
    (of_home, of_office)
}

/// Segments that would be those of the link's very beginning: acknowledgements, bytes, the stream's end.
fn segments_in_the_clear(receiver: u32, sender: u32, now: Instant) -> Vec<Vec<u8>> {
    let mut arq = kuguri_proto::link::arq::Arq::new(Default::default(), now);
    arq.write(&[0x15, 3, 3, 0, 2, 2, 0]); // TLS: a fatal alert
    arq.finish();
    let mut body = Vec::new();
    assert!(arq.poll_transmit(&mut body, 1000, now));
    let mut all = Vec::new();
    for (receiver, sender) in [(receiver, sender), (0, sender), (receiver, 77), (0, 77)] {
        let mut datagram = Vec::new();
        Indices { receiver, sender }.emit(&mut datagram);
        datagram.extend(&body);
        all.push(datagram);
    }
    all
}

#[test]
fn segments_in_the_clear_change_nothing_on_an_established_link() {
    let mut world = linked();
    let before_all = told(&world);
    let (of_home, of_office) = indices(&mut world);
    let now = world.simulation.now();
    for (host, receiver, sender) in [
        (world.home, of_home, of_office),
        (world.office, of_office, of_home),
    ] {
        let before = world.link(host).counters.dropped_malformed;
        for segment in segments_in_the_clear(receiver, sender, now) {
            let refused = all_dropped(&world, host);
            deliver(&mut world, host, STRANGER, &segment);
            assert_eq!(all_dropped(&world, host), refused + 1);
            // A rendezvous that has turned bad can do more: it knows the channels.
            for channel in 0..8 {
                let relayed = relay::emit(Channel(channel), &segment);
                deliver(&mut world, host, RENDEZVOUS, &relayed);
            }
        }
        let after = world.link(host).counters.dropped_malformed;
        assert!(after > before, "one of the channels is the link's");
    }
    unharmed(&mut world, before_all);
    world.run_for(Duration::from_secs(30));
    unharmed(&mut world, before_all);
}

#[test]
fn a_check_with_a_wrong_key_moves_no_path() {
    let mut world = linked();
    let before_all = told(&world);
    let (of_home, of_office) = indices(&mut world);
    let mut rng = StdRng::seed_from_u64(14);
    for (host, receiver, sender) in [
        (world.home, of_home, of_office),
        (world.office, of_office, of_home),
    ] {
        let path = remote(&world, host);
        for source in [STRANGER, path] {
            for (key, sender) in [(None, sender), (Some([9; 32]), sender), (Some([9; 32]), 5)] {
                let name = stun::Username { receiver, sender };
                let question = stun::encode_request(rng.random(), Some(name), key.as_ref(), None);
                deliver(&mut world, host, source, &question);
                let now = world.simulation.now();
                let answers = world.peer_mut(host).take_transmits(now);
                assert!(answers.is_empty(), "{answers:?}");
                let answer = stun::encode_response(rng.random(), STRANGER, key.as_ref());
                deliver(&mut world, host, source, &answer);
                assert_eq!(remote(&world, host), path);
            }
        }
        world.run_for(Duration::from_secs(5));
        assert_eq!(remote(&world, host), path);
    }
    unharmed(&mut world, before_all);
}

#[test]
fn a_true_check_that_a_stranger_copies_moves_no_path() {
    let mut world = linked();
    let (home, office) = (world.home, world.office);
    let (path, now) = (remote(&world, office), world.simulation.now());
    // A change of the network makes the home check again.
    let addresses = vec![SocketAddr::from(([192, 168, 7, 21], 40_000))];
    let node = &mut world.peer_mut(home).node;
    node.handle_command(Command::LocalAddresses(addresses), now);
    let mut checks = Vec::new();
    for _ in 0..20 {
        let now = world.simulation.now();
        let sent = world.peer_mut(home).take_transmits(now);
        checks.extend(sent.into_iter().filter(|sent| {
            wire::classify(&sent.contents) == Some(wire::Kind::Stun)
                && sent.destination == remote(&world, home)
        }));
        world.peer_mut(home).node.handle_timeout(now);
        world.run_for(Duration::from_millis(5));
    }
    assert!(!checks.is_empty(), "the home checks its paths");
    for check in &checks {
        deliver(&mut world, office, STRANGER, &check.contents);
    }
    world.run_for(Duration::from_secs(5));
    assert_eq!(remote(&world, office), path);
    assert_eq!(world.answered_pings(3, 1000), 3);
}

#[test]
fn a_member_cannot_take_the_virtual_hosts_place() {
    let mut world = linked();
    let other = world.add_home(&NatConfig::from(Preset::PortRestricted));
    let config = world.member_config(other);
    world.start_node(other, config);
    world.wait_for(other, PATIENCE, |event| {
        matches!(event, Event::Joined { .. })
    });
    let (gateway, _) = world.gateway();
    for _ in 0..10 {
        world.send_frame(other, &broadcast(gateway, 1));
    }
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.answered_pings(5, 56), 5);
}

#[test]
fn quic_that_is_not_our_connections_is_counted_also_from_the_rendezvous() {
    let mut world = linked();
    for host in [world.home, world.office] {
        let before = dropped(&world, host)[UNKNOWN];
        let mut sent = 0;
        for garbage in garbage() {
            if wire::classify(&garbage) == Some(wire::Kind::Quic) {
                deliver(&mut world, host, RENDEZVOUS, &garbage);
                sent += 1;
            }
        }
        assert!(sent > 1000);
        assert_eq!(dropped(&world, host)[UNKNOWN], before + sent, "{host}");
    }
}

#[test]
fn a_hub_that_started_again_has_no_word_for_who_names_a_link_that_it_had() {
    let mut world = linked();
    let (home, office) = (world.home, world.office);
    let (datagram, from) = (
        sealed_datagram(&mut world, home, office).contents,
        remote(&world, office),
    );
    world.start_node(office, world.hub_config());
    world.run_for(Duration::from_millis(1));
    let now = world.simulation.now();
    world.peer_mut(office).take_transmits(now);
    let refused = |world: &World| {
        let status = world.peer(office).node.status(world.simulation.now());
        status.refused_datagrams
    };
    let before = refused(&world);
    for source in [from, STRANGER, RENDEZVOUS] {
        deliver(&mut world, office, source, &datagram);
    }
    let answers = world.peer_mut(office).take_transmits(now);
    assert!(answers.is_empty(), "{answers:?}");
    assert_eq!(refused(&world), before + 3);
}

/// Starts office and home anew in a world of which `change` changes the hub, and says what home told.
fn home_of_a_strange_hub(change: impl Fn(&mut HubConfig)) -> (World, Vec<Event>) {
    let mut world = linked();
    let mut config = world.hub_config();
    if let Role::Hub(hub) = &mut config.role {
        change(hub);
    }
    let before = world.peer(world.home).events.len();
    world.start_node(world.office, config);
    world.run_for(Duration::from_secs(20));
    let news = world.peer(world.home).events[before..].iter();
    let news = news.map(|(_, event)| event.clone()).collect();
    (world, news)
}

#[test]
fn a_hub_cannot_take_a_members_own_network_from_it() {
    for network in ["192.168.7.1", "203.0.113.77", "198.51.100.99"] {
        let network: Ipv4Addr = network.parse().expect("an address");
        let subnet = Subnet::new(network, 24).expect("a host's address");
        let (world, news) = home_of_a_strange_hub(|hub| hub.subnet = subnet);
        let joined = |event: &Event| matches!(event, Event::Joined { .. });
        assert!(!news.iter().any(joined), "{news:?}");
        let faults = news.iter().filter(|event| {
            matches!(event, Event::LinkDown { reason, .. } if reason.contains("the hub's network") && reason.contains("owner"))
        });
        assert_eq!(faults.count(), 1, "{news:?}");
        let status = world.peer(world.home).node.status(world.simulation.now());
        assert!(status.links.is_empty());
    }
}

#[test]
fn a_hub_takes_no_more_members_than_it_may() {
    let (mut world, news) = home_of_a_strange_hub(|hub| hub.members_max = 1);
    assert!(news.iter().any(|it| matches!(it, Event::Joined { .. })));
    let second = world.add_home(&NatConfig::from(Preset::PortRestricted));
    world.start_node(second, world.member_config(second));
    world.wait_for(second, PATIENCE, |event| {
        *event == Event::Refused(Refusal::Full)
    });
    // Who is in may come again.
    world.start_node(world.home, world.member_config(world.home));
    world.wait_for(world.home, PATIENCE, |event| {
        matches!(event, Event::Joined { .. })
    });
}

#[test]
fn a_limit_of_the_rendezvous_is_said_in_a_sentence() {
    let cone = NatConfig::from(Preset::PortRestricted);
    let mut world = World::unpeopled(&Scene {
        seed: 5,
        office: cone.clone(),
        home: cone,
        access: LinkConfig::delay(Duration::from_millis(10)),
        logging: Logging::Off,
    });
    let defaults = Limits::default();
    world.start_rendezvous_with(Limits {
        registry: RegistryLimits {
            inbound_per_peer: 0,
            ..defaults.registry
        },
        ..defaults
    });
    world.start_node(world.office, world.hub_config());
    world.run_for(Duration::from_secs(1));
    world.start_node(world.home, world.member_config(world.home));
    world.wait_for(world.home, PATIENCE, |event| {
        matches!(event, Event::RendezvousFailed { reason, fatal: false } if reason.contains("relay channels"))
    });
    world.start_rendezvous();
    world.wait_for(world.home, 3 * PATIENCE, |event| {
        matches!(event, Event::Joined { .. })
    });
}

#[test]
fn no_path_leads_through_the_virtual_network_itself() {
    let mut world = linked();
    let inside = ["192.168.30.77:40000", "192.168.30.78:40000"];
    for (host, address) in [world.office, world.home].into_iter().zip(inside) {
        let now = world.simulation.now();
        let addresses = vec![address.parse().expect("an address")];
        world
            .peer_mut(host)
            .node
            .handle_command(Command::LocalAddresses(addresses), now);
    }
    world.simulation.network_mut().set_logging(Logging::Lines);
    world.run_for(Duration::from_secs(30));
    let log = world.simulation.network().log().to_string();
    assert!(!log.is_empty(), "checks were made");
    assert!(!log.contains("> 192.168.30.7"), "one went into the tunnel");
}
