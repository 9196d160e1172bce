//! Ports of the host that lead to members: connections from the host's network, called on to the member.
//!
//! The member sees the virtual host as the other side, so that its answers find back whatever routes it has.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};

use super::{Key, Nat};
use crate::gateway::access::Protocol;
use crate::gateway::event::NatEvent;
use crate::gateway::packet;
use crate::gateway::sockets::{SocketId, Sockets};
use crate::gateway::tcp::{End, Ends};
use crate::wire::ethernet::MacAddr;

/// A connection that waits until its member's MAC address is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parked {
    id: SocketId,
    member: IpAddr,
    asked: u32,
    again: Instant,
}

impl Parked {
    pub(super) const fn next(&self) -> Instant {
        self.again
    }
}

impl Nat {
    /// A connection came to the published port of that number in the settings. The socket is to be known by the answer, or
    /// closed when there is none.
    pub fn handle_accepted<S: Sockets>(
        &mut self,
        published: usize,
        from: SocketAddr,
        sockets: &mut S,
        now: Instant,
    ) -> Option<SocketId> {
        let publish = self.settings.publish.get(published)?;
        let member = publish.to;
        if publish.protocol != Protocol::Tcp || !self.is_inside(member.ip()) {
            return None;
        }
        let own = self.own_address(member.ip());
        let remote = self.free_port(member, own)?;
        let known = self.stations.get(&member.ip()).copied();
        let ends = Ends {
            mac: known.unwrap_or(MacAddr([0; 6])),
            station: member,
            remote,
            host: from,
        };
        let id = self.add_published(ends, now)?;
        match known {
            Some(mac) => self.call_station(id, mac, sockets, now),
            None => self.park(id, member.ip(), now),
        }
        Some(id)
    }

    /// What a station sends to a port of the virtual host that stands for a host outside.
    #[allow(clippy::unused_self, reason = "published UDP ports come here")]
    pub(super) fn take_published_reply<S: Sockets>(
        &mut self,
        _station: SocketAddr,
        _port: u16,
        _bytes: &[u8],
        _sockets: &mut S,
        _now: Instant,
    ) -> bool {
        false
    }

    fn free_port(&mut self, member: SocketAddr, own: IpAddr) -> Option<SocketAddr> {
        for _ in 0..PORT_TRIES {
            let remote = SocketAddr::new(own, self.random_port());
            if !self.by_key.contains_key(&Key::Stream(member, remote)) {
                return Some(remote);
            }
        }
        None
    }

    fn park(&mut self, id: SocketId, member: IpAddr, now: Instant) {
        self.ask_for(member);
        self.parked.push(Parked {
            id,
            member,
            asked: 1,
            again: now + ASK_AGAIN,
        });
    }

    /// An ARP packet says where a station is.
    pub(super) fn learn_from_arp<S: Sockets>(
        &mut self,
        payload: &[u8],
        sockets: &mut S,
        now: Instant,
    ) {
        let parsed = ArpPacket::new_checked(payload).and_then(|packet| ArpRepr::parse(&packet));
        let Ok(ArpRepr::EthernetIpv4 {
            source_hardware_addr,
            source_protocol_addr,
            ..
        }) = parsed
        else {
            self.counters.malformed += 1;
            return;
        };
        let (mac, address) = (
            MacAddr(source_hardware_addr.0),
            IpAddr::V4(source_protocol_addr),
        );
        if !self.is_station(address) || mac.is_group() || mac == self.out.mac {
            return;
        }
        self.learn(address, mac);
        let found: Vec<SocketId> = self
            .parked
            .extract_if(.., |parked| parked.member == address)
            .map(|parked| parked.id)
            .collect();
        for id in found {
            self.call_station(id, mac, sockets, now);
        }
    }

    pub(super) fn give_up_parked<S: Sockets>(&mut self, sockets: &mut S, now: Instant) {
        let due: Vec<Parked> = self
            .parked
            .extract_if(.., |parked| parked.again <= now)
            .collect();
        for mut parked in due {
            if parked.asked < ASK_TIMES {
                self.ask_for(parked.member);
                parked.asked += 1;
                parked.again = now + ASK_AGAIN;
                self.parked.push(parked);
            } else {
                let member = parked.member;
                self.complain(NatEvent::MemberAbsent { member }, now);
                self.abort_stream(parked.id, End::StationSilent, sockets, now);
            }
        }
    }

    /// Asks everybody who has an address.
    fn ask_for(&mut self, member: IpAddr) {
        let IpAddr::V4(target) = member else {
            return; // IPv6 members are known by what they have sent.
        };
        let repr = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: EthernetAddress(self.out.mac.0),
            source_protocol_addr: self.settings.subnet.address(),
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: target,
        };
        let mut frame = vec![0; packet::ETHERNET + repr.buffer_len()];
        frame[0..6].copy_from_slice(&MacAddr::BROADCAST.0);
        frame[6..12].copy_from_slice(&self.out.mac.0);
        frame[12..14].copy_from_slice(&packet::ARP.to_be_bytes());
        repr.emit(&mut ArpPacket::new_unchecked(
            &mut frame[packet::ETHERNET..],
        ));
        self.out.push(frame, None);
    }
}

/// Random ports that are tried.
const PORT_TRIES: u32 = 16;
/// Between questions for a member (RFC 1122, section 2.3.2.1: at most one a second).
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Questions for a member.
const ASK_TIMES: u32 = 3;
