//! The file for what the listener saw: opened before anything else is done, written at the end.
//!
//! It is opened outside the demo's world, with the rights of whoever asked for it, and goes inside as standard input, which
//! nothing there reads.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Stdio;

use anyhow::Context;

/// An open file to be written whole.
pub(super) struct Capture(File);

impl Capture {
    /// Opens it; what is in it stays until something is written.
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(false);
        let file = options.open(path);
        file.map(Self)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// For a process to come.
    pub(super) fn into_stdin(self) -> Stdio {
        self.0.into()
    }

    /// The file that this process was given.
    pub(super) fn from_stdin() -> io::Result<Self> {
        Ok(Self(io::stdin().as_fd().try_clone_to_owned()?.into()))
    }

    /// Makes these bytes its contents.
    pub(super) fn write(mut self, bytes: &[u8]) -> io::Result<()> {
        if self.0.metadata()?.is_file() {
            self.0.set_len(0)?;
        }
        self.0.write_all(bytes)
    }
}
