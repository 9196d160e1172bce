//! One simulated machine's network namespace: made, entered by threads, gone when the last of its users is.
//!
//! Only threads enter: the process as a whole stays in the world's own namespace, where the box's ends of the cables are.

use std::fs::File;
use std::io;
use std::panic;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace, held open.
#[derive(Debug)]
pub(super) struct Namespace {
    file: File,
}

impl Namespace {
    /// A new one, empty but for a loopback interface that is down.
    pub(super) fn new() -> io::Result<Self> {
        in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        })?
        .map(|file| Self { file })
    }

    /// Runs `body` on a thread inside. A process that it starts is inside as well.
    pub(super) fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> io::Result<T> {
        in_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET)?;
            Ok(body())
        })?
    }

    /// The descriptor by which the kernel is told of it.
    pub(super) fn file(&self) -> &File {
        &self.file
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
