//! Any segments into a live end of a stream that sends too: never more than was allowed, and never stuck in a loop.

#![no_main]

use std::time::{Duration, Instant};

use kuguri_proto::link::arq::{Arq, Config};
use kuguri_proto::wire::clear::Indices;
use kuguri_proto::wire::segment::Segment;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut now = Instant::now();
    let mut arq = Arq::new(Config::default(), now);
    let mut said = Vec::new();
    let mut rest = bytes;
    // Each step: how long after the one before (in 4 ms), what, how much; then that many bytes of datagram.
    while let Some((&[pause, what, amount], behind)) = rest.split_first_chunk() {
        let (datagram, behind) = behind.split_at(behind.len().min(usize::from(amount)));
        rest = behind;
        now += Duration::from_millis(4 * u64::from(pause));
        match what % 8 {
            0 => arq.finish(),
            1 => arq.path_changed(now),
            2 | 3 => {
                arq.write(&[what; 3000]);
            }
            _ => segment(&mut arq, datagram, now),
        }
        if arq.poll_timeout().is_some_and(|due| due <= now) {
            arq.handle_timeout(now);
        }
        arq.read(&mut said);
        assert_eq!(arq.stats().stream_bytes_read, said.len() as u64);
        drain(&mut arq, now);
    }
});

/// With the header of a segment in the clear when it has one, else as a body.
fn segment(arq: &mut Arq, datagram: &[u8], now: Instant) {
    let body = Indices::parse(datagram).map_or(datagram, |(indices, body)| {
        let mut again = Vec::new();
        indices.emit(&mut again);
        assert_eq!([&again, body].concat(), datagram);
        body
    });
    if let Ok(segment) = Segment::parse(body) {
        let mut again = Vec::new();
        segment.encode(&mut again);
        assert_eq!(Segment::parse(&again), Ok(segment));
    } else {
        assert!(arq.handle_segment(body, now).is_err());
    }
    let _ = arq.handle_segment(body, now);
}

fn drain(arq: &mut Arq, now: Instant) {
    let mut segments = 0;
    let mut datagram = Vec::new();
    while arq.poll_transmit(&mut datagram, 1184, now) {
        assert!(datagram.len() <= 1184);
        assert!(Segment::parse(&datagram).is_ok());
        datagram.clear();
        segments += 1;
        assert!(segments < 1000, "one input, and no end of segments");
    }
}
