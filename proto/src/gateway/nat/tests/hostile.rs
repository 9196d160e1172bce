//! What must not work, and what must not hurt: floods, forgeries, fragments, silence.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use proptest::prelude::*;

use super::world::{FakeHost, HOST_MAC, SERVER, STATION, STATION_MAC, Weather, World};
use crate::gateway::access::Rule;
use crate::gateway::control::Echo;
use crate::gateway::out::put_checksum;
use crate::gateway::packet::{self, Frame, Header, Packet};
use crate::gateway::segment::{self, Options, Outline, Segment};
use crate::gateway::settings::Publish;
use crate::gateway::sockets::{Datagrams, SocketId};
use crate::gateway::subnet::Subnet;
use crate::gateway::{HostError, NatEvent, NatSettings, Unreachable};
use crate::wire::ethernet::MacAddr;

const CALM: Weather = Weather {
    loss: 0.0,
    delay_us: 0,
    jitter_us: 0,
};

fn world() -> World {
    World::new(CALM, 1)
}

fn header(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, ttl: u8) -> Header {
    Header {
        to: HOST_MAC,
        from: STATION_MAC,
        source: source.into(),
        destination: destination.into(),
        protocol,
        ttl,
        ident: 1,
        dont_fragment: false,
    }
}

fn frame(header: &Header, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; header.len()];
    frame.extend(payload);
    header.write(&mut frame, None);
    frame
}

fn tcp(
    source: Ipv4Addr,
    port: u16,
    to: Ipv4Addr,
    to_port: u16,
    flags: u8,
    seq: u32,
    ack: u32,
) -> Vec<u8> {
    let header = header(source, to, packet::TCP, 64);
    let outline = Outline {
        source_port: port,
        destination_port: to_port,
        seq,
        ack,
        flags,
        window: 60_000,
        options: Options::default(),
    };
    let mut frame = vec![0; header.len() + outline.len()];
    header.write(&mut frame, None);
    outline.write(&header, &mut frame, true);
    frame
}

fn udp_ttl(
    source: Ipv4Addr,
    port: u16,
    to: Ipv4Addr,
    to_port: u16,
    ttl: u8,
    bytes: &[u8],
) -> Vec<u8> {
    let header = header(source, to, packet::UDP, ttl);
    let length = u16::try_from(8 + bytes.len()).expect("short");
    let mut payload = [
        port.to_be_bytes(),
        to_port.to_be_bytes(),
        length.to_be_bytes(),
        [0, 0],
    ]
    .concat();
    payload.extend(bytes);
    put_checksum(&header, &mut payload, 6);
    frame(&header, &payload)
}

fn udp(port: u16, to: Ipv4Addr, to_port: u16, bytes: &[u8]) -> Vec<u8> {
    udp_ttl(STATION, port, to, to_port, 64, bytes)
}

fn echo(to: Ipv4Addr, ttl: u8) -> Vec<u8> {
    let mut message = Echo {
        request: true,
        ident: 7,
        sequence: 3,
        data: b"how far",
    }
    .bytes(true);
    let checksum = !packet::fold(packet::sum(&message));
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    frame(&header(STATION, to, packet::ICMP, ttl), &message)
}

/// Source, ICMP type and code of an answer.
fn icmp(frame: &[u8]) -> (IpAddr, u8, u8) {
    let frame = Frame::parse(frame).expect("whole");
    let packet = Packet::parse(frame.kind, frame.payload)
        .expect("IP")
        .expect("right");
    assert_eq!(packet.protocol, packet::ICMP);
    assert_eq!(packet::fold(packet::sum(packet.payload)), 0xffff);
    (packet.source, packet.payload[0], packet.payload[1])
}

fn flags(frame: &[u8]) -> u8 {
    let frame = Frame::parse(frame).expect("whole");
    let packet = Packet::parse(frame.kind, frame.payload)
        .expect("IP")
        .expect("right");
    assert!(packet::verify(&packet));
    Segment::parse(packet.payload).expect("right").flags
}

fn only_socket(host: &FakeHost) -> SocketId {
    *host.datagrams.keys().next().expect("one")
}

#[test]
fn a_flood_of_calls_stops_at_its_bound_and_others_still_get_through() {
    let mut settings = NatSettings::new(Subnet::default());
    settings.limits.half_open = 64;
    let mut world = World::with(settings, CALM, 1);
    for port in 1000..3000 {
        world.send(&tcp(STATION, port, SERVER, 80, segment::SYN, 1, 0));
    }
    assert_eq!(world.host.streams.len(), 32, "half of it for one station");
    assert!(world.nat.counters().dropped_limit >= 1900);
    assert!(
        world
            .events
            .iter()
            .any(|event| matches!(event, NatEvent::LimitReached { .. }))
    );
    assert!(world.events.len() < 200, "the log is no victim either");
    world.send(&tcp(
        Ipv4Addr::new(192, 168, 30, 78),
        1000,
        SERVER,
        80,
        segment::SYN,
        1,
        0,
    ));
    assert_eq!(world.host.streams.len(), 33);
}

#[test]
fn half_open_connections_go_when_nobody_completes_them() {
    let mut world = world();
    for port in 1000..1100 {
        world.send(&tcp(STATION, port, SERVER, 80, segment::SYN, 1, 0));
    }
    world.connect_all();
    world.run(Duration::from_secs(200), |_| false);
    assert!(world.nat.table(world.now()).is_empty());
    assert!(world.host.streams.is_empty() && world.nat.shares.is_empty());
}

#[test]
fn another_station_cannot_speak_for_one() {
    let mut world = world();
    world.send(&tcp(STATION, 1000, SERVER, 80, segment::SYN, 1, 0));
    let mut forged = tcp(STATION, 1000, SERVER, 80, segment::RST, 2, 0);
    forged[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 66]);
    assert!(world.send(&forged).is_empty());
    assert_eq!(
        (world.host.streams.len(), world.nat.counters().spoofed),
        (1, 1)
    );
    // Nor from an address of no station.
    for source in [
        [10, 0, 0, 1],
        [192, 168, 30, 1],
        [127, 0, 0, 1],
        [0, 0, 0, 0],
        [255, 255, 255, 255],
    ] {
        assert!(
            world
                .send(&tcp(source.into(), 1, SERVER, 80, segment::SYN, 1, 0))
                .is_empty()
        );
    }
    assert_eq!(world.nat.counters().malformed, 5);
}

/// RFC 5961: a reset or a SYN that is nearly right is answered by a challenge, and ends nothing.
#[test]
fn a_guessed_reset_ends_nothing() {
    let mut world = world();
    world.send(&tcp(STATION, 1000, SERVER, 80, segment::SYN, 100, 0));
    world.connect_all();
    let answer = world.send(&[]);
    let parsed = Frame::parse(&answer[0]).expect("whole");
    let packet = Packet::parse(parsed.kind, parsed.payload)
        .expect("IP")
        .expect("right");
    let seq = Segment::parse(packet.payload).expect("right").seq;
    world.send(&tcp(
        STATION,
        1000,
        SERVER,
        80,
        segment::ACK,
        101,
        seq.wrapping_add(1),
    ));
    for flag in [segment::RST, segment::SYN] {
        let challenge = world.send(&tcp(STATION, 1000, SERVER, 80, flag, 110, 0));
        assert_eq!(
            challenge
                .iter()
                .map(|frame| flags(frame))
                .collect::<Vec<_>>(),
            [segment::ACK]
        );
    }
    assert!(
        world
            .send(&tcp(STATION, 1000, SERVER, 80, segment::RST, 90, 0))
            .is_empty()
    );
    let far = world.send(&tcp(
        STATION,
        1000,
        SERVER,
        80,
        segment::ACK,
        101,
        seq.wrapping_add(99),
    ));
    assert_eq!(far.len(), 1, "an acknowledgement of what was never sent");
    assert_eq!(world.host.streams.len(), 1);
    world.send(&tcp(STATION, 1000, SERVER, 80, segment::RST, 101, 0));
    assert!(world.host.streams.is_empty());
}

#[test]
fn a_segment_of_no_connection_is_reset_and_a_reset_is_not() {
    let mut world = world();
    let answer = world.send(&tcp(STATION, 1000, SERVER, 80, segment::ACK, 5, 9));
    assert_eq!(flags(&answer[0]), segment::RST);
    assert!(
        world
            .send(&tcp(STATION, 1000, SERVER, 80, segment::RST, 5, 9))
            .is_empty()
    );
    assert!(world.host.streams.is_empty());
}

#[test]
fn what_the_rules_forbid_is_told_and_counted() {
    let mut settings = NatSettings::new(Subnet::default());
    settings.rules = vec![Rule::parse(false, "192.168.1.20:22/tcp").expect("a rule")];
    let mut world = World::with(settings, CALM, 1);
    let shut = [
        tcp(STATION, 1000, SERVER, 22, segment::SYN, 1, 0),
        tcp(STATION, 1000, Ipv4Addr::LOCALHOST, 80, segment::SYN, 1, 0),
        udp(1000, Ipv4Addr::new(169, 254, 169, 254), 80, b"secret?"),
        echo(Ipv4Addr::LOCALHOST, 64),
    ];
    for frame in &shut {
        let answer = world.send(frame);
        assert_eq!(
            icmp(&answer[0]),
            (Subnet::default().address().into(), 3, 13)
        );
    }
    assert_eq!(world.nat.counters().refused, 4);
    assert!(world.host.streams.is_empty() && world.host.datagrams.is_empty());
    world.send(&tcp(STATION, 1000, SERVER, 23, segment::SYN, 1, 0));
    assert_eq!(world.host.streams.len(), 1);
    // A rule that comes later ends what it forbids.
    let mut settings = world.nat.settings().clone();
    settings.rules = vec![Rule::parse(false, "192.168.1.0/24").expect("a rule")];
    let now = world.now();
    world.nat.set(settings, &mut world.host, now);
    assert!(world.host.streams.is_empty());
}

#[test]
fn this_machines_own_packets_are_a_loop() {
    let mut settings = NatSettings::new(Subnet::default());
    settings.own_addresses = vec![IpAddr::from([192, 168, 1, 10]), STATION.into()];
    let mut world = World::with(settings, CALM, 1);
    for source in [Ipv4Addr::new(192, 168, 1, 10), STATION] {
        assert!(
            world
                .send(&tcp(source, 1000, SERVER, 80, segment::SYN, 1, 0))
                .is_empty()
        );
    }
    assert!(world.host.streams.is_empty());
    assert_eq!(world.nat.counters().loops, 2);
    let expected = NatEvent::Loop {
        source: STATION.into(),
        destination: SERVER.into(),
    };
    assert!(world.events.contains(&expected));
    // But the virtual host itself may be pinged.
    assert_eq!(
        icmp(&world.send(&echo(Subnet::default().address(), 64))[0]).1,
        0
    );
}

#[test]
fn a_mapping_is_independent_of_the_other_end_and_filters_by_address() {
    let mut world = world();
    world.send(&udp(5000, SERVER, 1, b"one"));
    let other = Ipv4Addr::new(192, 168, 1, 21);
    world.send(&udp(5000, other, 2, b"two"));
    assert_eq!(world.host.datagrams.len(), 1, "one socket for both");
    assert_eq!(
        world
            .host
            .sent
            .iter()
            .map(|sent| sent.to.port())
            .collect::<Vec<_>>(),
        [1, 2]
    );
    assert!(world.host.sent.iter().all(|sent| sent.how.ttl == 63));
    let (id, now) = (only_socket(&world.host), world.now());
    for (from, passes) in [([192, 168, 1, 21], true), ([192, 168, 1, 22], false)] {
        // Any port of a host that was written to.
        world.nat.handle_datagram(
            id,
            SocketAddr::from((from, 99)),
            b"answer",
            &mut world.host,
            now,
        );
        assert_eq!(world.nat.poll_frame().is_some(), passes, "{from:?}");
    }
    assert_eq!(world.nat.counters().filtered, 1);
    world.run(Duration::from_secs(601), |_| false);
    assert!(world.host.datagrams.is_empty());
}

#[test]
fn pings_are_real_where_the_system_lets_us_and_a_refusal_is_told_once() {
    let mut world = world();
    assert!(world.send(&echo(SERVER, 64)).is_empty());
    let id = only_socket(&world.host);
    assert_eq!(world.host.datagrams[&id], Datagrams::Ping);
    let now = world.now();
    // The system has its own identifier.
    world.nat.handle_datagram(
        id,
        SocketAddr::from((SERVER, 0)),
        b"\0\0\0\0\x99\x99\0\x03how far",
        &mut world.host,
        now,
    );
    let reply = world.nat.poll_frame().expect("an answer").bytes;
    assert_eq!(icmp(&reply), (SERVER.into(), 0, 0));
    assert_eq!(reply[38..42], [0, 7, 0, 3]);
    let mut world = World::new(CALM, 1);
    world.host.pings_forbidden = true;
    for _ in 0..2 {
        assert_eq!(icmp(&world.send(&echo(SERVER, 64))[0]).1, 3);
    }
    assert_eq!(world.events, [NatEvent::PingNotPermitted]);
    let mut settings = world.nat.settings().clone();
    settings.dummy_ping = true;
    let now = world.now();
    world.nat.set(settings, &mut world.host, now);
    assert_eq!(
        icmp(&world.send(&echo(SERVER, 64))[0]),
        (SERVER.into(), 0, 0),
        "whether it is there or not"
    );
}

#[test]
fn traceroute_sees_the_virtual_host_and_those_behind_it() {
    let mut world = world();
    for probe in [
        echo(SERVER, 1),
        udp_ttl(STATION, 1000, SERVER, 33_434, 1, b"probe"),
    ] {
        assert_eq!(
            icmp(&world.send(&probe)[0]),
            (Subnet::default().address().into(), 11, 0)
        );
    }
    assert!(
        world
            .send(&udp_ttl(STATION, 1000, SERVER, 33_434, 2, b"probe"))
            .is_empty()
    );
    assert_eq!(world.host.sent[0].how.ttl, 1);
    let router = IpAddr::from([192, 168, 1, 1]);
    let error = HostError {
        to: SocketAddr::from((SERVER, 33_434)),
        offender: Some(router),
        error: Unreachable::TimeExceeded,
        quote: b"probe",
    };
    let (id, now) = (only_socket(&world.host), world.now());
    world.nat.handle_host_error(id, &error, now);
    let told = world.nat.poll_frame().expect("an error").bytes;
    assert_eq!(icmp(&told), (router, 11, 0));
    // It quotes the station's packet, not ours.
    let quoted = Packet::parse(packet::IPV4, &told[42..]).expect("IP");
    assert!(quoted.is_ok_and(|quoted| quoted.source == IpAddr::from(STATION)));
    assert_eq!(told[62..66], [0x03, 0xe8, 0x82, 0x9a], "its ports");
}

#[test]
fn a_silent_resolver_fails_after_all_were_asked() {
    let mut settings = NatSettings::new(Subnet::default());
    settings.resolvers = ["192.0.2.1:53", "192.0.2.2:53"]
        .iter()
        .map(|text| text.parse().expect("one"))
        .collect();
    let mut world = World::with(settings, CALM, 1);
    let question = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";
    let own = Subnet::default().address();
    world.send(&udp(5000, own, 53, question));
    world.send(&udp(5000, own, 53, question));
    let mut failed = None;
    for _ in 0..100_000 {
        world.us += 100;
        let now = world.now();
        world.nat.handle_timeout(&mut world.host, now);
        failed = failed.or_else(|| world.nat.poll_frame());
    }
    let asked: Vec<_> = world
        .host
        .sent
        .iter()
        .map(|sent| sent.to.to_string())
        .collect();
    assert_eq!(asked, ["192.0.2.1:53", "192.0.2.2:53", "192.0.2.1:53"]);
    let failed = failed.expect("an answer").bytes;
    assert_eq!(failed[42..46], [0x12, 0x34, 0x81, 2], "SERVFAIL");
    assert!(world.host.datagrams.is_empty());
}

#[test]
fn an_answer_from_elsewhere_or_to_another_question_is_none() {
    let mut settings = NatSettings::new(Subnet::default());
    let resolver: SocketAddr = "192.0.2.1:53".parse().expect("one");
    settings.resolvers = vec![resolver];
    let mut world = World::with(settings, CALM, 1);
    let question = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";
    world.send(&udp(5000, Subnet::default().address(), 53, question));
    let (id, now) = (only_socket(&world.host), world.now());
    let mut answer = world.host.sent[0].bytes.clone();
    answer[2] |= 0x80;
    let mut wrong = answer.clone();
    wrong[0] ^= 1;
    for (from, bytes) in [
        (resolver, &wrong),
        ("192.0.2.9:53".parse().expect("one"), &answer),
    ] {
        world
            .nat
            .handle_datagram(id, from, bytes, &mut world.host, now);
        assert!(world.nat.poll_frame().is_none());
    }
    world
        .nat
        .handle_datagram(id, resolver, &answer, &mut world.host, now);
    assert_eq!(
        world.nat.poll_frame().expect("the answer").bytes[42..44],
        [0x12, 0x34]
    );
}

#[test]
fn a_member_that_a_published_port_leads_to_is_asked_for_and_given_up() {
    let mut settings = NatSettings::new(Subnet::default());
    settings.publish = vec!["tcp:8080:192.168.30.99:80".parse::<Publish>().expect("one")];
    let mut world = World::with(settings, CALM, 1);
    let now = world.now();
    let id = world
        .nat
        .handle_accepted(0, SocketAddr::from((SERVER, 9)), &mut world.host, now);
    let id = id.expect("taken");
    world.host.streams.insert(
        id,
        super::world::FakeStream {
            connected: true,
            ..Default::default()
        },
    );
    let asked = world.nat.poll_frame().expect("a question").bytes;
    assert_eq!(
        (&asked[..6], &asked[12..14], &asked[38..42]),
        (
            &MacAddr::BROADCAST.0[..],
            &[8, 6][..],
            &[192, 168, 30, 99][..]
        )
    );
    assert!(world.nat.poll_frame().is_none(), "nobody to call yet");
    world.run(Duration::from_secs(5), |_| false);
    assert!(world.host.streams.is_empty());
    assert!(
        world
            .events
            .iter()
            .any(|event| matches!(event, NatEvent::MemberAbsent { .. }))
    );
}

#[test]
fn a_published_udp_port_leads_to_a_member_and_back() {
    let mut settings = NatSettings::new(Subnet::default());
    settings.publish = vec!["udp:5353:192.168.30.77:53".parse::<Publish>().expect("one")];
    let mut world = World::with(settings, CALM, 1);
    let now = world.now();
    let id = world.nat.handle_published(0, now).expect("a socket");
    assert_eq!(world.nat.handle_published(0, now), None, "once");
    world.host.datagrams.insert(id, Datagrams::Udp);
    let host = SocketAddr::from((SERVER, 9));
    world
        .nat
        .handle_datagram(id, host, b"lost", &mut world.host, now);
    assert_eq!(
        world
            .nat
            .poll_frame()
            .expect("a question for the member")
            .bytes[12..14],
        [8, 6]
    );
    // Whatever the member sends makes it known.
    world.send(&udp(1, SERVER, 1, b"x"));
    world
        .nat
        .handle_datagram(id, host, b"hello", &mut world.host, now);
    let frame = world.nat.poll_frame().expect("it comes").bytes;
    assert_eq!(
        (&frame[26..30], &frame[36..38], &frame[42..]),
        (&[192, 168, 30, 1][..], &[0, 53][..], &b"hello"[..])
    );
    let port = u16::from_be_bytes([frame[34], frame[35]]);
    let own = Subnet::default().address();
    assert!(world.send(&udp(53, own, port, b"answer")).is_empty());
    let last = world.host.sent.last().expect("sent");
    assert_eq!((last.to, &last.bytes[..]), (host, &b"answer"[..]));
    // Nobody else can use that way, and not for ever.
    assert_eq!(icmp(&world.send(&udp(54, own, port, b"me too"))[0]).1, 3);
    world.us += 1_300_000_000;
    let now = world.now();
    world.nat.handle_timeout(&mut world.host, now);
    assert_eq!(icmp(&world.send(&udp(53, own, port, b"late"))[0]).1, 3);
    world.nat.close_all(&mut world.host, now);
    assert!(world.host.datagrams.is_empty());
}

#[test]
fn when_the_system_has_no_sockets_nothing_is_left_behind() {
    let mut world = world();
    world.host.refuse_open = true;
    for port in 1..100 {
        world.send(&udp(port, SERVER, 1, b"x"));
    }
    assert!(
        world.nat.shares.is_empty() && world.nat.by_key.is_empty() && world.nat.timers.is_empty()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever stations send, in whatever order, and whatever the host's sockets say: nothing breaks, nothing is sent to anybody
    /// but the station, and everything is given back in the end.
    #[test]
    fn nothing_that_is_sent_breaks_it(
        steps in prop::collection::vec((0u8..12, any::<u32>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..60)), 1..120),
    ) {
        let mut world = world();
        for (kind, a, b, bytes) in steps {
            let port = u16::try_from(1 + a % 3).expect("small");
            let flags = u8::try_from(b % 32).expect("small");
            let now = world.now();
            let frames = match kind {
                0 => world.send(&frame(&header(STATION, SERVER, packet::TCP, 64), &bytes)),
                1 => world.send(&frame(&header(STATION, SERVER, packet::UDP, 64), &bytes)),
                2 => world.send(&bytes),
                3..=5 => world.send(&tcp(STATION, port, SERVER, 80, flags, a % 50, b)),
                6 => world.send(&udp(port, SERVER, port, &bytes)),
                7 => world.send(&echo(SERVER, 64)),
                8 => { world.connect_all(); world.send(&[]) }
                9 => {
                    let ids: Vec<_> = world.host.streams.iter().filter(|(_, stream)| stream.connected).map(|(id, _)| *id).collect();
                    for id in ids {
                        if b % 3 == 0 { world.server_ends(id) } else { world.server_writes(id, &bytes) }
                    }
                    world.send(&[])
                }
                10 => {
                    world.us += u64::from(a % 100_000_000);
                    let now = world.now();
                    world.nat.handle_timeout(&mut world.host, now);
                    world.send(&[])
                }
                _ => {
                    let id = SocketId { place: a % 4, turn: b % 4 };
                    world.nat.handle_datagram(id, SocketAddr::from((SERVER, port)), &bytes, &mut world.host, now);
                    world.nat.handle_writable(id, &mut world.host, now);
                    world.send(&[])
                }
            };
            for frame in frames {
                prop_assert_eq!(&frame[..6], &STATION_MAC.0);
                prop_assert!(frame.len() <= 1514);
            }
        }
        let now = world.now();
        world.nat.close_all(&mut world.host, now);
        world.us += 60_000_000;
        let now = world.now();
        world.nat.handle_timeout(&mut world.host, now);
        prop_assert!(world.host.streams.is_empty() && world.host.datagrams.is_empty());
        prop_assert!(world.nat.by_key.is_empty() && world.nat.shares.is_empty() && world.nat.timers.is_empty());
        prop_assert_eq!(world.nat.budget, world.nat.settings.limits.held_bytes);
    }
}
