//! Limits: whether there is room for one more mapping or session, and who goes to make some.

use std::net::IpAddr;
use std::time::Instant;

use super::Mappings;
use crate::nat::DropReason;
use crate::nat::config::Overflow;

impl Mappings {
    pub(super) fn make_room_for_mapping(&mut self, host: IpAddr) -> Result<(), DropReason> {
        let limits = &self.config.limits;
        let (total, per_host) = (limits.mappings, limits.mappings_per_host);
        let own = self.table.host(host).map(|entries| &entries.mappings);
        let oldest_own = own
            .filter(|own| own.len() >= per_host)
            .and_then(|own| own.first())
            .copied();
        let oldest = || {
            (self.len() >= total)
                .then(|| self.table.mappings.keys().next().copied())
                .flatten()
        };
        if let Some(id) = oldest_own.or_else(oldest) {
            self.evict()?;
            self.remove(id);
        }
        Ok(())
    }

    pub(super) fn make_room_for_session(
        &mut self,
        host: IpAddr,
        now: Instant,
    ) -> Result<(), DropReason> {
        let limits = &self.config.limits;
        if !self.guard.admits_one_more(limits.new_per_second, now) {
            return Err(DropReason::TooManyNew);
        }
        let (total, per_host) = (limits.sessions, limits.sessions_per_host);
        let own = self.table.host(host).map(|entries| &entries.sessions);
        let oldest_own = own
            .filter(|own| own.len() >= per_host)
            .and_then(|own| own.first())
            .copied();
        let oldest = || {
            (self.sessions() >= total)
                .then(|| self.table.sessions.keys().next().copied())
                .flatten()
        };
        if let Some(id) = oldest_own.or_else(oldest) {
            self.evict()?;
            self.remove_session(id);
        }
        Ok(())
    }

    const fn evict(&mut self) -> Result<(), DropReason> {
        match self.config.limits.overflow {
            Overflow::Refuse => Err(DropReason::TableFull),
            Overflow::EvictOldest => {
                self.evicted += 1;
                Ok(())
            }
        }
    }
}
