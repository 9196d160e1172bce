//! Real processes on real machines' kernels: what the claims about the program itself share.
//!
//! ```text
//!   program  the one under test
//!   process  one `kuguri` and what it says           (ends with its value)
//!   place    one machine alone, for what is refused
//!   scene    office, desk, home and VPS, each a namespace; processes on them
//!   wire     what ordinary programs see of a network: pings, interfaces
//!   notices  what the kernel says of interfaces that change
//!   packet   raw frames at an interface
//! ```
//!
//! Nothing here knows how the program works: it sees lines, exit codes, sockets and interfaces, as any user does.

use std::time::{Duration, Instant};

pub mod notices;
pub mod packet;
pub mod place;
pub mod process;
pub mod program;
pub mod scene;
pub mod wire;

/// Until something must have happened, however busy the machine is.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks again and again until there is an answer.
///
/// # Panics
/// When there is none in [`PATIENCE`]; `what` names it.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "{what}: not in {PATIENCE:?}");
        std::thread::sleep(BETWEEN_LOOKS);
    }
}

const BETWEEN_LOOKS: Duration = Duration::from_millis(10);
