//! The virtual LAN card: whole Ethernet frames in and out of an interface of this machine.
//!
//! ```text
//!   programs ─▶ kernel ─▶ kuguri0 ─▶ /dev/net/tun ─▶ Card           a TAP, where /dev/net/tun may be opened
//!   programs ─▶ kernel ─▶ kuguri0 ═ veth ═ packet socket ─▶ Card    else, where network settings may be changed
//! ```
//!
//! Either is gone with the process, however it ends. Knows the kernel's interfaces; knows nothing of hubs or links.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kuguri_proto::offload::{VnetHeader, vnet};
use kuguri_proto::wire::ethernet::MacAddr;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::uio::writev;

use crate::route::{RouteError, Routes};

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

/// What the kernel does for a card.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Offload {
    /// A header before every frame ([`kuguri_proto::offload::vnet`]): super-frames can be given to the kernel.
    pub header: bool,
    /// Checksums may stay open in what the kernel gives.
    pub checksum: bool,
    /// The kernel gives TCP in super-frames.
    pub tcp: bool,
    /// And UDP.
    pub udp: bool,
}

/// A virtual LAN card.
#[derive(Debug)]
pub struct Card {
    port: Arc<CardPort>,
    name: String,
    index: u32,
    kind: CardKind,
}

/// The card as frames see it, for every thread.
#[derive(Debug)]
pub struct CardPort {
    fd: OwnedFd,
    offload: Offload,
    frames_in: AtomicU64,
    frames_out: AtomicU64,
    dropped: AtomicU64,
}

/// What the two ways of making a card have in common.
struct Opened {
    fd: OwnedFd,
    index: u32,
    offload: Offload,
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
            port: Arc::new(CardPort {
                fd: opened.fd,
                offload: opened.offload,
                frames_in: AtomicU64::new(0),
                frames_out: AtomicU64::new(0),
                dropped: AtomicU64::new(0),
            }),
            name: name.to_owned(),
            index: opened.index,
            kind,
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
    pub fn counters(&self) -> CardCounters {
        self.port.counters()
    }

    /// The card as frames see it.
    #[must_use]
    pub fn port(&self) -> Arc<CardPort> {
        Arc::clone(&self.port)
    }

    /// Gives a frame to programs. What the kernel does not take is lost, as on a wire.
    pub fn send(&self, frame: &[u8]) {
        self.port.send(
            VnetHeader::default(),
            &mut [IoSlice::new(&[]), IoSlice::new(frame)],
            1,
        );
    }

    /// Takes the interface away now, rather than with the process.
    pub async fn close(self, routes: &Routes) {
        if self.kind == CardKind::Veth {
            // It goes with the process anyway, only later.
            let _ = routes.delete(self.index).await;
        }
    }
}

impl CardPort {
    /// What the kernel does for it.
    #[must_use]
    pub const fn offload(&self) -> Offload {
        self.offload
    }

    /// What went through so far.
    #[must_use]
    pub fn counters(&self) -> CardCounters {
        CardCounters {
            frames_in: self.frames_in.load(Ordering::Relaxed),
            frames_out: self.frames_out.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
        }
    }

    /// The next frame that programs have sent, as its place in `buffer`, and what the kernel says of it; `None` when there is
    /// none now.
    pub fn receive(&self, buffer: &mut [u8]) -> Option<(VnetHeader, Range<usize>)> {
        for _ in 0..BROKEN {
            let length = match nix::unistd::read(&self.fd, buffer) {
                Ok(length) => length,
                Err(Errno::EAGAIN) => return None,
                Err(error) => {
                    tracing::debug!(%error, "no frame from the card");
                    return None;
                }
            };
            self.frames_in.fetch_add(1, Ordering::Relaxed);
            if !self.offload.header {
                return Some((VnetHeader::default(), 0..length));
            }
            let header = buffer.first_chunk().filter(|_| length >= vnet::LEN);
            match header.map(VnetHeader::parse) {
                Some(Ok(header)) => return Some((header, vnet::LEN..length)),
                // What nobody asked the kernel for.
                Some(Err(_)) | None => self.drop_frames(1),
            }
        }
        None
    }

    /// Gives programs a frame, or one that stands for `frames`: its bytes in pieces, of which the first is left free for the
    /// header. What the kernel does not take is lost, as on a wire.
    pub fn send(&self, header: VnetHeader, pieces: &mut [IoSlice<'_>], frames: u64) {
        let bytes = header.to_bytes();
        let written = match pieces.split_first_mut() {
            Some((first, rest)) if !self.offload.header => {
                let _ = first;
                writev(&self.fd, rest)
            }
            Some(_) => {
                let mut with: [IoSlice<'_>; PIECES] = std::array::from_fn(|_| IoSlice::new(&[]));
                with[0] = IoSlice::new(&bytes);
                let count = pieces.len().min(PIECES);
                with[1..count].copy_from_slice(&pieces[1..count]);
                writev(&self.fd, &with[..count])
            }
            None => return,
        };
        match written {
            Ok(_) => self.frames_out.fetch_add(frames, Ordering::Relaxed),
            Err(_) => self.dropped.fetch_add(frames, Ordering::Relaxed),
        };
    }

    /// Frames that could not be used are counted.
    pub fn drop_frames(&self, frames: u64) {
        self.dropped.fetch_add(frames, Ordering::Relaxed);
    }
}

impl AsFd for CardPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Room for the largest frame, also one that the kernel has merged.
pub const LARGEST_FRAME: usize = 65_536 + 32 + vnet::LEN;
/// Pieces of a frame that is given to the kernel, its header included.
pub const PIECES: usize = 68;
/// Frames with a header that cannot be read, after which one read gives up for now.
const BROKEN: usize = 64;

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
