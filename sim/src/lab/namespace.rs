//! One simulated machine's network and host name: made, entered by threads, gone when the last of its users is.
//!
//! Only threads enter: the process as a whole stays in the world's own namespace, where the box's ends of the cables are.

use std::fs::File;
use std::io;
use std::panic;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

use super::host_name;

/// A machine's namespaces, held open.
#[derive(Debug)]
pub(super) struct Namespace {
    network: File,
    /// Holds the host name.
    uts: File,
}

impl Namespace {
    /// A new one, whose machine has this name, and nothing but a loopback interface that is down.
    pub(super) fn new(name: &str) -> io::Result<Self> {
        in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS)?;
            host_name::set(name)?;
            Ok(Self {
                network: File::open("/proc/thread-self/ns/net")?,
                uts: File::open("/proc/thread-self/ns/uts")?,
            })
        })?
    }

    /// Runs `body` on a thread inside. A process that it starts is inside as well.
    pub(super) fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> io::Result<T> {
        in_thread(|| {
            setns(&self.network, CloneFlags::CLONE_NEWNET)?;
            setns(&self.uts, CloneFlags::CLONE_NEWUTS)?;
            Ok(body())
        })?
    }

    /// The descriptor by which the kernel is told of the network namespace.
    pub(super) fn network(&self) -> &File {
        &self.network
    }
}

/// Runs `body` on a thread of its own, whose namespace is its own to change; a panic goes on here.
fn in_thread<T: Send>(body: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, body)?;
        Ok(thread
            .join()
            .unwrap_or_else(|panic| panic::resume_unwind(panic)))
    })
}
