//! Who has which address on a real Ethernet (ARP, RFC 826, for IPv4): answers for the box's own addresses, asks for others,
//! and holds a few packets while it waits. Knows frames; neither sockets nor NATs.
//!
//! ```text
//!   frame in  ─► ARP: answer · learn · packets that waited      IP: learn who sent it ─► packet
//!   packet out ─► next hop ─► known: frame      unknown: ARP request, and the packet waits
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};

/// A hardware address.
pub(super) type Mac = [u8; 6];

/// One interface's neighbourhood.
#[derive(Debug)]
pub(super) struct Neighbours {
    mac: Mac,
    own: Vec<Ipv4Addr>,
    prefix: u8,
    gateway: Option<Ipv4Addr>,
    known: BTreeMap<Ipv4Addr, Mac>,
    waiting: VecDeque<(Ipv4Addr, Vec<u8>)>,
    out: VecDeque<Vec<u8>>,
}

impl Neighbours {
    /// The box has these addresses there, all of one network with that prefix length; `gateway` leads to others.
    pub(super) const fn new(
        mac: Mac,
        own: Vec<Ipv4Addr>,
        prefix: u8,
        gateway: Option<Ipv4Addr>,
    ) -> Self {
        Self {
            mac,
            own,
            prefix,
            gateway,
            known: BTreeMap::new(),
            waiting: VecDeque::new(),
            out: VecDeque::new(),
        }
    }

    /// A frame came; the IP packet in it, if there is one.
    pub(super) fn handle_frame<'a>(&mut self, frame: &'a [u8]) -> Option<&'a [u8]> {
        let (to, source): (Mac, Mac) = (*frame.first_chunk()?, *frame.get(6..)?.first_chunk()?);
        if to != self.mac && to != BROADCAST {
            return None;
        }
        let payload = frame.get(14..)?;
        match frame.get(12..14)? {
            [0x08, 0x06] => {
                self.handle_arp(payload);
                None
            }
            [0x08, 0x00] => {
                let from = Ipv4Addr::from(*payload.get(12..)?.first_chunk::<4>()?);
                if self.is_near(from) {
                    self.learn(from, source);
                }
                Some(payload)
            }
            _ => None,
        }
    }

    /// An IP packet is to leave.
    pub(super) fn send(&mut self, destination: IpAddr, packet: &[u8]) {
        let IpAddr::V4(destination) = destination else {
            return;
        };
        let hop = if self.is_near(destination) {
            Some(destination)
        } else {
            self.gateway
        };
        let Some(hop) = hop else {
            return;
        };
        if let Some(&mac) = self.known.get(&hop) {
            self.out.push_back(self.frame(mac, IPV4, packet));
            return;
        }
        if self.waiting.len() >= MOST_WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back((hop, packet.to_vec()));
        self.ask(hop);
    }

    /// The next frame to be written.
    pub(super) fn poll_frame(&mut self) -> Option<Vec<u8>> {
        self.out.pop_front()
    }

    fn handle_arp(&mut self, arp: &[u8]) {
        let (Some(head), Some(rest)) = (arp.first_chunk::<8>(), arp.get(8..28)) else {
            return;
        };
        let ip = |at: usize| Ipv4Addr::new(rest[at], rest[at + 1], rest[at + 2], rest[at + 3]);
        let (sender, target) = (ip(6), ip(16));
        let mut mac = [0; 6];
        mac.copy_from_slice(&rest[..6]);
        if head[..6] != ARP_HEAD || self.own.contains(&sender) {
            return;
        }
        self.learn(sender, mac);
        if head[7] == REQUEST && self.own.contains(&target) {
            let answer = self.arp(REPLY, target, mac, sender);
            self.out.push_back(self.frame(mac, ARP, &answer));
        }
    }

    fn ask(&mut self, target: Ipv4Addr) {
        let sender = self.own.first().copied();
        let request = self.arp(
            REQUEST,
            sender.unwrap_or(Ipv4Addr::UNSPECIFIED),
            [0; 6],
            target,
        );
        self.out.push_back(self.frame(BROADCAST, ARP, &request));
    }

    fn learn(&mut self, address: Ipv4Addr, mac: Mac) {
        if self.known.len() >= MOST_KNOWN && !self.known.contains_key(&address) {
            self.known.pop_first();
        }
        self.known.insert(address, mac);
        for (hop, packet) in std::mem::take(&mut self.waiting) {
            if hop == address {
                self.out.push_back(self.frame(mac, IPV4, &packet));
            } else {
                self.waiting.push_back((hop, packet));
            }
        }
    }

    fn arp(&self, operation: u8, sender: Ipv4Addr, to: Mac, target: Ipv4Addr) -> Vec<u8> {
        let head: &[u8] = &[&ARP_HEAD[..], &[0, operation]].concat();
        [head, &self.mac, &sender.octets(), &to, &target.octets()].concat()
    }

    fn frame(&self, to: Mac, kind: [u8; 2], payload: &[u8]) -> Vec<u8> {
        [&to[..], &self.mac, &kind, payload].concat()
    }

    fn is_near(&self, address: Ipv4Addr) -> bool {
        let mask = u32::MAX
            .checked_shl(32 - u32::from(self.prefix))
            .unwrap_or(0);
        let network = self.own.first().map(|own| own.to_bits() & mask);
        network == Some(address.to_bits() & mask)
    }
}

/// Ethernet, IPv4, and the lengths of their addresses.
const ARP_HEAD: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const BROADCAST: Mac = [0xff; 6];
const IPV4: [u8; 2] = [0x08, 0x00];
const ARP: [u8; 2] = [0x08, 0x06];
/// As many packets wait for answers.
const MOST_WAITING: usize = 64;
/// As many neighbours are known.
const MOST_KNOWN: usize = 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
    const B: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
    const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

    fn side(number: u8, own: Ipv4Addr, gateway: Option<Ipv4Addr>) -> Neighbours {
        Neighbours::new([2, 0, 0, 0, 0, number], vec![own], 24, gateway)
    }

    /// Hands frames over until there are none; the packets that came out at `b`.
    fn exchange(a: &mut Neighbours, b: &mut Neighbours) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        loop {
            let there = a.poll_frame();
            if let Some(frame) = &there {
                packets.extend(b.handle_frame(frame).map(<[u8]>::to_vec));
            }
            let back = b.poll_frame();
            if let Some(frame) = &back {
                a.handle_frame(frame);
            }
            if there.is_none() && back.is_none() {
                return packets;
            }
        }
    }

    #[test]
    fn a_neighbour_is_asked_for_once_and_packets_wait() {
        let (mut a, mut b) = (side(1, A, None), side(2, B, None));
        a.send(B.into(), &[0x45; 40]);
        assert_eq!(exchange(&mut a, &mut b), vec![vec![0x45; 40]]);
        a.send(B.into(), &[0x46; 40]);
        let frame = a.poll_frame().expect("known by now");
        assert_eq!(frame[..6], [2, 0, 0, 0, 0, 2]);
    }

    #[test]
    fn what_is_far_goes_by_the_gateway_or_nowhere() {
        let (mut a, mut b) = (side(1, A, Some(B)), side(2, B, None));
        a.send(FAR.into(), &[0x45; 40]);
        assert_eq!(exchange(&mut a, &mut b).len(), 1);
        b.send(FAR.into(), &[0x45; 40]);
        assert_eq!(b.poll_frame(), None);
    }

    proptest! {
        #[test]
        fn arbitrary_frames_never_panic(mut frame in prop::collection::vec(any::<u8>(), 0..60), arp: bool) {
            if arp && frame.len() > 22 {
                frame[12..14].copy_from_slice(&ARP);
                frame[14..20].copy_from_slice(&ARP_HEAD);
            }
            let mut a = side(1, A, None);
            a.handle_frame(&frame);
            prop_assert!(a.known.len() <= 1);
        }
    }
}
