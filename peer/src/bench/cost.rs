//! What a subject's processes took of the machine, as the kernel counts it (proc(5)).

use std::fs;
use std::time::Duration;

use anyhow::Context;
use nix::unistd::{SysconfVar, sysconf};

/// Processor time of these processes so far, user and system. One that has ended meanwhile counts nothing.
pub(super) fn processor_time(processes: &[u32]) -> anyhow::Result<Duration> {
    let per_second = sysconf(SysconfVar::CLK_TCK)?
        .and_then(|ticks| u32::try_from(ticks).ok())
        .context("the kernel does not say how it counts processor time")?;
    let ticks: u64 = processes
        .iter()
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok())
        .filter_map(|line| ticks(&line))
        .sum();
    let nanoseconds = ticks.saturating_mul(1_000_000_000 / u64::from(per_second));
    Ok(Duration::from_nanos(nanoseconds))
}

/// Resident memory of the largest of these processes, in MiB.
pub(super) fn largest_resident(processes: &[u32]) -> anyhow::Result<f64> {
    let kib = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u32>().ok()
    };
    Ok(f64::from(processes.iter().filter_map(kib).max().unwrap_or(0)) / 1024.0)
}

/// `utime` and `stime`: the 14th and 15th field. The second is the program's name, which may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_behind_any_name() {
        let line = "7 (a) b (c) R 1 2 3 4 5 6 7 8 9 10 300 45 0 0 20 0 1 0 9 9 9";
        assert_eq!(ticks(line), Some(345));
        assert_eq!(ticks(""), None);
    }

    #[test]
    fn this_process_has_memory_and_its_time_grows() {
        let own = [std::process::id()];
        assert!(largest_resident(&own).expect("readable") > 1.0);
        let before = processor_time(&own).expect("readable");
        let mut sum = 0u64;
        while processor_time(&own).expect("readable") == before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
    }
}
