//! Where the machine is: the gateway of its default route, and whether it has slept.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

/// The gateway of the default route for IPv4, when there is one.
#[must_use]
pub fn gateway() -> Option<IpAddr> {
    let routes = std::fs::read_to_string("/proc/net/route").ok()?;
    default_gateway(&routes)
}

/// Notices that the machine has slept: one clock runs on meanwhile, the other one does not.
#[derive(Debug)]
pub struct Sleep {
    looked: Instant,
    uptime: Option<Duration>,
}

impl Sleep {
    /// From now on.
    #[must_use]
    pub fn new() -> Self {
        Self {
            looked: Instant::now(),
            uptime: uptime(),
        }
    }

    /// Whether it has slept since this was asked last; looks once a second at most.
    pub fn is_over(&mut self) -> bool {
        let awake = self.looked.elapsed();
        if awake < LOOK {
            return false;
        }
        let before = std::mem::take(self);
        let passed = self.uptime.zip(before.uptime);
        passed.is_some_and(|(now, before)| now.saturating_sub(before) > awake + SLEPT)
    }
}

impl Default for Sleep {
    fn default() -> Self {
        Self::new()
    }
}

/// Since the machine was started, sleep included (proc(5)).
fn uptime() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/uptime").ok()?;
    let seconds = text.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// A sleep that counts.
const SLEPT: Duration = Duration::from_secs(2);

/// Of the kernel's table (proc(5)): the route with the least metric to 0.0.0.0/0.
fn default_gateway(routes: &str) -> Option<IpAddr> {
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok();
        let (destination, gateway, mask) = (number(1)?, number(2)?, number(7)?);
        let metric: u32 = fields.get(6)?.parse().ok()?;
        (destination == 0 && mask == 0 && gateway != 0).then_some((metric, gateway))
    };
    let (_, gateway) = routes.lines().skip(1).filter_map(route).min()?;
    // The kernel prints the four bytes as they stand in memory.
    Some(IpAddr::V4(Ipv4Addr::from(gateway.to_ne_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_default_route_is_found() {
        let head = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n";
        let bytes = |address: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(address));
        let line = |destination: [u8; 4], gateway: [u8; 4], metric: u32, mask: [u8; 4]| {
            let [destination, gateway, mask] = [destination, gateway, mask].map(bytes);
            format!("eth0 {destination} {gateway} 0003 0 0 {metric} {mask} 0 0 0\n")
        };
        let table = [
            head.to_owned(),
            line([192, 168, 1, 0], [0; 4], 0, [255, 255, 255, 0]),
            line([0; 4], [192, 168, 1, 254], 600, [0; 4]),
            line([0; 4], [192, 168, 1, 1], 100, [0; 4]),
        ]
        .concat();
        assert_eq!(
            default_gateway(&table),
            Some(IpAddr::from([192, 168, 1, 1]))
        );
        assert_eq!(default_gateway(head), None);
        assert_eq!(default_gateway("x\n\n z z z\n"), None);
    }

    #[test]
    fn a_clock_that_ran_on_alone_is_a_sleep() {
        let ago = |sleep: Duration| {
            let now = Sleep::new();
            Sleep {
                looked: now
                    .looked
                    .checked_sub(Duration::from_secs(10))
                    .expect("up for long"),
                uptime: now
                    .uptime
                    .map(|up| up.saturating_sub(Duration::from_secs(10) + sleep)),
            }
        };
        if uptime().is_some_and(|up| up > Duration::from_secs(100)) {
            assert!(!ago(Duration::ZERO).is_over());
            let mut sleep = ago(Duration::from_secs(60));
            assert!(sleep.is_over() && !sleep.is_over());
        }
    }
}
