//! Claims about the axes beyond mapping, filtering and ports: each one alone, with its opposite beside it.

use super::*;

fn ap(allocation: Allocation) -> NatConfig {
    let dependent = Behavior::AddressAndPortDependent;
    NatConfig::of(dependent, dependent, allocation)
}

fn dropped(verdict: Verdict) -> DropReason {
    match verdict {
        Verdict::Drop(reason) => reason,
        other @ (Verdict::Forward(_) | Verdict::Hairpin(_) | Verdict::Reply(_) | Verdict::Held) => {
            panic!("not dropped: {other:?}")
        }
    }
}

#[test]
fn an_overloaded_port_serves_as_many_as_have_different_remote_endpoints() {
    for (overloading, same) in [(true, true), (false, false)] {
        let now = Instant::now();
        let mut config = ap(Allocation::Preserving);
        config.ports.overloading = overloading;
        let mut nat = nat(config);
        let (b, c) = ("10.0.0.3:4000", "10.0.0.4:4000");
        let mine = outside(&mut nat, A, S1, now);
        let theirs = outside(&mut nat, b, S2, now);
        assert_eq!(mine == theirs, same);
        for (remote, inside, outside) in [(S1, A, mine), (S2, b, theirs)] {
            let packet = forwarded(inbound(&mut nat, remote, outside, now));
            assert_eq!(packet.flow().expect("udp").destination, endpoint(inside));
        }
        // The same remote endpoint cannot be told apart.
        assert_ne!(outside(&mut nat, c, S1, now), mine);
        // A port that is shared is free only when both are gone.
        assert_eq!(outside(&mut nat, A, S1, now + seconds(100)), mine);
        let later = now + seconds(300);
        assert_ne!(outside(&mut nat, c, S1, now + seconds(130)), mine);
        nat.handle_timeout(later);
        assert_eq!(nat.mapping_count(), 0);
        assert_eq!(outside(&mut nat, c, S1, later).port(), 4000);
    }
}

#[test]
fn linux_keeps_the_port_for_every_destination_and_admits_answers_alone() {
    let now = Instant::now();
    let mut nat = nat(Preset::Linux.config());
    let mapped = outside(&mut nat, A, S1, now);
    assert_eq!(outside(&mut nat, A, S2, now), mapped);
    assert_eq!(mapped.port(), 4000);
    assert_eq!(
        dropped(inbound(&mut nat, S1_OTHER_PORT, mapped, now)),
        DropReason::Filtered
    );
}

#[test]
fn subscribers_have_blocks() {
    let now = Instant::now();
    let mut config = ap(Allocation::Random);
    config.ports.block = Some(PortBlock {
        size: 1024,
        per_host: 1,
    });
    let mut nat = nat(config);
    let block = |endpoint: SocketAddr| (endpoint.port() - 1024) / 1024;
    let to = |port: u16| format!("198.51.100.1:{port}");
    let mine = block(outside(&mut nat, A, S1, now));
    let theirs = block(outside(&mut nat, B, S1, now));
    assert_ne!(mine, theirs);
    for port in 1..=1023 {
        if port != 1000 {
            assert_eq!(block(outside(&mut nat, A, &to(port), now)), mine);
        }
    }
    outside(&mut nat, A, &to(2000), now);
    assert_eq!(outside(&mut nat, B, S2, now).port() / 1024, theirs + 1);
    assert_eq!(
        dropped(nat.outbound(udp(A, &to(3000)), now)),
        DropReason::NoPort
    );
}

#[test]
fn new_sessions_come_so_many_a_second() {
    let now = Instant::now();
    let mut config = ap(Allocation::Random);
    config.limits.new_per_second = Some(3);
    let mut nat = nat(config);
    let mut send = |port: u16, now| nat.outbound(udp(A, &format!("198.51.100.1:{port}")), now);
    for port in 1..=3 {
        forwarded(send(port, now));
    }
    assert_eq!(dropped(send(4, now)), DropReason::TooManyNew);
    // What is known passes.
    forwarded(send(1, now));
    forwarded(send(4, now + seconds(1)));
}

#[test]
fn an_early_packet_poisons_the_ends_that_it_has() {
    for (unsolicited, moved) in [(Unsolicited::Poison, true), (Unsolicited::Drop, false)] {
        for preset in [Preset::Linux, Preset::PortRestricted] {
            let now = Instant::now();
            let mut nat = nat(NatConfig {
                unsolicited,
                ..preset.config()
            });
            let mapped = outside(&mut nat, A, S1, now);
            dropped(inbound(&mut nat, S2, mapped, now));
            let to_peer = outside(&mut nat, A, S2, now);
            assert_eq!(to_peer != mapped, moved, "{preset}");
            assert_eq!(outside(&mut nat, A, S2, now), to_peer);
            assert_eq!(outside(&mut nat, A, S1, now), mapped);
            forwarded(inbound(&mut nat, S2, to_peer, now));
            // It is forgotten like any entry without a reply.
            let later = now + seconds(31);
            outside(&mut nat, A, S1, now + seconds(20));
            forwarded(inbound(&mut nat, S1, mapped, now + seconds(20)));
            assert_eq!(outside(&mut nat, A, S2_OTHER_PORT, later), mapped);
        }
    }
}

const S2_OTHER_PORT: &str = "198.51.100.2:1001";

#[test]
fn a_source_that_nobody_waited_for_is_blocked_for_a_while() {
    let now = Instant::now();
    let mut nat = nat(NatConfig {
        unsolicited: Unsolicited::BlockSource(seconds(10)),
        ..NatConfig::default()
    });
    let mapped = outside(&mut nat, A, S1, now);
    assert_eq!(
        dropped(inbound(&mut nat, S2, mapped, now)),
        DropReason::Filtered
    );
    outside(&mut nat, A, S2, now);
    assert_eq!(
        dropped(inbound(&mut nat, S2, mapped, now + seconds(9))),
        DropReason::BlockedSource
    );
    forwarded(inbound(&mut nat, S1, mapped, now));
    forwarded(inbound(&mut nat, S2, mapped, now + seconds(10)));
}

#[test]
fn filters_may_close_while_their_mapping_lives() {
    let start = Instant::now();
    let mut config = NatConfig::default();
    config.timers.state = State::PerFilter;
    config.timers.filter = Some(seconds(10));
    let mut nat = nat(config);
    let mapped = outside(&mut nat, A, S1, start);
    outside(&mut nat, A, S2, start + seconds(8));
    let later = start + seconds(12);
    assert_eq!(
        dropped(inbound(&mut nat, S1, mapped, later)),
        DropReason::Filtered
    );
    forwarded(inbound(&mut nat, S2, mapped, later));
    assert_eq!(outside(&mut nat, A, S1, start + seconds(40)), mapped);
}

#[test]
fn a_mapping_moves_to_another_port_and_its_remote_endpoints_may_still_send() {
    let start = Instant::now();
    let mut config = NatConfig::default();
    config.quirks.rebind_every = Some(seconds(10));
    let mut by_time = nat(config);
    let mapped = outside(&mut by_time, A, S1, start);
    let moved = outside(&mut by_time, A, S1, start + seconds(11));
    assert_ne!(moved, mapped);
    forwarded(inbound(&mut by_time, S1, moved, start + seconds(12)));
    assert_eq!(
        dropped(inbound(&mut by_time, S1, mapped, start + seconds(12))),
        DropReason::NoMapping
    );
    assert_ne!(outside(&mut by_time, A, S1, start + seconds(25)), moved);

    let mut by_hand = nat(NatConfig::default());
    let mapped = outside(&mut by_hand, A, S1, start);
    by_hand.rebind(start);
    assert_ne!(outside(&mut by_hand, A, S1, start), mapped);
    assert_eq!(by_hand.mapping_count(), 1);
}

#[test]
fn an_old_mapping_stays_with_its_remote_endpoints_and_others_get_a_second_one() {
    let start = Instant::now();
    let mut config = Preset::FullCone.config();
    config.quirks.dual_mapping_after = Some(seconds(20));
    let mut nat = nat(config);
    let first = outside(&mut nat, A, S1, start);
    assert_eq!(outside(&mut nat, A, S2, start + seconds(19)), first);
    let later = start + seconds(21);
    let second = outside(&mut nat, A, S1_OTHER_PORT, later);
    assert_ne!(second, first);
    assert_eq!(outside(&mut nat, A, S1, later), first);
    assert_eq!(outside(&mut nat, A, "192.0.2.9:9", later), second);
    forwarded(inbound(&mut nat, S2, first, later));
    assert_eq!(
        dropped(inbound(&mut nat, "192.0.2.99:1", first, later)),
        DropReason::Filtered
    );
    forwarded(inbound(&mut nat, "192.0.2.99:1", second, later));
    nat.handle_timeout(later + seconds(200));
    assert_eq!((nat.mapping_count(), nat.session_count()), (0, 0));
}

/// What the core says about a packet whose TTL ran out.
fn ttl_error(sent: &Packet) -> Packet {
    sent.error(ip("192.0.0.8"), IcmpError::TimeExceeded)
        .expect("an error")
}

#[test]
fn icmp_errors_pass_or_not_or_end_the_mapping() {
    for (icmp_errors, passes, lives) in [
        (IcmpErrors::Translate, true, true),
        (IcmpErrors::Drop, false, true),
        (IcmpErrors::EndMapping, true, false),
    ] {
        let now = Instant::now();
        let mut nat = nat(NatConfig {
            icmp_errors,
            ..NatConfig::default()
        });
        let sent = forwarded(nat.outbound(udp(A, S1), now));
        let verdict = nat.inbound(ttl_error(&sent), now);
        assert_eq!(matches!(verdict, Verdict::Forward(_)), passes);
        assert_eq!(nat.mapping_count() == 1, lives);
    }
}

#[test]
fn fragments_pass_as_it_says() {
    let now = Instant::now();
    let whole = {
        let mut packet = Packet::udp(endpoint(A), endpoint(S1), vec![7; 3000]);
        packet.dont_fragment = false;
        packet
    };
    let pieces = whole.fragments(1500, 1);
    let backwards: Vec<_> = pieces.iter().rev().cloned().collect();
    for (fragments, in_order, any_order) in [
        (Fragments::Drop, false, false),
        (Fragments::InOrder, true, false),
        (Fragments::AnyOrder, true, true),
    ] {
        for (pieces, passes) in [(&pieces, in_order), (&backwards, any_order)] {
            let mut nat = nat(NatConfig {
                fragments,
                ..NatConfig::default()
            });
            let verdicts: Vec<_> = pieces
                .iter()
                .map(|piece| nat.outbound(piece.clone(), now))
                .collect();
            let out: Vec<_> = verdicts
                .iter()
                .filter(|verdict| matches!(verdict, Verdict::Forward(_)))
                .collect();
            assert_eq!(out.len(), usize::from(passes), "{fragments:?} {verdicts:?}");
        }
    }
}

#[test]
fn a_forbidden_fragmentation_may_be_allowed_by_the_router() {
    for clear_dont_fragment in [true, false] {
        let mut nat = nat(NatConfig {
            clear_dont_fragment,
            ..NatConfig::default()
        });
        let sent = forwarded(nat.outbound(udp(A, S1), Instant::now()));
        assert_eq!(sent.dont_fragment, !clear_dont_fragment);
    }
}

#[test]
fn ipv6_hosts_reach_ipv4_through_a_nat64_and_errors_come_back() {
    let now = Instant::now();
    let mut nat = nat(NatConfig {
        nat64: Some(Nat64Prefix::WELL_KNOWN),
        ..NatConfig::default()
    });
    let (inside, remote) = ("[2001:db8::2]:4000", "[64:ff9b::198.51.100.1]:1000");
    let sent = forwarded(nat.outbound(udp(inside, remote), now));
    assert_eq!(sent, {
        let mut expected = udp("203.0.113.7:4000", S1);
        expected.dont_fragment = false;
        expected
    });
    let answer = forwarded(nat.inbound(udp(S1, "203.0.113.7:4000"), now));
    assert_eq!(answer, udp(remote, inside));
    assert_eq!(
        dropped(nat.inbound(udp(S2, "203.0.113.7:4000"), now)),
        DropReason::Filtered
    );
    let error = sent
        .error(ip("192.0.0.8"), IcmpError::TooBig { mtu: 1400 })
        .expect("an error");
    let error = forwarded(nat.inbound(error, now));
    assert_eq!(error.reported_mtu(), Some(1420));
    assert_eq!(error.destination, ip("2001:db8::2"));
    let Body::IcmpError { quote, .. } = &error.body else {
        panic!("not an error: {error}");
    };
    assert_eq!(quote.flow(), udp(inside, remote).flow());
}
