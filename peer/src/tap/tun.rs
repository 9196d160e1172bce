//! A TAP interface by `/dev/net/tun`: the usual card. It exists while its file descriptor is open.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;

use super::{CardError, Offload, Opened, index_of, io_error, ioctl};

/// Makes the TAP interface `name`, whose frames are read and written without waiting.
pub(super) fn open(name: &str) -> Result<Opened, CardError> {
    let tun = device().map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => CardError::NoDevice,
        _ => io_error(name, "opening /dev/net/tun")(error),
    })?;
    // An old kernel may refuse the header; a plain TAP will do.
    let with_header = ioctl::make_tap(&tun, name, true).is_ok();
    if !with_header {
        ioctl::make_tap(&tun, name, false).map_err(io_error(name, "making a TAP of it"))?;
    }
    let offload = if with_header {
        ask_for_offloads(&tun)
    } else {
        Offload::default()
    };
    Ok(Opened {
        fd: tun.into(),
        index: index_of(name)?,
        offload,
    })
}

/// As much as this kernel can: UDP only since Linux 6.2.
fn ask_for_offloads(tun: &File) -> Offload {
    let tcp = ioctl::OFFLOAD_CSUM | ioctl::OFFLOAD_TCP;
    let asks = [
        (tcp | ioctl::OFFLOAD_UDP, (true, true, true)),
        (tcp, (true, true, false)),
        (ioctl::OFFLOAD_CSUM, (true, false, false)),
    ];
    let granted = asks
        .into_iter()
        .find(|(flags, _)| ioctl::set_offload(tun, *flags).is_ok());
    let (checksum, tcp, udp) = granted.map(|(_, granted)| granted).unwrap_or_default();
    Offload {
        header: true,
        checksum,
        tcp,
        udp,
    }
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
