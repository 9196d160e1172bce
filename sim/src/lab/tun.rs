//! A TUN interface: what the machine sends out of it is read from a file, whole IP packets, one a read.
#![allow(
    unsafe_code,
    reason = "the kernel makes the interface by an ioctl on a C structure"
)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;

/// Makes the interface in the thread's namespace. It is gone when the file is closed. Reads and writes do not block.
pub(super) fn create(name: &str) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(DEVICE)?;
    let mut request = super::packet_socket::ifreq(name);
    // Without IFF_VNET_HDR the kernel completes checksums and cuts super-packets before we see them.
    request.ifr_ifru.ifru_flags = TUN_WITHOUT_PREFIX;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which lives until the call is over.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    Errno::result(result)?;
    Ok(file)
}

/// Whether this process may open the device at all.
pub(super) fn is_allowed() -> bool {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(DEVICE)
        .is_ok()
}

const DEVICE: &str = "/dev/net/tun";
/// `IFF_TUN | IFF_NO_PI` of linux/if_tun.h.
const TUN_WITHOUT_PREFIX: libc::c_short = 0x1001;
