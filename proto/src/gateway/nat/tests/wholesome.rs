//! What must work: bytes in order under any weather, ends and resets carried over, nothing kept for the idle.

use std::net::SocketAddr;
use std::time::Duration;

use smoltcp::socket::tcp::State;

use super::world::{SERVER, Weather, World};
use crate::gateway::sockets::Failure;
use crate::gateway::{End, NatEvent};

const FAIR: Weather = Weather {
    loss: 0.0,
    delay_us: 500,
    jitter_us: 0,
};
const FOUL: Weather = Weather {
    loss: 0.02,
    delay_us: 5_000,
    jitter_us: 2_000,
};

fn server() -> SocketAddr {
    SocketAddr::new(SERVER.into(), 80)
}

fn stream(seed: usize, length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| u8::try_from((at * 31 + seed + at / 251) % 256).expect("less"))
        .collect()
}

/// Both ways at once, until both have everything.
fn exchange(weather: Weather, seed: u64, length: usize) {
    let mut world = World::new(weather, seed);
    let handle = world.call(server(), 200_000);
    let (up, down) = (stream(1, length), stream(2, length));
    let (mut sent, mut received, mut served, mut arrived) = (0, Vec::new(), 0, Vec::new());
    let done = world.run(Duration::from_secs(300), |world| {
        world.connect_all();
        if let Some(id) = world
            .only_stream()
            .filter(|id| world.host.streams[id].connected)
        {
            arrived.extend(world.server_reads(id, 20_000));
            if served < down.len() && world.host.streams[&id].inbound.len() < 300_000 {
                let end = (served + 50_000).min(down.len());
                world.server_writes(id, &down[served..end]);
                served = end;
            }
        }
        let socket = world.socket(handle);
        if socket.can_send() && sent < up.len() {
            sent += socket.send_slice(&up[sent..]).expect("open");
        }
        let mut buffer = vec![0; 65_536];
        while socket.can_recv() {
            let count = socket.recv_slice(&mut buffer).expect("open");
            received.extend_from_slice(&buffer[..count]);
        }
        arrived.len() == up.len() && received.len() == down.len()
    });
    assert!(
        done,
        "{} of {length} up, {} down after {} µs",
        arrived.len(),
        received.len(),
        world.us
    );
    assert!(arrived == up && received == down, "every byte in its place");
    // What was sent last may still be acknowledged.
    world.run(Duration::from_secs(1), |_| false);
    assert_eq!(
        world.nat.budget, world.nat.settings.limits.held_bytes,
        "nothing is kept"
    );
}

#[test]
fn a_stream_passes_both_ways() {
    exchange(FAIR, 1, 1_000_000);
}

#[test]
fn a_stream_passes_both_ways_in_foul_weather() {
    for seed in 0..4 {
        exchange(FOUL, seed, 400_000);
    }
}

#[test]
fn a_lossy_path_is_still_used_well() {
    let weather = Weather {
        loss: 0.01,
        delay_us: 10_000,
        jitter_us: 0,
    };
    let mut world = World::new(weather, 3);
    let handle = world.call(server(), 1_000_000);
    let down = stream(2, 3_000_000);
    let (mut received, mut served) = (0, 0);
    let done = world.run(Duration::from_secs(120), |world| {
        world.connect_all();
        if let Some(id) = world.only_stream()
            && served < down.len()
            && world.host.streams[&id].inbound.len() < 600_000
        {
            let end = (served + 100_000).min(down.len());
            world.server_writes(id, &down[served..end]);
            served = end;
        }
        let socket = world.socket(handle);
        let mut buffer = vec![0; 65_536];
        while socket.can_recv() {
            received += socket.recv_slice(&mut buffer).expect("open");
        }
        received == down.len()
    });
    assert!(done);
    // Reno's law for 1 % loss at 20 ms gives 0.9 MB/s; time-outs alone would give a tenth of it.
    let rate = 3_000_000 * 1_000_000 / world.us;
    assert!(rate > 300_000, "{rate} bytes per second");
}

#[test]
fn the_ends_are_carried_over_one_by_one() {
    for station_first in [true, false] {
        let mut world = World::new(FAIR, 5);
        let handle = world.call(server(), 10_000);
        let open = world.run(Duration::from_secs(1), |world| {
            world.connect_all();
            world.socket(handle).may_send() && world.only_stream().is_some()
        });
        assert!(open);
        let id = world.only_stream().expect("one");
        if station_first {
            world.socket(handle).close();
            assert!(world.run(Duration::from_secs(1), |world| world.host.streams[&id].shut));
            // The other half still works.
            world.server_writes(id, b"the rest");
            assert!(world.run(Duration::from_secs(1), |world| {
                world.socket(handle).can_recv()
            }));
            world.server_ends(id);
        } else {
            world.server_ends(id);
            assert!(
                world.run(Duration::from_secs(1), |world| world.socket(handle).state()
                    == State::CloseWait)
            );
            world.socket(handle).send_slice(b"the rest").expect("open");
            assert!(world.run(
                Duration::from_secs(1),
                |world| world.host.streams[&id].outbound.len() == 8
            ));
            world.socket(handle).close();
        }
        assert!(world.run(Duration::from_secs(2), |world| {
            world.host.streams.is_empty()
        }));
        assert_eq!(world.host.closed, [(id, false)]);
        world.run(Duration::from_secs(12), |_| false);
        assert!(
            world.nat.table(world.now()).is_empty(),
            "forgotten after a while"
        );
        let deleted = |event: &NatEvent| {
            matches!(
                event,
                NatEvent::TcpDeleted {
                    reason: End::Finished,
                    ..
                }
            )
        };
        assert!(world.events.iter().any(deleted), "{:?}", world.events);
    }
}

#[test]
fn a_host_that_refuses_resets_the_station_at_once() {
    let mut world = World::new(FAIR, 6);
    let handle = world.call(server(), 1000);
    assert!(world.run(Duration::from_secs(1), |world| {
        world.only_stream().is_some()
    }));
    let (id, now) = (world.only_stream().expect("one"), world.now());
    assert_eq!(world.socket(handle).state(), State::SynSent);
    world
        .nat
        .handle_connected(id, Err(Failure::Refused), &mut world.host, now);
    assert!(world.run(
        Duration::from_millis(10),
        |world| world.socket(handle).state() == State::Closed
    ));
    assert!(world.nat.table(world.now()).is_empty());
    let failed = |event: &NatEvent| matches!(event, NatEvent::TcpFailed { .. });
    assert!(world.events.iter().any(failed));
}

#[test]
fn resets_go_through_both_ways() {
    for by_station in [true, false] {
        let mut world = World::new(FAIR, 7);
        let handle = world.call(server(), 1000);
        assert!(world.run(Duration::from_secs(1), |world| {
            world.connect_all();
            world.socket(handle).may_send()
        }));
        let (id, now) = (world.only_stream().expect("one"), world.now());
        if by_station {
            world.socket(handle).abort();
            assert!(world.run(Duration::from_secs(1), |world| {
                world.host.streams.is_empty()
            }));
            assert_eq!(world.host.closed, [(id, true)]);
        } else {
            world.host.streams.get_mut(&id).expect("open").dead = true;
            world.nat.handle_readable(id, &mut world.host, now);
            assert!(
                world.run(Duration::from_secs(1), |world| world.socket(handle).state()
                    == State::Closed)
            );
        }
        assert!(world.nat.table(world.now()).is_empty());
    }
}

#[test]
fn a_host_that_does_not_read_stops_the_station_and_grows_no_memory() {
    let mut world = World::new(FAIR, 8);
    world.host.capacity = 30_000;
    let handle = world.call(server(), 500_000);
    let (mut sent, up) = (0, stream(9, 400_000));
    world.run(Duration::from_secs(60), |world| {
        world.connect_all();
        let socket = world.socket(handle);
        if socket.can_send() && sent < up.len() {
            sent += socket.send_slice(&up[sent..]).expect("open");
        }
        let kept = world.nat.settings.limits.held_bytes - world.nat.budget;
        assert!(kept <= 64_000, "{kept}");
        false
    });
    let id = world.only_stream().expect("it waits, and is not given up");
    // A minute later it reads again, and gets everything.
    let mut arrived = Vec::new();
    assert!(
        world.run(Duration::from_secs(60), |world| {
            arrived.extend(world.server_reads(id, 3000));
            arrived.len() == up.len()
        }),
        "{}",
        arrived.len()
    );
    assert!(arrived == up);
}

#[test]
fn a_station_that_does_not_read_leaves_the_bytes_in_the_hosts_socket() {
    let mut world = World::new(FAIR, 10);
    let handle = world.call(server(), 20_000);
    let down = stream(11, 300_000);
    assert!(world.run(Duration::from_secs(1), |world| {
        world.connect_all();
        world.socket(handle).may_send()
    }));
    let id = world.only_stream().expect("one");
    world.server_writes(id, &down);
    world.server_ends(id);
    world.run(Duration::from_secs(100), |_| false);
    assert!(world.host.streams[&id].inbound.len() >= 280_000);
    let mut received = Vec::new();
    assert!(
        world.run(Duration::from_secs(100), |world| {
            let socket = world.socket(handle);
            let mut buffer = vec![0; 700];
            if socket.can_recv() {
                let count = socket.recv_slice(&mut buffer).expect("open");
                received.extend_from_slice(&buffer[..count]);
            }
            received.len() == down.len()
        }),
        "{}",
        received.len()
    );
    assert!(received == down);
}

#[test]
fn a_silent_connection_ends_after_its_time() {
    let mut world = World::new(FAIR, 12);
    let mut settings = world.nat.settings().clone();
    settings.tcp_idle = Duration::from_secs(20);
    let now = world.now();
    world.nat.set(settings, &mut world.host, now);
    let handle = world.call(server(), 1000);
    assert!(world.run(Duration::from_secs(1), |world| {
        world.connect_all();
        world.socket(handle).may_send()
    }));
    world.run(Duration::from_secs(19), |_| false);
    assert_eq!(world.nat.table(world.now()).len(), 1);
    world.run(Duration::from_secs(3), |_| false);
    assert!(world.nat.table(world.now()).is_empty());
    assert_eq!(world.socket(handle).state(), State::Closed);
    assert!(world.host.closed[0].1, "by force");
}

#[test]
fn an_idle_connection_takes_less_than_eight_kibibytes() {
    use super::super::{Place, Stream};
    // Beside the structures: two places in trees of at most a few words each.
    assert!(
        size_of::<Stream>() + size_of::<Place>() < 2048,
        "{}",
        size_of::<Stream>()
    );
}
