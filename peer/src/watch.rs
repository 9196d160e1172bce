//! File descriptors that the runtime watches.
#![allow(
    unsafe_code,
    reason = "tokio asks its caller to promise that a watched descriptor stays open"
)]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Lets the runtime watch `fd`, which must not block when it is read or written.
///
/// # Errors
/// When the system cannot watch it.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open, is the same descriptor always, and is closed by nobody else until it is dropped,
    // which AsyncFd does after it has stopped watching.
    unsafe { AsyncFd::register(fd) }.map_err(|refused| refused.into_parts().1)
}
