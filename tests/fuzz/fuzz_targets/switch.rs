//! Any frames from any ports, in any order, with pauses: never back to where it came from, never to a port that is not there.

#![no_main]

use std::time::{Duration, Instant};

use kuguri_proto::switch::{Config, Forwarding, PortId, Switch};
use libfuzzer_sys::fuzz_target;
use rand::SeedableRng;
use rand::rngs::StdRng;

fuzz_target!(|bytes: &[u8]| {
    let mut now = Instant::now();
    let mut switch = Switch::new(small(), &mut StdRng::seed_from_u64(1));
    let mut rest = bytes;
    // Each step: what, on which port, how much; then that many bytes of frame.
    while let Some((&[what, port, amount], behind)) = rest.split_first_chunk() {
        let port = PortId(u32::from(port % 8));
        rest = behind;
        match what % 8 {
            0 => switch.add_port(port, now),
            1 => switch.remove_port(port),
            2 => now += Duration::from_secs(u64::from(amount)),
            3 => switch.handle_timeout(now),
            _ => {
                let (frame, behind) = rest.split_at(rest.len().min(usize::from(amount)));
                rest = behind;
                forward(&mut switch, port, frame, now);
            }
        }
        assert!(
            switch
                .table(now)
                .iter()
                .all(|row| switch.ports().any(|port| port == row.port))
        );
        assert!(switch.table(now).len() <= small().max_stations);
    }
});

fn forward(switch: &mut Switch, from: PortId, frame: &[u8], now: Instant) {
    match switch.forward(from, frame, now) {
        Forwarding::To(port) => assert!(port != from && switch.ports().any(|known| known == port)),
        Forwarding::Flood => assert!(switch.flood_ports(from).all(|port| port != from)),
        Forwarding::Filtered(_) => {}
    }
}

/// Limits that a short input can reach.
fn small() -> Config {
    Config {
        max_stations: 6,
        max_stations_per_port: 3,
        ..Config::default()
    }
}
