//! Why a way cannot be had: one sentence each, and whether it is any use to try again soon.

use std::io;

use kuguri_proto::rendezvous::ways::Failure;

/// Why there is no carrier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// One sentence that says what is wrong and what to do.
    pub(super) sentence: String,
    /// How it is tried again.
    pub(super) failure: Failure,
    /// How much it tells: of several, the one that tells most is said.
    pub(super) weight: u8,
}

impl Problem {
    /// Nobody answers, or not now.
    pub(super) fn passing(sentence: impl Into<String>) -> Self {
        Self {
            sentence: sentence.into(),
            failure: Failure::Passing,
            weight: 0,
        }
    }

    /// Somebody answers, and is not who was expected; that may change by itself.
    pub(super) fn telling(sentence: impl Into<String>) -> Self {
        Self {
            weight: 1,
            ..Self::passing(sentence)
        }
    }

    /// Somebody must do something first.
    pub(super) fn lasting(sentence: impl Into<String>) -> Self {
        Self {
            sentence: sentence.into(),
            failure: Failure::Lasting,
            weight: 2,
        }
    }

    /// A connection to `place` that did not come about, or ended.
    pub(super) fn of_stream(place: &str, error: &io::Error) -> Self {
        use io::ErrorKind::{
            BrokenPipe, ConnectionRefused, ConnectionReset, TimedOut, UnexpectedEof,
        };
        let kind = error.kind();
        let what = if kind == ConnectionRefused {
            "refuses the connection".to_owned()
        } else if kind == TimedOut {
            "does not answer".to_owned()
        } else if [UnexpectedEof, ConnectionReset, BrokenPipe].contains(&kind) {
            "ends the connection".to_owned()
        } else {
            format!("cannot be reached ({error})")
        };
        Self::passing(format!("{place} {what}"))
    }
}
