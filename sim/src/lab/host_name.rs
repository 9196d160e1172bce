//! The machine's name. (`/proc/sys/kernel/hostname` would belong to the real machine's root.)
#![allow(
    unsafe_code,
    reason = "there is no safe wrapper without another feature"
)]

use std::io;

use nix::errno::Errno;

/// Names the thread's UTS namespace.
pub(super) fn set(name: &str) -> io::Result<()> {
    // SAFETY: the kernel reads just as many bytes as it is told that there are.
    let result = unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) };
    Errno::result(result)?;
    Ok(())
}
