//! `leases-NAME.toml`: which addresses a hub's DHCP server has given out, over a restart.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kuguri_proto::gateway::KeptLease;
use kuguri_proto::identity::PeerId;
use serde::{Deserialize, Serialize};

use super::file::{read_toml, write_toml};
use super::state::StateError;

/// As it stands in the file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    #[serde(default)]
    lease: Vec<Kept>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    client: PeerId,
    mac: String,
    address: Ipv4Addr,
    host_name: String,
    /// Seconds since 1970.
    expires: u64,
}

/// Reads what is still good.
///
/// # Errors
/// When the file is corrupt.
pub fn read(path: &Path) -> Result<Vec<KeptLease>, StateError> {
    let contents: Contents = read_toml(path)?.unwrap_or_default();
    let now = since_1970();
    let kept = contents.lease.into_iter().filter_map(|kept| {
        let left = Duration::from_secs(kept.expires).checked_sub(now)?;
        Some(KeptLease {
            client: kept.client,
            mac: kept.mac.parse().ok()?,
            address: kept.address,
            host_name: kept.host_name,
            // What a clock or a hand has put further away is not believed.
            left: left.min(LONGEST),
        })
    });
    Ok(kept.collect())
}

/// Replaces the file.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, leases: &[KeptLease]) -> Result<(), StateError> {
    let now = since_1970();
    let lease = leases.iter().map(|lease| Kept {
        client: lease.client,
        mac: lease.mac.to_string(),
        address: lease.address,
        host_name: lease.host_name.clone(),
        expires: (now + lease.left).as_secs(),
    });
    let contents = Contents {
        lease: lease.collect(),
    };
    write_toml(path, &contents)
}

/// Ten years: the longest lease that can be set.
const LONGEST: Duration = Duration::from_secs(315_360_000);

fn since_1970() -> Duration {
    // A clock before 1970 makes every lease good for long; nobody is hurt.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(left: u64) -> KeptLease {
        KeptLease {
            client: PeerId([7; 32]),
            mac: "02:00:00:00:00:01".parse().expect("one"),
            address: [192, 168, 30, 10].into(),
            host_name: "printer".into(),
            left: Duration::from_secs(left),
        }
    }

    #[test]
    fn what_is_kept_comes_back_while_it_is_good() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("hub-office.leases.toml");
        assert!(read(&path).expect("none yet").is_empty());
        write(&path, &[lease(3600)]).expect("writes");
        let read_back = read(&path).expect("reads");
        assert_eq!(read_back.len(), 1);
        assert!((3598..=3600).contains(&read_back[0].left.as_secs()));
        assert_eq!(
            (read_back[0].address, read_back[0].mac),
            (lease(1).address, lease(1).mac)
        );
        std::fs::write(&path, "lease = 7\n").expect("writes");
        assert!(read(&path).is_err());
    }
}
