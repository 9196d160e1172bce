//! Ports of the host that lead to members: connections and datagrams from the host's network, passed on to the member.
//!
//! The member sees the virtual host as the other side, so that its answers find back whatever routes it has.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};

use super::{Key, Nat, Thing};
use crate::gateway::access::Protocol;
use crate::gateway::event::NatEvent;
use crate::gateway::packet;
use crate::gateway::sockets::{Sending, SocketId, Sockets};
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

/// A UDP port of the host that leads to a member, and who has written to it.
#[derive(Debug)]
pub(super) struct Door {
    member: SocketAddr,
    /// By the port of the virtual host that stands for each.
    guests: BTreeMap<u16, Guest>,
    ports: BTreeMap<SocketAddr, u16>,
}

#[derive(Debug)]
struct Guest {
    host: SocketAddr,
    active: Instant,
}

impl Door {
    /// The port that stands for a host: the one that it has, or a free one.
    fn port_of(&mut self, host: SocketAddr, rng: &mut StdRng, now: Instant) -> Option<u16> {
        if let Some(&port) = self.ports.get(&host) {
            if let Some(guest) = self.guests.get_mut(&port) {
                guest.active = now;
            }
            return Some(port);
        }
        if self.guests.len() >= MAX_GUESTS {
            return None;
        }
        let mut tries = (0..PORT_TRIES).map(|_| rng.random_range(super::FIRST_PORT..=u16::MAX));
        let port = tries.find(|port| !self.guests.contains_key(port))?;
        self.guests.insert(port, Guest { host, active: now });
        self.ports.insert(host, port);
        Some(port)
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

    /// The published UDP port of that number in the settings gets a socket, which is to be known by the answer. Those of
    /// earlier settings are closed already.
    pub fn handle_published(&mut self, published: usize, now: Instant) -> Option<SocketId> {
        let publish = *self.settings.publish.get(published)?;
        let key = Key::Door(publish.port, publish.to.is_ipv4());
        let fits = publish.protocol == Protocol::Udp && self.is_inside(publish.to.ip());
        if !fits || self.by_key.contains_key(&key) {
            return None;
        }
        let session = self.next_session();
        let door = Door {
            member: publish.to,
            guests: BTreeMap::new(),
            ports: BTreeMap::new(),
        };
        let id = self.put(key, session, Thing::Door(Box::new(door)));
        self.doors.push(id);
        self.schedule(id, now + self.settings.udp_idle);
        Some(id)
    }

    pub(super) fn close_doors<S: Sockets>(&mut self, sockets: &mut S) {
        for id in std::mem::take(&mut self.doors) {
            if self.remove(id).is_some() {
                sockets.close(id, false);
            }
        }
    }

    /// A host outside has written to a published UDP port.
    pub(super) fn take_guest(
        &mut self,
        id: SocketId,
        from: SocketAddr,
        bytes: &[u8],
        now: Instant,
    ) {
        let Some(Thing::Door(door)) = self.places.get_mut(id).map(|place| &mut place.thing) else {
            return;
        };
        let member = door.member;
        let Some(port) = door.port_of(from, &mut self.rng, now) else {
            self.counters.dropped_limit += 1;
            return;
        };
        let Some(mac) = self.stations.get(&member.ip()).copied() else {
            // This one is lost, as datagrams may be; the next one finds the way.
            return self.ask_for(member.ip());
        };
        let own = SocketAddr::new(self.own_address(member.ip()), port);
        self.send_udp(mac, own, member, bytes);
    }

    /// What a station sends to a port of the virtual host that stands for a host outside; false when it stands for none.
    pub(super) fn take_published_reply<S: Sockets>(
        &mut self,
        station: SocketAddr,
        port: u16,
        bytes: &[u8],
        sockets: &mut S,
        now: Instant,
    ) -> bool {
        for &id in &self.doors {
            let Some(Thing::Door(door)) = self.places.get_mut(id).map(|place| &mut place.thing)
            else {
                continue;
            };
            let guest = door
                .guests
                .get_mut(&port)
                .filter(|_| door.member == station);
            if let Some(guest) = guest {
                guest.active = now;
                let how = Sending {
                    ttl: crate::gateway::out::TTL,
                    dont_fragment: false,
                };
                // Lost, as datagrams may be.
                let _ = sockets.send_to(id, guest.host, how, bytes);
                return true;
            }
        }
        false
    }

    pub(super) fn door_time_out(&mut self, id: SocketId, now: Instant) {
        let idle = self.settings.udp_idle;
        if let Some(Thing::Door(door)) = self.places.get_mut(id).map(|place| &mut place.thing) {
            door.guests.retain(|_, guest| guest.active + idle > now);
            let guests = &door.guests;
            door.ports.retain(|_, port| guests.contains_key(port));
            self.schedule(id, now + idle);
        }
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

/// Hosts outside that one published UDP port serves at once.
const MAX_GUESTS: usize = 1024;
/// Random ports that are tried.
const PORT_TRIES: u32 = 16;
/// Between questions for a member (RFC 1122, section 2.3.2.1: at most one a second).
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Questions for a member.
const ASK_TIMES: u32 = 3;
