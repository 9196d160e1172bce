//! Claims about scenario files: mistakes are told with line and field, the library is good, and one seed gives one log.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::link::Probability;
use crate::network::{Logging, Network};

const PAIR: &str = r#"
name = "pair"
about = "Two homes."
duration = "10s"

[links.dsl]
delay = "10ms"
loss = 0.01

[nats.home]
like = "symmetric"
hairpin = "external-source"
ports.allocation = "sequential"

[[router]]
name = "left"
outside = ["198.51.100.1"]
nat = "home"
link = "dsl"

[[router]]
name = "right"
outside = ["198.51.100.2"]
nat = { like = "home", limits.sessions = 2048 }
link = { up = "dsl", down = { like = "dsl", delay = "30ms" } }

[[host]]
name = "vps"
role = "rendezvous"
addresses = ["203.0.113.10"]

[[host]]
name = "a"
role = "member"
on = "left"
addresses = ["10.0.0.2"]

[[host]]
name = "b"
role = "member"
on = "right"
addresses = ["10.0.1.2"]

[[event]]
at = "5s"
do = "nat"
router = "left"
nat = "full-cone"

[[expect]]
between = ["a", "b"]
path = "direct"
after = "5s"
within = "3s"
"#;

fn pair() -> Scenario {
    Scenario::parse(PAIR).expect("a good file")
}

#[test]
fn names_and_presets_are_replaced_and_overlaid() {
    let scenario = pair();
    let [left, right] = &scenario.router[..] else {
        panic!("two routers");
    };
    let mut expected = Preset::Symmetric.config();
    expected.hairpin = crate::nat::Hairpin::ExternalSource;
    expected.ports.allocation = crate::nat::Allocation::Sequential;
    assert_eq!(left.nat, expected);
    expected.limits.sessions = 2048;
    assert_eq!(right.nat, expected);
    assert_eq!(left.link.up, left.link.down);
    let down = &right.link.down;
    assert_eq!(down.delay, Duration::from_millis(30));
    assert_eq!(Ok(down.loss), Probability::new(0.01));
    assert_eq!(right.link.up, left.link.up);
    let nat = scenario.event[0].nat.clone();
    assert_eq!(nat, Some(Preset::FullCone.config()));
}

#[test]
fn a_mistake_is_told_with_its_line_and_field() {
    let cases = [
        (
            "delay = \"10ms\"",
            "delay = \"10 parsecs\"",
            "links.dsl.delay",
            "is not a duration",
        ),
        (
            "loss = 0.01",
            "loss = 10",
            "links.dsl.loss",
            "between 0 and 1",
        ),
        (
            "loss = 0.01",
            "lost = 0.01",
            "links.dsl.lost",
            "unknown field",
        ),
        (
            "like = \"symmetric\"",
            "like = \"symetric\"",
            "nats.home.like",
            "port-restricted",
        ),
        (
            "hairpin = \"external-source\"",
            "hairpin = \"yes\"",
            "nats.home.hairpin",
            "internal-source",
        ),
        (
            "ports.allocation = \"sequential\"",
            "ports.step = 0",
            "nats.home.ports.step",
            "must not be 0",
        ),
        (
            "limits.sessions = 2048",
            "limits.sessions = 0",
            "router[right].nat.limits",
            "limit of 0",
        ),
        (
            "limits.sessions = 2048",
            "reuse-inbound = true",
            "router[right].nat.reuse-inbound",
            "per-session",
        ),
        (
            "name = \"right\"",
            "name = \"left\"",
            "router[left].name",
            "two of the name",
        ),
        (
            "outside = [\"198.51.100.2\"]",
            "outside = [\"198.51.100.1\"]",
            "router[right].outside",
            "is taken",
        ),
        (
            "outside = [\"198.51.100.2\"]",
            "outside = []",
            "router[right].outside",
            "needs an outside address",
        ),
        (
            "on = \"right\"",
            "on = \"rihgt\"",
            "host[b].on",
            "no router `rihgt`",
        ),
        (
            "addresses = [\"10.0.1.2\"]",
            "addresses = [\"10.0.1\"]",
            "host[b].addresses[1]",
            "IP address",
        ),
        (
            "role = \"rendezvous\"\n",
            "",
            "host[vps]",
            "missing field `role`",
        ),
        ("do = \"nat\"", "do = \"explode\"", "event[1].do", "reboot"),
        (
            "do = \"nat\"",
            "do = \"sleep\"",
            "event[1].do",
            "`host` and no `router`",
        ),
        (
            "do = \"nat\"",
            "do = \"rules\"",
            "event[1].do",
            "this needs `rules`",
        ),
        (
            "at = \"5s\"",
            "at = \"50s\"",
            "event[1].at",
            "after the end",
        ),
        (
            "router = \"left\"",
            "router = \"vps\"",
            "event[1].router",
            "no router `vps`",
        ),
        (
            "between = [\"a\", \"b\"]",
            "between = [\"a\", \"c\"]",
            "expect[1].between",
            "no host `c`",
        ),
        (
            "between = [\"a\", \"b\"]",
            "between = [\"a\", \"a\"]",
            "expect[1].between",
            "itself",
        ),
        (
            "within = \"3s\"",
            "within = \"30s\"",
            "expect[1].within",
            "after the end",
        ),
        (
            "within = \"3s\"",
            "within = \"3s\"\nnever = true",
            "expect[1].never",
            "`within`",
        ),
        ("duration = \"10s\"", "duration = 10s", "", ""),
        (
            "link = \"dsl\"",
            "link = \"adsl\"",
            "router[left].link",
            "`adsl` is none of the links: dsl",
        ),
    ];
    for (good, bad, field, message) in cases {
        assert!(PAIR.contains(good), "{good}");
        let text = PAIR.replacen(good, bad, 1);
        let error = Scenario::parse(&text).expect_err(bad);
        assert_eq!(error.field, field, "{error}");
        assert!(error.message.contains(message), "{error}");
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
        let line = text.lines().nth(error.line - 1).unwrap_or_default();
        let near = bad.split('=').next().unwrap_or_default().trim();
        assert!(
            bad.is_empty()
                || [near, "within", "never", "nat ="]
                    .iter()
                    .any(|word| line.contains(word)),
            "{error}: {line}"
        );
    }
}

#[test]
fn one_seed_one_log_and_expectations_are_judged() {
    let scenario = pair();
    let play = |seed| {
        let report = scenario.play(&mut ToyCast, seed, Logging::Hash);
        report.expect("it can be played")
    };
    let (first, again, other) = (play(1), play(1), play(2));
    assert!(first.events > 50);
    assert_eq!(first.hash, again.hash);
    assert_eq!(first.outcomes, again.outcomes);
    assert_ne!(first.hash, other.hash);
    // A full cone on one side makes them meet, and only then.
    assert!(first.is_met(), "{}", first.outcomes[0]);
    let at = first.outcomes[0].first.expect("a time");
    assert!(at > Duration::from_secs(5));
}

#[test]
fn what_is_not_so_is_told() {
    for (path, extra, met) in [
        ("relayed", "", false),
        ("relayed", "goal = true", true),
        ("direct", "never = true", false),
        ("relayed", "never = true", true),
    ] {
        let tail = format!("path = \"{path}\"\n{extra}\nafter = \"5s\"\n");
        let text = PAIR
            .split("path = ")
            .next()
            .expect("a beginning")
            .to_owned()
            + &tail;
        let scenario = Scenario::parse(&text).expect("a good file");
        let report = scenario.play(&mut ToyCast, 1, Logging::Off);
        let report = report.expect("it can be played");
        assert_eq!(report.is_met(), met, "{}", report.outcomes[0]);
    }
}

/// Each event by what two punchers see of it.
#[test]
fn events_do_what_they_say() {
    let cases = [
        ("do = \"cut\"\nrouter = \"left\"", false),
        ("do = \"cut\"\nhost = \"a\"", false),
        ("do = \"reboot\"\nrouter = \"left\"", true),
        ("do = \"rebind\"\nrouter = \"left\"", true),
        (
            "do = \"rules\"\nrouter = \"left\"\nrules = \"udp-blocked\"",
            false,
        ),
        (
            "do = \"renumber\"\nrouter = \"left\"\naddresses = [\"198.51.100.77\"]",
            true,
        ),
        ("do = \"stop\"\nhost = \"a\"", false),
        ("do = \"sleep\"\nhost = \"a\"", false),
        ("do = \"start\"\nhost = \"a\"", true),
        (
            "do = \"link\"\nrouter = \"left\"\nlink = { delay = \"4s\" }",
            false,
        ),
        (
            "do = \"move\"\nhost = \"a\"\non = \"internet\"\naddresses = [\"192.0.2.55\"]",
            true,
        ),
        (
            "do = \"nat\"\nrouter = \"left\"\nnat = { like = \"symmetric\", ports.allocation = \"random\" }",
            false,
        ),
    ];
    for (event, direct_again) in cases {
        let text = PAIR
            .replace("like = \"symmetric\"", "like = \"cone\"")
            .replace("router = \"left\"\nnat = \"full-cone\"", "")
            .replace("do = \"nat\"", event);
        let scenario = Scenario::parse(&text).unwrap_or_else(|error| panic!("{event}: {error}"));
        let report = scenario.play(&mut ToyCast, 1, Logging::Off);
        let report = report.expect("it can be played");
        // What was on its way at the event does not count.
        let mut later = scenario.clone();
        later.expect[0].after += Duration::from_millis(100);
        let report = later.play(&mut ToyCast, 1, Logging::Off).unwrap_or(report);
        assert_eq!(
            report.is_met(),
            direct_again,
            "{event}: {}",
            report.outcomes[0]
        );
    }
}

#[test]
fn who_sleeps_wakes_and_what_is_cut_is_mended() {
    for (first, second) in [("cut", "mend"), ("sleep", "wake"), ("stop", "start")] {
        let text = PAIR
            .replace("like = \"symmetric\"", "like = \"cone\"")
            .replace(
                "do = \"nat\"\nrouter = \"left\"\nnat = \"full-cone\"",
                &format!("do = \"{second}\"\nhost = \"a\"\n[[event]]\nat = \"2s\"\ndo = \"{first}\"\nhost = \"a\""),
            );
        let scenario = Scenario::parse(&text).unwrap_or_else(|error| panic!("{first}: {error}"));
        let report = scenario.play(&mut ToyCast, 1, Logging::Off);
        let report = report.expect("it can be played");
        assert!(report.is_met(), "{first}: {}", report.outcomes[0]);
    }
}

#[test]
fn a_cast_that_does_not_know_a_part_is_quoted() {
    let text = PAIR.replace("addresses = [\"10.0.0.2\"]", "addresses = [\"fd00::2\"]");
    let scenario = Scenario::parse(&text).expect("a good file");
    let error = scenario.play(&mut ToyCast, 1, Logging::Off);
    let error = error.expect_err("no IPv6").to_string();
    assert_eq!(error, "host a: the toy knows IPv4 alone");
}

/// Every file of the library is good, and where the toy can play it the log is the same twice.
#[test]
fn the_library_is_good_and_plays_the_same_twice() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut played = 0;
    for entry in fs::read_dir(folder).expect("the library") {
        let path = entry.expect("a file").path();
        let text = fs::read_to_string(&path).expect("a text");
        let mut scenario =
            Scenario::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(path.file_stem(), Some(scenario.name.as_ref()));
        scenario.duration = scenario.duration.min(Duration::from_mins(2));
        let play = || scenario.play(&mut ToyCast, 3, Logging::Hash);
        if let (Ok(first), Ok(second)) = (play(), play()) {
            assert_eq!(first.hash, second.hash, "{}", scenario.name);
            played += 1;
        }
    }
    assert!(played >= 20, "{played}");
}

#[test]
fn a_stage_is_a_network_for_others_too() {
    let mut stage = pair().stage(1).expect("it can be built");
    assert_eq!((stage.hosts.len(), stage.routers.len()), (3, 2));
    stage.network.capture(Network::INTERNET, 1);
}
