//! What one frame, or one super-frame of 40, costs on its way: seal, open, split, coalesce, batch, switch, ARQ.
//!
//! `cargo bench -p kuguri-proto`; ratios within one run are what counts.
#![allow(missing_docs, reason = "criterion's macros make public functions")]
#![allow(
    clippy::disallowed_methods,
    reason = "a bench may begin at any instant"
)]

use std::hint::black_box;
use std::time::Instant;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use kuguri_proto::link::arq::{self, Arq};
use kuguri_proto::link::batch::{Batch, Shape};
use kuguri_proto::link::seal::keys::EXPORTED;
use kuguri_proto::link::seal::{LinkKeys, Opener, Role, Sealer, Suite};
use kuguri_proto::offload::{Coalescer, Gso, VnetHeader, split};
use kuguri_proto::switch::{self, PortId, Switch};
use kuguri_proto::wire::ethernet::MacAddr;
use rand::SeedableRng;
use rand::rngs::StdRng;

const SHAPE: Shape = Shape {
    relay: None,
    mtu: 1472,
};
const SUITES: [Suite; 2] = [Suite::Aes256Gcm, Suite::ChaCha20Poly1305];

fn pair(suite: Suite) -> (Sealer, Opener) {
    let key = || {
        let keys = LinkKeys::derive(&[7; EXPORTED], Role::Client);
        keys.chain.key(suite, Role::Client, 0)
    };
    (Sealer::new(1, key()), Opener::new(key()))
}

/// A super-frame of TCP over IPv4 with timestamps, as a kernel gives it.
fn super_frame(payload: usize) -> (VnetHeader, Vec<u8>) {
    let mut frame = vec![0; 66 + payload];
    frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
    frame[14] = 0x45;
    let total = u16::try_from(52 + payload).expect("16 bits");
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    frame[22..34].copy_from_slice(&[64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame[46] = 0x80;
    frame[47] = 0x10;
    let vnet = VnetHeader {
        needs_csum: true,
        gso: Gso::Tcp4,
        hdr_len: 66,
        gso_size: 1448,
        csum_start: 34,
        csum_offset: 16,
        ..VnetHeader::default()
    };
    (vnet, frame)
}

fn seal_and_open(c: &mut Criterion) {
    for suite in SUITES {
        for size in [64_u64, 1472] {
            let mut group = c.benchmark_group(format!("{}/{size}", suite.name()));
            group.throughput(Throughput::Bytes(size));
            let (sealer, opener) = pair(suite);
            let (now, size) = (Instant::now(), usize::try_from(size).expect("small"));
            let mut datagram = vec![0; size];
            group.bench_function("seal", |b| b.iter(|| sealer.seal(black_box(&mut datagram))));
            group.bench_function("open", |b| {
                let sealed = || {
                    let mut datagram = vec![0; size];
                    sealer.seal(&mut datagram).expect("a fresh key");
                    datagram
                };
                b.iter_batched_ref(
                    sealed,
                    |datagram| opener.open(datagram, now).is_ok(),
                    BatchSize::SmallInput,
                );
            });
        }
    }
}

fn offload(c: &mut Criterion) {
    let (vnet, frame) = super_frame(57_920);
    let mut group = c.benchmark_group("super-frame");
    group.throughput(Throughput::Bytes(57_920));
    let (sealer, _) = pair(Suite::Aes256Gcm);
    for (name, finish) in [("split open", false), ("split finished", true)] {
        let mut batch = Batch::new(SHAPE);
        group.bench_function(name, |b| {
            b.iter(|| fill(&mut batch, vnet, &frame, finish));
        });
    }
    let mut batch = Batch::new(SHAPE);
    group.bench_function("split, batch and seal", |b| {
        b.iter(|| {
            fill(&mut batch, vnet, &frame, false);
            black_box(batch.seal(&sealer).is_ok())
        });
    });
    let (arena, ranges) = pieces(vnet, &frame);
    let mut coalescer = Coalescer::new();
    group.bench_function("coalesce", |b| {
        b.iter(|| {
            let mut bytes = 0;
            for range in &ranges {
                coalescer.push(&arena, range.clone(), true, (), |(), made| {
                    bytes += made.len;
                });
            }
            coalescer.flush(&arena, |(), made| bytes += made.len);
            bytes
        });
    });
}

fn fill(batch: &mut Batch, vnet: VnetHeader, frame: &[u8], finish: bool) {
    batch.reset(SHAPE);
    let pieces = split(vnet, frame, SHAPE.largest_frame()).expect("well made");
    for index in 0..pieces.count() {
        let room = batch.frame(pieces.piece_len(index), !finish);
        pieces.write(index, finish, room.expect("one batch holds it"));
    }
}

fn pieces(vnet: VnetHeader, frame: &[u8]) -> (Vec<u8>, Vec<std::ops::Range<usize>>) {
    let pieces = split(vnet, frame, SHAPE.largest_frame()).expect("well made");
    let (mut arena, mut ranges) = (Vec::new(), Vec::new());
    for index in 0..pieces.count() {
        let start = arena.len();
        arena.resize(start + pieces.piece_len(index), 0);
        pieces.write(index, false, &mut arena[start..]);
        ranges.push(start..arena.len());
    }
    (arena, ranges)
}

/// Ten thousand stations behind a thousand ports.
fn switch_lookup(c: &mut Criterion) {
    let now = Instant::now();
    let mut switch = Switch::new(switch::Config::default(), &mut StdRng::seed_from_u64(1));
    let mac = |number: u32| {
        let [_, a, b, d] = number.to_be_bytes();
        MacAddr([2, 0, 0, a, b, d])
    };
    for port in 1..=1000 {
        switch.add_port(PortId(port), now);
    }
    let frame = |to: u32, from: u32| [&mac(to).0[..], &mac(from).0, &[0; 48]].concat();
    for station in 0..10_000 {
        let _ = switch.forward(PortId(station % 1000 + 1), &frame(0, station), now);
    }
    let fib = switch.fib(now);
    let mut next = 0;
    c.bench_function("switch/find by table", |b| {
        b.iter(|| {
            next = (next + 7919) % 10_000;
            fib.find(black_box(mac(next)), fib.tick(now))
        });
    });
    let to = frame(4711, 815);
    c.bench_function("switch/forward", |b| {
        b.iter(|| switch.forward(PortId(816), black_box(&to), now));
    });
}

/// 64 KB over a path that loses nothing.
fn reliable(c: &mut Criterion) {
    let bytes = vec![7; 64 * 1024];
    let mut group = c.benchmark_group("arq");
    group.throughput(Throughput::Bytes(64 * 1024));
    group.bench_function("64 KB", |b| {
        b.iter(|| {
            let mut now = Instant::now();
            let mut ends = [(); 2].map(|()| Arq::new(arq::Config::default(), now));
            let (mut written, mut read) = (0, Vec::new());
            while read.len() < bytes.len() {
                written += ends[0].write(&bytes[written..]);
                for (from, to) in [(0, 1), (1, 0)] {
                    let mut segment = Vec::new();
                    while ends[from].poll_transmit(&mut segment, 1200, now) {
                        let _ = ends[to].handle_segment(&segment, now);
                        segment.clear();
                    }
                }
                ends[1].read(&mut read);
                now += std::time::Duration::from_millis(1);
                for end in &mut ends {
                    end.handle_timeout(now);
                }
            }
            read.len()
        });
    });
}

criterion_group!(benches, seal_and_open, offload, switch_lookup, reliable);
criterion_main!(benches);
