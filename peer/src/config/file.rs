//! Files of the state directory: read only when they are private, replaced whole or not at all.
//!
//! ```text
//!   lock the directory ─▶ write NAME.new ─▶ its owner and mode are the old file's ─▶ fsync ─▶ rename to NAME ─▶ fsync of the directory
//! ```
//!
//! What cannot be read is reported by name and line and never replaced. Knows TOML; knows nothing of what it says.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use kuguri_rendezvous::private::{self, directory_of};
use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::state::{StateError, io_error};

/// Reads a TOML file; `None` when there is none.
///
/// # Errors
/// When it cannot be read or is not what it should be; the file stays as it is.
pub fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StateError> {
    let Some(file) = private::open(path).map_err(StateError::Private)? else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    file.take(LARGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(io_error(path))?;
    let corrupt = |at: usize, reason: &str| StateError::Corrupt {
        path: path.to_owned(),
        line: 1 + bytes.iter().take(at).filter(|byte| **byte == b'\n').count(),
        reason: reason.lines().collect::<Vec<_>>().join(" "),
    };
    if bytes.len() as u64 > LARGEST {
        return Err(corrupt(
            bytes.len(),
            "it goes on beyond 16 MiB, which none of ours does",
        ));
    }
    let text = std::str::from_utf8(&bytes)
        .map_err(|error| corrupt(error.valid_up_to(), "this is not text"))?;
    let value = toml::from_str(text)
        .map_err(|error| corrupt(error.span().map_or(0, |span| span.start), error.message()))?;
    Ok(Some(value))
}

/// Reads a TOML file, or takes `absent` where there is none, changes it, and writes it, while no other process of ours does.
///
/// # Errors
/// When it cannot be read or written; then it stays as it is.
pub fn update_toml<T: DeserializeOwned + Serialize>(
    path: &Path,
    absent: T,
    change: impl FnOnce(&mut T),
) -> Result<T, StateError> {
    let _alone = alone(path)?;
    let mut value = read_toml(path)?.unwrap_or(absent);
    change(&mut value);
    replace(path, &value)?;
    Ok(value)
}

/// Replaces a TOML file, readable by its owner alone, so that after a crash there is the old one or the new one. The
/// owner stays who it was, also when root writes.
///
/// # Errors
/// When the directory cannot be written.
pub fn write_toml<T: Serialize>(path: &Path, value: &T) -> Result<(), StateError> {
    let _alone = alone(path)?;
    replace(path, value)
}

/// As long as this is held, other processes wait with their changes in the same directory.
fn alone(path: &Path) -> Result<Flock<File>, StateError> {
    let directory = directory_of(path);
    let wrap = io_error(directory);
    let opened = File::open(directory).and_then(|file| {
        let held = Flock::lock(file, FlockArg::LockExclusive);
        held.map_err(|(_, errno)| errno.into())
    });
    opened.map_err(wrap)
}

fn replace<T: Serialize>(path: &Path, value: &T) -> Result<(), StateError> {
    let text = toml::to_string_pretty(value)
        .map_err(|error| io_error(path)(io::Error::other(error.to_string())))?;
    let temporary = path.with_extension("toml.new");
    let written =
        write_new(&temporary, text.as_bytes(), path).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // Only our own half-written copy; the error itself is what is told.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(io_error(path))?;
    sync_parent(path).map_err(io_error(path))
}

/// A new file in the name of whoever has the one at `place`, or the directory.
///
/// Whatever has this name is left of a process that was killed, or is a trap for root (a link to another file): it goes.
fn write_new(path: &Path, bytes: &[u8], place: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let old = fs::metadata(place).ok();
    let of_directory = || fs::metadata(directory_of(place)).ok();
    if let Some(owner) = old.clone().or_else(of_directory) {
        give_to(&file, &owner)?;
    }
    if let Some(old) = old {
        file.set_permissions(Permissions::from_mode(old.mode() & 0o700))?;
    }
    file.write_all(bytes)?;
    file.sync_all()
}

/// Only root may, and only root needs to.
fn give_to(file: &File, owner: &Metadata) -> io::Result<()> {
    if nix::unistd::geteuid().is_root() && file.metadata()?.uid() != owner.uid() {
        fchown(file, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}

fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(directory_of(path))?.sync_all()
}

/// Bytes of a file at most: the leases of the largest hub are a few million.
const LARGEST: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::chown;

    use super::*;

    type Sample = BTreeMap<String, u32>;

    fn sample(value: u32) -> Sample {
        Sample::from([("a".into(), value)])
    }

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("x.toml");
        for value in [1, 2] {
            write_toml(&file, &sample(value)).expect("writes");
            assert_eq!(read_toml(&file).expect("reads"), Some(sample(value)));
        }
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 1);
        let missing = read_toml::<Sample>(&dir.path().join("y")).expect("fine");
        assert_eq!(missing, None);
    }

    #[test]
    fn a_new_file_is_private_and_a_replaced_one_keeps_its_mode_and_owner() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("x.toml");
        write_toml(&file, &sample(1)).expect("writes");
        let mode = || fs::metadata(&file).expect("there").mode() & 0o777;
        assert_eq!(mode(), 0o600);
        fs::set_permissions(&file, Permissions::from_mode(0o400)).expect("ours");
        write_toml(&file, &sample(2)).expect("writes");
        assert_eq!(mode(), 0o400);
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("the owner is a matter of root's");
        }
        for path in [dir.path(), &file] {
            chown(path, Some(SOMEBODY), Some(SOMEBODY)).expect("root may");
        }
        let other = dir.path().join("y.toml");
        for path in [&file, &other] {
            write_toml(path, &sample(3)).expect("writes");
            let found = fs::metadata(path).expect("there");
            assert_eq!((found.uid(), found.gid()), (SOMEBODY, SOMEBODY));
        }
    }

    #[test]
    fn a_corrupt_file_is_named_by_line_and_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("x.toml");
        for (bytes, line) in [
            (&b"a = 1\nb = = 2\n"[..], 2),
            (b"a = 1\n\nb = \xff\n", 3),
            (b"a = \"text\"\n", 1),
        ] {
            fs::write(&file, bytes).expect("writes");
            fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("ours");
            let error = read_toml::<Sample>(&file).expect_err("corrupt").to_string();
            assert!(error.contains(&format!("x.toml, line {line}: ")), "{error}");
            assert!(!error.contains('\n'), "{error}");
            assert_eq!(fs::read(&file).expect("still there"), bytes);
        }
    }

    #[test]
    fn what_others_may_read_is_not_taken() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("x.toml");
        write_toml(&file, &sample(1)).expect("writes");
        fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("ours");
        let error = read_toml::<Sample>(&file).expect_err("open").to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }

    const SOMEBODY: u32 = 61_234;
}
