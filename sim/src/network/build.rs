//! Building a network, and changing it during a run: hosts, routers, and who is known where. Decides which addresses are
//! reachable from which segment; moves no packet.

use std::net::IpAddr;

use rand::Rng;

use super::{
    Access, Attachment, HostId, Network, NetworkError, Place, Router, RouterConfig, RouterId,
    Segment, SegmentId, Station,
};
use crate::link::Link;
use crate::nat::{Behavior, Nat};

impl Network {
    /// A host that is not attached to anything yet.
    pub fn add_host(&mut self) -> HostId {
        self.hosts.push(Vec::new());
        HostId(self.hosts.len() - 1)
    }

    /// Attaches a host to a segment, beside what it is attached to already.
    ///
    /// # Errors
    /// When an address is taken.
    pub fn attach(
        &mut self,
        host: HostId,
        segment: SegmentId,
        addresses: &[IpAddr],
        access: Access,
    ) -> Result<(), NetworkError> {
        let id = self.attachments.len();
        if host.0 >= self.hosts.len() {
            return Err(NetworkError::NoSuchPlace(Place::Host(host)));
        }
        self.check(segment, addresses)?;
        for &address in addresses {
            self.register(segment, address, Station::Host(id));
        }
        let (up, down) = self.links(access);
        self.attachments.push(Attachment {
            host,
            segment,
            addresses: addresses.to_vec(),
            up,
            down,
            gone: false,
        });
        self.hosts[host.0].push(id);
        Ok(())
    }

    /// From now on a host takes what is sent to addresses that nobody has on the segment of its first attachment: it stands
    /// for a whole network.
    pub fn set_default(&mut self, host: HostId) {
        let attachment = self.hosts.get(host.0).and_then(|own| own.first().copied());
        if let Some(id) = attachment {
            let segment = self.attachments[id].segment;
            self.segments[segment.0].default = Some(id);
        }
    }

    /// Takes a host off everything, as when its cable is pulled; what is on its links is lost.
    pub fn detach(&mut self, host: HostId) {
        let attachments = self
            .hosts
            .get_mut(host.0)
            .map(std::mem::take)
            .unwrap_or_default();
        for id in attachments {
            let attachment = &mut self.attachments[id];
            attachment.gone = true;
            let segment = attachment.segment;
            for address in std::mem::take(&mut attachment.addresses) {
                self.unregister(segment, address);
            }
        }
    }

    /// A router with a new segment inside, attached to `outside`.
    ///
    /// # Errors
    /// When an address is taken, or the NAT's options contradict each other.
    pub fn add_router(
        &mut self,
        outside: SegmentId,
        config: RouterConfig,
    ) -> Result<(RouterId, SegmentId), NetworkError> {
        let (id, inside) = (RouterId(self.routers.len()), SegmentId(self.segments.len()));
        self.check(outside, &config.outside)?;
        let ipv4 = Nat::new(config.nat, config.outside.clone(), self.rng.next_u64())?;
        let ipv6 = Nat::new(config.ipv6, config.outside.clone(), self.rng.next_u64())?;
        let (up, down) = self.links(config.access);
        self.routers.push(Router {
            inside,
            outside,
            ipv4,
            ipv6,
            rules: config.rules,
            up,
            down,
        });
        for address in config.outside {
            self.register(outside, address, Station::Router(id));
        }
        let stations = config
            .inside
            .iter()
            .map(|&address| (address, Station::Gateway));
        self.segments.push(Segment {
            stations: stations.collect(),
            gateway: Some(id),
            default: None,
            hops: 0,
            reporters: config.inside,
            capture: None,
        });
        Ok((id, inside))
    }

    /// A router gets other outside addresses, as when a provider assigns new ones; its NATs remember nothing.
    ///
    /// # Errors
    /// When an address is taken, or there is none where one is needed.
    pub fn renumber(&mut self, id: RouterId, addresses: &[IpAddr]) -> Result<(), NetworkError> {
        let Some(router) = self.routers.get(id.0) else {
            return Err(NetworkError::NoSuchPlace(Place::Router(id)));
        };
        let (segment, old) = (router.outside, router.ipv4.outside().to_vec());
        let (ipv4, ipv6) = (router.ipv4.config().clone(), router.ipv6.config().clone());
        for &address in &old {
            self.unregister(segment, address);
        }
        self.check(segment, addresses)?;
        for &address in addresses {
            self.register(segment, address, Station::Router(id));
        }
        let ipv4 = Nat::new(ipv4, addresses.to_vec(), self.rng.next_u64())?;
        let ipv6 = Nat::new(ipv6, addresses.to_vec(), self.rng.next_u64())?;
        let router = &mut self.routers[id.0];
        (router.ipv4, router.ipv6) = (ipv4, ipv6);
        Ok(())
    }

    fn links(&mut self, access: Access) -> (Link, Link) {
        let up = Link::new(access.up, self.rng.next_u64());
        (up, Link::new(access.down, self.rng.next_u64()))
    }

    /// Where an address of this segment is known: there, and further out as far as it is not translated.
    fn reach(&self, mut segment: SegmentId, address: IpAddr) -> Vec<(SegmentId, Option<RouterId>)> {
        let mut reach = vec![(segment, None)];
        while let Some(gateway) = self.segments[segment.0].gateway {
            let router = &self.routers[gateway.0];
            if router.nat_for(address).config().mapping != Behavior::None {
                break;
            }
            segment = router.outside;
            reach.push((segment, Some(gateway)));
        }
        reach
    }

    fn check(&self, segment: SegmentId, addresses: &[IpAddr]) -> Result<(), NetworkError> {
        if segment.0 >= self.segments.len() {
            return Err(NetworkError::NoSuchPlace(Place::Segment(segment)));
        }
        for &address in addresses {
            for (segment, _) in self.reach(segment, address) {
                if self.segments[segment.0].stations.contains_key(&address) {
                    return Err(NetworkError::AddressTaken(segment, address));
                }
            }
        }
        Ok(())
    }

    fn register(&mut self, segment: SegmentId, address: IpAddr, station: Station) {
        for (segment, by) in self.reach(segment, address) {
            let station = by.map_or(station, Station::Router);
            self.segments[segment.0].stations.insert(address, station);
        }
    }

    fn unregister(&mut self, segment: SegmentId, address: IpAddr) {
        for (segment, _) in self.reach(segment, address) {
            self.segments[segment.0].stations.remove(&address);
        }
    }
}
