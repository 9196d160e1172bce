//! How fast the laboratory is: pairs of peers a minute of one processor, and how much faster than the clock. With the
//! lightest programs, so that it is the laboratory that is measured.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kuguri_sim::nat::Preset;
use kuguri_sim::network::Logging;
use kuguri_sim::scenario::{Scenario, ToyCast};
use kuguri_sim::toy::{Pair, meet};

/// One element is one pair: built, introduced, met or given up after five seconds, and taken down.
fn pairs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pairs");
    group.throughput(Throughput::Elements(1));
    for (name, preset) in [
        ("that meet", Preset::PortRestricted),
        ("that do not", Preset::Symmetric),
    ] {
        let pair = Pair::new(preset.config(), preset.config());
        let mut seed = 0;
        group.bench_with_input(BenchmarkId::from_parameter(name), &pair, |bencher, pair| {
            bencher.iter(|| {
                seed += 1;
                black_box(meet(pair, seed))
            });
        });
    }
    group.finish();
}

/// One element is a second of virtual time of a pair that is connected and sends ten packets a second, with the log on.
fn virtual_time(criterion: &mut Criterion) {
    let text = include_str!("../scenarios/was-direct-for-hours.toml");
    let mut scenario = Scenario::parse(text).expect("a good file");
    scenario.event.clear();
    scenario.expect.clear();
    scenario.duration = Duration::from_mins(10);
    let mut group = criterion.benchmark_group("virtual time");
    group.throughput(Throughput::Elements(scenario.duration.as_secs()));
    for logging in [Logging::Off, Logging::Hash] {
        let name = format!("logging {logging:?}");
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(scenario.play(&mut ToyCast, 1, logging).is_ok()));
        });
    }
    group.finish();
}

criterion_group!(benches, pairs, virtual_time);
criterion_main!(benches);
