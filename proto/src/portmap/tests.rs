//! Claims about a gateway that speaks, one that speaks the older protocol, one that lies, and none.

use super::*;

fn at(text: &str) -> SocketAddrV4 {
    text.parse().expect("an address")
}

fn wished(now: Instant) -> Portmap {
    let mut portmap = Portmap::new([9; 32]);
    let wish = Wish {
        gateway: Ipv4Addr::new(192, 168, 1, 1),
        inside: at("192.168.1.2:47001"),
    };
    portmap.set_wish(Some(wish), now);
    portmap
}

const GATEWAY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 168, 1, 1)), SERVER_PORT);

/// A gateway's answers.
#[derive(Clone, Copy, PartialEq)]
enum Speaks {
    Pcp,
    NatPmp,
    Nothing,
    Refuses,
}

/// Runs it for a while before such a gateway; how many requests were sent.
fn run(
    portmap: &mut Portmap,
    speaks: Speaks,
    epoch: u32,
    now: &mut Instant,
    time: Duration,
) -> usize {
    let (until, mut sent, start) = (*now + time, 0, *now);
    while portmap.poll_timeout().is_some_and(|next| next <= until) {
        *now = portmap.poll_timeout().expect("checked").max(*now);
        portmap.handle_timeout(*now);
        while let Some((to, request)) = portmap.poll_transmit() {
            assert_eq!(to, GATEWAY);
            sent += 1;
            let age = u32::try_from((*now - start).as_secs()).expect("short") + epoch;
            if let Some(answer) = answers(&request, speaks, age) {
                portmap.handle_datagram(GATEWAY, &answer, *now);
            }
        }
    }
    *now = until;
    sent
}

fn answers(request: &[u8], speaks: Speaks, epoch: u32) -> Option<Vec<u8>> {
    let epoch = epoch.to_be_bytes();
    match (speaks, request) {
        (Speaks::Pcp | Speaks::Refuses, [2, 1, ..]) => {
            let mut answer = request.to_vec();
            answer[1] |= 0x80;
            answer[3] = u8::from(speaks == Speaks::Refuses) * 2;
            answer[8..24].fill(0);
            answer[8..12].copy_from_slice(&epoch);
            answer[42..44].copy_from_slice(&250u16.to_be_bytes());
            answer[44..60]
                .copy_from_slice(&Ipv4Addr::new(198, 51, 100, 7).to_ipv6_mapped().octets());
            Some(answer)
        }
        (Speaks::NatPmp, [2, ..]) => Some(vec![0, 129, 0, 1, 0, 0, 0, 0]),
        (Speaks::NatPmp, [0, 0]) => {
            Some([&[0, 128, 0, 0][..], &epoch, &[198, 51, 100, 7]].concat())
        }
        (Speaks::NatPmp, [0, 1, ..]) => {
            let life = &request[8..12];
            Some([&[0, 129, 0, 0][..], &epoch, &request[4..6], &[0, 250], life].concat())
        }
        _ => None,
    }
}

#[test]
fn both_protocols_give_a_mapping_that_is_renewed_in_time() {
    for speaks in [Speaks::Pcp, Speaks::NatPmp] {
        let mut now = Instant::now();
        let mut portmap = wished(now);
        let sent = run(&mut portmap, speaks, 1000, &mut now, Duration::from_secs(5));
        assert!(sent <= 4, "{sent}");
        assert_eq!(portmap.mapped(), Some(at("198.51.100.7:250").into()));
        let day = Duration::from_secs(86_400);
        let sent = run(&mut portmap, speaks, 1005, &mut now, day);
        assert!(
            (19..=60).contains(&sent),
            "{sent}: each time at half of its life"
        );
        assert!(portmap.mapped().is_some());
        portmap.stop();
        let (_, last) = portmap.poll_transmit().expect("given back");
        assert!(last == [0, 0] || last[4..8] == [0; 4] || last[8..] == [0; 4]);
        assert_eq!(portmap.poll_timeout(), None);
    }
}

#[test]
fn a_silent_gateway_and_one_that_refuses_are_asked_little() {
    for speaks in [Speaks::Nothing, Speaks::Refuses] {
        let mut now = Instant::now();
        let mut portmap = wished(now);
        let sent = run(&mut portmap, speaks, 0, &mut now, Duration::from_secs(599));
        assert!(sent <= 15, "{sent}");
        assert_eq!(portmap.mapped(), None);
        assert!(portmap.status().problem.is_some());
        let sent = run(
            &mut portmap,
            Speaks::Pcp,
            0,
            &mut now,
            Duration::from_secs(60),
        );
        assert!(sent >= 1 && portmap.mapped().is_some(), "and again later");
    }
}

#[test]
fn nobody_else_gives_a_mapping() {
    let now = Instant::now();
    let mut portmap = wished(now);
    portmap.handle_timeout(now);
    let (_, request) = portmap.poll_transmit().expect("asked");
    let answer = answers(&request, Speaks::Pcp, 1).expect("an answer");
    let stranger = "192.168.1.66:5351".parse().expect("an address");
    assert!(!portmap.handle_datagram(stranger, &answer, now));
    let mut other_nonce = answer.clone();
    other_nonce[30] ^= 1;
    assert!(!portmap.handle_datagram(GATEWAY, &other_nonce, now));
    let mut nowhere = answer.clone();
    nowhere[56..60].fill(0);
    assert!(!portmap.handle_datagram(GATEWAY, &nowhere, now));
    let mut portmap = wished(now);
    portmap.handle_timeout(now);
    let (_, request) = portmap.poll_transmit().expect("asked");
    let answer = answers(&request, Speaks::Pcp, 1).expect("an answer");
    assert!(portmap.handle_datagram(GATEWAY, &answer, now));
    assert!(!portmap.handle_datagram(GATEWAY, &answer, now), "once");
}
