//! A secret key in a file: made once, kept, and never replaced, whatever is in it.
//!
//! ```text
//! # The secret key of this Kuguri rendezvous: keep it, and show it to nobody.
//! secret AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE
//! public iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w
//! ```
//!
//! Lines that begin with `#` and empty ones are ignored. `secret` is the 32-byte Ed25519 seed in base64url, `public` the key
//! that belongs to it: a letter that was changed in either is noticed. A new file is written beside its place, brought to
//! the disk, and then linked there, so that there is never half a key and never a second one in place of the first.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kuguri_proto::identity::{Identity, PeerId};
use rand::Rng as _;

use crate::private::{self, PrivateError, directory_of};

/// Why there is no key; always the file is named, and left as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// The file is there and is not read.
    #[error("the key file {0}")]
    Refused(PrivateError),
    /// The file does not hold a key.
    #[error(
        "the key file {} is damaged ({problem}); it is left as it is: \
         bring it back from a backup, or move it away to begin with a new key", path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line.
        problem: String,
    },
    /// There is no file, and none can be made.
    #[error("the key file {} cannot be made ({error}); name another directory by --state DIR", path.display())]
    NotMade {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// The identity in the file at `path`; made there on the first call. `what` says in the file's heading whose it is.
///
/// # Errors
/// See [`KeyFileError`]: whatever is there is never changed.
pub fn load_or_create(path: &Path, what: &str) -> Result<Identity, KeyFileError> {
    if let Some(identity) = load(path)? {
        return Ok(identity);
    }
    create(path, what).map_err(|error| KeyFileError::NotMade {
        path: path.into(),
        error,
    })?;
    // Perhaps another process was faster: what is in the file counts.
    load(path)?.ok_or_else(|| KeyFileError::NotMade {
        path: path.into(),
        error: ErrorKind::NotFound.into(),
    })
}

/// The identity in the file at `path`; `None` when there is no file.
///
/// # Errors
/// See [`KeyFileError`].
pub fn load(path: &Path) -> Result<Option<Identity>, KeyFileError> {
    let Some(file) = private::open(path).map_err(KeyFileError::Refused)? else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    file.take(MAX_SIZE)
        .read_to_end(&mut bytes)
        .map_err(|error| {
            let path = path.into();
            KeyFileError::Refused(PrivateError::Unreadable { path, error })
        })?;
    let identity = parse(&bytes).map_err(|problem| KeyFileError::Corrupt {
        path: path.into(),
        problem,
    })?;
    Ok(Some(identity))
}

fn parse(bytes: &[u8]) -> Result<Identity, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text".to_owned())?;
    let lines = (1..).zip(text.lines());
    let mut lines = lines.filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let seed = field(lines.next(), "secret")?;
    let public = field(lines.next(), "public")?;
    if let Some((extra, _)) = lines.next() {
        return Err(format!("line {extra} is one too many"));
    }
    let identity = Identity::from_seed(&seed);
    if identity.id() != PeerId(public) {
        return Err("its secret and its public key do not belong together".to_owned());
    }
    Ok(identity)
}

/// The 32 bytes of a line `NAME BASE64URL`.
fn field(line: Option<(usize, &str)>, name: &str) -> Result<[u8; 32], String> {
    let (number, line) = line.ok_or_else(|| format!("there is no {name} key in it"))?;
    let value = line.trim().strip_prefix(name);
    let bytes = value.and_then(|value| URL_SAFE_NO_PAD.decode(value.trim()).ok());
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| format!("line {number} is not `{name}` and 43 characters of base64url"))
}

fn create(path: &Path, what: &str) -> io::Result<()> {
    let mut seed = [0; 32];
    rand::rng().fill_bytes(&mut seed);
    create_private(path, &text_of(&Identity::from_seed(&seed), what))
}

/// Puts a private file there, whole, unless there is one already.
pub(crate) fn create_private(path: &Path, text: &str) -> io::Result<()> {
    let directory = directory_of(path);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let draft = path.with_extension(format!("draft-{}", std::process::id()));
    // Left by a process that was killed and had our number.
    let _ = std::fs::remove_file(&draft);
    let written = write_whole(&draft, text).and_then(|()| put_in_place(&draft, path));
    let removed = std::fs::remove_file(&draft);
    written?;
    removed?;
    File::open(directory)?.sync_all()
}

fn text_of(identity: &Identity, what: &str) -> String {
    format!(
        "# The secret key of this Kuguri {what}: keep it, and show it to nobody.\nsecret {}\npublic {}\n",
        URL_SAFE_NO_PAD.encode(identity.seed()),
        identity.id()
    )
}

fn write_whole(draft: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// A link, not a rename: a rename would replace a key that another process has put there in the meantime.
fn put_in_place(draft: &Path, path: &Path) -> io::Result<()> {
    match std::fs::hard_link(draft, path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

/// More than a heading and a key; whatever is larger is none.
const MAX_SIZE: u64 = 4096;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn private(path: &Path, text: &str) {
        fs::write(path, text).expect("written");
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("private");
    }

    #[test]
    fn made_once_private_and_the_same_ever_after() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a/b/test.key");
        let first = load_or_create(&path, "test").expect("made");
        let second = load_or_create(&path, "test").expect("kept");
        assert_eq!(first.id(), second.id());
        let mode = fs::metadata(&path).expect("there").mode();
        assert_eq!(mode & 0o777, 0o600);
        let parent = path.parent().expect("a parent");
        assert_eq!(fs::read_dir(parent).expect("there").count(), 1);
    }

    #[test]
    fn whatever_is_no_key_is_named_and_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("test.key");
        let good = text_of(&Identity::from_seed(&[7; 32]), "test");
        let [heading, secret, public] = lines_of(&good);
        let cases = [
            (String::new(), "there is no secret key"),
            (format!("{heading}\n"), "there is no secret key"),
            (format!("{heading}\n{secret}\n"), "there is no public key"),
            (format!("{heading}\n{}\n", &secret[1..]), "line 2 is not"),
            (format!("{secret}\n{}\n", &public[1..]), "line 2 is not"),
            (format!("{public}\n{secret}\n"), "line 1 is not"),
            (format!("{good}\n{public}\n"), "line 5 is one too many"),
        ];
        for (text, problem) in cases {
            private(&path, &text);
            let error = load_or_create(&path, "test").expect_err(&text).to_string();
            assert!(error.contains(problem), "{error}");
            assert!(error.contains(path.to_str().expect("text")), "{error}");
            assert_eq!(fs::read_to_string(&path).expect("there"), text);
        }
        private(&path, &format!("# by hand\n\n  {secret}  \n{public}\n"));
        let identity = load_or_create(&path, "test").expect("a key");
        assert_eq!(identity.seed(), &[7; 32]);
    }

    #[test]
    fn any_changed_letter_of_a_key_is_noticed() {
        let good = text_of(&Identity::from_seed(&[7; 32]), "test");
        let keys = good.find("\nsecret ").expect("the first field");
        for (at, letter) in good.char_indices().skip(keys + 1) {
            for other in ['A', 'B', '-'].into_iter().filter(|it| *it != letter) {
                let mut changed = good.clone();
                changed.replace_range(at..=at, &other.to_string());
                assert!(parse(changed.as_bytes()).is_err(), "{changed}");
            }
        }
    }

    #[test]
    fn the_file_looks_as_it_is_shown_above() {
        let text = text_of(&Identity::from_seed(&[1; 32]), "rendezvous");
        let shown = include_str!("keyfile.rs").lines();
        let shown: Vec<_> = shown.filter_map(|line| line.strip_prefix("//! ")).collect();
        assert!(shown.join("\n").contains(text.trim_end()), "{text}");
    }

    fn lines_of(text: &str) -> [&str; 3] {
        let lines: Vec<_> = text.lines().collect();
        lines.try_into().expect("three lines")
    }

    #[test]
    fn what_cannot_be_read_or_made_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let error = load_or_create(directory.path(), "test").expect_err("a directory");
        let error = error.to_string();
        assert!(error.contains(directory.path().to_str().expect("text")));
        let file = directory.path().join("file");
        private(&file, "x");
        let error = load_or_create(&file.join("test.key"), "test").expect_err("no directory");
        assert!(error.to_string().contains("test.key"), "{error}");
    }
}
