//! Claims about a NAT: each axis alone, and what holds for all of them together.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::packet::Quote;

mod axes;

const OUTSIDE: &str = "203.0.113.7";

fn endpoint(text: &str) -> SocketAddr {
    text.parse().expect("an endpoint")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn udp(source: &str, destination: &str) -> Packet {
    Packet::udp(endpoint(source), endpoint(destination), vec![1, 2, 3])
}

fn nat(config: NatConfig) -> Nat {
    Nat::new(config, vec![ip(OUTSIDE)], 1).expect("a possible NAT")
}

fn forwarded(verdict: Verdict) -> Packet {
    match verdict {
        Verdict::Forward(packet) => packet,
        other @ (Verdict::Hairpin(_) | Verdict::Drop(_) | Verdict::Reply(_) | Verdict::Held) => {
            panic!("not forwarded: {other:?}")
        }
    }
}

/// The outside endpoint by which the inside one reaches the remote one.
fn outside(nat: &mut Nat, inside: &str, remote: &str, now: Instant) -> SocketAddr {
    let packet = forwarded(nat.outbound(udp(inside, remote), now));
    packet.flow().expect("udp").source
}

fn inbound(nat: &mut Nat, remote: &str, outside: SocketAddr, now: Instant) -> Verdict {
    nat.inbound(Packet::udp(endpoint(remote), outside, vec![4]), now)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const A: &str = "10.0.0.2:4000";
const B: &str = "10.0.0.3:5000";
const S1: &str = "198.51.100.1:1000";
const S1_OTHER_PORT: &str = "198.51.100.1:1001";
const S2: &str = "198.51.100.2:1000";

#[test]
fn mapping_depends_on_as_much_as_it_says() {
    use Behavior::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
    for (mapping, same_for_other_port, same_for_other_address) in [
        (EndpointIndependent, true, true),
        (AddressDependent, true, false),
        (AddressAndPortDependent, false, false),
    ] {
        let now = Instant::now();
        let mut nat = nat(NatConfig::of(
            mapping,
            EndpointIndependent,
            Allocation::Random,
        ));
        let first = outside(&mut nat, A, S1, now);
        assert_eq!(first.ip(), ip(OUTSIDE));
        assert_eq!(outside(&mut nat, A, S1, now), first);
        assert_eq!(
            outside(&mut nat, A, S1_OTHER_PORT, now) == first,
            same_for_other_port
        );
        assert_eq!(
            outside(&mut nat, A, S2, now) == first,
            same_for_other_address
        );
        assert_ne!(outside(&mut nat, B, S1, now), first);
    }
}

#[test]
fn filtering_admits_as_many_as_it_says() {
    use Behavior::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
    for (filtering, other_port, other_address) in [
        (EndpointIndependent, true, true),
        (AddressDependent, true, false),
        (AddressAndPortDependent, false, false),
    ] {
        let now = Instant::now();
        let mut nat = nat(NatConfig::of(
            EndpointIndependent,
            filtering,
            Allocation::Random,
        ));
        let mapped = outside(&mut nat, A, S1, now);
        for (remote, admitted) in [(S1, true), (S1_OTHER_PORT, other_port), (S2, other_address)] {
            let verdict = inbound(&mut nat, remote, mapped, now);
            if admitted {
                assert_eq!(
                    forwarded(verdict).flow().expect("udp").destination,
                    endpoint(A)
                );
            } else {
                assert_eq!(verdict, Verdict::Drop(DropReason::Filtered));
            }
        }
        let nobody = SocketAddr::new(ip(OUTSIDE), mapped.port() ^ 1);
        assert_eq!(
            inbound(&mut nat, S1, nobody, now),
            Verdict::Drop(DropReason::NoMapping)
        );
        assert_eq!(nat.drops().get(&DropReason::NoMapping), Some(&1));
    }
}

#[test]
fn an_open_router_and_a_firewall_translate_nothing() {
    let now = Instant::now();
    let mut open = nat(Preset::Open.config());
    assert_eq!(forwarded(open.outbound(udp(A, S1), now)), udp(A, S1));
    assert_eq!(forwarded(open.inbound(udp(S2, A), now)), udp(S2, A));
    let config = NatConfig {
        mapping: Behavior::None,
        ..NatConfig::default()
    };
    let mut firewall = Nat::new(config, Vec::new(), 1).expect("a firewall");
    let (a, s, t) = (
        "[2001:db8:1::2]:4000",
        "[2001:db8:2::1]:53",
        "[2001:db8:2::1]:54",
    );
    assert_eq!(
        firewall.inbound(udp(s, a), now),
        Verdict::Drop(DropReason::NoMapping)
    );
    assert_eq!(forwarded(firewall.outbound(udp(a, s), now)), udp(a, s));
    assert_eq!(forwarded(firewall.inbound(udp(s, a), now)), udp(s, a));
    assert_eq!(
        firewall.inbound(udp(t, a), now),
        Verdict::Drop(DropReason::Filtered)
    );
}

#[test]
fn allocation_gives_ports_as_it_says() {
    let now = Instant::now();
    let allocation = |allocation| {
        NatConfig::of(
            Behavior::AddressAndPortDependent,
            Behavior::AddressAndPortDependent,
            allocation,
        )
    };
    let mut preserving = nat(allocation(Allocation::Preserving));
    assert_eq!(outside(&mut preserving, A, S1, now).port(), 4000);
    assert_ne!(outside(&mut preserving, A, S2, now).port(), 4000);
    let mut sequential = nat(allocation(Allocation::Sequential));
    let first = outside(&mut sequential, A, S1, now).port();
    assert_eq!(outside(&mut sequential, B, S2, now).port(), first + 1);
    let mut random = nat(allocation(Allocation::Random));
    let first = outside(&mut random, A, S1, now).port();
    assert!(outside(&mut random, A, S2, now).port().abs_diff(first) > 1);
}

#[test]
fn a_nat_without_free_ports_refuses() {
    let now = Instant::now();
    let mut config = Preset::Symmetric.config();
    (config.ports.first, config.ports.last) = (5000, 5001);
    let mut nat = nat(config);
    outside(&mut nat, A, S1, now);
    outside(&mut nat, A, S2, now);
    assert_eq!(
        nat.outbound(udp(B, S1), now),
        Verdict::Drop(DropReason::NoPort)
    );
    // A timer gives ports back.
    let later = now + seconds(31);
    outside(&mut nat, B, S1, later);
}

#[test]
fn hairpin_comes_back_as_it_says() {
    for (mode, source) in [
        (Hairpin::None, None),
        (Hairpin::InternalSource, Some(B)),
        (Hairpin::ExternalSource, Some("203.0.113.7:5000")),
    ] {
        let now = Instant::now();
        let mut nat = nat(NatConfig {
            hairpin: mode,
            filtering: Behavior::EndpointIndependent,
            ..NatConfig::default()
        });
        let mapped = outside(&mut nat, A, S1, now).to_string();
        let verdict = nat.outbound(udp(B, &mapped), now);
        match source {
            None => assert_eq!(verdict, Verdict::Drop(DropReason::Hairpin)),
            Some(source) => assert_eq!(verdict, Verdict::Hairpin(udp(source, A))),
        }
    }
}

#[test]
fn filters_see_hairpins_outside_source() {
    let now = Instant::now();
    let mut nat = nat(NatConfig {
        hairpin: Hairpin::InternalSource,
        ..NatConfig::default()
    });
    let (a, b) = (outside(&mut nat, A, S1, now), outside(&mut nat, B, S1, now));
    let to = |from: &str, to: SocketAddr| udp(from, &to.to_string());
    assert_eq!(
        nat.outbound(to(A, b), now),
        Verdict::Drop(DropReason::Filtered)
    );
    assert_eq!(nat.outbound(to(B, a), now), Verdict::Hairpin(udp(B, A)));
    assert_eq!(nat.outbound(to(A, b), now), Verdict::Hairpin(udp(A, B)));
}

#[test]
fn idle_timers_are_short_before_a_reply_and_long_after() {
    let start = Instant::now();
    let mut nat = nat(NatConfig::default());
    let mapped = outside(&mut nat, A, S1, start);
    let verdict = inbound(&mut nat, S1, mapped, start + seconds(30));
    assert_eq!(verdict, Verdict::Drop(DropReason::NoMapping));
    let mapped = outside(&mut nat, A, S1, start + seconds(30));
    forwarded(inbound(&mut nat, S1, mapped, start + seconds(59)));
    forwarded(inbound(&mut nat, S1, mapped, start + seconds(59 + 119)));
    let verdict = inbound(&mut nat, S1, mapped, start + seconds(59 + 119 + 120));
    assert_eq!(verdict, Verdict::Drop(DropReason::NoMapping));
    assert_eq!((nat.mapping_count(), nat.counters().expired), (0, 2));
}

#[test]
fn only_the_right_direction_refreshes() {
    for (refresh, out, in_) in [
        (Refresh::Out, true, false),
        (Refresh::In, false, true),
        (Refresh::Both, true, true),
    ] {
        for (direction_out, lives) in [(true, out), (false, in_)] {
            let start = Instant::now();
            let mut config = NatConfig::default();
            config.timers.refresh = refresh;
            let mut nat = nat(config);
            let mapped = outside(&mut nat, A, S1, start);
            forwarded(inbound(&mut nat, S1, mapped, start));
            let almost = start + seconds(119);
            if direction_out {
                outside(&mut nat, A, S1, almost);
            } else {
                forwarded(inbound(&mut nat, S1, mapped, almost));
            }
            nat.handle_timeout(start + seconds(121));
            assert_eq!(
                nat.mapping_count() == 1,
                lives,
                "{refresh:?} {direction_out}"
            );
        }
    }
}

#[test]
fn an_absolute_lifetime_ends_a_busy_mapping() {
    let start = Instant::now();
    let mut config = NatConfig::default();
    config.timers.lifetime = Some(seconds(50));
    let mut nat = nat(config);
    let mapped = outside(&mut nat, A, S1, start);
    for second in 1..50 {
        outside(&mut nat, A, S1, start + seconds(second));
        forwarded(inbound(&mut nat, S1, mapped, start + seconds(second)));
    }
    let verdict = inbound(&mut nat, S1, mapped, start + seconds(50));
    assert_eq!(verdict, Verdict::Drop(DropReason::NoMapping));
}

#[test]
fn with_state_per_session_a_filter_closes_by_itself() {
    for (state, admitted) in [(State::PerMapping, true), (State::PerSession, false)] {
        let start = Instant::now();
        let mut config = NatConfig::default();
        config.timers.state = state;
        let mut nat = nat(config);
        let mapped = outside(&mut nat, A, S1, start);
        outside(&mut nat, A, S2, start + seconds(20));
        let verdict = inbound(&mut nat, S1, mapped, start + seconds(40));
        assert_eq!(matches!(verdict, Verdict::Forward(_)), admitted);
        nat.handle_timeout(start + seconds(300));
        assert_eq!((nat.mapping_count(), nat.session_count()), (0, 0));
    }
}

#[test]
fn an_answer_leaves_by_the_mapping_by_which_the_question_came() {
    for reuse_inbound in [true, false] {
        let now = Instant::now();
        let mut config = NatConfig::of(
            Behavior::AddressAndPortDependent,
            Behavior::EndpointIndependent,
            Allocation::Random,
        );
        config.timers.state = State::PerSession;
        config.reuse_inbound = reuse_inbound;
        let mut nat = nat(config);
        let mapped = outside(&mut nat, A, S1, now);
        forwarded(inbound(&mut nat, S2, mapped, now));
        assert_eq!(outside(&mut nat, A, S2, now) == mapped, reuse_inbound);
    }
}

#[test]
fn a_full_table_refuses_or_forgets_the_oldest() {
    type Set = fn(&mut Limits);
    let limits: [Set; 4] = [
        |limits| limits.mappings = 2,
        |limits| limits.mappings_per_host = 2,
        |limits| limits.sessions = 2,
        |limits| limits.sessions_per_host = 2,
    ];
    for set in limits {
        let now = Instant::now();
        let mut config = Preset::Symmetric.config();
        set(&mut config.limits);
        config.timers.state = State::PerSession;
        let mut refusing = nat(config.clone());
        let mapped = outside(&mut refusing, A, S1, now);
        outside(&mut refusing, A, S2, now);
        assert_eq!(
            refusing.outbound(udp(A, S1_OTHER_PORT), now),
            Verdict::Drop(DropReason::TableFull)
        );
        forwarded(inbound(&mut refusing, S1, mapped, now));
        config.limits.overflow = Overflow::EvictOldest;
        let mut evicting = nat(config);
        let mapped = outside(&mut evicting, A, S1, now);
        outside(&mut evicting, A, S2, now);
        outside(&mut evicting, A, S1_OTHER_PORT, now);
        assert_eq!(
            inbound(&mut evicting, S1, mapped, now),
            Verdict::Drop(DropReason::NoMapping)
        );
        assert_eq!(
            (evicting.mapping_count(), evicting.counters().evicted),
            (2, 1)
        );
    }
}

#[test]
fn one_hosts_limit_is_not_anothers() {
    let now = Instant::now();
    let mut config = Preset::Symmetric.config();
    config.limits.mappings_per_host = 1;
    let mut nat = nat(config);
    outside(&mut nat, A, S1, now);
    outside(&mut nat, B, S1, now);
    assert_eq!(
        nat.outbound(udp(A, S2), now),
        Verdict::Drop(DropReason::TableFull)
    );
}

#[test]
fn paired_pooling_keeps_a_hosts_address() {
    let addresses = ["203.0.113.7", "203.0.113.8", "203.0.113.9", "2001:db8::1"]
        .map(ip)
        .to_vec();
    for pooling in [Pooling::Paired, Pooling::Arbitrary] {
        let now = Instant::now();
        let config = NatConfig {
            pooling,
            ..Preset::Symmetric.config()
        };
        let mut nat = Nat::new(config, addresses.clone(), 1).expect("a possible NAT");
        let mut used = std::collections::BTreeSet::new();
        for port in 1..50 {
            used.insert(outside(&mut nat, A, &format!("198.51.100.1:{port}"), now).ip());
        }
        assert_eq!(used.len(), if pooling == Pooling::Paired { 1 } else { 3 });
        assert_eq!(
            outside(&mut nat, "[fd00::2]:1", "[2001:db8:9::1]:2", now).ip(),
            ip("2001:db8::1")
        );
    }
}

#[test]
fn tcp_and_ping_are_translated_too() {
    let now = Instant::now();
    let mut nat = nat(Preset::Symmetric.config());
    let segment = vec![0; 16];
    let tcp = |source: SocketAddr, destination: SocketAddr| {
        let (source_port, destination_port) = (source.port(), destination.port());
        let body = Body::Tcp {
            source_port,
            destination_port,
            segment: segment.clone(),
        };
        Packet::new(source.ip(), destination.ip(), body)
    };
    let left = forwarded(nat.outbound(tcp(endpoint(A), endpoint(S1)), now))
        .flow()
        .expect("tcp");
    let back = forwarded(nat.inbound(tcp(endpoint(S1), left.source), now));
    assert_eq!(back, tcp(endpoint(S1), endpoint(A)));

    let ping = |request, identifier, source: &str, destination: &str| {
        Packet::new(
            ip(source),
            ip(destination),
            Body::IcmpEcho {
                request,
                identifier,
                sequence: 3,
                payload: vec![9; 8],
            },
        )
    };
    let left = forwarded(nat.outbound(ping(true, 77, "10.0.0.2", "198.51.100.1"), now));
    let Body::IcmpEcho { identifier, .. } = left.body else {
        panic!("not a ping: {left}");
    };
    let back = forwarded(nat.inbound(ping(false, identifier, "198.51.100.1", OUTSIDE), now));
    assert_eq!(back, ping(false, 77, "198.51.100.1", "10.0.0.2"));
    let stranger = nat.inbound(ping(false, identifier, "198.51.100.2", OUTSIDE), now);
    assert_eq!(stranger, Verdict::Drop(DropReason::Filtered));
    let asked = nat.inbound(ping(true, identifier, "198.51.100.1", OUTSIDE), now);
    assert_eq!(asked, Verdict::Drop(DropReason::NoMapping));
}

#[test]
fn errors_are_translated_by_the_packet_that_they_are_about() {
    let now = Instant::now();
    let mut nat = nat(Preset::Symmetric.config());
    let inside = udp(A, S1);
    let left = forwarded(nat.outbound(inside.clone(), now));
    let router = ip("192.0.2.200");
    let error = |about: &Packet, from| {
        about
            .error(from, IcmpError::TooBig { mtu: 1400 })
            .expect("an error")
    };
    let came = forwarded(nat.inbound(error(&left, router), now));
    assert_eq!(came, error(&inside, router));
    assert_eq!(came.reported_mtu(), Some(1400));

    let mapped = left.flow().expect("udp").source;
    let answer = Packet::udp(endpoint(S1), mapped, vec![4]);
    let entered = forwarded(nat.inbound(answer.clone(), now));
    let refused = forwarded(nat.outbound(error(&entered, ip("10.0.0.2")), now));
    assert_eq!(refused, error(&answer, ip(OUTSIDE)));

    let stray = error(&udp("203.0.113.7:9", S1), router);
    assert_eq!(
        nat.inbound(stray, now),
        Verdict::Drop(DropReason::StrayError)
    );
    let cut = Packet::new(
        router,
        ip(OUTSIDE),
        Body::IcmpError {
            icmp_type: 3,
            code: 3,
            parameter: 0,
            quote: Quote::from_bytes(vec![0x45; 21]),
        },
    );
    assert_eq!(nat.inbound(cut, now), Verdict::Drop(DropReason::StrayError));
}

#[test]
fn an_error_about_a_hairpin_comes_back_to_its_sender() {
    let now = Instant::now();
    let mut nat = nat(NatConfig {
        hairpin: Hairpin::ExternalSource,
        filtering: Behavior::EndpointIndependent,
        ..NatConfig::default()
    });
    let a = outside(&mut nat, A, S1, now).to_string();
    let sent = udp(B, &a);
    let Verdict::Hairpin(came) = nat.outbound(sent.clone(), now) else {
        panic!("no hairpin");
    };
    let refused = came
        .error(ip("10.0.0.2"), IcmpError::PortUnreachable)
        .expect("an error");
    let about = sent
        .error(ip(OUTSIDE), IcmpError::PortUnreachable)
        .expect("an error");
    assert_eq!(nat.outbound(refused, now), Verdict::Hairpin(about));
}

#[test]
fn what_nobody_waits_for_may_be_answered() {
    let now = Instant::now();
    let mut nat = nat(NatConfig {
        unsolicited: Unsolicited::Icmp,
        ..NatConfig::default()
    });
    let stray = udp(S1, "203.0.113.7:9");
    let reply = stray
        .error(ip(OUTSIDE), IcmpError::PortUnreachable)
        .expect("an error");
    assert_eq!(nat.inbound(stray, now), Verdict::Reply(reply));
}

#[test]
fn strange_protocols_do_not_pass_a_nat() {
    let now = Instant::now();
    let mut nat = nat(NatConfig::default());
    let packet = |body| Packet::new(ip("10.0.0.2"), ip("198.51.100.1"), body);
    let sctp = packet(Body::Other {
        protocol: 132,
        payload: Vec::new(),
    });
    assert_eq!(nat.outbound(sctp, now), Verdict::Drop(DropReason::Protocol));
}

#[test]
fn a_reboot_forgets_everything() {
    let now = Instant::now();
    let mut nat = nat(NatConfig::default());
    let mapped = outside(&mut nat, A, S1, now);
    nat.reboot();
    assert_eq!(
        inbound(&mut nat, S1, mapped, now),
        Verdict::Drop(DropReason::NoMapping)
    );
    assert_eq!((nat.mapping_count(), nat.session_count()), (0, 0));
}

#[test]
fn a_nat_without_an_address_is_refused() {
    let error = Nat::new(NatConfig::default(), Vec::new(), 1).expect_err("no address");
    assert_eq!(error, NatConfigError::NoOutsideAddress);
}

#[test]
fn timers_of_evicted_mappings_do_not_pile_up() {
    let now = Instant::now();
    let mut config = Preset::Symmetric.config();
    (config.limits.mappings, config.limits.overflow) = (10, Overflow::EvictOldest);
    let mut nat = nat(config);
    for port in 1..5000 {
        outside(&mut nat, A, &format!("198.51.100.1:{port}"), now);
    }
    assert!(nat.mappings.timers() < 2000, "{}", nat.mappings.timers());
}

/// The plainest NAT that could be right: lists, looked through from end to end.
#[derive(Default)]
struct Reference {
    mappings: Vec<ReferenceMapping>,
}

struct ReferenceMapping {
    inside: SocketAddr,
    outside: SocketAddr,
    first_remote: SocketAddr,
    contacted: Vec<SocketAddr>,
    seen: Instant,
    replied: bool,
}

fn same(behavior: Behavior, a: SocketAddr, b: SocketAddr) -> bool {
    match behavior {
        Behavior::None | Behavior::EndpointIndependent => true,
        Behavior::AddressDependent => a.ip() == b.ip(),
        Behavior::AddressAndPortDependent => a == b,
    }
}

impl Reference {
    fn expire(&mut self, now: Instant) {
        self.mappings
            .retain(|mapping| now < mapping.seen + seconds(if mapping.replied { 120 } else { 30 }));
    }

    fn outbound(
        &mut self,
        config: &NatConfig,
        inside: SocketAddr,
        remote: SocketAddr,
        outside: SocketAddr,
        now: Instant,
    ) {
        let known = self.mappings.iter_mut().find(|mapping| {
            mapping.inside == inside && same(config.mapping, mapping.first_remote, remote)
        });
        if let Some(mapping) = known {
            assert_eq!(
                mapping.outside, outside,
                "a mapping is stable while it lives"
            );
            mapping.contacted.push(remote);
            mapping.seen = now;
            return;
        }
        assert!(
            self.mappings
                .iter()
                .all(|mapping| mapping.outside != outside),
            "an outside endpoint belongs to one mapping"
        );
        self.mappings.push(ReferenceMapping {
            inside,
            outside,
            first_remote: remote,
            contacted: vec![remote],
            seen: now,
            replied: false,
        });
    }

    fn inbound(
        &mut self,
        config: &NatConfig,
        outside: SocketAddr,
        remote: SocketAddr,
        now: Instant,
    ) -> Option<SocketAddr> {
        let mapping = self
            .mappings
            .iter_mut()
            .find(|mapping| mapping.outside == outside)?;
        mapping
            .contacted
            .iter()
            .any(|&contacted| same(config.filtering, contacted, remote))
            .then(|| {
                (mapping.seen, mapping.replied) = (now, true);
                mapping.inside
            })
    }
}

#[derive(Clone, Debug)]
enum Action {
    Out {
        host: u8,
        port: u16,
        remote: u8,
        remote_port: u16,
    },
    In {
        port: u16,
        remote: u8,
        remote_port: u16,
    },
    Wait(u64),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (0u8..3, 0u16..3, 0u8..3, 0u16..3).prop_map(|(host, port, remote, remote_port)| Action::Out { host, port, remote, remote_port }),
        4 => (0u16..8, 0u8..3, 0u16..3).prop_map(|(port, remote, remote_port)| Action::In { port, remote, remote_port }),
        1 => (1u64..60).prop_map(Action::Wait),
    ]
}

proptest! {
    #[test]
    fn it_does_what_the_plainest_nat_does(
        mapping in prop::sample::select(Behavior::ALL.to_vec()),
        filtering in prop::sample::select(Behavior::ALL.to_vec()),
        allocation in prop::sample::select(Allocation::ALL.to_vec()),
        actions in prop::collection::vec(action(), 1..120),
        seed: u64,
    ) {
        let mut config = NatConfig::of(mapping, filtering, allocation);
        // So few ports that packets from outside often meet a mapping, and that some mappings are refused.
        (config.ports.first, config.ports.last) = (2000, 2007);
        config.ports.fallback = Allocation::Sequential;
        let mut nat = Nat::new(config.clone(), vec![ip(OUTSIDE)], seed).expect("a possible NAT");
        let (mut reference, mut now) = (Reference::default(), Instant::now());
        let address = |net: u8, host: u8, port: u16| SocketAddr::new(IpAddr::from([net, 0, 0, host + 1]), 2000 + port);
        for action in actions {
            match action {
                Action::Wait(time) => now += seconds(time),
                Action::Out { host, port, remote, remote_port } => {
                    let (inside, remote) = (address(10, host, port), address(198, remote, remote_port));
                    match nat.outbound(Packet::udp(inside, remote, vec![]), now) {
                        Verdict::Forward(packet) => {
                            let flow = packet.flow().expect("udp");
                            prop_assert_eq!(flow.destination, remote);
                            reference.outbound(&config, inside, remote, flow.source, now);
                        }
                        other @ (Verdict::Hairpin(_) | Verdict::Drop(_) | Verdict::Reply(_) | Verdict::Held) => {
                            prop_assert_eq!(other, Verdict::Drop(DropReason::NoPort));
                            prop_assert_eq!(reference.mappings.len(), 8);
                        }
                    }
                }
                Action::In { port, remote, remote_port } => {
                    let (outside, remote) = (SocketAddr::new(ip(OUTSIDE), 2000 + port), address(198, remote, remote_port));
                    let admitted = match nat.inbound(Packet::udp(remote, outside, vec![]), now) {
                        Verdict::Forward(packet) => {
                            let flow = packet.flow().expect("udp");
                            prop_assert_eq!(flow.source, remote);
                            Some(flow.destination)
                        }
                        Verdict::Hairpin(_) | Verdict::Drop(_) | Verdict::Reply(_) | Verdict::Held => None,
                    };
                    prop_assert_eq!(admitted, reference.inbound(&config, outside, remote, now));
                }
            }
            reference.expire(now);
            nat.handle_timeout(now);
            prop_assert_eq!(nat.mapping_count(), reference.mappings.len());
        }
    }

    /// With every axis at random: nothing is shared, limits hold, nothing is left over.
    #[test]
    fn limits_hold_and_nothing_is_left_over(
        mapping in prop::sample::select(Behavior::ALL.to_vec()),
        filtering in prop::sample::select(Behavior::ALL.to_vec()),
        per_session: bool,
        reuse: bool,
        evict: bool,
        hairpin in prop::sample::select(vec![Hairpin::None, Hairpin::InternalSource, Hairpin::ExternalSource]),
        caps in (1usize..6, 1usize..6, 1usize..6, 1usize..6),
        actions in prop::collection::vec(action(), 1..120),
        seed: u64,
    ) {
        let mut config = NatConfig::of(mapping, filtering, Allocation::Random);
        (config.ports.first, config.ports.last) = (2000, 2007);
        config.hairpin = hairpin;
        config.timers.state = if per_session { State::PerSession } else { State::PerMapping };
        config.reuse_inbound = reuse && per_session;
        let (mappings, mappings_per_host, sessions, sessions_per_host) = caps;
        let overflow = if evict { Overflow::EvictOldest } else { Overflow::Refuse };
        config.limits = Limits { mappings, mappings_per_host, sessions, sessions_per_host, overflow, ..Limits::default() };
        let mut nat = Nat::new(config, vec![ip(OUTSIDE)], seed).expect("a possible NAT");
        let mut now = Instant::now();
        for action in actions {
            let remote = |remote: u8, port: u16| match remote {
                0 => SocketAddr::new(ip(OUTSIDE), 2000 + port),
                _ => SocketAddr::new(IpAddr::from([198, 0, 0, remote]), port),
            };
            match action {
                Action::Wait(time) => now += seconds(time),
                Action::Out { host, port, remote: to, remote_port } => {
                    let inside = SocketAddr::new(IpAddr::from([10, 0, 0, host + 1]), 2000 + port);
                    nat.outbound(Packet::udp(inside, remote(to, remote_port), vec![]), now);
                }
                Action::In { port, remote: from, remote_port } => {
                    let outside = SocketAddr::new(ip(OUTSIDE), 2000 + port);
                    nat.inbound(Packet::udp(remote(from, remote_port), outside, vec![]), now);
                }
            }
            prop_assert!(nat.mapping_count() <= mappings && nat.session_count() <= sessions);
            let mut outside: Vec<_> = nat.mappings().map(|mapped| mapped.outside).collect();
            outside.sort();
            outside.dedup();
            prop_assert_eq!(outside.len(), nat.mapping_count());
        }
        nat.handle_timeout(now + seconds(1000));
        prop_assert_eq!((nat.mapping_count(), nat.session_count(), nat.poll_timeout()), (0, 0, None));
    }
}
