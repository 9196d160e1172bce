//! What is done through a subject: TCP streams, small UDP packets, round trips; by plain sockets, as any program does it.
//!
//! Sockets are opened on the machines; the threads that use them are the bench's own, so their processor time is not the
//! subject's. Sender, subject and receiver share the machine's cores, as they would on a small server.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::scene::Scene;

/// Between which addresses of which machines something flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) from: (&'static str, Ipv4Addr),
    pub(super) to: (&'static str, Ipv4Addr),
}

impl Ends {
    /// The other direction.
    pub(super) const fn turned(self) -> Self {
        Self {
            from: self.to,
            to: self.from,
        }
    }
}

/// How long each thing is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// A stream's time until it is measured: its windows have grown.
    warm_up: Duration,
    /// The measured time.
    pub(super) measured: Duration,
}

impl Plan {
    /// Streams are measured for so many seconds.
    pub(super) fn of_seconds(seconds: u32) -> Self {
        Self {
            warm_up: Duration::from_millis(500),
            measured: Duration::from_secs(seconds.into()),
        }
    }

    /// For round trips on an idle machine.
    pub(super) const fn idle(&self) -> Duration {
        self.measured
    }
}

/// What flowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Flow {
    /// Bytes that arrived, the warm-up's included.
    bytes: u64,
    /// Of these, the bytes of the measured time.
    measured_bytes: u64,
    measured: Duration,
}

impl Flow {
    /// Megabits of payload per second.
    pub(super) fn mbit_per_second(&self) -> f64 {
        float(self.measured_bytes) * 8.0 / 1e6 / self.measured.as_secs_f64()
    }

    /// Processor seconds for each gigabyte (10^9 bytes) of payload.
    pub(super) fn seconds_per_gigabyte(&self, cost: Duration) -> f64 {
        cost.as_secs_f64() / (float(self.bytes) / 1e9)
    }
}

/// Round trips, sorted.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RoundTrips(Vec<Duration>);

impl RoundTrips {
    /// The round trip that this share of all is not above, in milliseconds.
    pub(super) fn quantile_ms(&self, share: f64) -> f64 {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index into a short list"
        )]
        let index = ((self.0.len() as f64 * share).ceil() as usize).saturating_sub(1);
        self.0
            .get(index)
            .map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
    }
}

/// So many TCP streams in one direction at once.
pub(super) fn streams(scene: &Scene, ends: Ends, count: usize, plan: &Plan) -> io::Result<Flow> {
    with_streams(scene, ends, count, |arrived| {
        thread::sleep(plan.warm_up);
        let (start, before) = (Instant::now(), arrived());
        thread::sleep(plan.measured);
        let (measured, measured_bytes) = (start.elapsed(), arrived() - before);
        Ok(Flow {
            bytes: arrived(),
            measured_bytes,
            measured,
        })
    })
}

/// Round trips while nothing else happens.
pub(super) fn round_trips(scene: &Scene, ends: Ends, time: Duration) -> io::Result<RoundTrips> {
    let echo = scene
        .wired
        .run_in(ends.to.0, || UdpSocket::bind((ends.to.1, 0)))??;
    let asker = scene
        .wired
        .run_in(ends.from.0, || UdpSocket::bind((ends.from.1, 0)))??;
    asker.connect(echo.local_addr()?)?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let echoes = scope.spawn(|| answer(&echo, &done));
        let times = ask(&asker, time);
        done.store(true, Ordering::Relaxed);
        echoes.join().unwrap_or_else(|_| Err(lost_thread()))?;
        times
    })
}

/// Round trips while a stream flows the same way.
pub(super) fn round_trips_beside_a_stream(
    scene: &Scene,
    ends: Ends,
    plan: &Plan,
) -> io::Result<RoundTrips> {
    with_streams(scene, ends, 1, |_| {
        thread::sleep(plan.warm_up);
        round_trips(scene, ends, plan.measured)
    })
}

/// Ethernet frames of 64 bytes, one UDP packet each, as fast as one thread sends them: how many arrive per second.
pub(super) fn small_packets(scene: &Scene, ends: Ends, plan: &Plan) -> io::Result<f64> {
    let sink = scene
        .wired
        .run_in(ends.to.0, || UdpSocket::bind((ends.to.1, 0)))??;
    let source = scene
        .wired
        .run_in(ends.from.0, || UdpSocket::bind((ends.from.1, 0)))??;
    source.connect(sink.local_addr()?)?;
    sink.set_read_timeout(Some(LOOK))?;
    let (done, arrived) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // A full queue is what is wanted here.
                let _ = source.send(&[0; SMALL_PAYLOAD]);
            }
        });
        scope.spawn(|| {
            let mut buffer = [0; 64];
            while !done.load(Ordering::Relaxed) {
                if sink.recv(&mut buffer).is_ok() {
                    arrived.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        thread::sleep(plan.warm_up);
        let (start, before) = (Instant::now(), arrived.load(Ordering::Relaxed));
        thread::sleep(plan.measured);
        let count = arrived.load(Ordering::Relaxed) - before;
        let rate = float(count) / start.elapsed().as_secs_f64();
        done.store(true, Ordering::Relaxed);
        Ok(rate)
    })
}

/// Whether `to` answers `from` at all.
pub(super) fn is_reachable(scene: &Scene, ends: Ends) -> io::Result<()> {
    let listener = scene
        .wired
        .run_in(ends.to.0, || TcpListener::bind((ends.to.1, 0)))??;
    let target = listener.local_addr()?;
    let connect = || TcpStream::connect_timeout(&target, LOOK * 10);
    scene.wired.run_in(ends.from.0, connect)??;
    Ok(())
}

/// Does something while streams flow; `arrived` tells how many bytes have come so far.
fn with_streams<T>(
    scene: &Scene,
    ends: Ends,
    count: usize,
    body: impl FnOnce(&dyn Fn() -> u64) -> io::Result<T>,
) -> io::Result<T> {
    let listener = scene
        .wired
        .run_in(ends.to.0, || TcpListener::bind((ends.to.1, 0)))??;
    let target = listener.local_addr()?;
    let mut pairs = Vec::new();
    for _ in 0..count {
        let connect = || TcpStream::connect_timeout(&target, PATIENCE);
        let sender = scene.wired.run_in(ends.from.0, connect)??;
        let (receiver, _) = listener.accept()?;
        sender.set_write_timeout(Some(PATIENCE))?;
        receiver.set_read_timeout(Some(LOOK))?;
        pairs.push((sender, receiver));
    }
    let (done, arrived) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for (sender, receiver) in &pairs {
            scope.spawn(|| send(sender, &done));
            scope.spawn(|| receive(receiver, &arrived, &done));
        }
        let result = body(&|| arrived.load(Ordering::Relaxed));
        done.store(true, Ordering::Relaxed);
        result
    })
}

fn send(mut stream: &TcpStream, done: &AtomicBool) {
    let block = vec![0x5a; BLOCK];
    while !done.load(Ordering::Relaxed) && stream.write_all(&block).is_ok() {}
    // Who waits for more gets an end.
    let _ = stream.shutdown(std::net::Shutdown::Write);
}

fn receive(mut stream: &TcpStream, arrived: &AtomicU64, done: &AtomicBool) {
    let mut block = vec![0; BLOCK];
    loop {
        match stream.read(&mut block) {
            Ok(0) => return,
            Ok(length) => {
                arrived.fetch_add(length as u64, Ordering::Relaxed);
            }
            Err(error) if is_timeout(&error) && !done.load(Ordering::Relaxed) => {}
            Err(_) => return,
        }
    }
}

/// One question after the other, each with a pause behind it, as on an idle machine.
fn ask(socket: &UdpSocket, time: Duration) -> io::Result<RoundTrips> {
    socket.set_read_timeout(Some(LOST))?;
    let start = Instant::now();
    let mut times = Vec::new();
    for number in 0u64.. {
        if start.elapsed() >= time {
            break;
        }
        let asked = Instant::now();
        socket.send(&number.to_be_bytes())?;
        let mut answer = [0; 8];
        loop {
            match socket.recv(&mut answer) {
                Ok(_) if answer == number.to_be_bytes() => break,
                Ok(_) => {}
                // Lost: it counts as long as it was waited for.
                Err(error) if is_timeout(&error) => break,
                Err(error) => return Err(error),
            }
        }
        times.push(asked.elapsed());
        thread::sleep(PAUSE);
    }
    times.sort_unstable();
    Ok(RoundTrips(times))
}

fn answer(socket: &UdpSocket, done: &AtomicBool) -> io::Result<()> {
    socket.set_read_timeout(Some(LOOK))?;
    let mut buffer = [0; 64];
    while !done.load(Ordering::Relaxed) {
        let (length, from): (usize, SocketAddr) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if is_timeout(&error) => continue,
            Err(error) => return Err(error),
        };
        socket.send_to(&buffer[..length], from)?;
    }
    Ok(())
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

fn lost_thread() -> io::Error {
    io::Error::other("a thread of the bench has failed")
}

/// A count as a number with a fraction; up to 2^53 it is exact.
#[allow(
    clippy::cast_precision_loss,
    reason = "a bench's counts are far below 2^53"
)]
const fn float(count: u64) -> f64 {
    count as f64
}

/// Bytes of one write and one read of a stream.
const BLOCK: usize = 128 * 1024;
/// UDP payload of a frame of 64 bytes: less 14 of Ethernet, 20 of IPv4, 8 of UDP and 4 of the check sequence.
const SMALL_PAYLOAD: usize = 18;
/// An answer that takes longer is lost, and counts as this long.
const LOST: Duration = Duration::from_secs(1);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(2);
/// How often a thread that waits looks whether all is done.
const LOOK: Duration = Duration::from_millis(100);
/// How long nothing may happen.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_their_units() {
        let flow = Flow {
            bytes: 2_000_000_000,
            measured_bytes: 1_000_000_000,
            measured: Duration::from_secs(4),
        };
        assert!((flow.mbit_per_second() - 2000.0).abs() < 1e-9);
        assert!((flow.seconds_per_gigabyte(Duration::from_secs(3)) - 1.5).abs() < 1e-9);
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let times = RoundTrips((1..=100).map(Duration::from_millis).collect());
        let [half, most, all] = [0.5, 0.99, 1.0].map(|share| times.quantile_ms(share));
        assert!(
            (half - 50.0).abs() < 1e-9 && (most - 99.0).abs() < 1e-9 && (all - 100.0).abs() < 1e-9
        );
        assert!(RoundTrips(Vec::new()).quantile_ms(0.5).is_nan());
    }
}
