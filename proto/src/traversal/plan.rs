//! Which way leads through two NATs? Decided alike at both ends, from both classes.
//!
//! ```text
//!   both classes ─▶ plain punching is enough                                                  ─▶ Plain
//!                   one end's address can be known, the other's must be searched              ─▶ Spread (who opens, who sends)
//!                   neither can be known before, both can be told while they are made         ─▶ Pairs, Ladder
//!                   nothing helps                                                             ─▶ Hopeless: the relay
//! ```
//!
//! The table of verdicts is TRAVERSAL's, section 5: H plain, 1 one-sided, 2 two-sided.

use crate::wire::control::{Allocation, Dependence, NatClass};

/// Which of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// This one.
    Us,
    /// The other one.
    Them,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Checks towards the candidates.
    Plain,
    /// One end opens its NAT by many sockets, the other sends to the ports that these may have got.
    Spread(Role),
    /// One end has fresh sockets whose ports it knows; the other opens towards them and tells its own.
    Pairs(Role),
    /// Both NATs take one port after the other: both ends send along the other's next ones, at the same moment.
    Ladder,
    /// Both ends' ports are anybody's guess.
    Hopeless,
}

/// The plan for two NATs; `starter` tells the two ends apart where nothing else does.
#[must_use]
pub fn plan(ours: NatClass, theirs: NatClass, starter: bool) -> Plan {
    match VERDICTS[row(ours)][row(theirs)] {
        b'H' => Plan::Plain,
        b'1' => spread(ours, theirs, starter).map_or(Plan::Plain, Plan::Spread),
        _ => two_sided(ours, theirs, starter),
    }
}

/// The plan after a plain punch failed that should not have: one of the classes is wrong, and nobody knows which. The ends
/// take turns.
#[must_use]
pub fn fallback(ours: NatClass, theirs: NatClass, starter: bool, attempt: u32) -> Plan {
    match (is_hard(ours), is_hard(theirs)) {
        (true, false) => Plan::Spread(Role::Us),
        (false, true) => Plan::Spread(Role::Them),
        (true, true) | (false, false) => Plan::Spread(role(starter == attempt.is_multiple_of(2))),
    }
}

/// How many sockets the opening end needs, with its allocation; the brackets of a sequence included.
#[must_use]
pub fn sockets(allocation: Allocation) -> u16 {
    match allocation {
        Allocation::Preserving => 4,
        Allocation::Sequential { .. } => 6,
        // Not more than a quarter of what the subscriber has.
        Allocation::Block { first, last } => ((last - first) / 4).clamp(8, 128),
        Allocation::Random | Allocation::Unknown => 256,
    }
}

/// Whether the outside port differs from one peer to the next.
#[must_use]
pub const fn is_hard(class: NatClass) -> bool {
    matches!(
        class.mapping,
        Dependence::Address | Dependence::AddressAndPort
    )
}

fn spread(ours: NatClass, theirs: NatClass, starter: bool) -> Option<Role> {
    let us = can_open(ours, theirs).then_some(rank(ours.allocation));
    let them = can_open(theirs, ours).then_some(rank(theirs.allocation));
    match (us, them) {
        (Some(us), Some(them)) if us == them => Some(role(starter)),
        (Some(us), Some(them)) => Some(role(us < them)),
        (Some(_), None) => Some(Role::Us),
        (None, Some(_)) => Some(Role::Them),
        (None, None) => None,
    }
}

/// Whether a search succeeds when `opener` opens and `sender` sends.
const fn can_open(opener: NatClass, sender: NatClass) -> bool {
    let sender_is_known = !is_hard(sender);
    let admits = matches!(
        opener.filtering,
        Dependence::Independent | Dependence::Address
    );
    // What the opener answers must come from where the sender has sent to, or from anywhere on its address; or the sender's
    // port can be learnt from what it sent, and stays.
    let answers = matches!(opener.mapping, Dependence::Address)
        || matches!(
            sender.filtering,
            Dependence::Independent | Dependence::Address
        )
        || matches!(sender.mapping, Dependence::Address);
    is_hard(opener) && (sender_is_known || (admits && answers))
}

const fn two_sided(ours: NatClass, theirs: NatClass, starter: bool) -> Plan {
    use Allocation::{Preserving, Sequential};
    match (ours.allocation, theirs.allocation) {
        (Preserving, Preserving) => Plan::Pairs(role(starter)),
        (Preserving, Sequential { .. }) => Plan::Pairs(Role::Us),
        (Sequential { .. }, Preserving) => Plan::Pairs(Role::Them),
        (Sequential { .. }, Sequential { .. }) => Plan::Ladder,
        _ => Plan::Hopeless,
    }
}

const fn role(us: bool) -> Role {
    if us { Role::Us } else { Role::Them }
}

/// The fewer probes, the lower.
const fn rank(allocation: Allocation) -> u8 {
    match allocation {
        Allocation::Preserving => 0,
        Allocation::Sequential { .. } => 1,
        Allocation::Block { .. } => 2,
        Allocation::Random => 3,
        Allocation::Unknown => 4,
    }
}

/// What is not known is taken for the usual: a mapping that depends on nothing, a filter that depends on all.
const fn row(class: NatClass) -> usize {
    let mapping = match class.mapping {
        Dependence::Unknown | Dependence::Independent => 0,
        Dependence::Address => 1,
        Dependence::AddressAndPort => 2,
    };
    let filtering = match class.filtering {
        Dependence::Independent => 0,
        Dependence::Address => 1,
        Dependence::AddressAndPort | Dependence::Unknown => 2,
    };
    3 * mapping + filtering
}

/// Rows and columns: mapping, then filtering, each independent, by address, by address and port.
const VERDICTS: [[u8; 9]; 9] = [
    *b"HHHHHHHHH",
    *b"HHHHHHHHH",
    *b"HHH111111",
    *b"HH1HH1HH1",
    *b"HH1H11H11",
    *b"HH1112112",
    *b"HH1HH1HH2",
    *b"HH1H11H12",
    *b"HH1112222",
];

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Dependence; 3] = [
        Dependence::Independent,
        Dependence::Address,
        Dependence::AddressAndPort,
    ];

    fn classes(allocation: Allocation) -> Vec<NatClass> {
        let class = |mapping| {
            KINDS.map(|filtering| NatClass {
                mapping,
                filtering,
                allocation,
            })
        };
        KINDS.into_iter().flat_map(class).collect()
    }

    const fn seen_from_there(plan: Plan) -> Plan {
        const fn other(role: Role) -> Role {
            match role {
                Role::Us => Role::Them,
                Role::Them => Role::Us,
            }
        }
        match plan {
            Plan::Spread(role) => Plan::Spread(other(role)),
            Plan::Pairs(role) => Plan::Pairs(other(role)),
            same @ (Plan::Plain | Plan::Ladder | Plan::Hopeless) => same,
        }
    }

    #[test]
    fn both_ends_plan_the_same() {
        let allocations = [
            Allocation::Unknown,
            Allocation::Preserving,
            Allocation::Sequential { step: 1 },
            Allocation::Block { first: 1, last: 99 },
            Allocation::Random,
        ];
        for first in allocations.into_iter().flat_map(classes) {
            for second in allocations.into_iter().flat_map(classes) {
                for starter in [true, false] {
                    let (here, there) =
                        (plan(first, second, starter), plan(second, first, !starter));
                    assert_eq!(here, seen_from_there(there), "{first:?} {second:?}");
                    for attempt in 0..4 {
                        let here = fallback(first, second, starter, attempt);
                        let there = fallback(second, first, !starter, attempt);
                        assert_eq!(here, seen_from_there(there), "{first:?} {second:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_one_sided_pair_has_an_opener() {
        let all = classes(Allocation::Random);
        for (first, row) in all.iter().zip(VERDICTS) {
            for (second, verdict) in all.iter().zip(row) {
                let plan = plan(*first, *second, true);
                match verdict {
                    b'H' => assert_eq!(plan, Plan::Plain),
                    b'1' => assert!(matches!(plan, Plan::Spread(_)), "{first:?} {second:?}"),
                    _ => assert_eq!(plan, Plan::Hopeless),
                }
            }
        }
    }

    #[test]
    fn the_more_predictable_end_opens() {
        let class = |allocation| NatClass {
            mapping: Dependence::AddressAndPort,
            filtering: Dependence::Address,
            allocation,
        };
        let (random, sequential) = (
            class(Allocation::Random),
            class(Allocation::Sequential { step: 1 }),
        );
        for starter in [true, false] {
            assert_eq!(plan(random, sequential, starter), Plan::Spread(Role::Them));
            assert_eq!(plan(sequential, random, starter), Plan::Spread(Role::Us));
        }
    }

    #[test]
    fn nothing_known_is_the_usual_home() {
        let unknown = NatClass::default();
        assert_eq!(plan(unknown, unknown, true), Plan::Plain);
        assert!(sockets(Allocation::Block { first: 0, last: 9 }) >= 8);
    }
}
