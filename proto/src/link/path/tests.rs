//! Claims about two [`Paths`] with NATs between them, and about one that is lied to.

use proptest::prelude::*;

use super::*;
use crate::wire::control::{Allocation, CandidateKind, Dependence, Ports};
use world::Dependent::{self, Address, AddressAndPort, Endpoint};
use world::{Nat, World, config};

mod world;

const SECOND: Duration = Duration::from_secs(1);

fn nats(first: (Dependent, Dependent), second: (Dependent, Dependent)) -> [Option<Nat>; 2] {
    let nat = |(mapping, filtering), public| Some(Nat::new(mapping, filtering, public));
    [nat(first, "198.51.100.1"), nat(second, "198.51.100.2")]
}

const CONE: (Dependent, Dependent) = (Endpoint, AddressAndPort);
const FULL_CONE: (Dependent, Dependent) = (Endpoint, Endpoint);
const SYMMETRIC: (Dependent, Dependent) = (AddressAndPort, AddressAndPort);

#[test]
fn cone_and_cone_are_direct_with_four_packets_each() {
    let mut world = World::new(1, nats(CONE, CONE));
    assert!(world.gets_direct(SECOND), "{:#?}", world.log);
    for end in &world.ends {
        assert!(end.spent <= Some(4), "{:?}", end.spent);
    }
}

#[test]
fn full_cone_and_symmetric_are_direct_by_a_peer_reflexive_address() {
    let mut world = World::new(1, nats(FULL_CONE, SYMMETRIC));
    assert!(world.gets_direct(SECOND), "{:#?}", world.log);
    for end in &world.ends {
        assert!(end.spent <= Some(30), "{:?}", end.spent);
    }
}

#[test]
fn symmetric_and_symmetric_never_claim_to_be_direct_and_spend_little() {
    let mut world = World::new(1, nats(SYMMETRIC, SYMMETRIC));
    for _ in 0..20 {
        world.run(30 * SECOND);
        assert!(world.ends.iter().all(|end| end.paths.best().is_none()));
    }
    for end in &world.ends {
        let counters = end.paths.counters();
        assert!(
            counters.rounds >= 9,
            "at least one a minute, for ever: {counters:?}"
        );
        assert!(
            counters.checks_sent + counters.answers_sent <= 30 * counters.rounds,
            "{counters:?}"
        );
    }
}

/// TRAVERSAL's table for random ports: which pairs of NATs need no guessing.
#[test]
fn each_pair_of_nats_gets_the_verdict_of_theory() {
    const H: [[u8; 9]; 9] = [
        *b"HHHHHHHHH",
        *b"HHHHHHHHH",
        *b"HHH111111",
        *b"HH1HH1HH1",
        *b"HH1H11H11",
        *b"HH1112112",
        *b"HH1HH1HH2",
        *b"HH1H11H12",
        *b"HH1112222",
    ];
    let kinds: Vec<_> = Dependent::ALL
        .iter()
        .flat_map(|&m| Dependent::ALL.map(|f| (m, f)))
        .collect();
    for (row, &first) in kinds.iter().enumerate() {
        for (column, &second) in kinds.iter().enumerate() {
            let mut world = World::new(7, nats(first, second));
            let direct = world.gets_direct(2 * SECOND);
            assert_eq!(
                direct,
                H[row][column] == b'H',
                "{first:?} {second:?} {:#?}",
                world.log
            );
        }
    }
}

#[test]
fn a_tenth_lost_is_no_obstacle() {
    for seed in 0..300 {
        let mut world = World::new(seed, nats(CONE, CONE));
        world.loss = 0.1;
        assert!(
            world.gets_direct(2 * SECOND + 2 * world::RELAY_DELAY),
            "seed {seed} {:#?}",
            world.log
        );
    }
}

#[test]
fn a_tenth_lost_does_not_end_a_path() {
    for seed in 0..10 {
        let mut world = World::new(seed, nats(CONE, CONE));
        assert!(world.gets_direct(SECOND));
        world.loss = 0.1;
        world.ends[0].busy = true;
        world.run(300 * SECOND);
        let lost = |(_, event): &&(Instant, PathEvent)| matches!(event, PathEvent::Lost { .. });
        let count = world
            .ends
            .iter()
            .flat_map(|end| &end.events)
            .filter(lost)
            .count();
        assert_eq!(count, 0, "seed {seed}");
    }
}

#[test]
fn a_dead_path_is_noticed_in_time_and_found_again_for_ever() {
    let mut world = World::new(3, nats(CONE, CONE));
    assert!(world.gets_direct(SECOND));
    world.ends[0].busy = true;
    world.ends[1].busy = true;
    world.run(10 * SECOND);
    world.cut = true;
    let cut_at = world.now;
    world.run(3 * SECOND);
    for end in &world.ends {
        let (at, event) = end
            .events
            .iter()
            .rfind(|(_, e)| *e != PathEvent::WantExchange)
            .expect("an event");
        assert!(matches!(event, PathEvent::Lost { .. }), "{event:?}");
        assert!(
            *at - cut_at <= Duration::from_millis(2500),
            "{:?}",
            *at - cut_at
        );
        let asked = |(asked, event): &(Instant, PathEvent)| {
            *event == PathEvent::WantExchange && *asked >= *at && *asked <= *at + SECOND
        };
        assert!(end.events.iter().any(asked), "a new round at once");
        assert_eq!(end.paths.best(), None);
    }
    world.run(600 * SECOND);
    world.cut = false;
    assert!(world.gets_direct(70 * SECOND), "{:#?}", world.log);
}

#[test]
fn a_changed_address_is_survived() {
    let mut world = World::new(3, nats(CONE, CONE));
    assert!(world.gets_direct(SECOND));
    world.run(10 * SECOND);
    world.ends[0].nat = Some(Nat::new(Endpoint, AddressAndPort, "198.51.100.77"));
    let now = world.now;
    world.ends[0].paths.network_changed(now);
    world.gather(0);
    world.run(10 * SECOND);
    assert!(world.is_direct(), "{:#?}", world.log);
    let remote = world.ends[1].paths.best().expect("direct").remote;
    assert_eq!(remote.ip().to_string(), "198.51.100.77");
    let moved = |(at, event): &(Instant, PathEvent)| {
        matches!(event, PathEvent::Direct { .. }).then_some(*at)
    };
    let moved = world.ends[1].events.iter().rev().find_map(moved);
    let outage = moved.expect("a move") - now;
    assert!(outage <= SECOND, "TRAVERSAL's goal: {outage:?}");
}

#[test]
fn an_unused_path_stays_and_costs_little() {
    let mut world = World::new(3, nats(CONE, CONE));
    assert!(world.gets_direct(SECOND));
    world.run(10 * SECOND);
    let before: Vec<_> = world
        .ends
        .iter()
        .map(|end| end.paths.counters().probes_sent)
        .collect();
    world.run(600 * SECOND);
    assert!(world.is_direct());
    let sent: u64 = world
        .ends
        .iter()
        .map(|end| end.paths.counters().probes_sent)
        .sum();
    let sent = sent - before.iter().sum::<u64>();
    assert!(sent <= 2 * 600 / 4, "{sent}");
}

#[test]
fn the_mtu_is_found_and_a_black_hole_noticed() {
    for (mtu, expected) in [(1500, 1472), (1280, 1200), (1124, 1024)] {
        let mut world = World::new(3, nats(CONE, CONE));
        world.limit = mtu - 28;
        assert!(world.gets_direct(SECOND));
        assert_eq!(
            world.ends[0].paths.best().map(|path| path.mtu),
            Some(548),
            "before it is proved"
        );
        world.run(5 * SECOND);
        assert_eq!(
            world.ends[0].paths.best().map(|path| path.mtu),
            Some(expected)
        );
        world.ends[0].busy = true;
        world.limit = 548;
        world.run(8 * SECOND);
        assert_eq!(world.ends[0].paths.best().map(|path| path.mtu), Some(548));
    }
}

#[test]
fn one_seed_gives_one_log() {
    let run = |seed| {
        let mut world = World::new(seed, nats(CONE, (Address, Address)));
        world.loss = 0.2;
        world.run(100 * SECOND);
        world.log
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn the_better_path_is_taken_without_haste() {
    let mut world = World::new(5, [None, None]);
    let other: SocketAddr = "192.0.2.3:7".parse().expect("an address");
    let first = world.ends[1].hosts[0];
    world.ends[1].hosts.push(other);
    world.gather(1);
    world.detours.insert(other, Duration::from_millis(3));
    assert!(world.gets_direct(SECOND));
    // Each minute the other way is the slower one.
    for turn in 0..10 {
        let (slow, fast) = if turn % 2 == 0 {
            (first, other)
        } else {
            (other, first)
        };
        world.detours.insert(slow, Duration::from_millis(60));
        world.detours.insert(fast, Duration::ZERO);
        world.run(120 * SECOND);
        assert_eq!(
            world.ends[0].paths.best().map(|path| path.remote),
            Some(fast),
            "{turn}"
        );
    }
    let moves = world.ends[0]
        .events
        .iter()
        .filter(|(_, event)| matches!(event, PathEvent::Direct { .. }));
    let at: Vec<_> = moves.map(|(at, _)| *at).collect();
    assert!(
        at.windows(2).all(|pair| pair[1] - pair[0] >= 2 * SECOND),
        "{at:?}"
    );
    assert!(at.len() <= 12, "{at:?}");
}

#[test]
fn two_paths_that_change_places_all_the_time_do_not_make_it_restless() {
    let mut world = World::new(5, [None, None]);
    let other: SocketAddr = "192.0.2.3:7".parse().expect("an address");
    let first = world.ends[1].hosts[0];
    world.ends[1].hosts.push(other);
    world.gather(1);
    assert!(world.gets_direct(SECOND));
    for turn in 0..100 {
        let (slow, fast) = if turn % 2 == 0 {
            (first, other)
        } else {
            (other, first)
        };
        world.detours.insert(slow, Duration::from_millis(400));
        world.detours.insert(fast, Duration::ZERO);
        // It makes the end measure all its paths at once.
        let now = world.now;
        world.ends[0].paths.network_changed(now);
        world.run(SECOND / 2);
    }
    let moved = |(at, event): &(Instant, PathEvent)| {
        matches!(event, PathEvent::Direct { .. }).then_some(*at)
    };
    let at: Vec<_> = world.ends[0].events.iter().filter_map(moved).collect();
    assert!(at.len() > 3, "{at:?}");
    assert!(
        at.windows(2).all(|pair| pair[1] - pair[0] >= 2 * SECOND),
        "{at:?}"
    );
}

/// An end that is being checked, and a request of its own that waits for an answer.
fn one_end(now: Instant) -> (Paths, Transmit) {
    let mut paths = Paths::new(config(0), [1; 32], now);
    let candidates = vec![Candidate {
        kind: CandidateKind::Host,
        address: "192.0.2.9:9".parse().expect("an address"),
    }];
    paths.handle_candidates(
        &Candidates {
            round: 1,
            candidates,
            nat: NatClass::default(),
        },
        now,
        now,
    );
    let check = paths.poll_transmit(now).expect("a check");
    (paths, check)
}

fn request(transaction: Transaction, key: u8) -> Vec<u8> {
    let (receiver, sender) = (config(0).local_index, config(0).remote_index);
    stun::encode_request(
        transaction,
        Some(Username { receiver, sender }),
        Some(&[key; 32]),
        None,
    )
}

#[test]
fn what_is_not_authentic_makes_no_path() {
    let now = Instant::now();
    let (mut paths, check) = one_end(now);
    let remote = check.destination;
    let transaction = stun::parse(&check.contents).expect("own bytes").transaction;
    let mut handle = |bytes: &[u8]| paths.handle_stun(SocketId::MAIN, remote, bytes, now);
    let answer = |transaction, key: Option<u8>| {
        stun::encode_response(transaction, remote, key.map(|key| [key; 32]).as_ref())
    };
    assert_eq!(
        handle(&answer(transaction, Some(9))),
        Handled::Refused(Refused::Integrity)
    );
    assert_eq!(
        handle(&answer(transaction, Some(1))),
        Handled::Refused(Refused::Integrity),
        "our own key"
    );
    assert_eq!(
        handle(&answer(transaction, None)),
        Handled::Refused(Refused::Integrity)
    );
    assert_eq!(
        handle(&answer([0; 12], Some(2))),
        Handled::NotMine,
        "nobody asked"
    );
    assert_eq!(
        handle(&check.contents),
        Handled::NotMine,
        "our own request thrown back"
    );
    assert_eq!(
        handle(&request([3; 12], 9)),
        Handled::Refused(Refused::Integrity)
    );
    let old = Username {
        receiver: 0x1111_1111,
        sender: 5,
    };
    let old = stun::encode_request([4; 12], Some(old), Some(&[2; 32]), None);
    assert_eq!(handle(&old), Handled::Refused(Refused::WrongLink));
    assert_eq!(
        handle(&request([5; 12], 2)),
        Handled::Accepted,
        "a request alone proves nothing"
    );
    assert_eq!(paths.best(), None);
    assert_eq!(paths.counters().refused, 5);
    paths.handle_authenticated(SocketId::MAIN, remote, now);
    assert_eq!(paths.best(), None, "nor does data");
    assert_eq!(
        paths.handle_stun(SocketId::MAIN, remote, &answer(transaction, Some(2)), now),
        Handled::Accepted
    );
    assert_eq!(paths.best().map(|path| path.remote), Some(remote));
}

#[test]
fn a_copied_request_moves_nothing() {
    let mut now = Instant::now();
    let (mut paths, check) = one_end(now);
    let remote = check.destination;
    let transaction = stun::parse(&check.contents).expect("own bytes").transaction;
    paths.handle_stun(
        SocketId::MAIN,
        remote,
        &stun::encode_response(transaction, remote, Some(&[2; 32])),
        now,
    );
    let genuine = request([6; 12], 2);
    assert_eq!(
        paths.handle_stun(SocketId::MAIN, remote, &genuine, now),
        Handled::Accepted
    );
    while paths.poll_transmit(now).is_some() {}
    let attacker: SocketAddr = "203.0.113.66:6".parse().expect("an address");
    for _ in 0..100 {
        now += Duration::from_millis(5);
        let handled = paths.handle_stun(SocketId::MAIN, attacker, &genuine, now);
        assert_eq!(handled, Handled::Refused(Refused::Replayed));
        assert_eq!(
            paths.poll_transmit(now),
            None,
            "neither answered nor checked"
        );
    }
    assert_eq!(paths.best().map(|path| path.remote), Some(remote));
    // Even one that got through as the first gives the attacker a check, and no path.
    assert_eq!(
        paths.handle_stun(SocketId::MAIN, attacker, &request([7; 12], 2), now),
        Handled::Accepted
    );
    for _ in 0..20 {
        now += SECOND / 2;
        paths.handle_timeout(now);
        while paths.poll_transmit(now).is_some() {}
        assert_ne!(paths.best().map(|path| path.remote), Some(attacker));
    }
}

#[test]
fn a_peer_cannot_aim_us_at_strangers_for_long() {
    let start = Instant::now();
    let mut paths = Paths::new(config(0), [1; 32], start);
    let mut now = start;
    let mut sent = 0;
    for round in 0..1000u32 {
        let address = |n: u32| {
            SocketAddr::from(([198, 51, 100, (n % 250 + 1).try_into().expect("small")], 9))
        };
        let candidate = |n| Candidate {
            kind: CandidateKind::Host,
            address: address(round + n),
        };
        let candidates = (0..100).map(candidate).collect();
        let nat = NatClass::default();
        paths.handle_candidates(
            &Candidates {
                round,
                candidates,
                nat,
            },
            now,
            now,
        );
        for _ in 0..10 {
            now += Duration::from_millis(10);
            while paths.poll_transmit(now).is_some() {
                sent += 1;
            }
        }
        while paths.poll_event().is_some() {}
    }
    let seconds = (now - start).as_secs();
    assert!(sent <= 20 * seconds, "{sent} in {seconds} s");
}

/// An end whose peer says that its NAT is at 198.51.100.2 and gives another port for each destination.
fn one_end_before_a_hard_nat(now: Instant) -> Paths {
    let mut paths = Paths::new(config(0), [1; 32], now);
    let candidate = Candidate {
        kind: CandidateKind::ServerReflexive,
        address: "198.51.100.2:9".parse().expect("an address"),
    };
    let nat = NatClass {
        mapping: Dependence::AddressAndPort,
        filtering: Dependence::AddressAndPort,
        allocation: Allocation::Random,
    };
    paths.handle_candidates(
        &Candidates {
            round: 1,
            candidates: vec![candidate],
            nat,
        },
        now,
        now,
    );
    paths
}

fn opened(attempt: u32, address: &str, ports: Ports) -> SearchMessage {
    SearchMessage::Opened {
        attempt,
        address: address.parse().expect("an address"),
        ports,
        sockets: 256,
    }
}

fn wants_search(paths: &mut Paths) -> bool {
    std::iter::from_fn(|| paths.poll_event())
        .any(|event| matches!(event, PathEvent::WantSearch { .. }))
}

#[test]
fn a_peer_cannot_aim_a_search_where_its_nat_is_not() {
    let now = Instant::now();
    let mut paths = one_end_before_a_hard_nat(now);
    let all = Ports::Within {
        first: 1,
        last: u16::MAX,
    };
    let stranger = "203.0.113.66";
    for message in [
        opened(1, stranger, all.clone()),
        SearchMessage::Ladder {
            attempt: 1,
            address: stranger.parse().expect("an address"),
            next: 1,
            step: 1,
        },
    ] {
        paths.handle_search(&message, Duration::ZERO, now);
        assert!(!wants_search(&mut paths));
    }
    paths.handle_search(&opened(2, "198.51.100.2", all), Duration::ZERO, now);
    assert!(wants_search(&mut paths));
}

#[test]
fn a_peer_cannot_make_a_search_exceed_its_limits() {
    let start = Instant::now();
    for listed in [true, false] {
        let mut now = start;
        let mut paths = one_end_before_a_hard_nat(now);
        let ports = if listed {
            Ports::Listed(vec![9; 1000])
        } else {
            Ports::Within {
                first: 0,
                last: u16::MAX,
            }
        };
        let (mut sent, mut granted) = (Vec::new(), 0);
        for attempt in 0..2000 {
            let message = opened(attempt, "198.51.100.2", ports.clone());
            paths.handle_search(&message, Duration::ZERO, now);
            if wants_search(&mut paths) {
                granted += 1;
                let used = u32::try_from(sent.len()).expect("few");
                let grant = Grant {
                    sockets: Vec::new(),
                    server: None,
                    address: None,
                    entries: 1700u32.saturating_sub(used),
                    budget: crate::traversal::Budget::default(),
                };
                paths.grant(grant, now);
            }
            while let Some(transmit) = paths.poll_transmit(now) {
                assert_eq!(transmit.destination.ip().to_string(), "198.51.100.2");
                sent.push(now);
            }
            now += Duration::from_millis(20);
            paths.handle_timeout(now);
        }
        assert!(granted >= 1 && sent.len() > 100);
        // And what a round of plain checks may send.
        assert!(sent.len() <= 1700 + 60, "{}", sent.len());
        for (index, &at) in sent.iter().enumerate() {
            let within = sent[index..].iter().filter(|&&other| other < at + SECOND);
            assert!(within.count() <= 100 + 30);
        }
    }
}

#[test]
fn no_error_and_no_stranger_ends_a_path() {
    let mut now = Instant::now();
    let (mut paths, check) = one_end(now);
    let remote = check.destination;
    let transaction = stun::parse(&check.contents).expect("own bytes").transaction;
    let answer = stun::encode_response(transaction, remote, Some(&[2; 32]));
    paths.handle_stun(SocketId::MAIN, remote, &answer, now);
    for turn in 0u8..100 {
        now += Duration::from_millis(10);
        // Error responses and indications, as anybody can make them, from everywhere.
        for [high, low] in [[0x01, 0x11], [0x00, 0x11]] {
            let mut forged = answer[..20].to_vec();
            forged[..4].copy_from_slice(&[high, low, 0, 0]);
            forged[19] ^= turn;
            let handled = paths.handle_stun(SocketId::MAIN, remote, &forged, now);
            assert_ne!(handled, Handled::Accepted);
        }
        let other = SocketAddr::new(remote.ip(), u16::from(turn) + 1);
        paths.handle_authenticated(SocketId::MAIN, other, now);
        assert_eq!(paths.best().map(|path| path.remote), Some(remote));
    }
}

#[test]
fn nothing_comes_of_the_virtual_network_itself() {
    let now = Instant::now();
    let refused = vec![("192.0.2.0".parse().expect("an address"), 24)];
    let mut paths = Paths::new(
        {
            let mut config = config(0);
            config.refused = refused;
            config
        },
        [1; 32],
        now,
    );
    let remote: SocketAddr = "192.0.2.9:9".parse().expect("an address");
    let handled = paths.handle_stun(SocketId::MAIN, remote, &request([5; 12], 2), now);
    assert_eq!(handled, Handled::Refused(Refused::RefusedSource));
    paths.handle_authenticated(SocketId::MAIN, remote, now);
    assert_eq!(paths.poll_transmit(now), None);
}

proptest! {
    #[test]
    fn whatever_comes_makes_no_path_and_no_panic(
        inputs in prop::collection::vec((any::<prop::sample::Index>(), 0u8..4, any::<u8>(), any::<u16>(), 0u64..3000), 1..60),
    ) {
        let mut now = Instant::now();
        let (mut paths, check) = one_end(now);
        let transaction = stun::parse(&check.contents).expect("own bytes").transaction;
        for (at, what, value, port, wait) in inputs {
            let mut bytes = match what {
                0 => request([value; 12], 2),
                1 => stun::encode_response(transaction, check.destination, Some(&[2; 32])),
                2 => check.contents.clone(),
                _ => vec![value; 40],
            };
            // All but FINGERPRINT, which is no secret's work.
            let index = at.index(bytes.len() - 8);
            // A request may be genuine; an answer never is.
            if what != 0 || value % 2 == 0 {
                bytes[index] ^= value | 1;
            }
            let remote = SocketAddr::new(check.destination.ip(), port);
            now += Duration::from_millis(wait);
            paths.handle_stun(SocketId::MAIN, remote, &bytes, now);
            paths.handle_authenticated(SocketId::MAIN, remote, now);
            paths.handle_probe_answer(value.into(), usize::from(port), None, now);
            paths.handle_timeout(now);
            while paths.poll_transmit(now).is_some() {}
            while paths.poll_probe(now).is_some() {}
            prop_assert_eq!(paths.best(), None);
        }
    }
}
