//! IPv6 at the virtual host: neighbour discovery for its addresses (RFC 4861) and advertisements of a unique local prefix
//! (RFC 4193), so that stations have IPv6 among themselves and towards the virtual host without any server.
//!
//! The advertisements name no default router (their router lifetime is 0): a station's own way into the IPv6 Internet stays as
//! it is. Who sends IPv6 through the virtual host on purpose is translated like IPv4 (NAT66), by sockets of the host.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};

use super::out::put_checksum;
use super::packet::{self, Header, Malformed, Packet};
use crate::wire::ethernet::MacAddr;

/// The virtual host's IPv6.
#[derive(Debug)]
pub(super) struct Ndp {
    mac: MacAddr,
    /// The first address of the prefix.
    own: Ipv6Addr,
    mtu: u16,
    next: Instant,
}

/// The virtual host's IPv6 address: the first one of a prefix that follows from `seed` (RFC 4193, section 3.2), so that it is
/// the same after every restart.
#[must_use]
pub fn ipv6_from_seed(seed: &[u8; 32]) -> Ipv6Addr {
    let hash = digest(&SHA256, &[PREFIX_CONTEXT, seed].concat());
    let global_id: [u8; 5] = *hash.as_ref().first_chunk().expect("SHA-256 has 32 bytes");
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&global_id);
    octets[15] = 1;
    octets.into()
}

impl Ndp {
    pub(super) const fn new(mac: MacAddr, own: Ipv6Addr, mtu: u16, now: Instant) -> Self {
        Self {
            mac,
            own,
            mtu,
            next: now,
        }
    }

    /// The answer to a solicitation, if it is one for us.
    pub(super) fn handle_packet(
        &self,
        from: MacAddr,
        payload: &[u8],
    ) -> Result<Option<Vec<u8>>, Malformed> {
        let Some(Ok(packet)) = Packet::parse(packet::IPV6, payload) else {
            return Err(Malformed);
        };
        let (std::net::IpAddr::V6(source), packet::ICMPV6) = (packet.source, packet.protocol)
        else {
            return Ok(None);
        };
        // RFC 4861, section 6.1.1 and 7.1.1: only from the same link, whole, and right.
        let kind = *packet.payload.first().ok_or(Malformed)?;
        if !matches!(kind, ROUTER_SOLICITATION | NEIGHBOUR_SOLICITATION) {
            return Ok(None);
        }
        if packet.ttl != 255
            || packet.part.is_some()
            || !packet::verify(&packet)
            || packet.payload[1] != 0
        {
            return Err(Malformed);
        }
        if kind == ROUTER_SOLICITATION {
            let to = if source.is_unspecified() {
                ALL_NODES
            } else {
                source
            };
            let mac = if source.is_unspecified() {
                group(ALL_NODES)
            } else {
                from
            };
            return Ok(Some(self.advertise_router(mac, to)));
        }
        let target: [u8; 16] = packet
            .payload
            .get(8..24)
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(Malformed)?;
        let target = Ipv6Addr::from(target);
        let ours = target == self.own || target == self.link_local();
        Ok((ours && source != target).then(|| self.advertise_neighbour(from, source, target)))
    }

    /// The advertisement that is due, if any.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.next > now {
            return None;
        }
        self.next = now + INTERVAL;
        Some(self.advertise_router(group(ALL_NODES), ALL_NODES))
    }

    pub(super) const fn deadline(&self) -> Instant {
        self.next
    }

    /// RFC 4861, section 4.2, with the prefix (4.6.2), the MTU (4.6.4), our MAC address (4.6.1) and the resolver (RFC 8106).
    fn advertise_router(&self, mac: MacAddr, to: Ipv6Addr) -> Vec<u8> {
        let mut message = vec![ROUTER_ADVERTISEMENT, 0, 0, 0, HOP_LIMIT, 0];
        // No default router; nothing said of reachability and retransmission.
        message.extend([0; 10]);
        message.extend([1, 1]);
        message.extend(self.mac.0);
        message.extend([5, 1, 0, 0]);
        message.extend(u32::from(self.mtu).to_be_bytes());
        let [valid, preferred] = [VALID, PREFERRED].map(u32::to_be_bytes);
        message.extend([3, 4, 64, ON_LINK | AUTONOMOUS]);
        message.extend(valid);
        message.extend(preferred);
        message.extend([0; 4]);
        message.extend(&self.own.octets()[..8]);
        message.extend([0; 8]);
        message.extend([25, 3, 0, 0]);
        message.extend(valid);
        message.extend(self.own.octets());
        self.frame(mac, to, self.link_local(), message)
    }

    /// RFC 4861, section 4.4.
    fn advertise_neighbour(&self, mac: MacAddr, source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
        // Who asks without an address of its own checks whether the target is taken: all are told.
        let probe = source.is_unspecified();
        let (mac, to) = if probe {
            (group(ALL_NODES), ALL_NODES)
        } else {
            (mac, source)
        };
        let flags = ROUTER | OVERRIDE | if probe { 0 } else { SOLICITED };
        let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
        message.extend(target.octets());
        message.extend([2, 1]);
        message.extend(self.mac.0);
        self.frame(mac, to, target, message)
    }

    fn frame(&self, mac: MacAddr, to: Ipv6Addr, source: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
        let header = Header {
            to: mac,
            from: self.mac,
            source: source.into(),
            destination: to.into(),
            protocol: packet::ICMPV6,
            ttl: 255,
            ident: 0,
            dont_fragment: true,
        };
        put_checksum(&header, &mut message, 2);
        let mut frame = vec![0; header.len()];
        frame.extend(message);
        header.write(&mut frame, None);
        frame
    }

    /// From the MAC address (RFC 4291, appendix A).
    fn link_local(&self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.mac.0;
        Ipv6Addr::from([
            0xfe,
            0x80,
            0,
            0,
            0,
            0,
            0,
            0,
            a ^ 2,
            b,
            c,
            0xff,
            0xfe,
            d,
            e,
            f,
        ])
    }
}

/// The MAC address of a group (RFC 2464, section 7).
fn group(address: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = address.octets();
    MacAddr([0x33, 0x33, a, b, c, d])
}

/// Separates this use of a seed from every other.
const PREFIX_CONTEXT: &[u8] = b"kuguri virtual host ipv6 prefix";
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Flags of a prefix and of a neighbour.
const ON_LINK: u8 = 0x80;
const AUTONOMOUS: u8 = 0x40;
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
/// What stations put into their packets.
const HOP_LIMIT: u8 = 64;
/// Seconds that the prefix is good for.
const VALID: u32 = 86_400;
const PREFERRED: u32 = 14_400;
/// Between advertisements that nobody asked for (section 6.2.1, MaxRtrAdvInterval).
const INTERVAL: Duration = Duration::from_secs(600);

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test may begin at any instant")]
mod tests {
    use proptest::prelude::*;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{
        EthernetAddress, Icmpv6Packet, Icmpv6Repr, Ipv6Packet, NdiscNeighborFlags,
        NdiscPrefixInfoFlags, NdiscRepr, RawHardwareAddress,
    };

    use super::*;

    const STATION: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    fn ndp() -> Ndp {
        Ndp::new(
            MacAddr([0, 0xac, 1, 2, 3, 4]),
            ipv6_from_seed(&[7; 32]),
            1500,
            Instant::now(),
        )
    }

    fn ask(source: Ipv6Addr, to: Ipv6Addr, repr: &NdiscRepr<'_>) -> Vec<u8> {
        let repr = Icmpv6Repr::Ndisc(*repr);
        let mut message = vec![0; repr.buffer_len()];
        repr.emit(
            &source,
            &to,
            &mut Icmpv6Packet::new_unchecked(&mut message[..]),
            &ChecksumCapabilities::default(),
        );
        let header = Header {
            to: group(to),
            from: STATION,
            source: source.into(),
            destination: to.into(),
            protocol: packet::ICMPV6,
            ttl: 255,
            ident: 0,
            dont_fragment: true,
        };
        let mut frame = vec![0; header.len()];
        frame.extend(message);
        header.write(&mut frame, None);
        frame.split_off(14)
    }

    fn heard<T>(frame: &[u8], read: impl FnOnce(NdiscRepr<'_>) -> T) -> T {
        let packet = Ipv6Packet::new_checked(&frame[14..]).expect("whole");
        let message = Icmpv6Packet::new_checked(packet.payload()).expect("whole");
        let (source, destination) = (packet.src_addr(), packet.dst_addr());
        assert_eq!(packet.hop_limit(), 255);
        let repr = Icmpv6Repr::parse(
            &source,
            &destination,
            &message,
            &ChecksumCapabilities::default(),
        );
        let Icmpv6Repr::Ndisc(repr) = repr.expect("right") else {
            panic!("no neighbour discovery")
        };
        read(repr)
    }

    #[test]
    fn it_says_where_it_is_and_only_where_it_is() {
        let ndp = ndp();
        let station: Ipv6Addr = "fe80::9".parse().expect("one");
        let solicit = |target| NdiscRepr::NeighborSolicit {
            target_addr: target,
            lladdr: Some(RawHardwareAddress::from(EthernetAddress(STATION.0))),
        };
        for target in [ndp.own, ndp.link_local()] {
            let question = ask(
                station,
                "ff02::1:ff00:1".parse().expect("one"),
                &solicit(target),
            );
            let answer = ndp
                .handle_packet(STATION, &question)
                .expect("right")
                .expect("an answer");
            assert_eq!(answer[..6], STATION.0);
            heard(&answer, |repr| {
                let NdiscRepr::NeighborAdvert {
                    flags,
                    target_addr,
                    lladdr,
                } = repr
                else {
                    panic!("{repr:?}")
                };
                assert_eq!(target_addr, target);
                assert!(flags.contains(NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::ROUTER));
                assert_eq!(
                    lladdr,
                    Some(RawHardwareAddress::from(EthernetAddress(ndp.mac.0)))
                );
            });
        }
        let other = ask(
            station,
            "ff02::1:ff00:9".parse().expect("one"),
            &solicit("fe80::1:2".parse().expect("one")),
        );
        assert_eq!(ndp.handle_packet(STATION, &other), Ok(None));
    }

    #[test]
    fn it_advertises_a_prefix_and_no_default_route() {
        let mut ndp = ndp();
        let now = ndp.next;
        let question = ask(
            "fe80::9".parse().expect("one"),
            "ff02::2".parse().expect("one"),
            &NdiscRepr::RouterSolicit { lladdr: None },
        );
        let answer = ndp
            .handle_packet(STATION, &question)
            .expect("right")
            .expect("an answer");
        for frame in [answer, ndp.poll(now).expect("due at once")] {
            heard(&frame, |repr| {
                let NdiscRepr::RouterAdvert {
                    router_lifetime,
                    prefix_info,
                    mtu,
                    ..
                } = repr
                else {
                    panic!("{repr:?}")
                };
                assert_eq!((router_lifetime.total_millis(), mtu), (0, Some(1500)));
                let prefix = prefix_info.expect("a prefix");
                assert_eq!(
                    (prefix.prefix_len, prefix.prefix.octets()[..8].to_vec()),
                    (64, ndp.own.octets()[..8].to_vec())
                );
                assert!(prefix.flags.contains(NdiscPrefixInfoFlags::ADDRCONF));
            });
        }
        assert!(ndp.poll(now).is_none());
        assert!(ndp.poll(now + INTERVAL).is_some());
    }

    #[test]
    fn the_prefix_is_unique_and_local() {
        let [first, ..] = ipv6_from_seed(&[1; 32]).octets();
        assert_eq!(first, 0xfd);
        assert_ne!(ipv6_from_seed(&[1; 32]), ipv6_from_seed(&[2; 32]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_or_refused(bytes: Vec<u8>) {
            let _ = ndp().handle_packet(STATION, &bytes);
        }

        #[test]
        fn what_was_sent_from_afar_or_damaged_is_refused(at in 0usize..64, flip in 1u8..) {
            let solicit = NdiscRepr::RouterSolicit { lladdr: None };
            let mut question = ask("fe80::9".parse().expect("one"), "ff02::2".parse().expect("one"), &solicit);
            if let Some(byte) = question.get_mut(at).filter(|_| at >= 6) {
                *byte ^= flip;
                let answer = ndp().handle_packet(STATION, &question);
                prop_assert!(!matches!(answer, Ok(Some(_))), "{answer:?}");
            }
        }
    }
}
