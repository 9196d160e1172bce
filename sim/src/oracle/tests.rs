//! The oracle against the table that is known, and the models against the oracle.

use super::*;
use crate::nat::{Allocation, State};
use crate::toy;

/// The table of the theory: rows and columns EI/EI, EI/AD, EI/AP, AD/EI, …
const TABLE: [&str; 9] = [
    "HHHHHHHHH",
    "HHHHHHHHH",
    "HHH111111",
    "HH1HH1HH1",
    "HH1H11H11",
    "HH1112112",
    "HH1HH1HH2",
    "HH1H11H12",
    "HH1112222",
];

#[test]
fn it_derives_the_table_that_is_known() {
    let mut differences = Vec::new();
    let mut totals = [0, 0, 0];
    for (row, (a, line)) in Kind::all().zip(TABLE).enumerate() {
        for (column, (b, letter)) in Kind::all().zip(line.chars()).enumerate() {
            let found = verdict(a, b);
            if found.to_string() != letter.to_string() {
                differences.push(format!("{a} and {b}: {found}, and the table says {letter}"));
            }
            if row <= column {
                totals[match found {
                    Verdict::Plain => 0,
                    Verdict::OneSided => 1,
                    Verdict::TwoSided => 2,
                }] += 1;
            }
        }
    }
    assert_eq!(differences, Vec::<String>::new());
    assert_eq!(totals, [25, 15, 5]);
}

#[test]
fn it_does_not_matter_who_is_asked_first() {
    for a in Kind::all() {
        for b in Kind::all() {
            assert_eq!(verdict(a, b), verdict(b, a), "{a} {b}");
        }
    }
}

#[test]
fn connection_tracking_makes_pairs_easier_and_none_harder() {
    let tracking = |kind| Kind {
        reuse_inbound: true,
        ..kind
    };
    let mut easier = Vec::new();
    for a in Kind::all() {
        for b in Kind::all() {
            let (without, with) = (verdict(a, b), verdict(tracking(a), tracking(b)));
            assert!(with <= without, "{a} {b}");
            if with < without {
                easier.push((a, b));
            }
        }
    }
    // Somebody's filter must let the question in, for an answer to go back by the same way.
    let strict = |kind: &Kind| kind.filtering == Behavior::AddressAndPortDependent;
    assert!(!easier.is_empty());
    assert!(easier.iter().all(|(a, b)| !strict(a) || !strict(b)));
}

/// Every cell played by the models with programs that do all that is plain: they meet where the oracle says so, and
/// nowhere else. (Random ports are not guessed in so few packets.)
#[test]
fn the_models_agree_in_every_cell() {
    for a in Kind::all() {
        for b in Kind::all() {
            let config =
                |kind: Kind| NatConfig::of(kind.mapping, kind.filtering, Allocation::Random);
            let outcome = toy::meet(&toy::Pair::new(config(a), config(b)), 7);
            let plain = verdict(a, b) == Verdict::Plain;
            assert_eq!(outcome.direct.is_some(), plain, "{a} and {b}");
        }
    }
}

/// With connection tracking it counts who sends first: who has sent to an endpoint by a mapping of its own does not answer
/// it by another one. Programs that both send at once have no more than without, and never more than is possible.
#[test]
fn with_connection_tracking_nobody_meets_who_cannot() {
    let tracking = |kind: Kind| {
        let mut config = NatConfig::of(kind.mapping, kind.filtering, Allocation::Random);
        config.reuse_inbound = true;
        config.timers.state = State::PerSession;
        config
    };
    for a in Kind::all() {
        for b in Kind::all() {
            let (without, pair) = (verdict(a, b), [a, b].map(tracking));
            let possible = verdict((&pair[0]).into(), (&pair[1]).into());
            let [a, b] = pair;
            let outcome = toy::meet(&toy::Pair::new(a.clone(), b.clone()), 7);
            let (met, a, b) = (outcome.direct.is_some(), Kind::from(&a), Kind::from(&b));
            assert!(!met || possible == Verdict::Plain, "{a} and {b}");
            assert!(met || without != Verdict::Plain, "{a} and {b}");
        }
    }
}
