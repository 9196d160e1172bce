//! A secret key in a file: made once, kept, and never replaced, whatever is in it.
//!
//! ```text
//! # The secret key of this Kuguri rendezvous: keep it, and show it to nobody.
//! 3q2-7wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
//! ```
//!
//! Lines that begin with `#` and empty ones are ignored; the one that remains is the 32-byte Ed25519 seed in base64url. A new
//! file is written beside its place, brought to the disk, and then linked there, so that there is never half a key and never
//! a second one in place of the first.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kuguri_proto::identity::Identity;
use rand::Rng as _;

/// Why there is no key; always the file is named, and left as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// The file is there and cannot be read.
    #[error("the key file {path} cannot be read ({source}); it is left as it is")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file can be read by others than its owner.
    #[error(
        "the key file {path} can be read or written by others (mode {mode:o}); \
         make it private with: chmod 600 {path}"
    )]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file does not hold a key.
    #[error(
        "the key file {path} is damaged ({problem}); it is left as it is: \
         bring it back from a backup, or move it away to begin with a new key"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line.
        problem: String,
    },
    /// There is no file, and none can be made.
    #[error("the key file {path} cannot be made ({source}); name another directory by --state DIR")]
    NotMade {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
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
    create(path, what).map_err(|source| KeyFileError::NotMade {
        path: path.into(),
        source,
    })?;
    // Perhaps another process was faster: what is in the file counts.
    load(path)?.ok_or_else(|| KeyFileError::Unreadable {
        path: path.into(),
        source: ErrorKind::NotFound.into(),
    })
}

fn load(path: &Path) -> Result<Option<Identity>, KeyFileError> {
    let unreadable = |source| KeyFileError::Unreadable {
        path: path.into(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let mode = file.metadata().map_err(unreadable)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        let path = path.into();
        return Err(KeyFileError::TooOpen { path, mode });
    }
    let mut bytes = Vec::new();
    file.take(MAX_SIZE)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    let identity = parse(&bytes).map_err(|problem| KeyFileError::Corrupt {
        path: path.into(),
        problem,
    })?;
    Ok(Some(identity))
}

fn parse(bytes: &[u8]) -> Result<Identity, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text".to_owned())?;
    let lines = text.lines().enumerate();
    let mut lines = lines.filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let (number, line) = lines.next().ok_or("there is no key in it")?;
    if let Some((extra, _)) = lines.next() {
        return Err(format!("line {} is one too many", extra + 1));
    }
    let seed = URL_SAFE_NO_PAD.decode(line.trim()).ok();
    let seed: [u8; 32] = seed.and_then(|seed| seed.try_into().ok()).ok_or_else(|| {
        let number = number + 1;
        format!("line {number} is not 43 characters of base64url")
    })?;
    Ok(Identity::from_seed(&seed))
}

fn create(path: &Path, what: &str) -> io::Result<()> {
    let directory = path.parent().filter(|it| !it.as_os_str().is_empty());
    let directory = directory.unwrap_or_else(|| Path::new("."));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let mut seed = [0; 32];
    rand::rng().fill_bytes(&mut seed);
    let text = format!(
        "# The secret key of this Kuguri {what}: keep it, and show it to nobody.\n{}\n",
        URL_SAFE_NO_PAD.encode(seed)
    );
    let draft = path.with_extension(format!("draft-{}", std::process::id()));
    let written = write_whole(&draft, &text).and_then(|()| put_in_place(&draft, path));
    let removed = std::fs::remove_file(&draft);
    written?;
    removed?;
    File::open(directory)?.sync_all()
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
    use std::os::unix::fs::PermissionsExt;

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
        let good = URL_SAFE_NO_PAD.encode([7; 32]);
        let cases = [
            (String::new(), "there is no key"),
            ("# heading\n".into(), "there is no key"),
            (format!("# heading\n{}\n", &good[1..]), "line 2 is not"),
            (format!("{good}\n\n{good}\n"), "line 3 is one too many"),
        ];
        for (text, problem) in cases {
            private(&path, &text);
            let error = load_or_create(&path, "test").expect_err(&text).to_string();
            assert!(error.contains(problem), "{error}");
            assert!(error.contains(path.to_str().expect("text")), "{error}");
            assert_eq!(fs::read_to_string(&path).expect("there"), text);
        }
        private(&path, &format!("# by hand\n\n  {good}  \n"));
        let identity = load_or_create(&path, "test").expect("a key");
        assert_eq!(identity.seed(), &[7; 32]);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("test.key");
        load_or_create(&path, "test").expect("made");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("opened");
        let error = load_or_create(&path, "test").expect_err("too open");
        assert!(matches!(error, KeyFileError::TooOpen { mode: 0o640, .. }));
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
