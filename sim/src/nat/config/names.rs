//! Words for the values of an axis, as in files and on command lines, and the answer to a word that is none of them.

use std::fmt;
use std::str::FromStr;

use super::{Allocation, Behavior};

/// A word that names nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{word}` is no {kind}; there are: {names}")]
pub struct UnknownName {
    word: String,
    kind: &'static str,
    names: String,
}

pub(super) fn find<T: Copy>(
    word: &str,
    kind: &'static str,
    all: &[T],
    name: fn(T) -> &'static str,
) -> Result<T, UnknownName> {
    let known = all.iter().copied().find(|&one| name(one) == word);
    known.ok_or_else(|| UnknownName {
        word: word.to_owned(),
        kind,
        names: all
            .iter()
            .map(|&one| name(one))
            .collect::<Vec<_>>()
            .join(", "),
    })
}

impl Behavior {
    /// As in files and on command lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::EndpointIndependent => "endpoint-independent",
            Self::AddressDependent => "address-dependent",
            Self::AddressAndPortDependent => "address-and-port-dependent",
        }
    }

    /// Two letters, as in tables.
    #[must_use]
    pub const fn short(self) -> &'static str {
        match self {
            Self::None => "--",
            Self::EndpointIndependent => "EI",
            Self::AddressDependent => "AD",
            Self::AddressAndPortDependent => "AP",
        }
    }
}

impl fmt::Display for Behavior {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Behavior {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let all = [
            Self::None,
            Self::EndpointIndependent,
            Self::AddressDependent,
            Self::AddressAndPortDependent,
        ];
        let short = all
            .into_iter()
            .find(|one| one.short().eq_ignore_ascii_case(text));
        short.map_or_else(
            || find(text, "behaviour", &all, |behavior| behavior.name()),
            Ok,
        )
    }
}

impl Allocation {
    /// As in files and on command lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Preserving => "preserving",
            Self::Sequential => "sequential",
            Self::Random => "random",
        }
    }
}

impl fmt::Display for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Allocation {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        find(text, "port allocation", &Self::ALL, |allocation| {
            allocation.name()
        })
    }
}
