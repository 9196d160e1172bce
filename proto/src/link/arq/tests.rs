//! Two ends over a bad line in virtual time, and one end against a liar.

use proptest::prelude::*;

use self::lossy::{Line, World, noise};
use super::*;
use crate::wire::segment::{INITIAL_LIMIT, MAX_NUMBER};

mod lossy;
mod throughput;

const HOUR: Duration = Duration::from_secs(3600);

/// Where virtual time starts.
#[allow(clippy::disallowed_methods, reason = "a test may begin at any instant")]
pub(super) fn epoch() -> Instant {
    Instant::now()
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn bad_line() -> Line {
    Line {
        jitter: ms(30),
        loss: 0.2,
        duplication: 0.05,
        ..Line::new(ms(150))
    }
}

/// All segments that `arq` sends now.
fn drain(arq: &mut Arq, now: Instant) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    loop {
        let mut body = Vec::new();
        if !arq.poll_transmit(&mut body, usize::MAX, now) {
            return bodies;
        }
        bodies.push(body);
    }
}

#[test]
fn ten_megabytes_arrive_whole_at_20_percent_loss() {
    let mut world = World::new(bad_line(), &Config::default(), 1);
    let bytes = noise(10_000_000, 2);
    world.send(0, bytes.clone());
    world.send(1, b"a little the other way".to_vec());
    assert!(world.run_to_end(10 * HOUR), "{:?}", world.ends[0].arq);
    assert!(world.ends[1].got == bytes, "bytes differ");
    assert_eq!(world.ends[0].got, b"a little the other way");
}

#[test]
fn one_seed_gives_one_log() {
    let log = || {
        let mut world = World::new(bad_line(), &Config::default(), 3);
        world.log = Some(Vec::new());
        world.send(0, noise(300_000, 4));
        world.send(1, noise(100_000, 5));
        assert!(world.run_to_end(HOUR));
        world.log
    };
    assert!(log() == log());
}

#[test]
fn the_first_segment_carries_data_and_half_a_round_trip_is_enough() {
    let mut world = World::new(Line::new(ms(50)), &Config::default(), 6);
    world.send(0, noise(12_000, 7));
    assert!(world.run(HOUR, |world| world.ends[1].got.len() >= 10_000));
    assert_eq!(world.now - world.start, ms(50));
}

#[test]
fn a_lost_tail_is_probed_and_the_backoff_is_bounded() {
    let line = Line {
        loss: 1.0,
        ..Line::new(ms(10))
    };
    let mut world = World::new(line, &Config::default(), 8);
    world.send(0, vec![7; 100]);
    world.send(1, Vec::new());
    world.run(3 * HOUR, |_| false);
    let dead = &world.ends[0].arq;
    assert!(
        (2690..2710).contains(&dead.pto_count()),
        "one in four seconds: {:?}",
        dead.stats()
    );
    assert!(dead.recovery.memory() <= dead.recovery.capacity());
    world.line.loss = 0.0;
    assert!(world.run_to_end(3 * HOUR + ms(10_000)));
    assert_eq!(world.ends[1].got, [7; 100]);
    assert_eq!(world.ends[0].arq.pto_count(), 0);
}

#[test]
fn a_reader_who_pauses_stops_the_sender_and_nothing_is_lost() {
    let mut world = World::new(Line::new(ms(10)), &Config::default(), 9);
    let bytes = noise(1_000_000, 10);
    world.send(0, bytes.clone());
    world.send(1, Vec::new());
    world.ends[1].reads = false;
    world.run(ms(100_000), |_| false);
    let stats = world.ends[0].arq.stats();
    assert_eq!(
        stats.stream_bytes_sent,
        256 * 1024,
        "the window and no more"
    );
    assert!(
        stats.segments_sent < 300,
        "a closed window is probed ever less often: {stats:?}"
    );
    world.ends[1].reads = true;
    assert!(world.run_to_end(ms(110_000)));
    assert!(world.ends[1].got == bytes);
}

#[test]
fn a_window_that_opens_unheard_is_found_by_probing() {
    let mut world = World::new(Line::new(ms(10)), &Config::default(), 11);
    world.send(0, noise(1_000_000, 12));
    world.send(1, Vec::new());
    world.ends[1].reads = false;
    world.run(ms(5_000), |_| false);
    world.ends[1].reads = true;
    world.line.loss = 1.0;
    world.run(ms(6_000), |_| false);
    world.line.loss = 0.0;
    assert!(world.run_to_end(ms(20_000)), "{:?}", world.ends[0].arq);
}

#[test]
fn another_path_starts_afresh_and_is_probed_at_once() {
    let mut world = World::new(Line::new(ms(300)), &Config::default(), 13);
    let bytes = noise(2_000_000, 14);
    world.send(0, bytes.clone());
    world.send(1, Vec::new());
    world.run(ms(2_000), |_| false);
    world.line = Line {
        loss: 1.0,
        ..Line::new(ms(300))
    };
    world.run(ms(20_000), |_| false);
    world.line = Line::new(ms(5));
    let sender = &mut world.ends[0].arq;
    assert!(sender.stats().pto_count > 2);
    sender.path_changed(world.now);
    let stats = sender.stats();
    assert_eq!(
        (stats.pto_count, stats.bytes_in_flight, stats.cwnd),
        (0, 0, 12_000)
    );
    assert_eq!((sender.rtt().latest(), stats.ssthresh), (None, None));
    assert!(world.run_to_end(ms(23_000)), "{:?}", world.ends[0].arq);
    assert!(world.ends[1].got == bytes);
    let rtt = world.ends[0].arq.rtt();
    assert!(
        rtt.min() >= Some(ms(10)) && rtt.smoothed() < ms(40),
        "{rtt:?}"
    );
}

#[test]
fn what_is_in_flight_is_probed_on_the_new_path_without_waiting() {
    let now = epoch();
    let mut arq = Arq::new(Config::default(), now);
    arq.path_changed(now);
    assert!(drain(&mut arq, now).is_empty(), "nothing to ask about");
    arq.write(b"tail");
    let first = drain(&mut arq, now);
    arq.path_changed(now + ms(1));
    let again = drain(&mut arq, now + ms(1));
    assert_eq!((first.len(), again.len()), (1, 1));
    let [first, again] = [&first[0], &again[0]].map(|body| Segment::parse(body).expect("own"));
    assert_eq!((again.packet_number, again.range), (1, first.range));
}

#[test]
fn reordering_alone_costs_little() {
    let line = Line {
        jitter: ms(40),
        ..Line::new(ms(50))
    };
    let mut world = World::new(line, &Config::default(), 15);
    world.send(0, noise(2_000_000, 16));
    world.send(1, Vec::new());
    assert!(world.run_to_end(HOUR));
    let stats = world.ends[0].arq.stats();
    assert!(stats.segments_lost > 0, "this line does reorder");
    assert_eq!(
        stats.segments_lost, stats.segments_spurious,
        "and nothing is lost on it"
    );
    assert!(
        world.now - world.start < ms(10_000),
        "{:?} {stats:?}",
        world.now - world.start
    );
}

#[test]
fn acknowledging_what_was_never_sent_is_refused() {
    let now = epoch();
    let (mut ours, mut body) = (Arq::new(Config::default(), now), Vec::new());
    ours.write(b"x");
    assert_eq!(drain(&mut ours, now).len(), 1);
    for (number, taken) in [(1, Err(SegmentError::AckOfUnsent)), (0, Ok(()))] {
        let forged = Segment {
            packet_number: 0,
            awaited: 0,
            receive_limit: 0,
            ack: Some(Ack {
                delay: Duration::ZERO,
                ranges: vec![number..=number],
            }),
            ping: false,
            range: None,
        };
        body.clear();
        forged.encode(&mut body);
        assert_eq!(ours.handle_segment(&body, now), taken);
    }
    assert_eq!(ours.stats().segments_refused, 1);
}

#[test]
fn a_duplicate_is_counted_and_changes_nothing() {
    let now = epoch();
    let mut ends = [(); 2].map(|()| Arq::new(Config::default(), now));
    ends[0].write(b"once");
    let body = drain(&mut ends[0], now).remove(0);
    let mut got = Vec::new();
    for _ in 0..3 {
        assert_eq!(ends[1].handle_segment(&body, now), Ok(()));
        ends[1].read(&mut got);
    }
    assert_eq!(got, b"once");
    assert_eq!(ends[1].stats().segments_duplicate, 2);
}

#[test]
fn every_segment_keeps_to_the_callers_size() {
    let now = epoch();
    let mut arq = Arq::new(Config::default(), now);
    arq.write(&[1; 5000]);
    for number in 0..40 {
        let segment = ping(number * 2);
        let _ = arq.handle_segment(&segment, now);
    }
    for max in [0, 20, 21, 30, 40, 60, 100, 300, 1200, 5000] {
        let mut body = vec![9];
        arq.poll_transmit(&mut body, max, now);
        assert!(body.len() <= 1 + max.min(1200), "{} of {max}", body.len());
        assert!(body.len() == 1 || Segment::parse(&body[1..]).is_ok());
        let _ = arq.handle_segment(&ping(1000 + max as u64), now);
    }
}

fn ping(packet_number: u64) -> Vec<u8> {
    let mut body = Vec::new();
    let segment = Segment {
        packet_number,
        awaited: 0,
        receive_limit: INITIAL_LIMIT,
        ack: None,
        ping: true,
        range: None,
    };
    segment.encode(&mut body);
    body
}

/// Segments of a liar: well formed, anything in them.
fn any_segment() -> impl Strategy<Value = Vec<u8>> {
    let number = || prop_oneof![0u64..40, 0..=MAX_NUMBER];
    let ack = (number(), 1u64..20, 0u32..100_000).prop_map(|(end, length, delay)| Ack {
        delay: Duration::from_micros(u64::from(delay)),
        ranges: vec![end.saturating_sub(length)..=end],
    });
    let offset = prop_oneof![0u64..2 * INITIAL_LIMIT, 0..MAX_NUMBER - 2000];
    let range = (offset, 0usize..1500, any::<bool>());
    let parts = (
        number(),
        number(),
        number(),
        prop::option::of(ack),
        any::<bool>(),
        prop::option::of(range),
    );
    parts.prop_map(
        |(packet_number, awaited, receive_limit, ack, ping, range)| {
            let data = vec![3; range.map_or(0, |(_, length, _)| length)];
            let mut body = Vec::new();
            let segment = Segment {
                packet_number,
                awaited: packet_number.saturating_sub(awaited),
                receive_limit,
                ack,
                ping,
                range: range.map(|(offset, _, fin)| StreamRange {
                    offset,
                    data: &data,
                    fin: fin || data.is_empty(),
                }),
            };
            segment.encode(&mut body);
            body
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn bytes_out_are_bytes_in(
        seed: u64,
        loss in 0.0..0.6f64,
        duplication in 0.0..0.3f64,
        delay in 0u64..200,
        jitter in 0u64..200,
        rate in prop::option::of((20_000u32..1_000_000, 5_000u32..100_000)),
        lengths in (0usize..60_000, 0usize..60_000),
        segment in prop_oneof![Just(1200usize), 100usize..1500],
        newreno: bool,
        window in 0usize..100_000,
    ) {
        let line = Line { delay: ms(delay), jitter: ms(jitter), loss, duplication, rate };
        let config = Config {
            max_segment: segment,
            send_buffer: window + 1,
            receive_window: window,
            congestion: if newreno { Algorithm::NewReno } else { Algorithm::Cubic },
            ..Config::default()
        };
        let mut world = World::new(line, &config, seed);
        let bytes = [noise(lengths.0, seed), noise(lengths.1, !seed)];
        world.send(0, bytes[0].clone());
        world.send(1, bytes[1].clone());
        prop_assert!(world.run_to_end(100 * HOUR), "{:?}", world.ends[0].arq);
        prop_assert!(world.ends[1].got == bytes[0] && world.ends[0].got == bytes[1]);
    }

    #[test]
    fn a_liar_causes_no_panic_and_no_growth(
        segments in prop::collection::vec((any_segment(), 0u64..2000, any::<bool>()), 0..200),
    ) {
        let mut now = epoch();
        let mut arq = Arq::new(Config::default(), now);
        let mut out = Vec::new();
        for (body, pause, read) in segments {
            now += ms(pause);
            arq.write(&[5; 3000]);
            let before = arq.stats();
            if arq.handle_segment(&body, now).is_err() {
                let after = arq.stats();
                prop_assert_eq!(after, Stats { segments_refused: before.segments_refused + 1, ..before });
            }
            if read {
                arq.read(&mut out);
            }
            arq.handle_timeout(now);
            drain(&mut arq, now);
            prop_assert!(arq.send.memory() <= 2 * 256 * 1024 && arq.receive.memory() <= 256 * 1024);
            prop_assert!(arq.recovery.memory() <= 2 * arq.recovery.capacity());
        }
    }

    #[test]
    fn noise_causes_no_panic(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..50)) {
        let now = epoch();
        let mut arq = Arq::new(Config::default(), now);
        for body in bodies {
            let _ = arq.handle_segment(&body, now);
            drain(&mut arq, now);
        }
    }
}
