//! `hub-NAME.toml`: what a hub keeps beside its key. Its tokens are secrets: whoever shows one may join.

use std::path::{Path, PathBuf};

use kuguri_proto::identity::PeerId;
use serde::{Deserialize, Serialize};

use super::file;
use super::state::StateError;

/// A hub's file.
#[derive(Debug)]
pub struct HubFile {
    path: PathBuf,
    contents: Contents,
}

impl HubFile {
    /// Reads the file, or makes it with one token of `random` bytes.
    ///
    /// # Errors
    /// When it is corrupt or cannot be written.
    pub fn open_or_create(path: &Path, random: [u8; 16]) -> Result<Self, StateError> {
        if let Some(file) = Self::open(path)? {
            return Ok(file);
        }
        let file = Self {
            path: path.to_owned(),
            contents: Contents {
                tokens: vec![Token(random)],
                rendezvous: None,
                rendezvous_key: None,
            },
        };
        file::write_toml(path, &file.contents)?;
        Ok(file)
    }

    /// Reads the file; `None` when there is none.
    ///
    /// # Errors
    /// When it is corrupt.
    pub fn open(path: &Path) -> Result<Option<Self>, StateError> {
        let contents = file::read_toml(path)?;
        Ok(contents.map(|contents| Self {
            path: path.to_owned(),
            contents,
        }))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tokens that admit members, oldest first.
    #[must_use]
    pub fn tokens(&self) -> Vec<[u8; 16]> {
        self.contents.tokens.iter().map(|token| token.0).collect()
    }

    /// The rendezvous (`HOST:PORT`) and its key as of the last registration.
    #[must_use]
    pub fn rendezvous(&self) -> Option<(&str, PeerId)> {
        let address = self.contents.rendezvous.as_deref()?;
        Some((address, self.contents.rendezvous_key?))
    }

    /// Keeps where the hub is registered, for invites that are made while it does not run.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_rendezvous(&mut self, address: &str, key: PeerId) -> Result<(), StateError> {
        if self.rendezvous() == Some((address, key)) {
            return Ok(());
        }
        self.change(|contents| {
            contents.rendezvous = Some(address.to_owned());
            contents.rendezvous_key = Some(key);
        })
    }

    /// Adds a token.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add_token(&mut self, token: [u8; 16]) -> Result<(), StateError> {
        self.change(|contents| contents.tokens.push(Token(token)))
    }

    /// Another process may have changed something meanwhile; that stays.
    fn change(&mut self, change: impl FnOnce(&mut Contents)) -> Result<(), StateError> {
        let now = self.contents.clone();
        self.contents = file::update_toml(&self.path, now, change)?;
        Ok(())
    }
}

/// As it stands in the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    tokens: Vec<Token>,
    rendezvous: Option<String>,
    rendezvous_key: Option<PeerId>,
}

/// A token: 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct Token(pub(crate) [u8; 16]);

impl std::fmt::Debug for Token {
    /// Never shows it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        format!("{:032x}", u128::from_be_bytes(token.0))
    }
}

impl TryFrom<String> for Token {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u128::from_str_radix(&text, 16).ok().filter(|_| digits);
        let number = number.ok_or("a token is 32 hexadecimal digits")?;
        Ok(Self(number.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("hub-office.toml");
        assert!(HubFile::open(&path).expect("fine").is_none());
        let mut file = HubFile::open_or_create(&path, [7; 16]).expect("makes it");
        file.set_rendezvous("vps.example:7777", PeerId([3; 32]))
            .expect("writes");
        file.add_token([0xab; 16]).expect("writes");
        let again = HubFile::open_or_create(&path, [9; 16]).expect("reads");
        assert_eq!(again.tokens(), [[7; 16], [0xab; 16]]);
        assert_eq!(
            again.rendezvous(),
            Some(("vps.example:7777", PeerId([3; 32])))
        );
    }

    #[test]
    fn two_processes_do_not_undo_each_other() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("hub-office.toml");
        let mut running = HubFile::open_or_create(&path, [7; 16]).expect("makes it");
        let mut asking = HubFile::open_or_create(&path, [8; 16]).expect("reads");
        asking.add_token([9; 16]).expect("writes");
        running
            .set_rendezvous("a:1", PeerId([3; 32]))
            .expect("writes");
        let after = HubFile::open(&path).expect("reads").expect("there");
        assert_eq!(after.tokens(), [[7; 16], [9; 16]]);
        assert!(after.rendezvous().is_some());
    }

    #[test]
    fn a_mangled_token_is_reported_by_line_and_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("hub-office.toml");
        let bad = "# mine\ntokens = [\"+0000000000000000000000000000001\"]\n";
        std::fs::write(&path, bad).expect("writes");
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, private).expect("ours");
        let error = HubFile::open_or_create(&path, [1; 16]).expect_err("corrupt");
        assert!(
            error.to_string().contains("line 2: a token is 32"),
            "{error}"
        );
        assert_eq!(std::fs::read_to_string(&path).expect("kept"), bad);
    }
}
