//! What the ARQ reaches on lines that lose at random, beside what its congestion control may reach by theory.
//!
//! NewReno: MSS / RTT · sqrt(3 / 2p) (Mathis et al., 1997). CUBIC: MSS / RTT · (C (3 + β) / 4 (1 - β))^¼ ·
//! (RTT / p)^¾ (RFC 9438, section 5, figure 5), or NewReno's rate where that is more (its Reno-friendly region).
//! Both assume a loss at every 1/p-th segment exactly. Random losses that meet in one round trip count once, so more
//! than theory is possible where windows are large; with windows of a few segments (p ≥ 5 %) timeouts rule, and
//! theory promises too much.

use std::fmt::Write;
use std::time::Duration;

use super::super::{Algorithm, Config};
use super::lossy::{Line, World, noise};

/// Stream bytes in a full segment without an acknowledgement.
const PAYLOAD: f64 = 1169.0;

#[test]
fn reaches_most_of_what_congestion_control_may() {
    let mut table = String::from(" loss   RTT ms  control  theory kB/s  reached kB/s  ratio\n");
    for loss in [0.001, 0.01, 0.05, 0.2] {
        for rtt in [20, 100, 300] {
            for algorithm in [Algorithm::NewReno, Algorithm::Cubic] {
                let theory = theory(loss, Duration::from_millis(rtt), algorithm);
                let reached = reached(loss, Duration::from_millis(rtt), algorithm);
                let ratio = reached / theory;
                let control = format!("{algorithm:?}");
                writeln!(
                    table,
                    "{:4.1} %  {rtt:6}  {control:7}  {:11.1}  {:12.1}  {:4.0} %",
                    loss * 100.0,
                    theory / 1000.0,
                    reached / 1000.0,
                    ratio * 100.0,
                )
                .expect("a string takes all");
                if (loss, rtt) == (0.01, 100) {
                    assert!(ratio >= 0.7, "{control}: {ratio}");
                }
            }
        }
    }
    insta::assert_snapshot!(table);
}

/// Stream bytes per second by the formulas above.
fn theory(loss: f64, rtt: Duration, algorithm: Algorithm) -> f64 {
    let rtt = rtt.as_secs_f64();
    let reno = (1.5 / loss).sqrt();
    let segments = match algorithm {
        Algorithm::NewReno => reno,
        Algorithm::Cubic => {
            let (c, beta) = (0.4, 0.7);
            let constant: f64 = c * (3.0 + beta) / (4.0 * (1.0 - beta));
            reno.max(constant.powf(0.25) * (rtt / loss).powf(0.75))
        }
    };
    segments * PAYLOAD / rtt
}

/// Stream bytes per second over a thousand round trips, when slow start's first overshoot is over.
fn reached(loss: f64, rtt: Duration, algorithm: Algorithm) -> f64 {
    let config = Config {
        congestion: algorithm,
        send_buffer: 1 << 22,
        receive_window: 1 << 22,
        ..Config::default()
    };
    let line = Line {
        loss,
        ..Line::new(rtt / 2)
    };
    let mut world = World::new(line, &config, 17);
    world.send_forever(0, noise(1 << 16, 18));
    world.run(rtt * 200, |_| false);
    let before = world.ends[1].arq.stats().stream_bytes_read;
    world.run(rtt * 1200, |_| false);
    let bytes = world.ends[1].arq.stats().stream_bytes_read - before;
    bytes as f64 / (rtt * 1000).as_secs_f64()
}
