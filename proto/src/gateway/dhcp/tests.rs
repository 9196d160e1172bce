//! The server as clients see it.

use proptest::prelude::*;
use smoltcp::wire::{DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress};

use super::*;

const HOST: MacAddr = MacAddr([0, 0xac, 1, 2, 3, 4]);

struct Lan {
    server: Dhcp,
    pool: Pool,
    now: Instant,
}

/// An answer taken apart by another's codec.
#[derive(Debug)]
struct Heard {
    kind: DhcpMessageType,
    address: Ipv4Addr,
    to: MacAddr,
    bytes: Vec<u8>,
}

impl Heard {
    fn option(&self, code: u8) -> Option<Vec<u8>> {
        let packet = DhcpPacket::new_checked(&self.bytes[..]).expect("whole");
        let found = packet.options().find(|option| option.kind == code);
        found.map(|option| option.data.to_vec())
    }
}

fn card(number: u16) -> MacAddr {
    let [high, low] = number.to_be_bytes();
    MacAddr([2, 0, 0, 0, high, low])
}

impl Lan {
    fn new(settings: DhcpSettings) -> Self {
        let subnet = Subnet::default();
        let mut pool = Pool::new(subnet);
        pool.set_range(settings.first, settings.last)
            .expect("a range");
        Self {
            server: Dhcp::new(settings, subnet, HOST),
            pool,
            now: Instant::now(),
        }
    }

    fn usual() -> Self {
        Self::new(DhcpSettings::new(Subnet::default()))
    }

    fn say(&mut self, mac: MacAddr, change: impl FnOnce(&mut DhcpRepr<'_>)) -> Option<Heard> {
        let mut repr = DhcpRepr {
            message_type: DhcpMessageType::Discover,
            transaction_id: 7,
            secs: 0,
            client_hardware_address: EthernetAddress(mac.0),
            client_ip: Ipv4Addr::UNSPECIFIED,
            your_ip: Ipv4Addr::UNSPECIFIED,
            server_ip: Ipv4Addr::UNSPECIFIED,
            router: None,
            subnet_mask: None,
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            broadcast: false,
            requested_ip: None,
            client_identifier: None,
            server_identifier: None,
            parameter_request_list: None,
            dns_servers: None,
            max_size: None,
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        };
        change(&mut repr);
        let mut bytes = vec![0; repr.buffer_len()];
        repr.emit(&mut DhcpPacket::new_unchecked(&mut bytes[..]))
            .expect("room");
        self.send(&frame(mac, &bytes))
    }

    fn send(&mut self, frame: &[u8]) -> Option<Heard> {
        assert!(Dhcp::is_question(frame));
        let answer = self
            .server
            .handle_frame(frame, &mut self.pool, |_| None, self.now)?;
        let bytes = answer[42..].to_vec();
        let packet = DhcpPacket::new_checked(&bytes[..]).expect("whole");
        let repr = DhcpRepr::parse(&packet).expect("right");
        let parsed = packet::Frame::parse(&answer).expect("whole");
        let checked = Packet::parse(parsed.kind, parsed.payload)
            .expect("IP")
            .expect("right");
        assert!(packet::verify(&checked));
        Some(Heard {
            kind: repr.message_type,
            address: repr.your_ip,
            to: parsed.to,
            bytes,
        })
    }

    /// The whole conversation.
    fn lease(&mut self, mac: MacAddr) -> Option<Ipv4Addr> {
        let offer = self.say(mac, |_| {})?;
        assert_eq!(offer.kind, DhcpMessageType::Offer);
        let ack = self.request(mac, offer.address)?;
        assert_eq!(
            (ack.kind, ack.address),
            (DhcpMessageType::Ack, offer.address)
        );
        Some(ack.address)
    }

    fn request(&mut self, mac: MacAddr, address: Ipv4Addr) -> Option<Heard> {
        self.say(mac, |repr| {
            repr.message_type = DhcpMessageType::Request;
            repr.requested_ip = Some(address);
            repr.server_identifier = Some(Subnet::default().address());
        })
    }
}

fn frame(mac: MacAddr, bytes: &[u8]) -> Vec<u8> {
    let header = Header {
        to: MacAddr::BROADCAST,
        from: mac,
        source: Ipv4Addr::UNSPECIFIED.into(),
        destination: Ipv4Addr::BROADCAST.into(),
        protocol: packet::UDP,
        ttl: 64,
        ident: 0,
        dont_fragment: false,
    };
    let length = u16::try_from(8 + bytes.len()).expect("short");
    let mut payload = vec![0, 68, 0, 67];
    payload.extend(length.to_be_bytes());
    payload.extend([0, 0]);
    payload.extend(bytes);
    put_checksum(&header, &mut payload, 6);
    let mut frame = vec![0; header.len()];
    frame.extend(payload);
    header.write(&mut frame, None);
    frame
}

#[test]
fn a_client_gets_an_address_and_all_that_belongs_to_it() {
    let mut settings = DhcpSettings::new(Subnet::default());
    settings.domain = "office.example".into();
    settings.routes = vec![([192, 168, 1, 0].into(), 24), ([10, 0, 0, 0].into(), 8)];
    let mut lan = Lan::new(settings);
    let offer = lan.say(card(1), |_| {}).expect("an offer");
    assert_eq!(offer.to, card(1));
    assert!((10..=200).contains(&offer.address.octets()[3]));
    let ack = lan.request(card(1), offer.address).expect("an answer");
    let expected: [(u8, &[u8]); 10] = [
        (54, &[192, 168, 30, 1]),
        (51, &[0, 0, 0x1c, 0x20]),
        (58, &[0, 0, 0x0e, 0x10]),
        (59, &[0, 0, 0x18, 0x9c]),
        (1, &[255, 255, 255, 0]),
        (28, &[192, 168, 30, 255]),
        (3, &[192, 168, 30, 1]),
        (6, &[192, 168, 30, 1]),
        (15, b"office.example"),
        (
            121,
            &[24, 192, 168, 1, 192, 168, 30, 1, 8, 10, 192, 168, 30, 1],
        ),
    ];
    for (code, value) in expected {
        assert_eq!(ack.option(code).as_deref(), Some(value), "option {code}");
    }
    let rows = lan.server.table(lan.now);
    assert_eq!(
        (rows.len(), rows[0].address, rows[0].left_seconds),
        (1, offer.address, 7200)
    );
    assert!(matches!(
        lan.server.poll_event(),
        Some(NatEvent::DhcpCreated {
            id: 1,
            seconds: 7200,
            ..
        })
    ));
}

#[test]
fn what_is_blank_is_left_out() {
    let mut settings = DhcpSettings::new(Subnet::default());
    settings.gateway = None;
    settings.dns.clear();
    let mut lan = Lan::new(settings);
    let offer = lan.say(card(1), |_| {}).expect("an offer");
    for code in [3, 6, 15, 121] {
        assert_eq!(offer.option(code), None, "option {code}");
    }
}

#[test]
fn the_same_client_gets_the_same_address_and_renews_it() {
    let mut lan = Lan::usual();
    let address = lan.lease(card(1)).expect("an address");
    lan.now += Duration::from_secs(3600);
    assert_eq!(lan.lease(card(1)), Some(address));
    let renewed = lan.say(card(1), |repr| {
        repr.message_type = DhcpMessageType::Request;
        repr.client_ip = address;
    });
    assert_eq!(renewed.expect("an answer").kind, DhcpMessageType::Ack);
    assert_eq!(lan.server.table(lan.now)[0].left_seconds, 7200);
    lan.now += Duration::from_secs(7201);
    lan.server.handle_timeout(&mut lan.pool, lan.now);
    assert!(lan.server.table(lan.now).is_empty());
}

#[test]
fn a_released_address_is_free_and_a_declined_one_is_nobodys_for_a_while() {
    let mut lan = Lan::usual();
    let address = lan.lease(card(1)).expect("an address");
    assert!(
        lan.say(card(1), |repr| {
            repr.message_type = DhcpMessageType::Release;
            repr.client_ip = address;
        })
        .is_none()
    );
    assert!(lan.server.table(lan.now).is_empty());
    assert_eq!(
        lan.request(card(2), address).expect("an answer").kind,
        DhcpMessageType::Ack
    );
    assert!(
        lan.say(card(2), |repr| {
            repr.message_type = DhcpMessageType::Decline;
            repr.requested_ip = Some(address);
        })
        .is_none()
    );
    assert_eq!(
        lan.request(card(3), address).expect("an answer").kind,
        DhcpMessageType::Nak
    );
    assert_ne!(lan.lease(card(2)), Some(address));
    lan.now += DECLINE_TIME;
    assert_eq!(
        lan.request(card(3), address).expect("an answer").kind,
        DhcpMessageType::Ack
    );
}

#[test]
fn who_asks_for_anothers_address_hears_no() {
    let mut lan = Lan::usual();
    let address = lan.lease(card(1)).expect("an address");
    for wanted in [
        address,
        [10, 0, 0, 1].into(),
        Subnet::default().address(),
        [192, 168, 30, 201].into(),
    ] {
        let answer = lan.request(card(2), wanted).expect("an answer");
        assert_eq!(
            (answer.kind, answer.to),
            (DhcpMessageType::Nak, MacAddr::BROADCAST),
            "{wanted}"
        );
    }
    assert!(
        lan.say(card(2), |repr| {
            repr.message_type = DhcpMessageType::Request;
            repr.requested_ip = Some(address);
            repr.server_identifier = Some([192, 168, 30, 9].into());
        })
        .is_none(),
        "another server was chosen"
    );
}

#[test]
fn a_reserved_address_is_kept_for_its_card() {
    let mut settings = DhcpSettings::new(Subnet::default());
    let kept = Ipv4Addr::new(192, 168, 30, 5);
    let inside = Ipv4Addr::new(192, 168, 30, 50);
    settings.reservations = vec![(card(1), kept), (card(2), inside)];
    let mut lan = Lan::new(settings);
    assert_eq!(lan.lease(card(1)), Some(kept));
    for other in 10..300 {
        assert_ne!(lan.lease(card(other)), Some(inside));
    }
    assert_eq!(lan.lease(card(2)), Some(inside));
}

#[test]
fn when_none_is_left_nobody_loses_his() {
    let mut lan = Lan::usual();
    let first: Vec<_> = (0..191).map(|n| lan.lease(card(n))).collect();
    assert!(first.iter().all(Option::is_some));
    assert_eq!(lan.lease(card(500)), None);
    assert_eq!(lan.server.counters().exhausted, 1);
    assert_eq!(lan.lease(card(7)), first[7]);
    let event = std::iter::from_fn(|| lan.server.poll_event()).last();
    assert_eq!(event, Some(NatEvent::DhcpExhausted { mac: card(500) }));
}

#[test]
fn an_offer_that_nobody_takes_is_free_again() {
    let mut lan = Lan::usual();
    for number in 0..191 {
        assert!(lan.say(card(number), |_| {}).is_some());
    }
    assert!(lan.say(card(500), |_| {}).is_none());
    lan.now += OFFER_TIME;
    assert!(lan.lease(card(500)).is_some());
}

#[test]
fn leases_survive_a_restart() {
    let mut lan = Lan::usual();
    let addresses: Vec<_> = (0..20)
        .map(|n| lan.lease(card(n)).expect("an address"))
        .collect();
    lan.now += Duration::from_secs(1000);
    let kept = lan.server.kept(lan.now);
    let mut again = Lan::usual();
    again.server.restore(kept, &mut again.pool, again.now);
    assert_eq!(again.server.table(again.now)[0].left_seconds, 6200);
    for other in 100..200 {
        let address = again.lease(card(other)).expect("an address");
        assert!(!addresses.contains(&address));
    }
    for (number, address) in (0..20).zip(&addresses) {
        assert_eq!(again.lease(card(number)), Some(*address));
    }
}

#[test]
fn a_members_own_card_is_the_member() {
    let mut lan = Lan::usual();
    let member = PeerId([9; 32]);
    let address = lan.pool.assign(member).expect("an address");
    let mut bytes = vec![0; 240];
    bytes[..3].copy_from_slice(&[1, 1, 6]);
    bytes[28..34].copy_from_slice(&card(1).0);
    bytes[236..240].copy_from_slice(&[99, 130, 83, 99]);
    bytes.extend([53, 1, 1, 255]);
    let frame = frame(card(1), &bytes);
    let answer = lan.server.handle_frame(
        &frame,
        &mut lan.pool,
        |mac| (mac == card(1)).then_some(member),
        lan.now,
    );
    let answer = answer.expect("an offer");
    assert_eq!(answer[42 + 16..42 + 20], address.octets());
}

#[test]
fn information_alone_needs_no_lease() {
    let mut lan = Lan::usual();
    let answer = lan.say(card(1), |repr| {
        repr.message_type = DhcpMessageType::Inform;
        repr.client_ip = [192, 168, 30, 5].into();
    });
    let answer = answer.expect("an answer");
    assert_eq!(
        (answer.kind, answer.option(51)),
        (DhcpMessageType::Ack, None)
    );
    assert!(lan.server.table(lan.now).is_empty());
}

#[test]
fn a_thousand_clients_are_served() {
    let subnet = Subnet::new([10, 9, 0, 1].into(), 16).expect("a subnet");
    let mut lan = Lan::usual();
    lan.server = Dhcp::new(DhcpSettings::new(subnet), subnet, HOST);
    lan.pool = Pool::new(subnet);
    let mut seen = std::collections::BTreeSet::new();
    for number in 0..1000 {
        let offer = lan.say(card(number), |_| {}).expect("an offer");
        let ack = lan.say(card(number), |repr| {
            repr.message_type = DhcpMessageType::Request;
            repr.requested_ip = Some(offer.address);
            repr.server_identifier = Some(subnet.address());
        });
        assert!(seen.insert(ack.expect("an answer").address));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_answered_or_not_and_never_end_it(bytes: Vec<u8>, options: Vec<u8>) {
        let mut lan = Lan::usual();
        let mut whole = vec![0; 240];
        whole[..3].copy_from_slice(&[1, 1, 6]);
        whole[28] = 2;
        whole[236..240].copy_from_slice(&[99, 130, 83, 99]);
        whole.extend(&options);
        for payload in [&bytes, &whole] {
            let frame = frame(card(1), payload);
            let answer = lan.server.handle_frame(&frame, &mut lan.pool, |_| None, lan.now);
            prop_assert!(answer.is_none_or(|answer| answer.len() >= 42 + 300));
        }
    }
}
