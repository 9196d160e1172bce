//! Who may send to a mapping (RFC 4787, section 5): those who were sent to from it before, as exactly as the filter looks.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::config::Behavior;

/// Whether `remote` may send to a mapping with these sessions.
pub(super) fn admits<T>(
    filtering: Behavior,
    sessions: &BTreeMap<SocketAddr, T>,
    remote: SocketAddr,
) -> bool {
    match filtering {
        Behavior::None | Behavior::EndpointIndependent => true,
        Behavior::AddressDependent => {
            let (first, last) = (
                SocketAddr::new(remote.ip(), 0),
                SocketAddr::new(remote.ip(), u16::MAX),
            );
            sessions.range(first..=last).next().is_some()
        }
        Behavior::AddressAndPortDependent => sessions.contains_key(&remote),
    }
}
