//! The loop: what comes in by the sockets goes to the server in batches, what it says goes out, and it is woken when it asks.
//!
//! Relayed datagrams are rewritten where they were received and sent from there; a run of them to one place goes out by one
//! system call. Nothing is decided here.

use std::future::Future;
use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::ops::Range;
use std::task::Poll;
use std::time::{Duration, Instant};

use kuguri_proto::SocketId;
use kuguri_proto::rendezvous::server::{Server, ServerEvent};
use quinn_udp::{BATCH_SIZE, RecvMeta};
use serde::Serialize;
use tracing::{debug, info};

use crate::out::Lines;
use crate::socket::{UdpEndpoint, canonical};
use crate::source::Sources;

/// The server with its sockets.
pub(crate) struct Driver {
    server: Server,
    main: UdpEndpoint,
    /// Those that answer STUN alone, in the order of their numbers, from 1 on.
    others: Vec<UdpEndpoint>,
    sources: Sources,
    /// Where events are said in JSON, if they are.
    events: Option<Lines>,
}

/// Datagrams of one size in one buffer that go to one place.
struct Run {
    destination: SocketAddr,
    range: Range<usize>,
    size: usize,
}

impl Driver {
    pub(crate) fn new(
        server: Server,
        main: UdpEndpoint,
        others: Vec<UdpEndpoint>,
        events: Option<Lines>,
    ) -> Self {
        Self {
            server,
            main,
            others,
            sources: Sources::default(),
            events,
        }
    }

    /// Serves until `stop`, then says goodbye to everybody.
    pub(crate) async fn run(mut self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let mut stop = std::pin::pin!(stop);
        let mut buffers = vec![vec![0; BUFFER]; BATCH_SIZE];
        loop {
            self.drain();
            let due = self.server.poll_timeout();
            let due = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                () = &mut stop => break,
                ready = self.main.readable() => {
                    ready?;
                    self.read(SocketId::MAIN, &mut buffers);
                }
                ready = readable(&self.others) => {
                    self.read(ready?, &mut buffers);
                }
                () = tokio::time::sleep_until(due.into()) => {
                    self.server.handle_timeout(Instant::now());
                }
            }
        }
        self.server.stop(Instant::now());
        self.drain();
        let stats = self.server.stats();
        info!(
            "stopped; it had {} registrations and relayed {} datagrams, {} bytes",
            stats.registrations, stats.relayed_datagrams, stats.relayed_bytes
        );
        debug!(?stats);
        Ok(())
    }

    /// Reads one batch and handles every datagram in it. A broken batch (an ICMP error that the system reports here) is no
    /// reason to end: the next one is read.
    fn read(&mut self, socket: SocketId, buffers: &mut [Vec<u8>]) {
        let mut meta = [RecvMeta::default(); BATCH_SIZE];
        let mut slices = buffers.iter_mut().map(|it| IoSliceMut::new(it));
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| slices.next().unwrap_or_else(|| IoSliceMut::new(&mut [])));
        let received = self.endpoint(socket).receive(&mut slices, &mut meta);
        let Ok(count) = received else {
            return;
        };
        let now = Instant::now();
        for (meta, buffer) in meta.iter().zip(buffers).take(count) {
            if let Some(filled) = buffer.get_mut(..meta.len) {
                self.handle(socket, meta, filled, now);
            }
        }
    }

    /// Handles the datagrams of one buffer, which have one sender and, but for the last, one size.
    fn handle(&mut self, socket: SocketId, meta: &RecvMeta, filled: &mut [u8], now: Instant) {
        let remote = canonical(meta.addr);
        if let Some(local) = meta.dst_ip.filter(|_| is_at_first_address(socket)) {
            self.sources.note(remote, local);
        }
        let stride = meta.stride.max(1);
        let mut run: Option<Run> = None;
        let mut start = 0;
        while start < filled.len() {
            if socket == SocketId::MAIN
                && run.is_none()
                && let Some((destination, length)) =
                    self.server
                        .handle_row(remote, &mut filled[start..], stride, now)
            {
                let range = start..start + length;
                start = range.end;
                let size = stride;
                run = Some(Run {
                    destination,
                    range,
                    size,
                });
                continue;
            }
            let end = filled.len().min(start + stride);
            let datagram = &mut filled[start..end];
            let forward = self.server.handle_datagram(socket, remote, datagram, now);
            match (&mut run, forward) {
                (Some(run), Some(to)) if run.destination == to && run.range.end == start => {
                    run.range.end = end;
                }
                (_, forward) => {
                    self.send_run(run.take(), filled);
                    // What the server has to say stands before what is relayed after it: an Incoming before its channel.
                    self.drain();
                    run = forward.map(|destination| Run {
                        destination,
                        range: start..end,
                        size: stride,
                    });
                }
            }
            start = end;
        }
        self.send_run(run, filled);
    }

    fn send_run(&self, run: Option<Run>, filled: &[u8]) {
        if let Some(run) = run
            && let Some(contents) = filled.get(run.range)
        {
            let source = self.sources.get(run.destination);
            self.main.send(run.destination, contents, run.size, source);
        }
    }

    /// Sends and says everything that the server has to send and to say.
    fn drain(&mut self) {
        let now = Instant::now();
        while let Some(transmit) = self.server.poll_transmit(now) {
            let size = transmit.segment_size.unwrap_or(transmit.contents.len());
            let source = self.sources.get(transmit.destination);
            let source = source.filter(|_| is_at_first_address(transmit.socket));
            self.endpoint(transmit.socket).send(
                transmit.destination,
                &transmit.contents,
                size,
                source,
            );
        }
        while let Some(event) = self.server.poll_event() {
            self.say(&event);
        }
    }

    fn say(&self, event: &ServerEvent) {
        let (name, peer, detail) = match event {
            ServerEvent::Registered { peer, address } => ("registered", peer, address.to_string()),
            ServerEvent::Moved { peer, address } => ("moved", peer, address.to_string()),
            ServerEvent::Replaced { peer } => ("replaced", peer, String::new()),
            ServerEvent::Gone { peer, reason } => ("gone", peer, reason.clone()),
        };
        if let Some(lines) = &self.events {
            let key = peer.to_string();
            let said = Said {
                event: name,
                key: &key,
                detail: &detail,
            };
            lines.say(serde_json::to_string(&said).unwrap_or_default());
        }
        info!("{name} {} {detail}", peer.short());
        debug!(stats = ?self.server.stats());
    }

    fn endpoint(&self, socket: SocketId) -> &UdpEndpoint {
        let other = usize::from(socket.0).checked_sub(1);
        let other = other.and_then(|index| self.others.get(index));
        other.unwrap_or(&self.main)
    }
}

/// The sockets at the second address have no other to choose from.
const fn is_at_first_address(socket: SocketId) -> bool {
    socket.0 < 2
}

/// Waits until there is something to read at one of these sockets, whose numbers begin with 1.
async fn readable(others: &[UdpEndpoint]) -> std::io::Result<SocketId> {
    std::future::poll_fn(|context| {
        for (number, other) in (1..).zip(others) {
            if let Poll::Ready(ready) = other.poll_readable(context) {
                return Poll::Ready(ready.map(|()| SocketId(number)));
            }
        }
        Poll::Pending
    })
    .await
}

#[derive(Serialize)]
struct Said<'a> {
    event: &'static str,
    key: &'a str,
    detail: &'a str,
}

/// A whole batch of datagrams that the kernel hands over as one (GRO) fits into it.
const BUFFER: usize = 65_536;
