//! Key files: an Ed25519 seed as 43 characters of base64url and a newline, readable by its owner alone.
//!
//! A file that is not that is named and kept: a new key would be another peer.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use kuguri_proto::identity::{Identity, PeerId};

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The system refuses.
    #[error("{what} in {}: {error}", path.display())]
    Io {
        /// Whose key.
        what: String,
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file has something else in it.
    #[error("{what} in {} is damaged; nothing was changed: bring the file back from a copy, or move it away to become a new peer", path.display())]
    Corrupt {
        /// Whose key.
        what: String,
        /// The file.
        path: PathBuf,
    },
}

/// The identity in the file; a new one when there is none.
///
/// # Errors
/// When the file is damaged, or cannot be read or made.
pub fn load_or_create(path: &Path, what: &str) -> Result<Identity, KeyError> {
    let wrap = |error| KeyError::Io {
        what: what.to_owned(),
        path: path.to_owned(),
        error,
    };
    match fs::read(path) {
        Ok(bytes) => parse(&bytes).ok_or_else(|| KeyError::Corrupt {
            what: what.to_owned(),
            path: path.to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(path).map_err(wrap),
        Err(error) => Err(wrap(error)),
    }
}

fn parse(bytes: &[u8]) -> Option<Identity> {
    let text = std::str::from_utf8(bytes).ok()?;
    // The same 32 bytes in the same text as a public key's.
    let PeerId(seed) = text.trim_end().parse().ok()?;
    Some(Identity::from_seed(&seed))
}

/// Never over an existing file: written beside, then linked to its name.
fn create(path: &Path) -> io::Result<Identity> {
    let seed: [u8; 32] = rand::random();
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    let made = write_new(&temporary, &format!("{}\n", PeerId(seed)))
        .and_then(|()| fs::hard_link(&temporary, path));
    // Only our own copy under its other name.
    let _ = fs::remove_file(&temporary);
    made?;
    Ok(Identity::from_seed(&seed))
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("hub-a.key");
        let first = load_or_create(&path, "the key").expect("made").id();
        assert_eq!(load_or_create(&path, "the key").expect("read").id(), first);
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 1);
    }

    #[test]
    fn a_damaged_key_is_named_and_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("hub-a.key");
        for bad in [&b""[..], b"short\n", b"\xff\xfe", &[b'A'; 44]] {
            fs::write(&path, bad).expect("writes");
            let error = load_or_create(&path, "the hub's key").expect_err("damaged");
            assert!(
                error.to_string().contains("hub-a.key is damaged"),
                "{error}"
            );
            assert_eq!(fs::read(&path).expect("kept"), bad);
        }
    }
}
