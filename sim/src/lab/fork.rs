//! The two things that must happen in a child between fork and exec: entering a world, and giving up capabilities.
//!
//! ```text
//! caller ─ fork ─ guard ─ fork ─ init (PID 1 of the world) ─ fork ─ the program (exec)
//!                 waits          reaps orphans; its end is the end of everything in the world
//! ```
//!
//! Each one asks the kernel to kill it when its parent ends, so `kill -9` on any of them leaves nothing behind. Guard
//! and init run no code of the program: they wait, and pass the exit status on.
#![allow(
    unsafe_code,
    reason = "fork and pre_exec: the code runs in a copy of one thread, where only system calls are allowed"
)]

use std::ffi::CStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::{set_no_new_privs, set_pdeathsig};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getgid, getpid, getppid, getuid, write};

/// The command's program starts as the first program of a new world. What the kernel refuses comes out of `spawn`.
pub(super) fn start_in_new_world(command: &mut Command) {
    let uid_map = format!("0 {} 1\n", getuid());
    let gid_map = format!("0 {} 1\n", getgid());
    let root = getuid().is_root();
    let caller = getpid();
    // SAFETY: the closure makes only system calls on memory that was prepared before the fork: no allocation, no lock.
    unsafe {
        command.pre_exec(move || {
            new_namespaces(uid_map.as_bytes(), gid_map.as_bytes(), root)?;
            die_with(caller)?;
            SigSet::all().thread_block()?;
            leave_a_waiting_parent()?;
            leave_a_waiting_parent()?;
            SigSet::empty().thread_set_mask()?;
            Ok(())
        });
    }
}

/// The command's program starts with no capability and no way to get one, though its user id be 0 in the world.
pub(super) fn start_without_capabilities(command: &mut Command) {
    // SAFETY: the closure makes two system calls and touches no memory.
    unsafe {
        command.pre_exec(|| {
            // capabilities(7): with NOROOT, exec gives a process of user id 0 nothing; locked, for its children too.
            let bits = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP_LOCKED;
            Errno::result(libc::prctl(libc::PR_SET_SECUREBITS, bits))?;
            set_no_new_privs()?;
            Ok(())
        });
    }
}

/// Root of a namespace of its own if it may be; root itself may do without.
fn new_namespaces(uid_map: &[u8], gid_map: &[u8], root: bool) -> io::Result<()> {
    let inner = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID;
    match unshare(CloneFlags::CLONE_NEWUSER | inner) {
        Ok(()) => {
            fill(c"/proc/self/setgroups", b"deny")?;
            fill(c"/proc/self/uid_map", uid_map)?;
            fill(c"/proc/self/gid_map", gid_map)
        }
        Err(_) if root => Ok(unshare(inner)?),
        Err(refused) => Err(refused.into()),
    }
}

fn fill(file: &CStr, text: &[u8]) -> io::Result<()> {
    let file = open(file, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    write(&file, text)?;
    Ok(())
}

/// Asks to be killed with the parent; fails if it has ended before the request was made.
fn die_with(parent: Pid) -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    if getppid() == parent {
        Ok(())
    } else {
        Err(Errno::ESRCH.into())
    }
}

/// Goes on in a child; this process only waits for it, reaps what else ends, and ends as the child did.
fn leave_a_waiting_parent() -> io::Result<()> {
    // SAFETY: the process has one thread, and both sides only make system calls.
    match unsafe { fork() }? {
        ForkResult::Child => Ok(set_pdeathsig(Signal::SIGKILL)?),
        ForkResult::Parent { child } => {
            // SAFETY: this process uses no descriptor any more; pipes must not be held open by it.
            unsafe { libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0) };
            let status = exit_status_of(child);
            // SAFETY: ends the process at once, without the destructors of the copied program.
            unsafe { libc::_exit(status) }
        }
    }
}

/// The shell's convention: the exit status, or 128 and the signal's number.
fn exit_status_of(child: Pid) -> libc::c_int {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, status)) if pid == child => return status,
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => return 128 + signal as i32,
            Err(Errno::ECHILD) => return 1,
            Ok(_) | Err(_) => {}
        }
    }
}

// linux/securebits.h
const SECBIT_NOROOT: libc::c_ulong = 1 << 0;
const SECBIT_NOROOT_LOCKED: libc::c_ulong = 1 << 1;
const SECBIT_NO_SETUID_FIXUP_LOCKED: libc::c_ulong = 1 << 3;
