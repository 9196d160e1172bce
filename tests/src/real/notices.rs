//! What the kernel says of changes of a machine's interfaces (rtnetlink(7)): nothing that has happened in between is missed,
//! as it would be by looking now and then.
//!
//! ```text
//!   nlmsghdr: length u32 · type u16 · flags u16 · sequence u32 · port u32
//!   ifinfomsg (link):    family u8 · pad u8 · type u16 · index i32 · flags u32 · change u32
//!   ifaddrmsg (address): family u8 · prefix u8 · flags u8 · scope u8 · index u32
//! ```

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

/// Notices since this was made. To be made on a thread on the machine that they are about.
#[derive(Debug)]
pub struct Notices(OwnedFd);

impl Notices {
    /// From now on.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[must_use]
    pub fn new() -> Self {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )
        .expect("everybody may listen");
        let groups = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR;
        let address = NetlinkAddr::new(0, groups.cast_unsigned());
        bind(socket.as_raw_fd(), &address).expect("everybody may listen");
        Self(socket)
    }

    /// Whether the interface was there, up and with its addresses all the time.
    ///
    /// # Panics
    /// When the kernel has lost some notices: it would not be known.
    #[must_use]
    pub fn is_untouched(&self, index: u32) -> bool {
        let mut buffer = [0; 32_768];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) if messages(&buffer[..length]).any(|it| it.is_loss(index)) => {
                    return false;
                }
                Ok(_) => {}
                Err(Errno::EAGAIN) => return true,
                Err(error) => panic!("notices were lost: {error}"),
            }
        }
    }
}

impl Default for Notices {
    fn default() -> Self {
        Self::new()
    }
}

struct Message<'a> {
    kind: u16,
    body: &'a [u8],
}

impl Message<'_> {
    /// Whether it says that the interface, its being up or an address of it is gone.
    fn is_loss(&self, index: u32) -> bool {
        let word = |at: usize| {
            let bytes = self.body.get(at..at + 4)?;
            Some(u32::from_ne_bytes(bytes.try_into().ok()?))
        };
        let down = word(8).is_some_and(|flags| flags & UP == 0);
        let loss = match self.kind {
            libc::RTM_DELLINK | libc::RTM_DELADDR => true,
            libc::RTM_NEWLINK => down,
            _ => false,
        };
        loss && word(4) == Some(index)
    }
}

fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*bytes.first_chunk()?);
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let length = usize::try_from(length).ok()?;
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, body })
    })
}

const HEADER: usize = 16;
/// IFF_UP.
const UP: u32 = 1;
