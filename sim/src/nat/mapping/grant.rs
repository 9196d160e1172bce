//! Mappings that hosts asked for: they live as long as was agreed, whatever passes, and admit everybody
//! (RFC 6887, section 11.3).

use std::net::SocketAddr;
use std::time::Instant;

use super::Mappings;
use crate::nat::DropReason;
use crate::nat::config::Behavior;
use crate::nat::table::{Id, InsideKey, Timed};
use crate::packet::{Flow, Protocol};

/// What a host asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::nat) struct Grant {
    pub(in crate::nat) protocol: Protocol,
    pub(in crate::nat) inside: SocketAddr,
    /// The outside port that it would like.
    pub(in crate::nat) suggested: Option<u16>,
    pub(in crate::nat) until: Instant,
}

impl Mappings {
    /// Makes the mapping, or prolongs the one that is there; its outside endpoint.
    pub(in crate::nat) fn grant(
        &mut self,
        grant: &Grant,
        now: Instant,
    ) -> Result<SocketAddr, DropReason> {
        let id = match self.find_granted(grant.protocol, grant.inside) {
            Some(id) => id,
            None => self.map_granted(grant, now)?,
        };
        let mapping = self.table.mappings.get_mut(&id);
        let mapping = mapping.ok_or(DropReason::TableFull)?;
        mapping.granted = Some(grant.until);
        let outside = mapping.outside;
        self.schedule(Timed::Mapping(id));
        Ok(outside)
    }

    /// Ends it, if it was granted.
    pub(in crate::nat) fn revoke(&mut self, protocol: Protocol, inside: SocketAddr) {
        let found = self.find_granted(protocol, inside);
        let granted = found.filter(|id| {
            let mapping = self.table.mappings.get(id);
            mapping.is_some_and(|mapping| mapping.granted.is_some())
        });
        if let Some(id) = granted {
            self.remove(id);
        }
    }

    fn find_granted(&self, protocol: Protocol, inside: SocketAddr) -> Option<Id> {
        self.table.find_inside(&any_remote(protocol, inside))
    }

    fn map_granted(&mut self, grant: &Grant, now: Instant) -> Result<Id, DropReason> {
        self.make_room_for_mapping(grant.inside.ip())?;
        let outside = self.allocate_granted(grant, now)?;
        let key = any_remote(grant.protocol, grant.inside);
        Ok(self.insert_mapping(key, outside, now))
    }

    fn allocate_granted(&mut self, grant: &Grant, now: Instant) -> Result<SocketAddr, DropReason> {
        // There is no remote endpoint yet; only the family of it counts.
        let flow = Flow {
            protocol: grant.protocol,
            source: grant.inside,
            destination: grant.inside,
        };
        let first = self.allocate(&flow, now)?;
        let Some(suggested) = grant.suggested.filter(|_| first != grant.inside) else {
            return Ok(first);
        };
        let inside = (grant.inside.ip(), grant.inside.port());
        let pool = self.pools.get_mut(&(grant.protocol, first.ip()));
        let claimed = pool.is_some_and(|pool| pool.claim(suggested, inside, &self.config.ports));
        if !claimed {
            return Ok(first);
        }
        self.give_back(grant.protocol, first, grant.inside.ip());
        Ok(SocketAddr::new(first.ip(), suggested))
    }
}

const fn any_remote(protocol: Protocol, inside: SocketAddr) -> InsideKey {
    InsideKey::new(Behavior::EndpointIndependent, protocol, inside, inside)
}
