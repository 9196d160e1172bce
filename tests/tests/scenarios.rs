//! The library of scenarios, played by real nodes: what its files promise is so, and one seed gives one event log.

use std::fs;
use std::path::PathBuf;

use kuguri::simulate::cast::Nodes;
use kuguri::simulate::pairs;
use kuguri_sim::matrix::{Allocator, Matrix, Plan, RunOutcome};
use kuguri_sim::network::Logging;
use kuguri_sim::oracle::{Kind, Verdict};
use kuguri_sim::scenario::Scenario;

fn library() -> Vec<Scenario> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../sim/scenarios");
    let entries = fs::read_dir(folder).expect("the library");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("a file").path()).collect();
    files.sort();
    let read = |path: &PathBuf| fs::read_to_string(path).expect("a text");
    let texts = files.iter().map(read);
    texts
        .map(|text| Scenario::parse(&text).expect("a good file"))
        .collect()
}

#[test]
fn every_scenario_of_the_library_keeps_its_promises() {
    let mut broken = Vec::new();
    for scenario in library() {
        let report = scenario
            .play(&mut Nodes, scenario.seed, Logging::Off)
            .unwrap_or_else(|error| panic!("{}: {error}", scenario.name));
        for outcome in report.outcomes {
            eprintln!("{}: {outcome}", scenario.name);
            if !outcome.met && !outcome.goal {
                broken.push(format!("{}: {outcome}", scenario.name));
            }
        }
    }
    assert_eq!(broken, Vec::<String>::new());
}

#[test]
fn one_scenario_and_one_seed_give_one_log() {
    for scenario in library() {
        let mut short = scenario;
        short.duration = short.duration.min(std::time::Duration::from_secs(40));
        short.event.retain(|event| event.at <= short.duration);
        let play = |seed| {
            let report = short.play(&mut Nodes, seed, Logging::Hash);
            let report = report.unwrap_or_else(|error| panic!("{}: {error}", short.name));
            (report.events, report.hash)
        };
        assert_eq!(play(5), play(5), "{}", short.name);
    }
}

fn run(plan: &Plan) -> Matrix {
    let patience = std::time::Duration::from_secs(5);
    plan.run(|setup| pairs::run(setup, patience), |_, _| {})
}

#[test]
fn every_plain_pair_becomes_direct_and_nobody_pretends() {
    let matrix = run(&Plan::all(&[Allocator::Random], 1, 1, pairs::TRIPS));
    let failures: Vec<_> = matrix.failures().iter().map(ToString::to_string).collect();
    assert_eq!(failures, Vec::<String>::new());
    let plain = matrix.figures(|cell| cell.verdict == Verdict::Plain);
    assert_eq!(plain.direct, plain.runs);
}

#[test]
fn a_cell_is_the_same_twice() {
    let kind: Kind = "EI/AP".parse().expect("a kind");
    let plan = Plan {
        pairs: vec![(kind, kind, Allocator::SequentialBusy)],
        seed: 9,
        seeds: 2,
        trips: pairs::TRIPS,
    };
    let runs = |matrix: Matrix| -> Vec<RunOutcome> {
        matrix
            .cells
            .into_iter()
            .flat_map(|cell| cell.runs)
            .collect()
    };
    assert_eq!(runs(run(&plan)), runs(run(&plan)));
}
