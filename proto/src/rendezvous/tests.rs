//! Both halves of the conversation, joined by a pipe of datagrams that may lose and reorder them.

use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::client::{Client, ClientEvent};
use super::pipe::{A_WHILE, Pipe, SERVER, address, compatible_server, identity, new_server};
use super::server::{Limits, Rate, RegistryLimits, ServerEvent};
use super::{Channel, CloseReason, ToRendezvous};
use crate::SocketId;
use crate::wire::{relay, stun};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_peer_registers_in_three_round_trips_and_learns_its_address() {
    let mut pipe = Pipe::new(1);
    pipe.add(1);
    pipe.run(Duration::from_millis(60));
    let end = &pipe.ends[0];
    let expected = ClientEvent::Registered {
        key: identity(200).id(),
        observed: end.address,
        stun: vec![address("203.0.113.1:7778")],
    };
    assert_eq!(end.events, [expected]);
    let peer = identity(1).id();
    let address = end.address;
    let registered = ServerEvent::Registered { peer, address };
    assert_eq!(pipe.server_events, [registered]);
}

#[test]
fn a_datagram_right_behind_its_open_arrives_after_one_way_there_and_one_way_on() {
    let mut pipe = Pipe::new(2);
    pipe.registered(2);
    let channel = pipe.ends[0].client.open(identity(2).id(), pipe.now);
    let channel = channel.expect("room");
    pipe.say(0, channel, b"first");
    pipe.run(Duration::from_millis(20));
    assert_eq!(
        pipe.ends[1].received,
        [(identity(1).id(), Channel(1), b"first".to_vec())]
    );
    pipe.say(1, Channel(1), b"second");
    pipe.run(Duration::from_millis(20));
    let back = (identity(2).id(), channel, b"second".to_vec());
    assert_eq!(pipe.ends[0].received, [back]);
}

#[test]
fn a_channel_asked_for_before_registration_comes_with_it() {
    let mut pipe = Pipe::new(3);
    pipe.registered(1);
    let hub = identity(1).id();
    pipe.add(2);
    let channel = pipe.ends[1].client.open(hub, pipe.now).expect("room");
    assert_eq!(pipe.ends[1].client.open(hub, pipe.now), Some(channel));
    pipe.run(SECOND);
    pipe.say(1, channel, b"hello");
    pipe.run(SECOND);
    assert_eq!(pipe.ends[0].received.len(), 1);
}

#[test]
fn loss_and_reordering_only_delay() {
    for seed in 0..20 {
        let mut pipe = Pipe::new(seed);
        pipe.loss = 20;
        pipe.jitter = Duration::from_millis(30);
        pipe.add(1);
        pipe.add(2);
        pipe.run(SECOND * 60);
        let channel = pipe.ends[0].client.open(identity(2).id(), pipe.now);
        pipe.run(SECOND * 5);
        for _ in 0..20 {
            pipe.say(0, channel.expect("room"), b"x");
        }
        pipe.run(SECOND);
        assert!(!pipe.ends[1].received.is_empty(), "seed {seed}");
    }
}

#[test]
fn the_same_seed_gives_the_same_log() {
    let run = |seed| {
        let mut pipe = Pipe::new(seed);
        pipe.loss = 15;
        pipe.jitter = Duration::from_millis(50);
        for number in 1..=4 {
            pipe.add(number);
        }
        pipe.ends[0].client.open(identity(3).id(), pipe.now);
        pipe.run(SECOND * 30);
        pipe.ends[1].address = address("198.51.100.99:1");
        pipe.ends[1].client.network_changed(pipe.now);
        pipe.ends[2].client.stop(pipe.now);
        pipe.run(SECOND * 100);
        pipe.log()
    };
    assert_eq!(run(11), run(11));
    assert_ne!(run(11), run(12));
}

#[test]
fn a_wrong_key_is_refused_for_good_and_both_keys_are_named() {
    let mut pipe = Pipe::new(4);
    let (wrong, shown) = (identity(77).id(), identity(200).id());
    let client = pipe.client(1, Some(wrong));
    pipe.add_client(client, "198.51.100.1:4000");
    pipe.run(SECOND * 100);
    let failures = pipe.ends[0].failures();
    let [(reason, true)] = failures.as_slice() else {
        panic!("not one fatal failure: {failures:?}");
    };
    assert!(reason.contains(&wrong.to_string()) && reason.contains(&shown.to_string()));
    assert_eq!(pipe.server_events, []);
}

#[test]
fn without_a_key_the_first_one_is_kept_and_a_change_refused() {
    let mut pipe = Pipe::new(5);
    let client = pipe.client(1, None);
    pipe.add_client(client, "198.51.100.1:4000");
    pipe.run(SECOND);
    assert_eq!(pipe.ends[0].client.key(), Some(identity(200).id()));
    pipe.server = new_server(201, 9, Limits::default(), pipe.now);
    pipe.run(SECOND * 100);
    let failures = pipe.ends[0].failures();
    let (reason, fatal) = failures.last().expect("a failure");
    // It was registered once: that is told, and tried again.
    assert!(reason.contains("shows the key") && !fatal, "{reason}");
    assert_eq!(pipe.ends[0].client.key(), Some(identity(200).id()));
    assert!(!pipe.ends[0].client.is_registered());
}

#[test]
fn another_version_is_refused_for_good() {
    let mut pipe = Pipe::new(6);
    let client = pipe.client(1, None).with_alpn(b"kuguri-rendezvous/0");
    pipe.add_client(client, "198.51.100.1:4000");
    pipe.run(SECOND * 100);
    let failures = pipe.ends[0].failures();
    let [(reason, true)] = failures.as_slice() else {
        panic!("not one fatal failure: {failures:?}");
    };
    assert!(reason.contains("another version"));
}

#[test]
fn a_second_registration_of_a_key_replaces_the_first() {
    let mut pipe = Pipe::new(7);
    pipe.registered(2);
    let client = pipe.client(1, None);
    let second = pipe.add_client(client, "198.51.100.50:4000");
    pipe.run(SECOND);
    assert!(pipe.ends[second].client.is_registered());
    let [(reason, false)] = pipe.ends[0].failures()[..] else {
        panic!("the first was not told");
    };
    assert!(reason.contains("another program"));
    assert_eq!(pipe.server.stats().peers, 2);
    let channel = pipe.ends[1].client.open(identity(1).id(), pipe.now);
    pipe.say(1, channel.expect("room"), b"to the second");
    pipe.run(SECOND);
    assert_eq!(pipe.ends[0].received.len(), 0);
    assert_eq!(pipe.ends[second].received.len(), 1);
}

#[test]
fn a_rebinding_nat_keeps_registration_and_channels() {
    let mut pipe = Pipe::new(8);
    pipe.registered(2);
    let channel = pipe.ends[0].client.open(identity(2).id(), pipe.now);
    let channel = channel.expect("room");
    pipe.run(SECOND);
    pipe.ends[0].address = address("198.51.100.1:9999");
    pipe.say(0, channel, b"not proven yet");
    pipe.run(A_WHILE);
    assert_eq!(pipe.ends[1].received, []);
    assert_eq!(pipe.ends[0].observed().last(), Some(&pipe.ends[0].address));
    pipe.say(0, channel, b"proven");
    pipe.say(1, Channel(1), b"back");
    pipe.run(SECOND);
    assert_eq!(pipe.ends[1].received.len(), 1);
    assert_eq!(pipe.ends[0].received.len(), 1);
    assert_eq!(pipe.server.stats().registrations, 2);
}

#[test]
fn another_network_costs_two_round_trips_when_the_machine_says_so() {
    let mut pipe = Pipe::new(9);
    pipe.registered(1);
    pipe.ends[0].address = address("192.0.2.77:1234");
    pipe.ends[0].client.network_changed(pipe.now);
    pipe.run(Duration::from_millis(40));
    let moved = pipe.server_events.last();
    assert!(
        matches!(moved, Some(ServerEvent::Moved { .. })),
        "{moved:?}"
    );
}

#[test]
fn a_true_datagram_sent_on_from_a_victims_address_turns_no_relay_on_it() {
    let mut pipe = Pipe::new(10);
    pipe.registered(2);
    let channel = pipe.ends[0].client.open(identity(2).id(), pipe.now);
    let channel = channel.expect("room");
    pipe.say(0, channel, b"x");
    pipe.run(SECOND);
    let victim = address("192.0.2.66:53");
    let honest = std::mem::replace(&mut pipe.ends[0].address, victim);
    pipe.ends[0].client.network_changed(pipe.now);
    pipe.drain();
    pipe.ends[0].address = honest;
    for _ in 0..100 {
        pipe.say(1, Channel(1), &[7; 1000]);
        pipe.run(Duration::from_millis(20));
    }
    let to_victim = pipe.sent.iter().filter(|(_, _, to, _)| *to == victim);
    assert!(to_victim.clone().all(|it| it.3[0] != crate::wire::RELAYED));
    assert!(to_victim.count() < 10);
    assert_eq!(pipe.ends[0].received.len(), 100);
}

#[test]
fn a_guessed_proof_moves_nothing() {
    let mut pipe = Pipe::new(22);
    pipe.registered(1);
    let victim = address("192.0.2.66:53");
    let honest = std::mem::replace(&mut pipe.ends[0].address, victim);
    pipe.ends[0].client.network_changed(pipe.now);
    for nonce in [0, 1, u64::MAX] {
        let guess = ToRendezvous::Proof { nonce };
        pipe.ends[0].client.say(&guess, pipe.now);
    }
    pipe.drain();
    pipe.ends[0].address = honest;
    pipe.run(SECOND * 5);
    let moved =
        |it: &ServerEvent| matches!(it, ServerEvent::Moved { address, .. } if *address == victim);
    assert!(!pipe.server_events.iter().any(moved));
}

#[test]
fn what_is_out_of_turn_ends_the_connection() {
    let mut pipe = Pipe::new(23);
    pipe.add(1);
    pipe.ends[0].client.keep_quiet();
    pipe.run(SECOND);
    let early = ToRendezvous::Close {
        channel: Channel(2),
    };
    pipe.ends[0].client.say(&early, pipe.now);
    pipe.run(Duration::from_millis(100));
    let failures = pipe.ends[0].failures();
    assert!(
        failures[0].0.contains("does not understand"),
        "{failures:?}"
    );
}

#[test]
fn only_the_ends_of_a_channel_use_it() {
    let mut pipe = Pipe::new(11);
    pipe.registered(3);
    let channel = pipe.ends[0].client.open(identity(2).id(), pipe.now);
    let channel = channel.expect("room");
    pipe.run(SECOND);
    let before = pipe.sent.len();
    for from in ["198.51.100.3:4000", "192.0.2.1:1", "198.51.100.1:4001"] {
        for number in 0..8 {
            let forged = relay::emit(Channel(number), b"forged");
            pipe.send(address(from), address(SERVER), forged);
        }
    }
    pipe.run(SECOND);
    assert_eq!(pipe.sent.len(), before + 24, "nothing was answered");
    assert!(pipe.ends.iter().all(|end| end.received.is_empty()));
    let stats = pipe.server.stats();
    assert_eq!(stats.dropped_unknown_source, 16);
    assert_eq!(stats.dropped_unknown_channel, 8);
    pipe.ends[0].client.close(channel, pipe.now);
    pipe.run(SECOND);
    let closed = ClientEvent::Closed {
        channel: Channel(1),
        peer: identity(1).id(),
        reason: CloseReason::ClosedByPeer,
    };
    assert_eq!(pipe.ends[1].events.last(), Some(&closed));
    assert_eq!(pipe.server.stats().channels, 0);
}

#[test]
fn who_is_not_here_cannot_be_reached() {
    let mut pipe = Pipe::new(12);
    pipe.registered(1);
    let peer = identity(9).id();
    let channel = pipe.ends[0].client.open(peer, pipe.now).expect("room");
    pipe.run(SECOND);
    let reason = CloseReason::NotRegistered;
    let closed = ClientEvent::Closed {
        channel,
        peer,
        reason,
    };
    assert_eq!(pipe.ends[0].events.last(), Some(&closed));
    assert!(pipe.ends[0].client.wrap(channel, b"x").is_none());
}

#[test]
fn a_peer_that_stops_or_falls_silent_is_gone_and_its_partners_are_told() {
    for silent in [false, true] {
        let mut pipe = Pipe::new(13);
        pipe.registered(2);
        pipe.ends[0].client.open(identity(2).id(), pipe.now);
        pipe.run(SECOND);
        if silent {
            pipe.ends.remove(0);
        } else {
            pipe.ends[0].client.stop(pipe.now);
            pipe.run(SECOND);
            pipe.ends.remove(0);
        }
        pipe.run(SECOND * if silent { 70 } else { 1 });
        let last = pipe.ends[0].events.last();
        assert!(
            matches!(
                last,
                Some(ClientEvent::Closed {
                    reason: CloseReason::PeerGone,
                    ..
                })
            ),
            "{last:?}"
        );
        assert_eq!(pipe.server.stats().peers, 1);
    }
}

#[test]
fn a_rendezvous_that_starts_again_is_found_again_without_a_long_wait() {
    let mut pipe = Pipe::new(14);
    pipe.registered(2);
    pipe.ends[0].client.open(identity(2).id(), pipe.now);
    pipe.run(SECOND);
    pipe.server = new_server(200, 99, Limits::default(), pipe.now);
    // The first keep-alive is answered by a reset, so nobody waits for the idle time-out.
    pipe.run(A_WHILE);
    assert_eq!(pipe.server.stats().peers, 2);
    // Whose own registration came first may have been told that the other was not there yet, and would ask again.
    let reopened = pipe.ends[0].client.open(identity(2).id(), pipe.now);
    pipe.say(0, reopened.expect("room"), b"again");
    pipe.run(SECOND);
    assert_eq!(pipe.ends[1].received.len(), 1);
}

#[test]
fn channels_of_ones_own_are_open_again_after_a_reconnection() {
    let mut pipe = Pipe::new(21);
    pipe.registered(2);
    let hub = identity(2).id();
    let channel = pipe.ends[0].client.open(hub, pipe.now).expect("room");
    let back = pipe.ends[1].client.open(identity(1).id(), pipe.now);
    pipe.run(SECOND);
    // Nothing comes through for longer than a probe takes.
    pipe.loss = 100;
    pipe.ends[0].client.network_changed(pipe.now);
    pipe.run(SECOND * 4);
    pipe.loss = 0;
    pipe.run(SECOND * 20);
    assert!(pipe.ends[0].client.is_registered());
    pipe.say(0, channel, b"on the same channel");
    pipe.run(SECOND);
    assert_eq!(pipe.ends[1].received.len(), 1);
    let gone = |end: &super::pipe::End| {
        let events = end.events.iter();
        let gone = events.filter(|it| {
            let ClientEvent::Closed { reason, .. } = it else {
                return false;
            };
            matches!(reason, CloseReason::PeerGone | CloseReason::PeerReturned)
        });
        gone.count()
    };
    assert_eq!(gone(&pipe.ends[0]), 1, "the one that the other had opened");
    assert_eq!(gone(&pipe.ends[1]), 2, "both, and the first came again");
    assert!(
        pipe.ends[1]
            .client
            .wrap(back.expect("room"), b"x")
            .is_none()
    );
    let returned = |it: &ClientEvent| {
        matches!(
            it,
            ClientEvent::Closed {
                reason: CloseReason::PeerReturned,
                ..
            }
        )
    };
    assert!(pipe.ends[1].events.iter().any(returned));
}

#[test]
fn nobody_there_is_said_at_once_and_tried_for_ever_more_and_more_slowly() {
    let mut pipe = Pipe::new(15);
    pipe.loss = 100;
    let addresses = vec![address("192.0.2.1:7777"), address(SERVER)];
    let client = Client::new(&identity(1), addresses, None, [3; 32], pipe.now);
    pipe.add_client(client, "198.51.100.1:4000");
    pipe.run(SECOND * 600);
    let failures = pipe.ends[0].failures();
    assert!(failures.iter().all(|(_, fatal)| !fatal));
    assert!(failures[0].0.contains("192.0.2.1:7777"));
    assert!(failures[1].0.contains(SERVER));
    let rounds = failures.len() / 2;
    assert!((14..40).contains(&rounds), "{rounds} rounds in ten minutes");
    pipe.loss = 0;
    pipe.run(SECOND * 60);
    assert!(pipe.ends[0].client.is_registered());
}

#[test]
fn limits_hold() {
    let narrow = Rate {
        burst: 3,
        per_second: 1,
    };
    let defaults = Limits::default();
    let limits = Limits {
        registry: RegistryLimits {
            peers: 2,
            requests: narrow,
            ..defaults.registry
        },
        ..defaults
    };
    let mut pipe = Pipe::with_limits(16, limits);
    pipe.registered(2);
    for number in 0..6 {
        pipe.ends[0]
            .client
            .open(identity(50 + number).id(), pipe.now);
    }
    pipe.run(Duration::from_millis(50));
    let events = pipe.ends[0].events.iter();
    let limited = events.filter(|event| {
        let reason = CloseReason::Limit;
        matches!(event, ClientEvent::Closed { reason: it, .. } if *it == reason)
    });
    assert_eq!(limited.count(), 3);
    pipe.add(3);
    pipe.run(SECOND);
    let failures = pipe.ends[2].failures();
    let (reason, fatal) = failures.first().expect("a third peer is not taken in");
    assert!(reason.contains("takes no more peers") && !fatal);
}

#[test]
fn who_connects_and_does_not_register_is_shown_the_door() {
    let limits = Limits {
        handshakes: 2,
        ..Limits::default()
    };
    let mut pipe = Pipe::with_limits(17, limits);
    for number in 1..=3 {
        pipe.add(number);
        pipe.ends[usize::from(number) - 1].client.keep_quiet();
    }
    pipe.run(SECOND);
    assert_eq!(pipe.server.stats().connections, 2);
    pipe.ends.clear();
    pipe.run(SECOND * 30);
    assert_eq!(pipe.server.stats().connections, 0);
}

#[test]
fn a_source_that_only_begins_loses_its_oldest_and_keeps_nobody_else_out() {
    let limits = Limits {
        handshakes: 8,
        handshakes_per_source: 4,
        ..Limits::default()
    };
    let mut pipe = Pipe::with_limits(25, limits);
    for number in 0..40 {
        let client = pipe.client(1, None);
        let end = pipe.add_client(client, &format!("198.51.100.1:{}", 4000 + number));
        pipe.ends[end].client.keep_quiet();
    }
    pipe.run(Duration::from_millis(200));
    let stats = pipe.server.stats();
    assert_eq!(stats.connections, 4);
    assert!(stats.dropped_half_open >= 36, "{stats:?}");
    for number in 2..12 {
        pipe.add(number);
    }
    pipe.run(SECOND);
    assert!(pipe.ends[40..].iter().all(|it| it.client.is_registered()));
    pipe.ends.truncate(40);
    pipe.run(SECOND * 5);
    assert!(pipe.server.stats().connections <= 4 + 10, "nothing lingers");
}

#[test]
fn one_address_has_no_more_than_its_share_of_registrations() {
    let limits = Limits {
        peers_per_source: 2,
        ..Limits::default()
    };
    let mut pipe = Pipe::with_limits(26, limits);
    for number in 1..=3 {
        let client = pipe.client(number, None);
        pipe.add_client(
            client,
            &format!("198.51.100.1:{}", 4000 + u16::from(number)),
        );
        pipe.run(SECOND);
    }
    pipe.add(4);
    pipe.run(SECOND);
    let registered = |pipe: &Pipe| -> Vec<bool> {
        let ends = pipe.ends.iter();
        ends.map(|end| end.client.is_registered()).collect()
    };
    assert_eq!(registered(&pipe), [true, true, false, true]);
    let failures = pipe.ends[2].failures();
    assert!(
        failures[0].0.contains("takes no more peers"),
        "{failures:?}"
    );
    // The same key again is no peer more.
    let client = pipe.client(2, None);
    let again = pipe.add_client(client, "198.51.100.1:5000");
    pipe.run(Duration::from_millis(500));
    assert!(pipe.ends[again].client.is_registered());
    pipe.ends[0].client.stop(pipe.now);
    pipe.run(SECOND * 60);
    assert!(pipe.ends[2].client.is_registered(), "there is room now");
}

/// TRAVERSAL goal G6: whatever claims to come from whom, nothing is kept of it.
#[test]
fn a_flood_from_false_addresses_leaves_nothing_behind() {
    let mut pipe = Pipe::new(27);
    let mut client = pipe.client(1, None);
    client.handle_timeout(pipe.now);
    let initial = client.poll_transmit(pipe.now).expect("an Initial").contents;
    let question = stun::encode_request([5; 12], None, None, Some(stun::REQUEST_SIZE));
    for number in 0..50_000_u32 {
        let source = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number * 77);
        let source = SocketAddr::new(source.into(), 1024);
        for mut datagram in [initial.clone(), question.clone(), vec![34, 0, 0, 2, 9]] {
            // The driver is busy: nothing is taken out meanwhile.
            let server = &mut pipe.server;
            server.handle_datagram(SocketId::MAIN, source, &mut datagram, pipe.now);
        }
    }
    let waiting = std::iter::from_fn(|| pipe.server.poll_transmit(pipe.now)).count();
    assert!((1..=2048).contains(&waiting), "{waiting}");
    assert_eq!(pipe.server.stats().connections, 0);
    assert_eq!(pipe.server.remembered(), 0);
    assert_eq!(pipe.server.poll_timeout(), None);
    pipe.add(1);
    pipe.run(SECOND);
    assert!(pipe.ends[0].client.is_registered());
}

#[test]
fn answers_that_are_larger_than_their_questions_are_few_for_each_and_for_all() {
    let rate = |burst| Rate {
        burst,
        per_second: 1,
    };
    let limits = Limits {
        larger_answers: rate(5),
        larger_answers_in_all: rate(30),
        ..Limits::default()
    };
    let mut pipe = Pipe::new(28);
    pipe.server = compatible_server(limits, pipe.now);
    let bare = [&[0, 1, 0, 0][..], &[9; 16]].concat();
    let padded = stun::encode_request([5; 12], None, None, Some(stun::REQUEST_SIZE));
    let mut ask = |number: u8, question: &[u8], times: usize| {
        let source = address(&format!("198.51.100.{number}:4000"));
        let mut answers = 0;
        for _ in 0..times {
            let server = &mut pipe.server;
            let mut question = question.to_vec();
            server.handle_datagram(SocketId::MAIN, source, &mut question, pipe.now);
            answers += std::iter::from_fn(|| server.poll_transmit(pipe.now)).count();
        }
        answers
    };
    assert_eq!(ask(1, &bare, 50), 5, "one source");
    assert_eq!(ask(2, &bare, 1), 1, "others are still served");
    let all: usize = (3..100).map(|number| ask(number, &bare, 1)).sum();
    assert_eq!(all, 24, "but not all at once");
    assert_eq!(
        ask(1, &padded, 10),
        10,
        "who asks in enough bytes needs no favour"
    );
    let stats = pipe.server.stats();
    assert_eq!((stats.larger_answers, stats.stun_answers), (30, 40));
}

#[test]
fn an_unproven_address_gets_less_than_it_sends_and_no_state() {
    let mut pipe = Pipe::new(24);
    let mut client = pipe.client(1, None);
    client.handle_timeout(pipe.now);
    let mut count = 0;
    while let Some(first) = client.poll_transmit(pipe.now) {
        pipe.send(address("192.0.2.9:9"), address(SERVER), first.contents);
        count += 1;
    }
    pipe.run(SECOND * 30);
    assert_eq!(pipe.server.stats().connections, 0);
    assert_eq!(pipe.sent.len(), 2 * count, "one Retry each");
    let larger = pipe.sent.iter().skip(count).find(|it| it.3.len() > 300);
    assert_eq!(larger, None);
}

#[test]
fn a_flood_from_one_source_leaves_the_others_alone() {
    let mut pipe = Pipe::new(18);
    pipe.registered(1);
    let noise = pipe.sent[0].3.clone();
    for _ in 0..20_000 {
        let mut noise = noise.clone();
        pipe.server
            .handle_datagram(SocketId::MAIN, address("192.0.2.9:9"), &mut noise, pipe.now);
        pipe.drain();
    }
    let stats = pipe.server.stats();
    assert!(stats.dropped_limit > 15_000);
    assert_eq!(stats.connections, 1, "no state for unproven addresses");
    pipe.add(2);
    pipe.run(SECOND);
    assert!(pipe.ends[1].client.is_registered());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// TRAVERSAL goal G6, on arbitrary bytes of every kind.
    #[test]
    fn garbage_gets_no_more_than_it_sends(first in prop_oneof![0u8..4, 32u8..36, 64u8..=255, any::<u8>()], rest in prop::collection::vec(any::<u8>(), 0..1500)) {
        let mut pipe = Pipe::new(19);
        let bytes = [vec![first], rest].concat();
        pipe.send(address("192.0.2.1:5"), address(SERVER), bytes.clone());
        pipe.run(SECOND * 5);
        prop_assert!(pipe.answered_more_than_asked().is_empty());
        prop_assert_eq!(pipe.server.stats().connections, 0);
        pipe.add(1);
        pipe.send(address(SERVER), pipe.ends[0].address, bytes);
        pipe.run(SECOND);
        prop_assert!(pipe.ends[0].client.is_registered());
    }

    /// The same on real datagrams of a whole conversation, damaged and sent from elsewhere.
    #[test]
    fn damaged_datagrams_get_no_more_than_they_send(which: prop::sample::Index, flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 0..4), cut in 0usize..1300, same_source: bool) {
        let mut pipe = Pipe::new(20);
        pipe.registered(2);
        pipe.ends[0].client.open(identity(2).id(), pipe.now);
        pipe.run(SECOND);
        let to_server: Vec<_> = pipe.sent.iter().filter(|it| it.2 == address(SERVER)).cloned().collect();
        let (_, from, _, mut bytes) = which.get(&to_server).clone();
        for (index, flip) in flips {
            *index.get_mut(&mut bytes) ^= flip;
        }
        bytes.truncate(cut.max(1));
        pipe.sent.clear();
        let source = if same_source { from } else { address("192.0.2.1:5") };
        pipe.send(source, address(SERVER), bytes);
        pipe.run(Duration::from_millis(200));
        let more = pipe.answered_more_than_asked();
        prop_assert!(same_source || more.is_empty(), "{:?}", more);
        prop_assert!(pipe.ends.iter().all(|end| end.client.is_registered()));
    }
}
