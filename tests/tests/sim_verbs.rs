//! `kuguri sim` as a person meets it: results on stdout, mistakes in one sentence on stderr with an exit code that is not 0, and
//! the same seed the same output.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;

fn sim(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kuguri-under-test"));
    let output = command.arg("sim").args(arguments).output();
    output.expect("it starts")
}

fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

fn library(name: &str) -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../sim/scenarios");
    folder.join(name).display().to_string()
}

#[test]
fn a_scenario_prints_its_log_its_outcomes_and_its_hash_the_same_twice() {
    let file = library("same-lan.toml");
    let (first, again) = (sim(&["run", &file]), sim(&["run", &file]));
    assert!(first.status.success());
    assert_eq!(first.stdout, again.stdout);
    let (text, _) = said(&first);
    assert!(text.contains("host 0 received udp"), "no event log");
    assert!(text.contains("ok     office and home direct"), "no outcome");
    assert!(text.contains("hash "), "no hash");
    let other = sim(&["run", "--quiet", "--seed", "2", &file]);
    assert!(said(&other).0.lines().count() < 5);
    let (last, own) = (
        said(&other).0,
        text.lines().last().unwrap_or_default().to_owned(),
    );
    assert_ne!(last.lines().last(), Some(own.as_str()));
}

#[test]
fn what_is_not_as_expected_fails_and_says_how_to_repeat_it() {
    let files = TempDir::new().expect("a directory");
    let file = files.path().join("broken.toml");
    let text = fs::read_to_string(library("two-symmetric-random.toml")).expect("a text");
    fs::write(
        &file,
        text.replace("path = \"direct\"\nnever = true", "path = \"direct\""),
    )
    .expect("room");
    let output = sim(&["run", "--quiet", &file.display().to_string()]);
    let (text, _) = said(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("FAILED office and home direct"), "{text}");
    assert!(text.contains("--seed 1"), "{text}");
}

#[test]
fn the_matrix_writes_table_page_and_json() {
    let files = TempDir::new().expect("a directory");
    let page = files.path().join("matrix.html");
    let page_name = page.display().to_string();
    let only = [
        "--only",
        "EI/AP,AP/EI,random",
        "--seeds",
        "2",
        "--patience",
        "2s",
    ];
    let table = sim(&[&["matrix", "--html", &page_name], &only[..]].concat());
    let (text, progress) = said(&table);
    assert!(table.status.success(), "{text}");
    assert!(progress.contains("2 of 2 runs"), "{progress}");
    assert!(text.contains("EI/AP"), "{text}");
    let page = fs::read_to_string(page).expect("a page");
    assert!(page.starts_with("<!doctype html>"));
    let json = sim(&[&["matrix", "--json"], &only[..]].concat());
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(value["cells"][0]["verdict"], "1");
    let again = sim(&[&["matrix", "--json"], &only[..]].concat());
    assert_eq!(json.stdout, again.stdout);
}

#[test]
fn mistakes_are_told_in_one_sentence() {
    let files = TempDir::new().expect("a directory");
    let bad = files.path().join("bad.toml");
    let text = fs::read_to_string(library("same-lan.toml")).expect("a text");
    fs::write(
        &bad,
        text.replace("nat = \"symmetric\"", "nat = { reuse-inbound = true }"),
    )
    .expect("room");
    let bad = bad.display().to_string();
    let nat_box = [
        "nat-box",
        "--outside",
        "no-such-if",
        "--inside",
        "nor-this",
        "--outside-address",
        "198.51.100.7/24",
        "--inside-address",
        "192.168.1.1/24",
    ];
    let cases: [(&[&str], &str); 7] = [
        (&["run", "/no/such/file.toml"], "No such file"),
        (
            &["run", &bad],
            "router[lan].nat.reuse-inbound: `reuse-inbound` needs",
        ),
        (&["matrix", "--seeds", "0"], "would run nothing"),
        (&["matrix", "--html", "/no/such/page.html"], "cannot write"),
        (&["matrix", "--only", "EI/AP"], "EI/AP,AP/AP,random"),
        (&["matrix", "--ports", "luck"], "no allocator"),
        (&nat_box, "no interface nor-this"),
    ];
    for (arguments, part) in cases {
        let output = sim(arguments);
        let (_, error) = said(&output);
        assert!(!output.status.success(), "{arguments:?}");
        assert!(error.contains(part), "{arguments:?}: {error}");
        assert!(error.starts_with("error: "), "{error}");
    }
}
