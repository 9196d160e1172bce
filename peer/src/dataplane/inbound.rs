//! From the socket to the card, to other links, or up: what peers send.

use std::collections::HashMap;
use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kuguri_proto::SocketId;
use kuguri_proto::gateway::{ForNat, is_for_nat};
use kuguri_proto::link::Via;
use kuguri_proto::link::pack::{Reassembler, check_length};
use kuguri_proto::node::plane::{Forwarding, Table};
use kuguri_proto::offload::{Coalescer, checksum, split_frame};
use kuguri_proto::wire::chunk::{Chunk, chunks};
use kuguri_proto::wire::{self, Kind, ethernet, relay, sealed};

use super::gateway::ToNat;
use super::lanes::Lanes;
use super::map::{Map, Port};
use super::published::View;
use super::{Shared, Sockets, Up, card};
use crate::udp::{RecvMeta, UdpPort, canonical};

/// The thread that reads the sockets.
#[derive(Debug)]
pub(super) struct Inbound {
    arena: Vec<u8>,
    sockets: View<Sockets>,
    router: Router,
}

/// Where datagrams came from: our socket, and their sender.
type Origin = (SocketId, SocketAddr);

/// Everything of it but the bytes.
#[derive(Debug)]
struct Router {
    shared: Arc<Shared>,
    map: View<Map>,
    lanes: Lanes,
    coalescer: Coalescer<()>,
    to_nat: ToNat,
    links: HashMap<u32, State>,
    scratch: Vec<u8>,
    now: Instant,
    /// Where the last frame of this row went: frames between the same stations go the same way.
    last: Option<(Stations, To)>,
}

/// Both addresses of a frame.
type Stations = [u8; 12];

/// What is kept of a link from datagram to datagram.
#[derive(Debug)]
struct State {
    /// No frame has come yet: the first is the node's to see.
    first: bool,
    reassembler: Reassembler,
    /// When it was told last that something came by another way.
    told: Option<Instant>,
}

/// A sealed datagram of a known link.
struct Sealed {
    port: Arc<Port>,
    inner: Range<usize>,
    via: Via,
}

impl Inbound {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            arena: vec![0; BUFFER * BATCH],
            sockets: shared.sockets.view(),
            router: Router {
                map: shared.map.view(),
                lanes: Lanes::new(Arc::clone(&shared), 1),
                shared,
                coalescer: Coalescer::new(),
                to_nat: ToNat::new(),
                links: HashMap::new(),
                scratch: Vec::new(),
                now: Instant::now(),
                last: None,
            },
        }
    }

    /// Moves datagrams until the end is told.
    pub(super) fn run(mut self) {
        let shared = Arc::clone(&self.router.shared);
        let mut ready = Vec::new();
        while shared.readers.wait(&mut ready) {
            self.sockets.refresh(&shared.sockets);
            for &id in &ready {
                let Some(socket) = self.sockets.get().get(&id).map(Arc::clone) else {
                    continue; // It was closed meanwhile.
                };
                for _ in 0..BATCHES {
                    if !self.take_batch(id, &socket) {
                        break;
                    }
                }
            }
        }
    }

    /// Takes one batch; whether there may be more.
    fn take_batch(&mut self, id: SocketId, socket: &UdpPort) -> bool {
        let mut metas = [RecvMeta::default(); BATCH];
        let count = {
            let mut buffers = self.arena.chunks_mut(BUFFER);
            let mut slices: [IoSliceMut<'_>; BATCH] =
                std::array::from_fn(|_| IoSliceMut::new(buffers.next().unwrap_or_default()));
            socket.receive(&mut slices, &mut metas)
        };
        let Some(count) = count else {
            return false;
        };
        self.router.begin();
        for (at, meta) in metas.iter().enumerate().take(count) {
            let start = at * BUFFER;
            let filled = start..start + meta.len.min(BUFFER);
            let from = (id, canonical(meta.addr));
            self.router
                .take_buffer(&mut self.arena, filled, meta.stride.max(1), from);
        }
        self.router.flush(&self.arena);
        count == BATCH
    }
}

impl Router {
    fn begin(&mut self) {
        self.now = Instant::now();
        if self.map.refresh(&self.shared.map) {
            let map = Arc::clone(self.map.get());
            self.links.retain(|index, _| map.link(*index).is_some());
        }
    }

    /// The datagrams of one buffer, which have one sender and, but for the last, one size.
    fn take_buffer(&mut self, arena: &mut [u8], filled: Range<usize>, stride: usize, from: Origin) {
        let mut at = filled.start;
        while at < filled.end {
            let datagram = at..filled.end.min(at + stride);
            match self.find(arena, datagram.clone(), from) {
                Some(sealed) => at = self.open_row(arena, &sealed, filled.end, stride),
                None => {
                    let ((socket, remote), bytes) = (from, arena[datagram.clone()].to_vec());
                    let trusted = self.map.get().relay == Some(remote);
                    self.shared.hand_up(Up::Datagram {
                        socket,
                        remote,
                        trusted,
                        bytes,
                    });
                    at = datagram.end;
                }
            }
        }
    }

    /// The link that a datagram is for, if it is a sealed one.
    fn find(
        &self,
        arena: &[u8],
        datagram: Range<usize>,
        (socket, remote): Origin,
    ) -> Option<Sealed> {
        let bytes = &arena[datagram.clone()];
        let map = self.map.get();
        let (inner, via) = match wire::classify(bytes)? {
            Kind::Sealed => (datagram, Via::Direct { socket, remote }),
            Kind::Relayed if map.relay == Some(remote) => {
                let (channel, _) = relay::parse(bytes).ok()?;
                let inner = datagram.start + relay::HEADER..datagram.end;
                (inner, Via::Relay(channel))
            }
            Kind::Relayed | Kind::Stun | Kind::Segment | Kind::Quic => return None,
        };
        let header = sealed::Header::parse(&arena[inner.clone()]).ok()?;
        let port = Arc::clone(map.link(header.receiver)?);
        // By which channel a link's datagrams may come is the node's to say: it knows who is at its other end.
        let known = match via {
            Via::Direct { .. } => true,
            Via::Relay(_) => port.link.route.is_some_and(|route| {
                let Via::Relay(copy) = via else { return false };
                route.via == via || route.copy == Some(copy)
            }),
        };
        known.then_some(Sealed { port, inner, via })
    }

    /// Opens datagrams one after the other as long as they are of one link and by one way; where the next one starts.
    fn open_row(&mut self, arena: &mut [u8], first: &Sealed, end: usize, stride: usize) -> usize {
        let Sealed { port, inner, via } = first;
        let opener = Arc::clone(&port.link.opener);
        let mut opening = opener.begin(self.now);
        let (mut heard, mut inner) = (false, inner.clone());
        self.last = None;
        let prefix = match via {
            Via::Relay(_) => relay::HEADER,
            Via::Direct { .. } => 0,
        };
        loop {
            if opening.open(&mut arena[inner.clone()]).is_ok() {
                heard = true;
                let plaintext = inner.start + sealed::HEADER..inner.end - sealed::TAG;
                self.take_contents(arena, port, plaintext, *via);
            }
            let next = inner.end;
            let until = end.min(next + stride);
            if next + prefix >= until || !is_alike(arena, first, next..until, prefix) {
                drop(opening);
                if heard {
                    self.note_heard(port, *via);
                }
                return next;
            }
            inner = next + prefix..until;
        }
    }

    /// Something authentic came.
    fn note_heard(&mut self, port: &Port, via: Via) {
        if port.link.route.is_some_and(|route| route.via == via) {
            return port.link.traffic.heard(self.now);
        }
        let (now, index) = (self.now, port.link.index);
        let state = self.links.entry(index).or_insert_with(State::new);
        if state.told.is_none_or(|told| now >= told + BETWEEN_TELLING) {
            state.told = Some(now);
            self.shared.hand_up(Up::Heard { index, via });
        }
    }

    /// The chunks of a datagram: frames go on, the rest goes up.
    fn take_contents(&mut self, arena: &[u8], port: &Arc<Port>, plaintext: Range<usize>, via: Via) {
        let end = plaintext.end;
        let size = plaintext.len() + sealed::OVERHEAD;
        let mut rest = chunks(&arena[plaintext]);
        let (mut control, mut frames, mut bytes) = (Vec::new(), 0, 0);
        while let Some(chunk) = rest.next() {
            match chunk {
                Ok(Chunk::Frame(frame) | Chunk::OpenFrame(frame))
                    if check_length(frame.len()).is_ok() =>
                {
                    let place = end - rest.left() - frame.len()..end - rest.left();
                    let open = matches!(chunk, Ok(Chunk::OpenFrame(_)));
                    (frames, bytes) = (frames + 1, bytes + frame.len());
                    self.take_frame(arena, port, place, open);
                }
                Ok(Chunk::Fragment(part)) => {
                    let now = self.now;
                    let reassembler = &mut self.state(port.link.index).reassembler;
                    let before = given_up(reassembler);
                    reassembler.handle_timeout(now);
                    let taken = reassembler.handle_fragment(part, now);
                    let given_up = given_up(reassembler) - before;
                    port.link.traffic.dropped_incomplete(given_up);
                    match taken {
                        Ok(Some(whole)) => {
                            (frames, bytes) = (frames + 1, bytes + whole.len());
                            self.take_whole(arena, port, whole);
                        }
                        Ok(None) => {}
                        Err(_) => port.link.traffic.dropped_malformed(1),
                    }
                }
                Ok(other @ (Chunk::Segment(_) | Chunk::Ping { .. } | Chunk::Pong { .. })) => {
                    // It was emitted once, so it fits again.
                    let _ = other.emit(&mut control);
                }
                Ok(Chunk::Frame(_) | Chunk::OpenFrame(_)) | Err(_) => {
                    port.link.traffic.dropped_malformed(1);
                }
            }
        }
        port.link
            .traffic
            .received(frames, u64::try_from(bytes).unwrap_or_default());
        if !control.is_empty() {
            self.shared.hand_up(Up::Opened {
                index: port.link.index,
                chunks: control,
                size: u16::try_from(size).unwrap_or(u16::MAX),
                via,
            });
        }
    }

    /// A frame in the arena, which may be joined with others.
    fn take_frame(&mut self, arena: &[u8], port: &Arc<Port>, place: Range<usize>, open: bool) {
        let frame = &arena[place.clone()];
        match self.to(port, frame) {
            To::Card => self.give_card(arena, place, open),
            To::Nat => self.to_nat.push(arena, place, open),
            To::Link(to) => match split_frame(frame, open, Lanes::largest(&to)) {
                Ok(pieces) => self.lanes.push(&to, &pieces),
                Err(_) => port.link.traffic.dropped_malformed(1),
            },
            To::Control => {
                let mut frame = frame.to_vec();
                if open && !checksum::finish_frame(&mut frame) {
                    return port.link.traffic.dropped_malformed(1);
                }
                let index = port.link.index;
                self.shared.hand_up(Up::LinkFrame { index, frame });
            }
            To::Nobody => port.link.traffic.dropped_queue(1),
        }
    }

    /// A frame that came in parts.
    fn take_whole(&mut self, arena: &[u8], port: &Arc<Port>, frame: Vec<u8>) {
        match self.to(port, &frame) {
            To::Card => {
                if let Some(port) = self.shared.card.clone() {
                    self.coalescer
                        .flush(arena, |(), made| card::write(&port, arena, made));
                    card::write_one(&port, &frame, false, &mut self.scratch);
                }
            }
            To::Nat => self.to_nat.push_whole(arena, frame),
            To::Link(to) => {
                if let Ok(pieces) = split_frame(&frame, false, Lanes::largest(&to)) {
                    self.lanes.push(&to, &pieces);
                }
            }
            To::Control => {
                let index = port.link.index;
                self.shared.hand_up(Up::LinkFrame { index, frame });
            }
            To::Nobody => port.link.traffic.dropped_queue(1),
        }
    }

    fn to(&mut self, port: &Port, frame: &[u8]) -> To {
        let stations = frame.first_chunk().copied();
        if let (Some((last, to)), Some(stations)) = (&self.last, stations)
            && *last == stations
        {
            return to.clone();
        }
        let to = self.decide(port, frame);
        let certain = matches!(to, To::Card | To::Link(_));
        self.last = stations
            .filter(|_| certain)
            .map(|stations| (stations, to.clone()));
        to
    }

    fn decide(&mut self, port: &Port, frame: &[u8]) -> To {
        let map = Arc::clone(self.map.get());
        match &map.forwarding {
            Forwarding::Uplink(_) if self.shared.card.is_some() => {
                let state = self.state(port.link.index);
                if std::mem::replace(&mut state.first, false) {
                    To::Control
                } else {
                    To::Card
                }
            }
            Forwarding::Unknown | Forwarding::Uplink(_) => To::Control,
            Forwarding::Table(Table { fib, card, nat }) => {
                let Some((destination, source)) = ethernet::addresses(frame) else {
                    return To::Nobody;
                };
                let tick = fib.tick(self.now);
                let known = port.number.is_some_and(|own| fib.hear(source, own, tick));
                if !known || source.is_group() || destination.is_group() {
                    return To::Control;
                }
                match fib.find(destination, tick) {
                    None => To::Control,
                    found if found == port.number => To::Nobody,
                    found if found == *card && self.shared.card.is_some() => To::Card,
                    // What the virtual host answers itself goes the long way.
                    Some(number)
                        if nat.is_some_and(|(its, mac)| {
                            its == number && is_for_nat(mac, frame) == ForNat::Only
                        }) =>
                    {
                        To::Nat
                    }
                    Some(number) => map
                        .port(number)
                        .map_or(To::Control, |port| To::Link(Arc::clone(port))),
                }
            }
        }
    }

    fn give_card(&mut self, arena: &[u8], place: Range<usize>, open: bool) {
        let Some(port) = &self.shared.card else {
            return;
        };
        if port.offload().header {
            let write = |(), made: &_| card::write(port, arena, made);
            self.coalescer.push(arena, place, open, (), write);
        } else {
            card::write_one(port, &arena[place], open, &mut self.scratch);
        }
    }

    fn flush(&mut self, arena: &[u8]) {
        if let Some(port) = &self.shared.card {
            self.coalescer
                .flush(arena, |(), made| card::write(port, arena, made));
        }
        self.to_nat.flush(arena, self.map.get().door.as_ref());
        self.lanes.flush();
    }

    fn state(&mut self, index: u32) -> &mut State {
        self.links.entry(index).or_insert_with(State::new)
    }
}

impl State {
    fn new() -> Self {
        Self {
            first: true,
            reassembler: Reassembler::default(),
            told: None,
        }
    }
}

/// Where a frame goes.
#[derive(Clone, Debug)]
enum To {
    Card,
    Nat,
    Link(Arc<Port>),
    Control,
    Nobody,
}

/// Frames that did not become whole so far.
fn given_up(reassembler: &Reassembler) -> u64 {
    let counters = reassembler.counters();
    counters.expired + counters.evicted + counters.inconsistent
}

/// Whether the datagram at `next` is for the same link by the same way as the first of its row.
fn is_alike(arena: &[u8], first: &Sealed, next: Range<usize>, prefix: usize) -> bool {
    let before = first.inner.start - prefix..first.inner.start;
    let same_way = arena.get(before) == arena.get(next.start..next.start + prefix);
    let inner = arena.get(next.start + prefix..next.end).unwrap_or_default();
    let header = sealed::Header::parse(inner);
    same_way && header.is_ok_and(|header| header.receiver == first.port.link.index)
}

/// Buffers filled by one system call.
const BATCH: usize = 8;
/// Bytes of one buffer: what the system merges at most.
const BUFFER: usize = 65_536;
/// Batches taken before the map is looked at again in any case.
const BATCHES: usize = 64;
/// How often it is told that a link's datagrams come by another way.
const BETWEEN_TELLING: Duration = Duration::from_millis(50);
