//! Claims about the matrix: the toy on it, the figures, and what is written.

use super::*;
use crate::network::Logging;
use crate::toy;

fn toy_run(setup: &Setup) -> RunOutcome {
    let [a, b] = setup.nats.clone();
    let mut pair = toy::Pair::new(a, b);
    (pair.patience, pair.logging) = (Duration::from_secs(2), Logging::Hash);
    let outcome = toy::meet(&pair, setup.seed);
    RunOutcome {
        connected: Some(Duration::from_millis(20)),
        direct: outcome.direct,
        after_asking: outcome.direct,
        packets: outcome.packets,
        entries: outcome.entries,
        hash: outcome.hash,
        ..RunOutcome::default()
    }
}

#[test]
fn all_plain_cells_are_direct_with_every_allocator_and_it_is_the_same_twice() {
    let plan = Plan::all(&Allocator::ALL, 11, 2, RoundTrips::default());
    let matrix = plan.run(toy_run, |_, _| {});
    assert_eq!(matrix.cells.len(), 6 * 81);
    assert_eq!(matrix.failures(), Vec::new());
    let plain = matrix.figures(|cell| cell.verdict == Verdict::Plain);
    assert_eq!((plain.direct, plain.relayed), (plain.runs, 0));
    let hard = matrix
        .figures(|cell| cell.verdict == Verdict::TwoSided && cell.allocator == Allocator::Random);
    assert_eq!((hard.direct, hard.relayed), (0, hard.runs));
    let again = plan.run(toy_run, |_, _| {});
    let hashes = |matrix: &Matrix| {
        let runs = matrix.cells.iter().flat_map(|cell| &cell.runs);
        runs.map(|run| run.hash).collect::<Vec<_>>()
    };
    assert_eq!(hashes(&matrix), hashes(&again));
}

fn small(outcome: RunOutcome) -> Matrix {
    let kind = "EI/AP".parse().expect("a kind");
    let plan = Plan {
        pairs: vec![(kind, kind, Allocator::Random)],
        seed: 5,
        seeds: 3,
        trips: RoundTrips::default(),
    };
    plan.run(|_| outcome, |_, _| {})
}

#[test]
fn what_is_certain_and_is_not_so_is_a_failure_that_can_be_repeated() {
    let good = RunOutcome {
        connected: Some(Duration::from_millis(20)),
        direct: Some(Duration::from_millis(80)),
        ..RunOutcome::default()
    };
    assert_eq!(small(good).failures(), Vec::new());
    let relayed = RunOutcome {
        direct: None,
        ..good
    };
    let apart = RunOutcome {
        connected: None,
        ..relayed
    };
    let pretends = RunOutcome {
        pretends: true,
        ..good
    };
    for (outcome, word) in [
        (relayed, "plain"),
        (apart, "at all"),
        (pretends, "nothing came"),
    ] {
        let failures = small(outcome).failures();
        assert_eq!(failures.len(), 3);
        let text = failures[2].to_string();
        assert!(text.contains(word), "{text}");
        assert!(
            text.contains("--only EI/AP,EI/AP,random --seeds 1 --seed 7"),
            "{text}"
        );
    }
}

#[test]
fn percentiles_are_values_that_occurred() {
    let values: Vec<_> = (1..=100).collect();
    assert_eq!(percentile(&values, 50), Some(50));
    assert_eq!(percentile(&values, 99), Some(99));
    assert_eq!(percentile(&[7], 99), Some(7));
    assert_eq!(percentile::<u8>(&[], 50), None);
}

#[test]
fn page_table_and_json_say_the_same_and_need_nothing_from_elsewhere() {
    let plan = Plan::all(&[Allocator::Random], 1, 1, RoundTrips::default());
    let matrix = plan.run(toy_run, |_, _| {});
    let (page, table) = (matrix.page(), matrix.to_string());
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    for foreign in ["http://", "https://", "<script", "@import", "url("] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert_eq!(page.matches("<td style").count(), 81);
    assert_eq!(
        page.matches("<polyline").count(),
        2 + 2,
        "no line for nothing"
    );
    assert_eq!(
        table.lines().filter(|line| line.contains("H 100")).count(),
        9
    );
    assert_eq!(matrix.rows().lines().count(), 81);
    assert_eq!(page.matches("<tr class=").count(), 3);
    let goals = table.lines().filter(|line| line.starts_with("goal "));
    assert_eq!(goals.count(), 3);
    let json: serde_json::Value =
        serde_json::from_str(&matrix.json().expect("writable")).expect("JSON");
    assert_eq!(json["cells"][0]["a"], "EI/EI");
    assert!(json["cells"][0]["runs"][0]["direct"].is_f64());
}

#[test]
fn words_are_read_back_and_others_are_refused() {
    for allocator in Allocator::ALL {
        assert_eq!(allocator.name().parse(), Ok(allocator));
        for kind in Kind::all() {
            assert_eq!(allocator.config(kind).validate(), Ok(()));
        }
    }
    assert_eq!(
        "ei/ap".parse::<Kind>().map(|kind| kind.to_string()),
        Ok("EI/AP".to_owned())
    );
    assert!("EI".parse::<Kind>().is_err());
    assert!("luck".parse::<Allocator>().is_err());
}
