//! The virtual host as the stations see it; hostile frames included.

use std::net::Ipv4Addr;

use proptest::prelude::*;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, Icmpv4Message, Icmpv4Packet, IpProtocol, Ipv4Packet,
};

use super::*;

const MTU: u16 = 1500;
const STATION: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

fn gateway() -> Gateway {
    Gateway::new(mac_from_seed(&[7; 32]), Subnet::default(), MTU)
}

fn station() -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 30, 77)
}

fn ethernet(to: MacAddr, from: MacAddr, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to.0[..], &from.0, &kind.to_be_bytes(), payload].concat()
}

/// An ARP request written byte by byte.
fn who_has(target: Ipv4Addr, sender: Ipv4Addr) -> Vec<u8> {
    let fixed: &[u8] = &[0, 1, 8, 0, 6, 4, 0, 1];
    let (sender, target) = (sender.octets(), target.octets());
    let packet = [fixed, &STATION.0, &sender, &[0; 6], &target].concat();
    ethernet(MacAddr::BROADCAST, STATION, 0x0806, &packet)
}

/// The Internet checksum (RFC 1071), the slow way.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) * 256 + u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = u16::try_from(sum).expect("folded");
    (!sum).to_be_bytes()
}

/// What an echo request is made of, so that a test can spoil one part of it.
#[derive(Clone)]
struct Echo {
    to: MacAddr,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    options: Vec<u8>,
    /// Flags and fragment offset.
    fragment: u16,
    protocol: u8,
    kind: u8,
    data: Vec<u8>,
    /// Bytes behind the packet, as Ethernet pads short frames.
    padding: usize,
}

fn echo() -> Echo {
    Echo {
        to: mac_from_seed(&[7; 32]),
        source: station(),
        destination: Subnet::default().address(),
        options: vec![],
        fragment: 0x4000,
        protocol: 1,
        kind: 8,
        data: b"how far is it".to_vec(),
        padding: 0,
    }
}

impl Echo {
    fn packet(&self) -> Vec<u8> {
        let mut message = [&[self.kind, 0, 0, 0, 0x12, 0x34, 0, 9], &self.data[..]].concat();
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum);
        let header_length = 20 + self.options.len();
        let total = u16::try_from(header_length + message.len()).expect("short");
        let ihl = u8::try_from(header_length / 4).expect("short");
        let mut header = vec![0x40 | ihl, 0];
        header.extend(total.to_be_bytes());
        header.extend([0xab, 0xcd]);
        header.extend(self.fragment.to_be_bytes());
        header.extend([9, self.protocol, 0, 0]);
        header.extend(self.source.octets());
        header.extend(self.destination.octets());
        header.extend(&self.options);
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum);
        [header, message].concat()
    }

    fn frame(&self) -> Vec<u8> {
        let packet = [self.packet(), vec![0; self.padding]].concat();
        ethernet(self.to, STATION, 0x0800, &packet)
    }
}

fn answer(frame: &[u8]) -> (Option<Vec<u8>>, Counters) {
    let mut gateway = gateway();
    gateway.handle_frame(frame, Instant::now());
    let answer = gateway.poll_frame();
    assert_eq!(gateway.poll_frame(), None);
    (answer, *gateway.counters())
}

#[test]
fn its_mac_begins_as_required_and_follows_from_the_seed() {
    let MacAddr([first, second, ..]) = mac_from_seed(&[1; 32]);
    assert_eq!([first, second], [0x00, 0xac]);
    assert_eq!(mac_from_seed(&[1; 32]), mac_from_seed(&[1; 32]));
    assert_ne!(mac_from_seed(&[1; 32]), mac_from_seed(&[2; 32]));
}

#[test]
fn it_says_where_it_is() {
    // RFC 5227: a probe comes from 0.0.0.0 and is answered too.
    for sender in [station(), Ipv4Addr::UNSPECIFIED] {
        let (answer, counters) = answer(&who_has(Subnet::default().address(), sender));
        let answer = answer.expect("an answer");
        assert_eq!(answer[..6], STATION.0);
        assert_eq!(answer[12..14], [8, 6]);
        let packet = ArpPacket::new_checked(&answer[14..]).expect("whole");
        let expected = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: EthernetAddress(gateway().mac().0),
            source_protocol_addr: Subnet::default().address(),
            target_hardware_addr: EthernetAddress(STATION.0),
            target_protocol_addr: sender,
        };
        assert_eq!(ArpRepr::parse(&packet), Ok(expected));
        assert_eq!(counters.arp_answered, 1);
    }
}

#[test]
fn it_is_silent_about_other_addresses_and_sees_a_conflict() {
    let own = Subnet::default().address();
    let (none, counters) = answer(&who_has(station(), station()));
    assert_eq!((none, counters.ignored), (None, 1));
    let (none, counters) = answer(&who_has(own, own));
    assert_eq!((none, counters.address_conflicts), (None, 1));
}

#[test]
fn its_announcement_is_a_broadcast_that_it_would_not_answer() {
    let mut gateway = gateway();
    gateway.announce();
    let frame = gateway.poll_frame().expect("an announcement");
    assert_eq!(frame[..6], MacAddr::BROADCAST.0);
    let (none, counters) = answer(&frame);
    assert_eq!((none, counters.ignored), (None, 1));
}

#[test]
fn echo_comes_back_whole() {
    let options = vec![7, 7, 4, 0, 0, 0, 0, 0];
    for (options, length, padding) in [
        (vec![], 0, 18),
        (vec![], 1, 17),
        (vec![], 1472, 0),
        (options, 1464, 0),
    ] {
        let data: Vec<u8> = (0..=255).cycle().take(length).collect();
        let request = Echo {
            options,
            data: data.clone(),
            padding,
            ..echo()
        };
        let (answer, counters) = answer(&request.frame());
        let answer = answer.expect("an answer");
        assert_eq!(answer[..6], STATION.0);
        let packet = Ipv4Packet::new_checked(&answer[14..]).expect("whole");
        assert_eq!(checksum(&answer[14..34]), [0, 0]);
        assert_eq!(packet.src_addr(), Subnet::default().address());
        assert_eq!(packet.dst_addr(), station());
        assert_eq!(packet.next_header(), IpProtocol::Icmp);
        let message = Icmpv4Packet::new_checked(packet.payload()).expect("whole");
        assert_eq!(checksum(packet.payload()), [0, 0]);
        assert_eq!(message.msg_type(), Icmpv4Message::EchoReply);
        assert_eq!((message.echo_ident(), message.echo_seq_no()), (0x1234, 9));
        assert_eq!(message.data(), data);
        assert_eq!(counters.echo_answered, 1);
    }
}

#[test]
fn what_is_not_an_echo_request_for_it_is_not_answered() {
    let own = Subnet::default().address();
    let ignored = [
        Echo {
            to: MacAddr::BROADCAST,
            ..echo()
        },
        Echo {
            to: STATION,
            ..echo()
        },
        Echo {
            destination: station(),
            ..echo()
        },
        Echo {
            destination: Ipv4Addr::BROADCAST,
            ..echo()
        },
        Echo {
            destination: Subnet::default().broadcast(),
            ..echo()
        },
        Echo { kind: 0, ..echo() },
        Echo { kind: 13, ..echo() },
        Echo {
            protocol: 17,
            ..echo()
        },
    ];
    for request in ignored {
        let (none, counters) = answer(&request.frame());
        assert_eq!((none, counters.ignored), (None, 1));
    }
    let impossible = [
        own,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::BROADCAST,
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::new(224, 0, 0, 1),
        Subnet::default().broadcast(),
        Subnet::default().network(),
    ];
    for source in impossible {
        let (none, counters) = answer(&Echo { source, ..echo() }.frame());
        assert_eq!((none, counters.malformed), (None, 1), "{source}");
    }
    let too_long = Echo {
        data: vec![0; 1473],
        ..echo()
    };
    assert_eq!(answer(&too_long.frame()).1.malformed, 1);
    // More fragments to come; the last fragment.
    for fragment in [0x2000, 0x0001] {
        let (none, counters) = answer(&Echo { fragment, ..echo() }.frame());
        assert_eq!((none, counters.ignored_fragments), (None, 1));
    }
}

#[test]
fn a_frame_from_a_group_is_not_answered() {
    let group = MacAddr([0x01, 0, 0x5e, 0, 0, 1]);
    let mut frame = echo().frame();
    frame[6..12].copy_from_slice(&group.0);
    assert_eq!(answer(&frame).1.malformed, 1);
    let mut request = who_has(Subnet::default().address(), station());
    request[22..28].copy_from_slice(&group.0);
    assert_eq!(answer(&request).1.malformed, 1);
}

#[test]
fn answers_that_nobody_fetches_are_dropped() {
    let mut gateway = gateway();
    let extra = 10;
    for _ in 0..MAX_QUEUE + extra {
        gateway.handle_frame(&echo().frame(), Instant::now());
    }
    assert_eq!(gateway.counters().dropped_queue, extra as u64);
    assert_eq!(
        std::iter::from_fn(|| gateway.poll_frame()).count(),
        MAX_QUEUE
    );
}

proptest! {
    /// No byte of an echo request can change without being noticed, but those that say nothing of it.
    #[test]
    fn a_damaged_echo_request_is_not_answered(at in 14usize..55, flip in 1u8..) {
        let mut frame = echo().frame();
        let whole = answer(&frame).0;
        prop_assert!(whole.is_some());
        prop_assert_eq!(frame.len(), 55);
        frame[at] ^= flip;
        prop_assert_eq!(answer(&frame).0, None);
    }

    #[test]
    fn a_frame_cut_anywhere_is_not_answered(cut in 0usize..55) {
        prop_assert_eq!(answer(&echo().frame()[..cut]).0, None);
        let arp = who_has(Subnet::default().address(), station());
        prop_assert_eq!(answer(&arp[..cut.min(arp.len() - 1)]).0, None);
    }

    #[test]
    fn any_bytes_give_at_most_one_answer_no_longer_than_the_question(
        arp: bool, bytes: Vec<u8>, request: bool, spoil in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut frame = match (request, arp) {
            (true, true) => who_has(Subnet::default().address(), station()),
            (true, false) => echo().frame(),
            (false, true) => ethernet(MacAddr::BROADCAST, STATION, 0x0806, &bytes),
            (false, false) => ethernet(gateway().mac(), STATION, 0x0800, &bytes),
        };
        for (index, byte) in spoil {
            let at = index.index(frame.len());
            frame[at] = byte;
        }
        let (answer, c) = answer(&frame);
        prop_assert!(answer.is_none_or(|answer| answer.len() <= frame.len()));
        let told = c.arp_answered + c.echo_answered + c.ignored + c.ignored_fragments + c.malformed + c.address_conflicts;
        prop_assert_eq!(told, 1);
    }
}
