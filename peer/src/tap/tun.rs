//! A TAP interface by `/dev/net/tun`: the usual card. It exists while its file descriptor is open.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;

use super::{CardError, Opened, index_of, io_error, ioctl};

/// Makes the TAP interface `name`, whose frames are read and written without waiting.
pub(super) fn open(name: &str) -> Result<Opened, CardError> {
    let tun = device().map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => CardError::NoDevice,
        _ => io_error(name, "opening /dev/net/tun")(error),
    })?;
    ioctl::make_tap(&tun, name).map_err(io_error(name, "making a TAP of it"))?;
    Ok(Opened {
        fd: tun.into(),
        index: index_of(name)?,
    })
}

/// What a program needs here to have a card: where the device is kept from this user, it is a veth pair, which is read by a
/// packet socket.
pub(super) fn capabilities() -> &'static str {
    match device() {
        Ok(_) => "cap_net_admin",
        Err(_) => "cap_net_admin,cap_net_raw",
    }
}

fn device() -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
}
