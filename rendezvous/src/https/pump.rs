//! A carrier at work: datagrams of a loopback UDP socket go into a stream, and what comes out of the stream goes to the socket.
//!
//! ```text
//!   UDP (connected, 127.0.0.1) ─ recvmmsg, GRO ─▶ frame ─▶ queue, 100 ms at most ─▶ stream
//!                              ◀─ sendmsg, GSO ─ rows of one size ◀─ frames ◀────── stream
//! ```
//!
//! Both ends of a carrier are the same, so a peer uses this too. What the stream cannot take in time is dropped and counted, the
//! oldest first: whoever sends through it must see a loss soon, not an ever later answer. It knows nothing of what it carries.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use kuguri_proto::carrier;
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UdpSocket;
use tokio::time::Sleep;

/// What went through a carrier, and what did not.
#[derive(Debug, Default)]
pub struct Counters {
    /// Datagrams that went into the stream.
    pub sent: AtomicU64,
    /// Datagrams that came out of it.
    pub received: AtomicU64,
    /// Datagrams that the stream did not take in time.
    pub dropped: AtomicU64,
}

/// A stream and a UDP socket, each carried on by the other; a future that ends with the stream.
pub struct Carrier<S> {
    stream: S,
    udp: UdpSocket,
    batches: UdpSocketState,
    /// Where the socket is connected to.
    remote: SocketAddr,
    queue: Queue,
    flushed: bool,
    /// The beginning of a datagram that is not all there.
    partial: Vec<u8>,
    counters: Arc<Counters>,
    heard: Instant,
    watch: Pin<Box<Sleep>>,
}

/// Framed datagrams on their way into the stream.
#[derive(Debug, Default)]
struct Queue {
    /// What is being written, and how far it is; never dropped, since it is half told.
    current: Vec<u8>,
    written: usize,
    waiting: VecDeque<Block>,
    bytes: usize,
}

#[derive(Debug)]
struct Block {
    since: Instant,
    datagrams: u64,
    bytes: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Carrier<S> {
    /// A carrier of a connected socket; `begun` is what was read from the stream already.
    ///
    /// # Errors
    /// When the system refuses what the socket needs.
    pub fn new(
        stream: S,
        udp: UdpSocket,
        begun: &[u8],
        counters: Arc<Counters>,
    ) -> io::Result<Self> {
        let batches = UdpSocketState::new((&udp).into())?;
        // The system may give less; what does not fit is lost, as on any network.
        let _ = batches.set_recv_buffer_size((&udp).into(), SOCKET_BUFFER);
        let _ = batches.set_send_buffer_size((&udp).into(), SOCKET_BUFFER);
        Ok(Self {
            stream,
            remote: udp.peer_addr()?,
            udp,
            batches,
            queue: Queue::default(),
            flushed: true,
            partial: begun.to_vec(),
            counters,
            heard: Instant::now(),
            watch: Box::pin(tokio::time::sleep(SILENCE)),
        })
    }

    /// From the socket into the queue. Says whether there was anything.
    fn take_datagrams(&mut self, scratch: &mut Scratch, cx: &mut Context<'_>) -> io::Result<bool> {
        if !matches!(self.udp.poll_recv_ready(cx)?, Poll::Ready(())) {
            return Ok(false);
        }
        let mut metas = [RecvMeta::default(); BATCH];
        let mut slices = scratch.buffers.each_mut().map(|it| IoSliceMut::new(it));
        let received = self.udp.try_io(Interest::READABLE, || {
            self.batches
                .recv((&self.udp).into(), &mut slices, &mut metas)
        });
        let count = match received {
            Ok(count) => count,
            // Nothing there: asked again, so that somebody waits for it.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok(self.udp.poll_recv_ready(cx)?.is_ready());
            }
            // The other end's socket is not there now: what was sent is lost, as on any network.
            Err(_) => return Ok(true),
        };
        let now = Instant::now();
        for (meta, buffer) in metas.iter().zip(&scratch.buffers).take(count) {
            if let Some(filled) = buffer.get(..meta.len) {
                let dropped = self.queue.push(filled, meta.stride.max(1), now);
                self.counters.dropped.fetch_add(dropped, Ordering::Relaxed);
            }
        }
        Ok(true)
    }

    /// From the queue into the stream. Says whether it took anything.
    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut wrote = false;
        loop {
            if self.queue.is_written() {
                let (sent, dropped) = self.queue.next(Instant::now());
                self.counters.sent.fetch_add(sent, Ordering::Relaxed);
                self.counters.dropped.fetch_add(dropped, Ordering::Relaxed);
            }
            let rest = self.queue.rest();
            if rest.is_empty() {
                break;
            }
            match Pin::new(&mut self.stream).poll_write(cx, rest)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(count) => self.queue.written += count,
                Poll::Pending => return Ok(wrote),
            }
            (wrote, self.flushed) = (true, false);
        }
        if !self.flushed {
            self.flushed = Pin::new(&mut self.stream).poll_flush(cx)?.is_ready();
        }
        Ok(wrote)
    }

    /// From the stream to the socket. Says whether there was anything; an error is also its end.
    fn read(&mut self, scratch: &mut Scratch, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut buffer = ReadBuf::new(&mut scratch.stream);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer)? {
            Poll::Pending => return Ok(false),
            Poll::Ready(()) if buffer.filled().is_empty() => {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Poll::Ready(()) => {}
        }
        self.heard = Instant::now();
        let filled = buffer.filled();
        if self.partial.is_empty() {
            let rest = self.give(&mut scratch.row, filled);
            self.partial.extend_from_slice(rest);
        } else {
            let mut whole = std::mem::take(&mut self.partial);
            whole.extend_from_slice(filled);
            let rest = self.give(&mut scratch.row, &whole).len();
            whole.drain(..whole.len() - rest);
            self.partial = whole;
        }
        Ok(true)
    }

    /// Gives the whole datagrams of a piece of the stream to the socket; what is left is not whole.
    fn give<'b>(&self, row: &mut Row, mut stream: &'b [u8]) -> &'b [u8] {
        while let Some((datagram, rest)) = carrier::first(stream) {
            stream = rest;
            self.counters.received.fetch_add(1, Ordering::Relaxed);
            if !row.takes(datagram, self.batches.max_gso_segments()) {
                self.send(row);
            }
            row.push(datagram);
        }
        stream
    }

    /// Sends a row by one system call. What does not fit into the other socket's buffer is lost.
    fn send(&self, row: &mut Row) {
        if !row.bytes.is_empty() {
            let transmit = Transmit {
                destination: self.remote,
                ecn: None,
                contents: &row.bytes,
                segment_size: (row.count > 1).then_some(row.stride),
                src_ip: None,
            };
            let _ = self.batches.try_send((&self.udp).into(), &transmit);
        }
        row.clear();
    }

    /// Ends a stream on which nothing comes any more.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            ready!(self.watch.as_mut().poll(cx));
            let until = self.heard + SILENCE;
            if until <= Instant::now() {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            self.watch.as_mut().reset(until.into());
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Carrier<S> {
    type Output = io::Error;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Error> {
        if let Poll::Ready(error) = self.poll_silence(cx) {
            return Poll::Ready(error);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            for _ in 0..TURNS {
                let turn = self
                    .take_datagrams(scratch, cx)
                    .and_then(|taken| Ok(self.write(cx)? | taken))
                    .and_then(|taken| Ok(self.read(scratch, cx)? | taken));
                let more = match turn {
                    Ok(more) => more,
                    Err(error) => {
                        scratch.row.clear();
                        return Poll::Ready(error);
                    }
                };
                if !more {
                    self.send(&mut scratch.row);
                    return Poll::Pending;
                }
            }
            self.send(&mut scratch.row);
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    }
}

impl Queue {
    /// Takes datagrams of `stride` bytes, the last perhaps shorter. Says how many had to go for them.
    fn push(&mut self, datagrams: &[u8], stride: usize, now: Instant) -> u64 {
        let mut block = Block {
            since: now,
            datagrams: 0,
            bytes: Vec::with_capacity(datagrams.len() + datagrams.len() / 256 + 64),
        };
        for datagram in datagrams.chunks(stride) {
            block.datagrams += u64::from(carrier::append(&mut block.bytes, datagram));
        }
        self.bytes += block.bytes.len();
        self.waiting.push_back(block);
        let mut dropped = self.drop_old(now);
        while self.bytes > QUEUE {
            dropped += self.drop_first();
        }
        dropped
    }

    fn is_written(&self) -> bool {
        self.written >= self.current.len()
    }

    fn rest(&self) -> &[u8] {
        self.current.get(self.written..).unwrap_or_default()
    }

    /// Takes up what is written next. Says how many datagrams that are, and how many had waited too long.
    fn next(&mut self, now: Instant) -> (u64, u64) {
        let dropped = self.drop_old(now);
        let mut datagrams = 0;
        self.written = 0;
        self.current.clear();
        if self.waiting.is_empty() {
            // A carrier that is idle keeps no buffer: there may be thousands.
            self.current = Vec::new();
            self.waiting = VecDeque::new();
        }
        while let Some(block) = self.waiting.front()
            && (self.current.is_empty() || self.current.len() + block.bytes.len() <= WRITE)
            && let Some(block) = self.waiting.pop_front()
        {
            self.bytes -= block.bytes.len();
            datagrams += block.datagrams;
            if self.current.is_empty() {
                self.current = block.bytes;
            } else {
                self.current.extend_from_slice(&block.bytes);
            }
        }
        (datagrams, dropped)
    }

    fn drop_old(&mut self, now: Instant) -> u64 {
        let mut dropped = 0;
        while let Some(block) = self.waiting.front()
            && now.saturating_duration_since(block.since) > WAIT
        {
            dropped += self.drop_first();
        }
        dropped
    }

    fn drop_first(&mut self) -> u64 {
        self.waiting.pop_front().map_or(0, |block| {
            self.bytes -= block.bytes.len();
            block.datagrams
        })
    }
}

/// Datagrams of one size, the last perhaps smaller, that go out together.
#[derive(Debug, Default)]
struct Row {
    bytes: Vec<u8>,
    stride: usize,
    count: usize,
    /// The last one was smaller: nothing may stand behind it.
    closed: bool,
}

impl Row {
    fn takes(&self, datagram: &[u8], most: usize) -> bool {
        self.count == 0
            || (!self.closed
                && !datagram.is_empty()
                && datagram.len() <= self.stride
                && self.count < most
                && self.bytes.len() + datagram.len() <= carrier::MAX_DATAGRAM)
    }

    fn push(&mut self, datagram: &[u8]) {
        if self.count == 0 {
            self.stride = datagram.len();
        }
        self.closed = datagram.len() < self.stride;
        self.count += 1;
        self.bytes.extend_from_slice(datagram);
    }

    fn clear(&mut self) {
        self.bytes.clear();
        (self.stride, self.count, self.closed) = (0, 0, false);
    }
}

/// Buffers that a carrier needs only while it is polled: one set for each thread, not for each carrier.
struct Scratch {
    buffers: [Vec<u8>; BATCH],
    stream: Vec<u8>,
    row: Row,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        buffers: std::array::from_fn(|_| vec![0; BUFFER]),
        stream: vec![0; BUFFER],
        row: Row::default(),
    });
}

/// Buffers read by one system call.
const BATCH: usize = 4;
/// What the kernel hands over as one (GRO) fits into it.
const BUFFER: usize = 65_536;
/// Written at once.
const WRITE: usize = 65_536;
/// A datagram that has waited longer for the stream is dropped.
const WAIT: Duration = Duration::from_millis(100);
/// Bytes that wait for the stream at most.
const QUEUE: usize = 1 << 20;
/// Room in the kernel for what comes while we are busy, in bytes.
const SOCKET_BUFFER: usize = 4 << 20;
/// Turns until others have theirs.
const TURNS: usize = 16;
/// A stream on which nothing came for so long is over: whoever is registered says something every five seconds.
pub const SILENCE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    /// A row of datagrams of `size` bytes of this value.
    fn row(value: u8, size: usize, count: usize) -> Vec<u8> {
        vec![value; size * count]
    }

    /// The first bytes of the datagrams that are written next.
    fn written(queue: &mut Queue, now: Instant) -> (Vec<u8>, u64) {
        let (datagrams, dropped) = queue.next(now);
        let (mut rest, mut values) = (queue.rest(), Vec::new());
        while let Some((datagram, behind)) = carrier::first(rest) {
            values.push(datagram[0]);
            rest = behind;
        }
        assert_eq!(values.len() as u64, datagrams);
        queue.written = queue.current.len();
        (values, dropped)
    }

    #[test]
    fn what_waited_too_long_is_dropped_the_oldest_first_and_nothing_that_is_half_written() {
        let (mut queue, start) = (Queue::default(), Instant::now());
        assert_eq!(queue.push(&row(1, 100, 2), 100, start), 0);
        assert_eq!(queue.next(start), (2, 0));
        queue.written = 10;
        let later = start + WAIT;
        assert_eq!(queue.push(&row(2, 100, 3), 100, start), 0);
        assert_eq!(queue.push(&row(3, 100, 1), 100, later), 0);
        assert!(!queue.is_written(), "the first is half told and stays");
        queue.written = queue.current.len();
        assert_eq!(
            written(&mut queue, later + Duration::from_millis(1)),
            (vec![3], 3)
        );
        assert_eq!(written(&mut queue, later), (vec![], 0));
        assert_eq!(
            (queue.bytes, queue.current.capacity()),
            (0, 0),
            "an idle carrier keeps nothing"
        );
    }

    #[test]
    fn no_more_waits_than_fits() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let mut dropped = 0;
        for _ in 0..100 {
            dropped += queue.push(&row(1, 1000, 64), 1000, now);
            assert!(queue.bytes <= QUEUE);
        }
        let mut left = 0;
        loop {
            let (count, _) = queue.next(now);
            if count == 0 {
                break;
            }
            assert!(queue.current.len() <= 2 * WRITE);
            left += count;
        }
        assert_eq!(left + dropped, 6400);
        assert!(left > 900, "{left}");
    }

    #[test]
    fn rows_are_of_one_size_with_a_smaller_one_at_the_end() {
        let mut row = Row::default();
        assert!(row.takes(&[0; 100], 4));
        row.push(&[0; 100]);
        assert!(!row.takes(&[0; 101], 4) && !row.takes(&[], 4));
        row.push(&[0; 100]);
        row.push(&[0; 7]);
        assert!(
            !row.takes(&[0; 7], 4),
            "nothing stands behind a smaller one"
        );
        row.clear();
        for _ in 0..4 {
            assert!(row.takes(&[0; 9], 4));
            row.push(&[0; 9]);
        }
        assert!(!row.takes(&[0; 9], 4), "as many as the kernel cuts");
    }
}
