//! A TAP interface by `/dev/net/tun`: the usual card. It exists while its file descriptor is open.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;

use super::{CardError, Opened, index_of, io_error, ioctl};

/// Makes the TAP interface `name`, whose frames are read and written without waiting.
pub(super) fn open(name: &str) -> Result<Opened, CardError> {
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => CardError::NoDevice,
            _ => io_error(name, "opening /dev/net/tun")(error),
        })?;
    ioctl::make_tap(&tun, name).map_err(io_error(name, "making a TAP of it"))?;
    Ok(Opened {
        fd: tun.into(),
        index: index_of(name)?,
    })
}
