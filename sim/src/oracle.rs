//! Which pairs of NATs can meet at all, by searching everything that two peers could do: the theory that a run is held
//! against. Knows mapping and filtering as RFC 4787 defines them, and shares no code with the models, so that neither hides
//! the other's bugs.
//!
//! Each peer knows the other's outside endpoint as a server saw it, and learns the source of what it receives; answers may
//! take another way than questions. Sending never closes anything, so doing all that is possible until nothing new happens
//! is an exhaustive search.
//!
//! ```text
//!   Plain      sending to what is known is enough
//!   OneSided   one peer must search the other's ports: it sends from one endpoint, or opens many towards a known one
//!   TwoSided   both would have to guess at once
//! ```

use std::collections::BTreeSet;
use std::fmt;

use crate::nat::{Behavior, NatConfig};

/// What a pair of NATs allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// A plain punch does.
    Plain,
    /// One side has to search the other's ports.
    OneSided,
    /// Both have to.
    TwoSided,
}

impl Verdict {
    /// All of them, the easiest first.
    pub const ALL: [Self; 3] = [Self::Plain, Self::OneSided, Self::TwoSided];
}

/// The two axes that decide it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind {
    /// For which destinations an endpoint stays the same.
    pub mapping: Behavior,
    /// Who may send to it.
    pub filtering: Behavior,
    /// Answers leave by the mapping by which the question came, as with connection tracking.
    pub reuse_inbound: bool,
}

impl Kind {
    /// Without the peculiarity of connection tracking.
    #[must_use]
    pub const fn new(mapping: Behavior, filtering: Behavior) -> Self {
        Self {
            mapping,
            filtering,
            reuse_inbound: false,
        }
    }

    /// All nine, in the order of the tables.
    pub fn all() -> impl Iterator<Item = Self> {
        let filterings = |mapping| Behavior::ALL.map(|filtering| Self::new(mapping, filtering));
        Behavior::ALL.into_iter().flat_map(filterings)
    }
}

impl From<&NatConfig> for Kind {
    fn from(config: &NatConfig) -> Self {
        Self {
            mapping: config.mapping,
            filtering: config.filtering,
            reuse_inbound: config.reuse_inbound,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}/{}", self.mapping.short(), self.filtering.short());
        f.pad(&text)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Plain => "H",
            Self::OneSided => "1",
            Self::TwoSided => "2",
        })
    }
}

/// What two peers behind such NATs can reach. The ports are taken as random: what a NAT's allocation gives away is a
/// search that costs little.
#[must_use]
pub fn verdict(a: Kind, b: Kind) -> Verdict {
    let meet = |searching| Search::new(a, b, searching).finds();
    if meet(None) {
        Verdict::Plain
    } else if meet(Some(0)) || meet(Some(1)) {
        Verdict::OneSided
    } else {
        Verdict::TwoSided
    }
}

/// Whose address: the server's, or a NAT's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Address {
    Server,
    Nat(usize),
}

/// An outside endpoint: the port is the number of the mapping.
type Endpoint = (Address, usize);

const SERVER: Endpoint = (Address::Server, 0);

struct Search {
    sides: [Side; 2],
    /// Who finds any of the other's ports.
    searching: Option<usize>,
}

struct Side {
    kind: Kind,
    mappings: Vec<Mapping>,
    /// Endpoints of the other.
    known: BTreeSet<Endpoint>,
    has_received: bool,
}

struct Mapping {
    first: Endpoint,
    sent_to: BTreeSet<Endpoint>,
    came_from: BTreeSet<Endpoint>,
}

impl Search {
    fn new(a: Kind, b: Kind, searching: Option<usize>) -> Self {
        let side = |kind, other| Side {
            kind,
            mappings: vec![Mapping::to(SERVER)],
            known: BTreeSet::from([(Address::Nat(other), 0)]),
            has_received: false,
        };
        Self {
            sides: [side(a, 1), side(b, 0)],
            searching,
        }
    }

    /// Whether both hear from each other in the end.
    fn finds(mut self) -> bool {
        while self.round() {}
        self.sides.iter().all(|side| side.has_received)
    }

    /// Each sends to everything that it knows; whether anything was new.
    fn round(&mut self) -> bool {
        let mut new = false;
        for me in [0, 1] {
            if self.searching == Some(me) {
                let all = 0..self.sides[1 - me].mappings.len();
                let all = all.map(|port| (Address::Nat(1 - me), port));
                self.sides[me].known.extend(all);
            }
            for to in self.sides[me].known.clone() {
                new |= self.send(me, to);
            }
        }
        new
    }

    fn send(&mut self, me: usize, to: Endpoint) -> bool {
        let Some((number, mut new)) = self.sides[me].leave_to(to) else {
            return false;
        };
        let from = (Address::Nat(me), number);
        let other = &mut self.sides[1 - me];
        if other.admits(to.1, from) {
            new |= !other.has_received | other.known.insert(from);
            other.has_received = true;
            new |= other.mappings[to.1].came_from.insert(from);
        }
        new
    }
}

impl Side {
    /// By which mapping it sends to there, and whether that is news. With each answer there could be one mapping more, for
    /// ever; what a few do not reach, more do not reach either.
    fn leave_to(&mut self, to: Endpoint) -> Option<(usize, bool)> {
        let came = self.kind.reuse_inbound;
        let found = self
            .mappings
            .iter()
            .position(|mapping| came && mapping.came_from.contains(&to))
            .or_else(|| {
                let same = |mapping: &Mapping| looks_alike(self.kind.mapping, mapping.first, to);
                self.mappings.iter().position(same)
            });
        let (number, made) = match found {
            Some(number) => (number, false),
            None if self.mappings.len() >= MOST_MAPPINGS => return None,
            None => {
                self.mappings.push(Mapping::to(to));
                (self.mappings.len() - 1, true)
            }
        };
        Some((number, self.mappings[number].sent_to.insert(to) | made))
    }

    fn admits(&self, port: usize, from: Endpoint) -> bool {
        let sent_to = self.mappings.get(port).map(|mapping| &mapping.sent_to);
        sent_to.is_some_and(|sent_to| {
            sent_to
                .iter()
                .any(|&to| looks_alike(self.kind.filtering, to, from))
        })
    }
}

impl Mapping {
    fn to(first: Endpoint) -> Self {
        Self {
            first,
            sent_to: BTreeSet::from([first]),
            came_from: BTreeSet::new(),
        }
    }
}

fn looks_alike(behavior: Behavior, a: Endpoint, b: Endpoint) -> bool {
    match behavior {
        Behavior::None | Behavior::EndpointIndependent => true,
        Behavior::AddressDependent => a.0 == b.0,
        Behavior::AddressAndPortDependent => a == b,
    }
}

const MOST_MAPPINGS: usize = 8;

#[cfg(test)]
mod tests;
