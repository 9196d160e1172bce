//! A world for the NAT: stations with smoltcp's TCP on a wire that loses, delays and reorders, and a host whose sockets are
//! queues. Time is a number.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as Tick;
use smoltcp::wire::{EthernetAddress, IpCidr};

use crate::gateway::Frame;
use crate::gateway::sockets::{Datagrams, Failure, Peeked, Sending, SocketId, Sockets};
use crate::gateway::subnet::Subnet;
use crate::gateway::{Nat, NatEvent, NatSettings, Port};
use crate::wire::ethernet::MacAddr;

pub(super) const HOST_MAC: MacAddr = MacAddr([0, 0xac, 1, 2, 3, 4]);
pub(super) const STATION_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
pub(super) const STATION: Ipv4Addr = Ipv4Addr::new(192, 168, 30, 77);
pub(super) const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 20);

/// A stream socket of the host: what the other side does with it is the test's.
#[derive(Debug, Default)]
pub(super) struct FakeStream {
    pub(super) connected: bool,
    /// From the other side, not consumed.
    pub(super) inbound: VecDeque<u8>,
    pub(super) inbound_end: bool,
    /// To the other side, not read there.
    pub(super) outbound: VecDeque<u8>,
    pub(super) shut: bool,
    pub(super) capacity: usize,
    pub(super) was_full: bool,
    pub(super) dead: bool,
}

/// What a datagram socket was given.
#[derive(Debug)]
pub(super) struct FakeSent {
    pub(super) to: SocketAddr,
    pub(super) how: Sending,
    pub(super) bytes: Vec<u8>,
}

/// The host's sockets.
#[derive(Debug, Default)]
pub(super) struct FakeHost {
    pub(super) streams: BTreeMap<SocketId, FakeStream>,
    pub(super) closed: Vec<(SocketId, bool)>,
    pub(super) datagrams: BTreeMap<SocketId, Datagrams>,
    pub(super) sent: Vec<FakeSent>,
    pub(super) pings_forbidden: bool,
    pub(super) capacity: usize,
    pub(super) refuse_open: bool,
}

impl Sockets for FakeHost {
    fn connect(&mut self, id: SocketId, _to: SocketAddr) -> Result<(), Failure> {
        let stream = FakeStream {
            capacity: self.capacity,
            ..FakeStream::default()
        };
        assert!(
            self.streams.insert(id, stream).is_none(),
            "an id is used once"
        );
        Ok(())
    }

    fn send(&mut self, id: SocketId, bytes: &[u8]) -> Result<usize, Failure> {
        let stream = self.streams.get_mut(&id).expect("it is open");
        assert!(stream.connected && !stream.shut);
        if stream.dead {
            return Err(Failure::Reset);
        }
        let room = stream.capacity.saturating_sub(stream.outbound.len());
        let taken = room.min(bytes.len());
        stream.was_full |= taken < bytes.len();
        stream.outbound.extend(&bytes[..taken]);
        Ok(taken)
    }

    fn room(&mut self, id: SocketId) -> usize {
        let stream = self.streams.get_mut(&id).expect("it is open");
        stream.capacity.saturating_sub(stream.outbound.len())
    }

    fn tell_when_writable(&mut self, id: SocketId) {
        self.streams.get_mut(&id).expect("it is open").was_full = true;
    }

    fn peek(&mut self, id: SocketId, offset: usize, into: &mut [u8]) -> Result<Peeked, Failure> {
        let stream = self.streams.get_mut(&id).expect("it is open");
        if stream.dead {
            return Err(Failure::Reset);
        }
        let bytes: Vec<u8> = stream
            .inbound
            .iter()
            .copied()
            .skip(offset)
            .take(into.len())
            .collect();
        into[..bytes.len()].copy_from_slice(&bytes);
        Ok(match (bytes.len(), stream.inbound_end) {
            (0, true) => Peeked::End,
            (0, false) => Peeked::Nothing,
            (length, _) => Peeked::Bytes(length),
        })
    }

    fn consume(&mut self, id: SocketId, count: usize) {
        let stream = self.streams.get_mut(&id).expect("it is open");
        assert!(count <= stream.inbound.len(), "only what was there");
        stream.inbound.drain(..count);
    }

    fn shutdown(&mut self, id: SocketId) {
        self.streams.get_mut(&id).expect("it is open").shut = true;
    }

    fn close(&mut self, id: SocketId, reset: bool) {
        let known = self.streams.remove(&id).is_some() | self.datagrams.remove(&id).is_some();
        assert!(known, "closed once");
        self.closed.push((id, reset));
    }

    fn open(&mut self, id: SocketId, kind: Datagrams, _family: IpAddr) -> Result<(), Failure> {
        if self.refuse_open || (kind == Datagrams::Ping && self.pings_forbidden) {
            self.datagrams.insert(id, kind);
            self.datagrams.remove(&id);
            return Err(Failure::NotPermitted);
        }
        assert!(
            self.datagrams.insert(id, kind).is_none(),
            "an id is used once"
        );
        Ok(())
    }

    fn send_to(
        &mut self,
        id: SocketId,
        to: SocketAddr,
        how: Sending,
        bytes: &[u8],
    ) -> Result<(), Failure> {
        assert!(self.datagrams.contains_key(&id));
        self.sent.push(FakeSent {
            to,
            how,
            bytes: bytes.to_vec(),
        });
        Ok(())
    }
}

/// One direction of the wire.
#[derive(Debug)]
struct Wire {
    queue: BTreeMap<(u64, u64), Vec<u8>>,
    count: u64,
}

/// How the wire treats frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    pub(super) loss: f64,
    pub(super) delay_us: u64,
    pub(super) jitter_us: u64,
}

/// The station's card.
struct Card {
    received: VecDeque<Vec<u8>>,
    sent: Vec<Vec<u8>>,
}

impl Device for Card {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sent<'a>;

    fn receive(&mut self, _: Tick) -> Option<(Received, Sent<'_>)> {
        let frame = self.received.pop_front()?;
        Some((Received(frame), Sent(&mut self.sent)))
    }

    fn transmit(&mut self, _: Tick) -> Option<Sent<'_>> {
        (self.sent.len() < 64).then_some(Sent(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

struct Received(Vec<u8>);
struct Sent<'a>(&'a mut Vec<Vec<u8>>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sent<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push(frame);
        result
    }
}

/// Everything.
pub(super) struct World {
    pub(super) nat: Nat,
    pub(super) host: FakeHost,
    pub(super) sockets: SocketSet<'static>,
    pub(super) events: Vec<NatEvent>,
    pub(super) weather: Weather,
    interface: Interface,
    card: Card,
    up: Wire,
    down: Wire,
    rng: StdRng,
    start: Instant,
    pub(super) us: u64,
    next_port: u16,
}

impl World {
    pub(super) fn new(weather: Weather, seed: u64) -> Self {
        Self::with(NatSettings::new(Subnet::default()), weather, seed)
    }

    pub(super) fn with(settings: NatSettings, weather: Weather, seed: u64) -> Self {
        let start = Instant::now();
        let port = Port {
            mtu: 1500,
            max_segment: Some(65_415),
        };
        let mut card = Card {
            received: VecDeque::new(),
            sent: Vec::new(),
        };
        let mac = EthernetAddress(STATION_MAC.0);
        let mut config = Config::new(mac.into());
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut card, Tick::ZERO);
        interface.update_ip_addrs(|all| {
            all.push(IpCidr::new(STATION.into(), 24)).expect("room");
        });
        let gateway = settings.subnet.address();
        interface
            .routes_mut()
            .add_default_ipv4_route(gateway)
            .expect("room");
        Self {
            nat: Nat::new(settings, HOST_MAC, port, [7; 32], start),
            host: FakeHost {
                capacity: 100_000,
                ..FakeHost::default()
            },
            sockets: SocketSet::new(vec![]),
            events: Vec::new(),
            weather,
            interface,
            card,
            up: Wire {
                queue: BTreeMap::new(),
                count: 0,
            },
            down: Wire {
                queue: BTreeMap::new(),
                count: 0,
            },
            rng: StdRng::seed_from_u64(seed),
            start,
            us: 0,
            next_port: 40_000,
        }
    }

    pub(super) fn now(&self) -> Instant {
        self.start + Duration::from_micros(self.us)
    }

    /// A station's socket that calls the server.
    pub(super) fn call(&mut self, to: SocketAddr, buffer: usize) -> SocketHandle {
        let mut socket = tcp::Socket::new(
            tcp::SocketBuffer::new(vec![0; buffer]),
            tcp::SocketBuffer::new(vec![0; buffer]),
        );
        self.next_port += 1;
        let IpAddr::V4(address) = to.ip() else {
            panic!("IPv4")
        };
        let own = self.next_port;
        socket
            .connect(self.interface.context(), (address, to.port()), own)
            .expect("it is fresh");
        self.sockets.add(socket)
    }

    pub(super) fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Lets time pass until `done`, at most for so long; `act` plays the other hosts and the programs.
    pub(super) fn run(&mut self, limit: Duration, mut act: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.us + u64::try_from(limit.as_micros()).expect("short");
        while self.us < end {
            if act(self) {
                return true;
            }
            self.step();
        }
        act(self)
    }

    /// One step: everything that is due now, then on to the next moment.
    pub(super) fn step(&mut self) {
        let now = self.now();
        let tick = Tick::from_micros(i64::try_from(self.us).expect("short"));
        self.interface.poll(tick, &mut self.card, &mut self.sockets);
        self.arp();
        for frame in std::mem::take(&mut self.card.sent) {
            Self::carry(&mut self.up, frame, self.weather, self.us, &mut self.rng);
        }
        while let Some(entry) = self
            .up
            .queue
            .first_entry()
            .filter(|entry| entry.key().0 <= self.us)
        {
            let frame = entry.remove();
            self.nat.handle_frame(&frame, false, &mut self.host, now);
        }
        if self.nat.poll_timeout().is_some_and(|at| at <= now) {
            self.nat.handle_timeout(&mut self.host, now);
        }
        loop {
            self.nat.work(&mut self.host, now);
            let frames: Vec<_> = std::iter::from_fn(|| self.nat.poll_frame()).collect();
            for piece in frames.iter().flat_map(cut) {
                Self::carry(&mut self.down, piece, self.weather, self.us, &mut self.rng);
            }
            if frames.is_empty() {
                break;
            }
        }
        self.events
            .extend(std::iter::from_fn(|| self.nat.poll_event()));
        while let Some(entry) = self
            .down
            .queue
            .first_entry()
            .filter(|entry| entry.key().0 <= self.us)
        {
            self.card.received.push_back(entry.remove());
        }
        self.us += 100;
    }

    /// The control side answers ARP for the NAT; here it is simply known.
    fn arp(&mut self) {
        let mut kept = Vec::new();
        for frame in std::mem::take(&mut self.card.sent) {
            kept.push(frame);
        }
        for frame in kept {
            if frame[12..14] == [8, 6] {
                self.answer_arp(&frame);
            } else {
                self.card.sent.push(frame);
            }
        }
    }

    fn answer_arp(&mut self, request: &[u8]) {
        let mut reply = request.to_vec();
        reply[0..6].copy_from_slice(&request[6..12]);
        reply[6..12].copy_from_slice(&HOST_MAC.0);
        reply[21] = 2;
        reply[22..28].copy_from_slice(&HOST_MAC.0);
        reply[28..32].copy_from_slice(&request[38..42]);
        reply[32..42].copy_from_slice(&request[22..32]);
        self.card.received.push_back(reply);
    }

    fn carry(wire: &mut Wire, frame: Vec<u8>, weather: Weather, us: u64, rng: &mut StdRng) {
        if rng.random_bool(weather.loss) {
            return;
        }
        let jitter = if weather.jitter_us > 0 {
            rng.random_range(0..weather.jitter_us)
        } else {
            0
        };
        wire.count += 1;
        wire.queue
            .insert((us + weather.delay_us + jitter, wire.count), frame);
    }

    /// The one stream that the host has.
    pub(super) fn only_stream(&mut self) -> Option<SocketId> {
        self.host.streams.keys().next().copied()
    }

    /// The server answers the call.
    pub(super) fn connect_all(&mut self) {
        let now = self.now();
        let waiting: Vec<SocketId> = self
            .host
            .streams
            .iter()
            .filter(|(_, stream)| !stream.connected)
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            self.host.streams.get_mut(&id).expect("there").connected = true;
            self.nat.handle_connected(id, Ok(()), &mut self.host, now);
        }
    }

    /// The server writes.
    pub(super) fn server_writes(&mut self, id: SocketId, bytes: &[u8]) {
        let now = self.now();
        self.host
            .streams
            .get_mut(&id)
            .expect("open")
            .inbound
            .extend(bytes);
        self.nat.handle_readable(id, &mut self.host, now);
    }

    /// The server ends its stream.
    pub(super) fn server_ends(&mut self, id: SocketId) {
        let now = self.now();
        self.host.streams.get_mut(&id).expect("open").inbound_end = true;
        self.nat.handle_readable(id, &mut self.host, now);
    }

    /// The server reads at most so many bytes.
    pub(super) fn server_reads(&mut self, id: SocketId, most: usize) -> Vec<u8> {
        let now = self.now();
        let Some(stream) = self.host.streams.get_mut(&id) else {
            return vec![];
        };
        let count = most.min(stream.outbound.len());
        let bytes: Vec<u8> = stream.outbound.drain(..count).collect();
        if count > 0 && std::mem::take(&mut stream.was_full) {
            self.nat.handle_writable(id, &mut self.host, now);
        }
        bytes
    }

    /// A frame that the station sends by hand.
    pub(super) fn send(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
        let now = self.now();
        self.nat.handle_frame(frame, false, &mut self.host, now);
        self.nat.work(&mut self.host, now);
        self.events
            .extend(std::iter::from_fn(|| self.nat.poll_event()));
        std::iter::from_fn(|| self.nat.poll_frame())
            .map(|frame| frame.bytes)
            .collect()
    }
}

/// What the port makes of a frame.
fn cut(frame: &Frame) -> Vec<Vec<u8>> {
    let pieces = frame.pieces(usize::MAX).expect("a frame of the NAT's");
    let write = |index| {
        let mut piece = vec![0; pieces.piece_len(index)];
        pieces.write(index, true, &mut piece);
        piece
    };
    (0..pieces.count()).map(write).collect()
}
