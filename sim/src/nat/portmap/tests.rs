//! Claims about PCP and NAT-PMP: the answers' bytes as the RFCs say, and what the NAT does then.

use proptest::prelude::*;

use crate::nat::{Behavior, MappingAnswer, Nat, NatConfig, PortMapping, Preset, Verdict};
use crate::packet::{Body, Packet};

use super::*;

const CLIENT: &str = "10.0.0.2:5000";
const STRANGER: &str = "198.51.100.77:1";

fn endpoint(text: &str) -> SocketAddr {
    text.parse().expect("an endpoint")
}

fn gateway(preset: Preset, port_mapping: PortMapping) -> Nat {
    let config = NatConfig {
        port_mapping: Some(port_mapping),
        ..preset.config()
    };
    Nat::new(config, vec![endpoint("203.0.113.7:0").ip()], 1).expect("a possible NAT")
}

fn ask(nat: &mut Nat, request: Vec<u8>, now: Instant) -> Option<Vec<u8>> {
    let packet = Packet::udp(endpoint(CLIENT), endpoint("10.0.0.1:5351"), request);
    let answer = nat.serve(&packet, now)?;
    assert_eq!(answer.source, endpoint("10.0.0.1:1").ip());
    let Body::Udp { payload, .. } = answer.body else {
        panic!("not a datagram");
    };
    Some(payload)
}

/// Whether somebody who was never sent to gets in by this outside port, to the inside port.
fn admits(nat: &mut Nat, outside: u16, now: Instant) -> Option<u16> {
    let to = SocketAddr::new(endpoint("203.0.113.7:0").ip(), outside);
    match nat.inbound(Packet::udp(endpoint(STRANGER), to, vec![]), now) {
        Verdict::Forward(packet) => Some(packet.flow()?.destination.port()),
        Verdict::Drop(_) | Verdict::Hairpin(_) | Verdict::Reply(_) | Verdict::Held => None,
    }
}

/// RFC 6886, section 3.3: UDP, inside port 4000, suggests 7000.
fn pmp_request(lifetime: u32) -> Vec<u8> {
    let mut request = vec![0, 1, 0, 0, 0x0f, 0xa0, 0x1b, 0x58];
    request.extend(lifetime.to_be_bytes());
    request
}

/// RFC 6887, section 11.1, with the same wish.
fn pcp_request(lifetime: u32, nonce: u8) -> Vec<u8> {
    let mut request = vec![2, 1, 0, 0];
    request.extend(lifetime.to_be_bytes());
    request.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 2]);
    request.extend([nonce; 12]);
    request.extend([17, 0, 0, 0, 0x0f, 0xa0, 0x1b, 0x58]);
    request.extend([0; 16]);
    request
}

#[test]
fn nat_pmp_says_the_address_and_maps_a_port() {
    let now = Instant::now();
    let mut nat = gateway(Preset::Symmetric, PortMapping::default());
    let address = ask(&mut nat, vec![0, 0], now);
    assert_eq!(
        address,
        Some(vec![0, 128, 0, 0, 0, 0, 0, 0, 203, 0, 113, 7])
    );
    let later = now + Duration::from_secs(5);
    let answer = ask(&mut nat, pmp_request(600), later);
    let expected = vec![
        0, 129, 0, 0, 0, 0, 0, 5, 0x0f, 0xa0, 0x1b, 0x58, 0, 0, 0x02, 0x58,
    ];
    assert_eq!(answer, Some(expected));
    assert_eq!(admits(&mut nat, 7000, later), Some(4000));
    // What the host sends by itself leaves by the same mapping, even where each remote endpoint had its own.
    let out = nat.outbound(
        Packet::udp(endpoint("10.0.0.2:4000"), endpoint(STRANGER), vec![]),
        later,
    );
    let Verdict::Forward(out) = out else {
        panic!("{out:?}");
    };
    assert_eq!(out.flow().map(|flow| flow.source.port()), Some(7000));
    // It ends when it was agreed, and before when it is given back.
    assert_eq!(
        admits(&mut nat, 7000, later + Duration::from_secs(600)),
        None
    );
    ask(&mut nat, pmp_request(600), later + Duration::from_secs(700));
    ask(&mut nat, pmp_request(0), later + Duration::from_secs(701));
    assert_eq!(
        admits(&mut nat, 7000, later + Duration::from_secs(702)),
        None
    );
}

#[test]
fn pcp_maps_a_port_for_who_knows_the_nonce() {
    let now = Instant::now();
    for preset in [Preset::PortRestricted, Preset::Symmetric] {
        let mut nat = gateway(preset, PortMapping::default());
        let answer = ask(&mut nat, pcp_request(100_000, 9), now).expect("an answer");
        assert_eq!(answer.len(), 60);
        // Version 2, response, success; two hours are the longest.
        assert_eq!(answer[..8], [2, 129, 0, 0, 0, 0, 0x1c, 0x20]);
        assert_eq!(answer[24..36], [9; 12]);
        assert_eq!(answer[36..44], [17, 0, 0, 0, 0x0f, 0xa0, 0x1b, 0x58]);
        assert_eq!(answer[54..60], [0xff, 0xff, 203, 0, 113, 7]);
        assert_eq!(admits(&mut nat, 7000, now), Some(4000));
        let stolen = ask(&mut nat, pcp_request(0, 8), now).expect("an answer");
        assert_eq!(stolen[3], NOT_AUTHORIZED);
        assert_eq!(admits(&mut nat, 7000, now), Some(4000));
        ask(&mut nat, pcp_request(0, 9), now);
        assert_eq!(admits(&mut nat, 7000, now), None);
    }
}

#[test]
fn a_gateway_may_refuse_or_lie() {
    let now = Instant::now();
    for (answer, result, port, reachable) in [
        (MappingAnswer::Works, 0, 7000, true),
        (MappingAnswer::Refuses, NOT_AUTHORIZED, 0, false),
        (MappingAnswer::MapsNothing, 0, 7000, false),
        (MappingAnswer::WrongPort, 0, 7001, false),
        (MappingAnswer::WrongAddress, 0, 7000, true),
    ] {
        let settings = PortMapping {
            answer,
            ..PortMapping::default()
        };
        let mut nat = gateway(Preset::PortRestricted, settings);
        let answered = ask(&mut nat, pmp_request(60), now).expect("an answer");
        assert_eq!(answered[3], result);
        assert_eq!(u16_at(&answered, 10), Some(port));
        assert_eq!(
            admits(&mut nat, port, now).is_some(),
            reachable,
            "{answer:?}"
        );
        let address = ask(&mut nat, vec![0, 0], now).expect("an answer");
        let wrong = answer == MappingAnswer::WrongAddress;
        assert_eq!(address[11] == 7, !wrong);
        let pcp = ask(&mut nat, pcp_request(60, 1), now).expect("an answer");
        assert_eq!(pcp[3], result);
        if result == 0 {
            assert_eq!(pcp[59] == 7, !wrong);
        }
    }
}

#[test]
fn an_unknown_version_is_answered_with_the_one_that_is_spoken() {
    let now = Instant::now();
    let speaks = |pcp, nat_pmp| PortMapping {
        pcp,
        nat_pmp,
        ..PortMapping::default()
    };
    let mut old = gateway(Preset::PortRestricted, speaks(false, true));
    let answer = ask(&mut old, pcp_request(60, 1), now).expect("an answer");
    assert_eq!(answer[..4], [0, 129, 0, UNSUPPORTED_VERSION]);
    let mut new = gateway(Preset::PortRestricted, speaks(true, false));
    let answer = ask(&mut new, pmp_request(60), now).expect("an answer");
    assert_eq!(answer[..4], [2, 129, 0, UNSUPPORTED_VERSION]);
    let mut silent = gateway(Preset::PortRestricted, speaks(false, false));
    assert_eq!(ask(&mut silent, pmp_request(60), now), None);
    // Somebody else's answer gets none.
    assert_eq!(ask(&mut new, vec![2, 129], now), None);
}

#[test]
fn a_reboot_shows_in_the_epoch() {
    let now = Instant::now();
    let mut nat = gateway(Preset::PortRestricted, PortMapping::default());
    ask(&mut nat, pmp_request(600), now);
    let epoch = |nat: &mut Nat, at| u32_at(&ask(nat, vec![0, 0], at).expect("an answer"), 4);
    let later = now + Duration::from_secs(100);
    assert_eq!(epoch(&mut nat, later), Some(100));
    nat.reboot();
    assert_eq!(epoch(&mut nat, later + Duration::from_secs(1)), Some(0));
    assert_eq!(admits(&mut nat, 7000, later), None);
}

#[test]
fn a_firewall_opens_a_pinhole() {
    let now = Instant::now();
    let config = NatConfig {
        mapping: Behavior::None,
        port_mapping: Some(PortMapping::default()),
        ..NatConfig::default()
    };
    let mut nat = Nat::new(config, Vec::new(), 1).expect("a firewall");
    let mut request = pcp_request(60, 1);
    let client = "2001:db8::2"
        .parse::<std::net::Ipv6Addr>()
        .expect("an address");
    request[8..24].copy_from_slice(&client.octets());
    let packet = Packet::udp(
        endpoint("[2001:db8::2]:5000"),
        endpoint("[2001:db8::1]:5351"),
        request,
    );
    let answer = nat.serve(&packet, now).expect("an answer");
    let Body::Udp { payload, .. } = answer.body else {
        panic!("not a datagram");
    };
    // Nothing is translated: the outside port is the inside one.
    assert_eq!((payload[3], u16_at(&payload, 42)), (0, Some(4000)));
    let stranger = Packet::udp(
        endpoint("[2001:db8:9::9]:1"),
        endpoint("[2001:db8::2]:4000"),
        vec![],
    );
    assert_eq!(
        nat.inbound(stranger.clone(), now),
        Verdict::Forward(stranger)
    );
}

proptest! {
    #[test]
    fn arbitrary_requests_never_panic_and_are_answered_by_their_like(mut request in prop::collection::vec(any::<u8>(), 0..80), version in prop_oneof![Just(0u8), Just(2), any::<u8>()], op in 0u8..4) {
        if let [first, second, ..] = &mut request[..] {
            (*first, *second) = (version, op);
        }
        let mut nat = gateway(Preset::PortRestricted, PortMapping::default());
        if let Some(answer) = ask(&mut nat, request.clone(), Instant::now()) {
            prop_assert_eq!(answer[1], request[1] | 128);
            prop_assert!(answer[0] == 0 || answer[0] == 2);
        }
    }
}
