//! Trust on first use: which key a rendezvous showed the first time, by its `HOST:PORT`.
//!
//! The rendezvous is blind, so a false one could only deny service; still a changed key is refused until a person
//! says that it is right, with `--rendezvous-key` or by removing the line.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kuguri_proto::identity::PeerId;
use serde::{Deserialize, Serialize};

use crate::config::file;
use crate::config::state::{State, StateError};

/// The keys that are kept.
#[derive(Debug)]
pub struct Known {
    path: PathBuf,
    contents: Contents,
}

/// Where a key is from, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The user or the invite named it.
    Given,
    /// It was kept from the first use.
    Kept,
    /// There is none: this is the first use.
    FirstUse,
}

impl Known {
    /// Reads what is kept.
    ///
    /// # Errors
    /// When the file is corrupt.
    pub fn open(state: &State) -> Result<Self, StateError> {
        let path = state.file("known-rendezvous.toml");
        let contents = file::read_toml(&path)?.unwrap_or_default();
        Ok(Self { path, contents })
    }

    /// The key to expect of `rendezvous`: the given one before the kept one.
    #[must_use]
    pub fn expect(&self, rendezvous: &str, given: Option<PeerId>) -> (Option<PeerId>, Source) {
        match (given, self.contents.keys.get(rendezvous)) {
            (Some(key), _) => (Some(key), Source::Given),
            (None, Some(key)) => (Some(*key), Source::Kept),
            (None, None) => (None, Source::FirstUse),
        }
    }

    /// Keeps the key that `rendezvous` has proved; whether it was not known before.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep(&mut self, rendezvous: &str, key: PeerId) -> Result<bool, StateError> {
        if self.contents.keys.get(rendezvous) == Some(&key) {
            return Ok(false);
        }
        // Another process may have kept something meanwhile; its lines stay.
        self.contents = file::update_toml(&self.path, Contents::default(), |contents| {
            contents.keys.insert(rendezvous.to_owned(), key);
        })?;
        Ok(true)
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    #[serde(default)]
    keys: BTreeMap<String, PeerId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const VPS: &str = "vps.example:7777";

    #[test]
    fn the_first_key_is_kept_and_expected_ever_after() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = State::open(Some(dir.path())).expect("makes it");
        let mut known = Known::open(&state).expect("empty");
        assert_eq!(known.expect(VPS, None), (None, Source::FirstUse));
        assert!(known.keep(VPS, PeerId([1; 32])).expect("writes"));
        assert!(!known.keep(VPS, PeerId([1; 32])).expect("nothing new"));

        let known = Known::open(&state).expect("reads");
        let kept = (Some(PeerId([1; 32])), Source::Kept);
        assert_eq!(known.expect(VPS, None), kept);
        assert_eq!(known.expect("other:7777", None).1, Source::FirstUse);
        let given = (Some(PeerId([2; 32])), Source::Given);
        assert_eq!(known.expect(VPS, Some(PeerId([2; 32]))), given);
    }

    #[test]
    fn two_processes_do_not_undo_each_other() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = State::open(Some(dir.path())).expect("makes it");
        let (mut one, mut two) = (
            Known::open(&state).expect("empty"),
            Known::open(&state).expect("empty"),
        );
        one.keep("a:1", PeerId([1; 32])).expect("writes");
        two.keep("b:1", PeerId([2; 32])).expect("writes");
        let both = Known::open(&state).expect("reads");
        assert_eq!(both.expect("a:1", None).1, Source::Kept);
        assert_eq!(both.expect("b:1", None).1, Source::Kept);
    }
}
