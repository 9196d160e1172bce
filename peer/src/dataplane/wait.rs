//! Waiting for descriptors, or for the end.

use std::io::{self, PipeReader};
use std::os::fd::AsFd;

use kuguri_proto::SocketId;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Many sockets that one thread reads. How many there are costs nothing while nothing comes.
#[derive(Debug)]
pub(super) struct Readers {
    epoll: Epoll,
    /// Held, because what is closed is not watched.
    _stop: PipeReader,
}

impl Readers {
    /// None yet; the other end of `stop` is closed at the end.
    pub(super) fn new(stop: PipeReader) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        Ok(Self { epoll, _stop: stop })
    }

    /// One more.
    pub(super) fn add(&self, fd: &impl AsFd, SocketId(id): SocketId) -> io::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, id.into());
        Ok(self.epoll.add(fd, event)?)
    }

    /// One less.
    pub(super) fn remove(&self, fd: &impl AsFd) {
        // If it was not there, it is not there now.
        let _ = self.epoll.delete(fd);
    }

    /// Waits until some can be read, and says which; false at the end.
    pub(super) fn wait(&self, ready: &mut Vec<SocketId>) -> bool {
        let mut events = [EpollEvent::empty(); AT_ONCE];
        ready.clear();
        let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(_) => return false,
        };
        let numbers = events.iter().take(count).map(EpollEvent::data);
        ready.extend(numbers.filter_map(|number| u16::try_from(number).ok().map(SocketId)));
        !events.iter().take(count).any(|event| event.data() == STOP)
    }
}

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

/// Told in place of a socket's number, which has 16 bits.
const STOP: u64 = u64::MAX;
/// Sockets told at once; the others come next.
const AT_ONCE: usize = 16;
/// Milliseconds that a batch waits for room in the socket's buffer before it is dropped.
const PATIENCE: u8 = 5;
