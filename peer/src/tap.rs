//! The virtual LAN card: whole Ethernet frames in and out of an interface of this machine.
//!
//! ```text
//!   programs ─▶ kernel ─▶ kuguri0 ─▶ /dev/net/tun ─▶ Card           a TAP, where /dev/net/tun may be opened
//!   programs ─▶ kernel ─▶ kuguri0 ═ veth ═ packet socket ─▶ Card    else, where network settings may be changed
//! ```
//!
//! Either is gone with the process, however it ends. Knows the kernel's interfaces; knows nothing of hubs or links.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;

use kuguri_proto::wire::ethernet::MacAddr;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::route::{RouteError, Routes};
use crate::watch::watch;

mod ioctl;
mod tun;
mod veth;

/// Why there is no virtual LAN card.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CardError {
    /// The name cannot be an interface's.
    #[error("{0:?} cannot name an interface: 1 to 15 characters without spaces, '/', ':' or '%'")]
    BadName(String),
    /// An interface has it.
    #[error("there is an interface {0} already; choose another name with --interface NAME")]
    NameTaken(String),
    /// No `/dev/net/tun`, and no right to do without.
    #[error(
        "there is no /dev/net/tun here; load it with `sudo modprobe tun`, or in a container give it the device"
    )]
    NoDevice,
    /// No right to make an interface.
    #[error(
        "no right to make a network interface; start kuguri connect with sudo, or once: sudo setcap {}+ep {}",
        tun::capabilities(),
        program()
    )]
    NoRight,
    /// The system refuses something else.
    #[error("the interface {name} cannot be made: {what}: {error}")]
    Io {
        /// The interface.
        name: String,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// Its settings cannot be changed.
    #[error(transparent)]
    Route(#[from] RouteError),
}

/// How a card is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CardKind {
    /// A TAP interface of `/dev/net/tun`.
    Tap,
    /// One end of a veth pair, whose other end only this process reads.
    Veth,
}

/// What went through a card, and what did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CardCounters {
    /// Frames that programs sent.
    pub frames_in: u64,
    /// Frames given to programs.
    pub frames_out: u64,
    /// Frames that the kernel did not take (the interface is down, or its queue is full).
    pub dropped: u64,
}

/// A virtual LAN card.
#[derive(Debug)]
pub struct Card {
    fd: AsyncFd<OwnedFd>,
    name: String,
    index: u32,
    kind: CardKind,
    counters: CardCounters,
}

/// What the two ways of making a card have in common.
struct Opened {
    fd: OwnedFd,
    index: u32,
}

impl Card {
    /// Makes the interface `name` with the address `mac`; it stays down until its settings are known.
    ///
    /// # Errors
    /// When the name is taken or this process may not make interfaces.
    pub async fn open(name: &str, mac: MacAddr, routes: &Routes) -> Result<Self, CardError> {
        check_name(name)?;
        let (opened, kind) = match tun::open(name) {
            Ok(opened) => (opened, CardKind::Tap),
            Err(error @ (CardError::NoDevice | CardError::NoRight)) => {
                tracing::debug!(%error, "no TAP, trying a veth pair");
                match veth::open(name, routes).await {
                    Ok(opened) => (opened, CardKind::Veth),
                    // The one of the two errors that says what to do.
                    Err(CardError::NoRight) => return Err(error),
                    Err(other) => return Err(other),
                }
            }
            Err(error) => return Err(error),
        };
        Self::new(opened, name, kind, mac, routes).await
    }

    async fn new(
        opened: Opened,
        name: &str,
        kind: CardKind,
        mac: MacAddr,
        routes: &Routes,
    ) -> Result<Self, CardError> {
        routes.set_mac(opened.index, mac).await?;
        Ok(Self {
            fd: watch(opened.fd).map_err(io_error(name, "watching it"))?,
            name: name.to_owned(),
            index: opened.index,
            kind,
            counters: CardCounters::default(),
        })
    }

    /// The interface's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface's index in the kernel.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// How it is made.
    #[must_use]
    pub const fn kind(&self) -> CardKind {
        self.kind
    }

    /// What went through so far.
    #[must_use]
    pub const fn counters(&self) -> CardCounters {
        self.counters
    }

    /// Waits until programs have sent a frame.
    ///
    /// # Errors
    /// When the runtime is going down.
    pub async fn readable(&self) -> io::Result<()> {
        self.fd.readable().await.map(|_| ())
    }

    /// The next frame that programs have sent, in `buffer`; `None` when there is none now.
    pub fn receive<'b>(&mut self, buffer: &'b mut [u8]) -> Option<&'b mut [u8]> {
        let read = self
            .fd
            .try_io(Interest::READABLE, |fd| Ok(nix::unistd::read(fd, buffer)?));
        match read {
            Ok(length) => {
                self.counters.frames_in += 1;
                buffer.get_mut(..length)
            }
            Err(error) => {
                if error.kind() != ErrorKind::WouldBlock {
                    tracing::debug!(%error, "no frame from {}", self.name);
                }
                None
            }
        }
    }

    /// Gives a frame to programs. What the kernel does not take is lost, as on a wire.
    pub fn send(&mut self, frame: &[u8]) {
        match nix::unistd::write(self.fd.get_ref(), frame) {
            Ok(_) => self.counters.frames_out += 1,
            Err(_) => self.counters.dropped += 1,
        }
    }

    /// Takes the interface away now, rather than with the process.
    pub async fn close(self, routes: &Routes) {
        if self.kind == CardKind::Veth {
            // It goes with the process anyway, only later.
            let _ = routes.delete(self.index).await;
        }
    }
}

/// Room for the largest frame, also one that the kernel has merged.
pub const LARGEST_FRAME: usize = 65_536 + 32;

fn check_name(name: &str) -> Result<(), CardError> {
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && !"/:%".contains(c);
    let fits = (1..libc::IFNAMSIZ).contains(&name.len());
    if !fits || !name.chars().all(plain) || name == "." || name == ".." {
        return Err(CardError::BadName(name.to_owned()));
    }
    match if_nametoindex(name) {
        Ok(_) => Err(CardError::NameTaken(name.to_owned())),
        Err(_) => Ok(()),
    }
}

/// This program as a shell finds it.
fn program() -> String {
    let own = std::env::current_exe();
    own.map_or_else(
        |_| "$(command -v kuguri)".to_owned(),
        |path| path.display().to_string(),
    )
}

fn index_of(name: &str) -> Result<u32, CardError> {
    if_nametoindex(name).map_err(|errno| io_error(name, "finding it")(errno.into()))
}

fn io_error(name: &str, what: &'static str) -> impl FnOnce(io::Error) -> CardError {
    let name = name.to_owned();
    move |error| match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM | Errno::EACCES) => CardError::NoRight,
        Some(Errno::EBUSY | Errno::EEXIST) => CardError::NameTaken(name),
        _ => CardError::Io { name, what, error },
    }
}

#[cfg(test)]
mod tests;
