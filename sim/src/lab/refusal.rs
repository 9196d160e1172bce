//! Why the laboratory cannot be built here: what the kernel refused, and what a person can do about it, in one sentence.
//!
//! The kernel's error numbers say little (`EPERM` has five different causes), so the sentence is made by looking at the
//! switches that are known to forbid namespaces.

use std::fs;
use std::io;

use nix::errno::Errno;

/// What the kernel refused. Its text is one sentence for people.
#[derive(Debug, thiserror::Error)]
#[error("the kernel refused {what} ({cause}): {}", advice(.cause))]
pub struct Refusal {
    what: &'static str,
    cause: io::Error,
}

impl Refusal {
    /// `what` was refused with `cause`.
    #[must_use]
    pub fn new(what: &'static str, cause: impl Into<io::Error>) -> Self {
        Self {
            what,
            cause: cause.into(),
        }
    }

    /// The namespaces themselves were refused.
    #[must_use]
    pub fn of_namespaces(cause: impl Into<io::Error>) -> Self {
        Self::new("user, network and PID namespaces", cause)
    }
}

/// Names the step that failed.
pub(super) trait Step<T> {
    /// Turns the kernel's error into a refusal of `what`.
    fn step(self, what: &'static str) -> Result<T, Refusal>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, what: &'static str) -> Result<T, Refusal> {
        self.map_err(|cause| Refusal::new(what, cause))
    }
}

/// What to do, by the first switch that explains the error.
fn advice(cause: &io::Error) -> &'static str {
    let errno = Errno::from_raw(cause.raw_os_error().unwrap_or_default());
    if errno == Errno::EOPNOTSUPP || errno == Errno::ENODEV {
        return "it has no such kind of interface; load the module veth or tun as root (`modprobe veth tun`)";
    }
    SWITCHES
        .iter()
        .find(|switch| switch.is_off())
        .map_or(UNKNOWN, |switch| switch.advice)
}

/// A setting of the kernel that forbids namespaces while it has one certain value.
struct Switch {
    file: &'static str,
    /// The beginning of the line that decides; empty when the file is only a number.
    line: &'static str,
    forbids: &'static str,
    advice: &'static str,
}

impl Switch {
    fn is_off(&self) -> bool {
        let text = fs::read_to_string(self.file).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.strip_prefix(self.line))
            .any(|value| value.trim() == self.forbids)
    }
}

const SWITCHES: [Switch; 5] = [
    Switch {
        file: "/proc/sys/user/max_user_namespaces",
        line: "",
        forbids: "0",
        advice: "user namespaces are switched off; run `sysctl user.max_user_namespaces=15000` as root",
    },
    Switch {
        file: "/proc/sys/user/max_net_namespaces",
        line: "",
        forbids: "0",
        advice: "network namespaces are switched off; run `sysctl user.max_net_namespaces=15000` as root",
    },
    Switch {
        file: "/proc/sys/kernel/unprivileged_userns_clone",
        line: "",
        forbids: "0",
        advice: "only root may make user namespaces; run `sysctl kernel.unprivileged_userns_clone=1` as root",
    },
    Switch {
        file: "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        line: "",
        forbids: "1",
        advice: "AppArmor restricts user namespaces; run `sysctl kernel.apparmor_restrict_unprivileged_userns=0` as root",
    },
    Switch {
        file: "/proc/self/status",
        line: "Seccomp:",
        forbids: "2",
        advice: "a seccomp filter is active, probably a container's; run outside it, or start it with `--security-opt seccomp=unconfined`",
    },
];

const UNKNOWN: &str = "it needs user and network namespaces (CONFIG_USER_NS, CONFIG_NET_NS) and the right to use them; try as root";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_one_line_that_names_the_step_and_ends_in_advice() {
        let text = Refusal::new("a veth pair", Errno::EOPNOTSUPP).to_string();
        assert!(
            text.starts_with("the kernel refused a veth pair ("),
            "{text}"
        );
        assert!(text.contains("modprobe veth"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn a_switch_is_read_from_its_line() {
        let threads = |forbids| Switch {
            file: "/proc/self/status",
            line: "Tgid:",
            forbids,
            advice: "",
        };
        let own = std::process::id().to_string();
        assert!(threads(own.leak()).is_off());
        assert!(!threads("0").is_off());
    }
}
