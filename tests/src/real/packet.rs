//! Raw Ethernet frames at an interface, by a packet socket (packet(7)). To be opened on a thread on the machine that the
//! interface is of.
#![allow(
    unsafe_code,
    reason = "a packet socket is bound by the kernel's own structure"
)]

use std::io::{self, Read, Write};
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};

/// A socket for them.
#[derive(Debug)]
pub struct Frames(Socket);

impl Frames {
    /// At the interface of that name.
    ///
    /// # Panics
    /// When there is none, or no right to open it.
    #[must_use]
    pub fn at(interface: &str) -> Self {
        let every = u16::try_from(libc::ETH_P_ALL).expect("it is 3").to_be();
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(i32::from(every).into()))
            .expect("the world's root may open packet sockets");
        let index = if_nametoindex(interface).expect("the interface is there");
        let address = link_address(i32::try_from(index).expect("indices are small"), every);
        socket.bind(&address).expect("the interface is there");
        socket.set_read_timeout(Some(RETRY)).expect("not zero");
        Self(socket)
    }

    /// Sends one.
    ///
    /// # Errors
    /// When the interface does not take it.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        (&self.0).write_all(frame)
    }

    /// Looks at what comes for a moment: whether this very frame is among it.
    #[must_use]
    pub fn sees(&self, frame: &[u8]) -> bool {
        let mut buffer = [0; 4096];
        while let Ok(length) = (&self.0).read(&mut buffer) {
            if buffer[..length] == *frame {
                return true;
            }
        }
        false
    }
}

fn link_address(index: i32, protocol: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: a `sockaddr_ll` fits in the storage and is plain numbers, for which zero is valid.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET.try_into().expect("families are small");
    address.sll_protocol = protocol;
    address.sll_ifindex = index;
    let length = size_of::<libc::sockaddr_ll>();
    let length = length.try_into().expect("a small structure");
    // SAFETY: the storage holds a `sockaddr_ll` of that length.
    unsafe { SockAddr::new(storage, length) }
}

/// One look at what comes.
const RETRY: Duration = Duration::from_millis(20);
