//! The world: user, network and PID namespaces of our own, in which the laboratory and all its programs live and die.
//!
//! A process cannot become a part of a new world once it has threads, so a program enters by starting itself again:
//! [`command`] is this same program inside a new world, and there [`World::here`] answers. That works from any thread of
//! any process, a test's as well as a person's, and nothing outside changes: no file, no interface, no right.
//!
//! ```text
//! fn main() {                                   outside                        inside
//!     match World::here() {
//!         Some(world) => laboratory(&world),                                   runs this
//!         None => wait_for(world::command(arguments)?.spawn()),   runs this ─►
//!     }
//! }
//! ```
//!
//! A test does the same by [`claim`]. When the outer process ends, even by `kill -9`, the kernel ends the world.

use std::env;
use std::fs;
use std::io;
use std::process::{Command, Output};
use std::thread;

use super::fork;
use super::refusal::{Refusal, Step};

/// The right to build laboratories: only a process inside a world has it.
#[derive(Debug)]
pub struct World {
    _inside: (),
}

impl World {
    /// The world that this process lives in, if it was started by [`command`].
    #[must_use]
    pub fn here() -> Option<Self> {
        let outside = env::var(MARK).ok()?;
        let inside = own_namespace().ok()?;
        // An environment that was carried out of a world must not make anybody take the machine's own network for one.
        (outside != inside).then_some(Self { _inside: () })
    }
}

/// This program again, as the first of a new world, with other arguments. The world ends with it, and it ends with the
/// thread that spawns it. `spawn` fails where the kernel refuses: [`Refusal::of_namespaces`] says it in words.
///
/// Its exit status is the program's, or 128 and a signal's number.
///
/// # Errors
/// `/proc` cannot be read.
pub fn command<I>(arguments: I) -> Result<Command, Refusal>
where
    I: IntoIterator<Item: AsRef<std::ffi::OsStr>>,
{
    let program = env::current_exe().step("the path of this program (/proc/self/exe)")?;
    let mark = own_namespace().step("a look at the own network namespace (/proc/self/ns/net)")?;
    let mut command = Command::new(program);
    command.args(arguments).env(MARK, mark);
    fork::start_in_new_world(&mut command);
    Ok(command)
}

/// A test's body, run inside a world of its own. To be called as the only statement of a `#[test]` function, from any
/// crate; the test program is started again for this one test. What the body prints and how it panics is shown by the
/// outer test. Where the kernel refuses, one sentence says so and the test counts as passed.
///
/// # Panics
/// When the body does.
pub fn claim(body: impl FnOnce(&World)) {
    if let Some(world) = World::here() {
        body(&world);
        // Said by an exit status of its own, for "no such test" would be success too.
        std::process::exit(CLAIM_HOLDS);
    }
    match run_this_test_again() {
        Ok(output) => {
            eprint!("{}", String::from_utf8_lossy(&output.stdout));
            eprint!("{}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(
                output.status.code(),
                Some(CLAIM_HOLDS),
                "failed in the world"
            );
        }
        Err(refusal) => eprintln!("skipped: {refusal}"),
    }
}

/// The test harness names each test's thread after the test.
fn run_this_test_again() -> Result<Output, Refusal> {
    let thread = thread::current();
    let test = thread.name().unwrap_or_default();
    command([test, "--exact", "--nocapture"])?
        .output()
        .map_err(Refusal::of_namespaces)
}

/// The name of the network namespace that this process began in.
fn own_namespace() -> io::Result<String> {
    let link = fs::read_link("/proc/self/ns/net")?;
    Ok(link.to_string_lossy().into_owned())
}

/// The environment variable that carries the name of the network namespace outside.
pub(super) const MARK: &str = "KUGURI_WORLD_OUTSIDE";

/// How a test's inner process says that the body ran to its end.
const CLAIM_HOLDS: i32 = 86;
