//! Claims about the ways of packets: sums of delays, nesting, hairpins, MTUs, TTLs, and one log for one seed.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::link::Probability;
use crate::nat::Hairpin;
use crate::packet::Body;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn endpoint(text: &str) -> SocketAddr {
    text.parse().expect("an endpoint")
}

fn udp(source: &str, destination: &str, size: usize) -> Packet {
    Packet::udp(endpoint(source), endpoint(destination), vec![0; size])
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A network and its clock, for tests that send packets one by one.
struct World {
    network: Network,
    start: Instant,
    now: Instant,
}

impl World {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let mut network = Network::new(seed, now);
        network.set_logging(Logging::Lines);
        Self {
            network,
            start: now,
            now,
        }
    }

    fn host(&mut self, segment: SegmentId, addresses: &[&str], access: Access) -> HostId {
        let host = self.network.add_host();
        let addresses: Vec<_> = addresses.iter().map(|address| ip(address)).collect();
        self.network
            .attach(host, segment, &addresses, access)
            .expect("free addresses");
        host
    }

    fn router(
        &mut self,
        outside: SegmentId,
        nat: NatConfig,
        address: &str,
        delay: u64,
    ) -> (RouterId, SegmentId) {
        let config = RouterConfig::new(nat, ip(address), Access::delay(millis(delay)));
        self.network
            .add_router(outside, config)
            .expect("a possible router")
    }

    fn send(&mut self, host: HostId, packet: Packet) {
        self.network.send(host, packet, self.now);
    }

    /// The next packet that arrives anywhere.
    fn next(&mut self) -> Option<(HostId, Packet)> {
        loop {
            if let Some(arrived) = self.network.poll_packet() {
                return Some(arrived);
            }
            self.now = self.network.poll_timeout()?;
            self.network.handle_timeout(self.now);
        }
    }

    /// Sends a packet; how it arrives at the only host that it reaches.
    fn reach(&mut self, from: HostId, packet: Packet, to: HostId) -> Packet {
        self.send(from, packet);
        let (host, packet) = self
            .next()
            .unwrap_or_else(|| panic!("lost:\n{}", self.network.log()));
        assert_eq!(host, to, "\n{}", self.network.log());
        packet
    }

    /// Sends a packet that arrives nowhere; why.
    fn lost(&mut self, from: HostId, packet: Packet) -> Cause {
        self.send(from, packet);
        assert_eq!(self.next(), None);
        let last = self.network.log().entries().last();
        let event = last.expect("something happened").event;
        let Event::Dropped(_, cause) = event else {
            panic!("not dropped: {event}");
        };
        cause
    }
}

fn cone() -> NatConfig {
    Preset::PortRestricted.config()
}

/// The way back.
fn answer(packet: &Packet) -> Packet {
    let flow = packet.flow().expect("udp");
    Packet::udp(flow.destination, flow.source, vec![0; 10])
}

#[test]
fn a_round_trip_is_the_sum_of_its_links() {
    let mut world = World::new(1);
    let server = world.host(
        Network::INTERNET,
        &["198.51.100.1"],
        Access::delay(millis(5)),
    );
    let (_, lan) = world.router(Network::INTERNET, cone(), "203.0.113.7", 20);
    let a = world.host(lan, &["10.0.0.2"], Access::delay(millis(1)));
    let there = world.reach(a, udp("10.0.0.2:4000", "198.51.100.1:80", 100), server);
    assert_eq!(there.source, ip("203.0.113.7"));
    assert_eq!(world.now, world.start + millis(26));
    // The NAT and the core's routers each took one.
    assert_eq!(there.ttl, crate::packet::DEFAULT_TTL - 1 - CORE_HOPS);
    let back = world.reach(server, answer(&there), a);
    assert_eq!(
        back.flow().expect("udp").destination,
        endpoint("10.0.0.2:4000")
    );
    assert_eq!(world.now, world.start + millis(52));
}

#[test]
fn hosts_of_one_lan_need_no_nat() {
    let mut world = World::new(1);
    let (router, lan) = world.router(Network::INTERNET, cone(), "203.0.113.7", 20);
    let a = world.host(lan, &["10.0.0.2"], Access::default());
    let b = world.host(lan, &["10.0.0.3"], Access::default());
    world.reach(a, udp("10.0.0.2:1", "10.0.0.3:2", 10), b);
    assert_eq!(world.network.nat(router).map(Nat::mapping_count), Some(0));
}

#[test]
fn private_addresses_may_be_the_same_in_two_lans_and_are_nobody_in_the_core() {
    let mut world = World::new(1);
    for outside in ["203.0.113.7", "203.0.113.8"] {
        let (_, lan) = world.router(Network::INTERNET, cone(), outside, 20);
        let a = world.host(lan, &["10.0.0.2"], Access::default());
        assert_eq!(
            world.lost(a, udp("10.0.0.2:1", "10.0.0.9:2", 10)),
            Cause::Unroutable
        );
    }
    let host = world.network.add_host();
    let taken = world.network.attach(
        host,
        Network::INTERNET,
        &[ip("203.0.113.7")],
        Access::default(),
    );
    assert_eq!(
        taken,
        Err(NetworkError::AddressTaken(
            Network::INTERNET,
            ip("203.0.113.7")
        ))
    );
    assert_eq!(
        world.lost(host, udp("10.0.0.2:1", "10.0.0.9:2", 10)),
        Cause::Detached
    );
}

#[test]
fn a_home_behind_a_carriers_nat_is_translated_twice() {
    let mut world = World::new(1);
    let server = world.host(
        Network::INTERNET,
        &["198.51.100.1"],
        Access::delay(millis(5)),
    );
    let (_, carrier) = world.router(
        Network::INTERNET,
        Preset::Symmetric.config(),
        "203.0.113.7",
        20,
    );
    let (home, lan) = world.router(carrier, cone(), "100.64.0.2", 3);
    let a = world.host(lan, &["192.168.1.2"], Access::default());
    let there = world.reach(a, udp("192.168.1.2:4000", "198.51.100.1:80", 100), server);
    assert_eq!(there.source, ip("203.0.113.7"));
    let mapped: Vec<_> = world
        .network
        .nat(home)
        .expect("a router")
        .mappings()
        .collect();
    assert_eq!(mapped[0].outside, endpoint("100.64.0.2:4000"));
    world.reach(server, answer(&there), a);
}

#[test]
fn two_homes_behind_one_carrier_meet_by_its_hairpin_or_not_at_all() {
    for hairpin in [Hairpin::None, Hairpin::ExternalSource] {
        let mut world = World::new(1);
        let server = world.host(Network::INTERNET, &["198.51.100.1"], Access::default());
        let nat = NatConfig {
            hairpin,
            ..Preset::FullCone.config()
        };
        let (_, carrier) = world.router(Network::INTERNET, nat, "203.0.113.7", 20);
        let homes = ["100.64.0.2", "100.64.0.3"].map(|outside| {
            let (_, lan) = world.router(carrier, Preset::FullCone.config(), outside, 3);
            world.host(lan, &["192.168.1.2"], Access::default())
        });
        let seen = homes
            .map(|home| world.reach(home, udp("192.168.1.2:4000", "198.51.100.1:80", 10), server));
        let to_other = Packet::udp(
            endpoint("192.168.1.2:4000"),
            seen[1].flow().expect("udp").source,
            vec![0],
        );
        if hairpin == Hairpin::None {
            assert_eq!(
                world.lost(homes[0], to_other),
                Cause::Nat(crate::nat::DropReason::Hairpin)
            );
        } else {
            let came = world.reach(homes[0], to_other, homes[1]);
            assert_eq!(
                came.flow().expect("udp").source,
                seen[0].flow().expect("udp").source
            );
            world.reach(homes[1], answer(&came), homes[0]);
        }
    }
}

#[test]
fn ipv6_passes_untranslated_and_only_as_its_firewall_says() {
    let mut world = World::new(1);
    let server = world.host(Network::INTERNET, &["2001:db8:f::1"], Access::default());
    let firewall = NatConfig {
        mapping: crate::nat::Behavior::None,
        ..NatConfig::default()
    };
    let mut config = RouterConfig::new(cone(), ip("203.0.113.7"), Access::default());
    config.ipv6 = firewall;
    let (_, lan) = world
        .network
        .add_router(Network::INTERNET, config)
        .expect("a possible router");
    let a = world.host(lan, &["10.0.0.2", "2001:db8:a::2"], Access::default());
    let (inside, outside) = ("[2001:db8:a::2]:1", "[2001:db8:f::1]:2");
    assert_eq!(
        world.lost(server, udp(outside, inside, 9)),
        Cause::Nat(crate::nat::DropReason::NoMapping)
    );
    let there = world.reach(a, udp(inside, outside, 9), server);
    assert_eq!(there.source, ip("2001:db8:a::2"));
    world.reach(server, udp(outside, inside, 9), a);
    world.network.detach(a);
    assert_eq!(
        world.lost(server, udp(outside, inside, 9)),
        Cause::Unroutable
    );
}

#[test]
fn a_small_mtu_is_reported_through_the_nat() {
    let small = LinkConfig {
        mtu: 1400,
        ..LinkConfig::default()
    };
    let narrow = || Access {
        up: LinkConfig::default(),
        down: small.clone(),
    };
    let mut world = World::new(1);
    let (_, lan) = world.router(Network::INTERNET, cone(), "203.0.113.7", 20);
    let a = world.host(lan, &["10.0.0.2"], Access::default());
    let _server = world.host(Network::INTERNET, &["198.51.100.1"], narrow());
    let sent = udp("10.0.0.2:4000", "198.51.100.1:80", 1400);
    let error = world.reach(a, sent.clone(), a);
    assert_eq!(error.reported_mtu(), Some(1400));
    let Body::IcmpError { quote, .. } = &error.body else {
        panic!("not an error: {error}");
    };
    assert_eq!(quote.flow(), sent.flow());
}

#[test]
fn the_first_link_and_the_routers_link_report_their_mtu_too() {
    let small = || {
        Access::symmetric(LinkConfig {
            mtu: 1400,
            ..LinkConfig::default()
        })
    };
    let mut world = World::new(1);
    let own = world.host(Network::INTERNET, &["198.51.100.1"], small());
    let error = world.reach(own, udp("198.51.100.1:1", "198.51.100.9:2", 1400), own);
    assert_eq!(error.reported_mtu(), Some(1400));
    let config = RouterConfig {
        inside: vec![ip("10.0.0.1")],
        ..RouterConfig::new(cone(), ip("203.0.113.7"), small())
    };
    let (router, lan) = world
        .network
        .add_router(Network::INTERNET, config)
        .expect("a possible router");
    let a = world.host(lan, &["10.0.0.2"], Access::default());
    let error = world.reach(a, udp("10.0.0.2:1", "198.51.100.1:2", 1400), a);
    assert_eq!(
        (error.reported_mtu(), error.source),
        (Some(1400), ip("10.0.0.1"))
    );
    assert_eq!(world.network.nat(router).map(Nat::mapping_count), Some(0));
}

#[test]
fn a_black_hole_says_nothing() {
    let mut world = World::new(1);
    let hole = LinkConfig {
        mtu: 1280,
        black_hole: true,
        ..LinkConfig::default()
    };
    let a = world.host(
        Network::INTERNET,
        &["198.51.100.1"],
        Access::symmetric(hole),
    );
    let big = udp("198.51.100.1:1", "198.51.100.9:2", 1400);
    assert_eq!(
        world.lost(a, big),
        Cause::Link(crate::link::LinkDrop::BlackHole)
    );
}

#[test]
fn a_low_ttl_opens_the_own_nat_and_dies_before_the_other() {
    let mut world = World::new(1);
    let (near, lan) = world.router(Network::INTERNET, cone(), "203.0.113.7", 20);
    let (far, _) = world.router(Network::INTERNET, cone(), "203.0.113.8", 20);
    let a = world.host(lan, &["10.0.0.2"], Access::default());
    world.send(a, udp("10.0.0.2:4000", "203.0.113.8:4000", 10).with_ttl(4));
    let (host, error) = world.next().expect("the core tells");
    assert_eq!(host, a);
    assert!(
        matches!(error.body, Body::IcmpError { icmp_type: 11, .. }),
        "{error}"
    );
    assert_eq!(world.network.nat(near).map(Nat::mapping_count), Some(1));
    assert!(world.network.nat(far).expect("a router").drops().is_empty());
    let stranger = udp("10.0.0.2:4000", "203.0.113.8:4000", 10);
    assert_eq!(
        world.lost(a, stranger),
        Cause::Nat(crate::nat::DropReason::NoMapping)
    );
}

#[test]
fn a_moved_host_is_reached_at_its_new_address_alone() {
    let mut world = World::new(1);
    let server = world.host(Network::INTERNET, &["198.51.100.1"], Access::default());
    let a = world.host(
        Network::INTERNET,
        &["198.51.100.2"],
        Access::delay(millis(5)),
    );
    // What is on its link is lost.
    world.send(a, udp("198.51.100.2:1", "198.51.100.1:2", 10));
    world.network.detach(a);
    assert_eq!(world.next(), None);
    world
        .network
        .attach(
            a,
            Network::INTERNET,
            &[ip("198.51.100.3")],
            Access::default(),
        )
        .expect("a free address");
    world.reach(a, udp("198.51.100.3:1", "198.51.100.1:2", 10), server);
    world.reach(server, udp("198.51.100.1:2", "198.51.100.3:1", 10), a);
    assert_eq!(
        world.lost(server, udp("198.51.100.1:2", "198.51.100.2:1", 10)),
        Cause::Unroutable
    );
}

#[test]
fn a_listener_on_the_core_sees_what_passes_there() {
    let mut world = World::new(1);
    world.network.capture(Network::INTERNET, 1);
    let server = world.host(Network::INTERNET, &["198.51.100.1"], Access::default());
    let (_, lan) = world.router(Network::INTERNET, cone(), "203.0.113.7", 20);
    let a = world.host(lan, &["10.0.0.2"], Access::default());
    let there = world.reach(a, udp("10.0.0.2:4000", "198.51.100.1:80", 10), server);
    world.reach(server, answer(&there), a);
    let capture = world.network.captured(Network::INTERNET).expect("wanted");
    assert_eq!((capture.packets().len(), capture.missed()), (1, 1));
    assert_eq!(
        (capture.packets()[0].at, capture.packets()[0].packet.source),
        (millis(20), ip("203.0.113.7"))
    );
}

#[test]
fn the_log_says_what_happened() {
    let mut world = World::new(1);
    let (_, lan) = world.router(Network::INTERNET, cone(), "203.0.113.7", 20);
    let a = world.host(lan, &["10.0.0.2"], Access::default());
    world.send(a, udp("10.0.0.2:4000", "198.51.100.1:80", 10));
    assert_eq!(world.next(), None);
    let expected = "   0.000000000 host 0 sent udp 10.0.0.2:4000 > 198.51.100.1:80 38 B
   0.000000000 router 0 out udp 203.0.113.7:4000 > 198.51.100.1:80 38 B
   0.020000000 the core dropped (unroutable) udp 203.0.113.7:4000 > 198.51.100.1:80 38 B
";
    assert_eq!(world.network.log().to_string(), expected);
}

/// A busy minute with every kind of chance in it; the log's hash.
fn busy(seed: u64) -> (u64, u64) {
    let chance = |number| Probability::new(number).expect("between 0 and 1");
    let bad = LinkConfig {
        jitter: millis(30),
        loss: chance(0.1),
        reorder: chance(0.1),
        duplicate: chance(0.1),
        rate: Some(1_000_000),
        queue: 5000,
        ..LinkConfig::delay(millis(20))
    };
    let mut world = World::new(seed);
    let server = world.host(Network::INTERNET, &["198.51.100.1"], Access::default());
    let config = RouterConfig::new(
        Preset::Symmetric.config(),
        ip("203.0.113.7"),
        Access::symmetric(bad),
    );
    let (_, lan) = world
        .network
        .add_router(Network::INTERNET, config)
        .expect("a possible router");
    let a = world.host(lan, &["10.0.0.2"], Access::default());
    for port in 1..100 {
        world.send(a, udp(&format!("10.0.0.2:{port}"), "198.51.100.1:80", 200));
    }
    let mut steps = 0;
    while let Some((host, packet)) = world.next() {
        steps += 1;
        assert!(steps < 10_000);
        if host == server {
            world.send(server, answer(&packet));
        }
    }
    (world.network.log().hash(), world.network.log().count())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn one_seed_one_log(seed: u64, other: u64) {
        prop_assert_eq!(busy(seed), busy(seed));
        prop_assert!(seed == other || busy(seed) != busy(other));
    }
}
