//! Waiting for a descriptor, or for the end.

use std::io::PipeReader;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Waits until `fd` can be read; false when `stop` was closed instead.
pub(super) fn readable(fd: &impl AsFd, stop: &PipeReader) -> bool {
    loop {
        let mut polled = [
            PollFd::new(fd.as_fd(), PollFlags::POLLIN),
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut polled, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            Ok(_) if polled[1].any() != Some(false) => return false,
            Ok(_) | Err(_) => return true,
        }
    }
}

/// Waits a little until `fd` can be written; whether it can.
pub(super) fn writable(fd: &impl AsFd) -> bool {
    let mut polled = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
    poll(&mut polled, PATIENCE).is_ok_and(|ready| ready > 0)
}

/// Milliseconds that a batch waits for room in the socket's buffer before it is dropped.
const PATIENCE: u8 = 5;
