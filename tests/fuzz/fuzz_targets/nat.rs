//! Any frames to the NAT, and any answers of the host's sockets, in any order: nothing goes to anybody but the station, no socket
//! is used after it was closed, and in the end nothing is left.

#![no_main]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use kuguri_proto::gateway::sockets::{Datagrams, Failure, Peeked, Sending, SocketId, Sockets};
use kuguri_proto::gateway::{Nat, NatSettings, Port, Subnet, mac_from_seed};
use libfuzzer_sys::fuzz_target;

const STATION_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const STATION: Ipv4Addr = Ipv4Addr::new(192, 168, 30, 77);
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 20);

/// Sockets that take and give as the input says.
#[derive(Default)]
struct Host {
    open: BTreeMap<SocketId, usize>,
    mood: u8,
}

impl Host {
    fn moody(&self) -> Result<(), Failure> {
        match self.mood % 8 {
            7 => Err(Failure::Reset),
            6 => Err(Failure::NotPermitted),
            _ => Ok(()),
        }
    }
}

impl Sockets for Host {
    fn connect(&mut self, id: SocketId, _: SocketAddr) -> Result<(), Failure> {
        self.moody()?;
        assert!(self.open.insert(id, 0).is_none());
        Ok(())
    }

    fn send(&mut self, id: SocketId, bytes: &[u8]) -> Result<usize, Failure> {
        assert!(self.open.contains_key(&id));
        self.moody()?;
        Ok(bytes.len().min(usize::from(self.mood)))
    }

    fn room(&mut self, id: SocketId) -> usize {
        assert!(self.open.contains_key(&id));
        usize::from(self.mood) * 100
    }

    fn tell_when_writable(&mut self, id: SocketId) {
        assert!(self.open.contains_key(&id));
    }

    fn peek(&mut self, id: SocketId, offset: usize, into: &mut [u8]) -> Result<Peeked, Failure> {
        assert!(self.open.contains_key(&id));
        self.moody()?;
        let has = usize::from(self.mood) * 10;
        Ok(match has.saturating_sub(offset).min(into.len()) {
            0 if self.mood % 5 == 0 => Peeked::End,
            0 => Peeked::Nothing,
            length => Peeked::Bytes(length),
        })
    }

    fn consume(&mut self, id: SocketId, _: usize) {
        assert!(self.open.contains_key(&id));
    }

    fn shutdown(&mut self, id: SocketId) {
        assert!(self.open.contains_key(&id));
    }

    fn close(&mut self, id: SocketId, _: bool) {
        // A socket that could not be opened may be closed all the same.
        self.open.remove(&id);
    }

    fn open(&mut self, id: SocketId, _: Datagrams, _: IpAddr) -> Result<(), Failure> {
        self.moody()?;
        assert!(self.open.insert(id, 0).is_none());
        Ok(())
    }

    fn send_to(&mut self, _: SocketId, _: SocketAddr, _: Sending, _: &[u8]) -> Result<(), Failure> {
        self.moody()
    }
}

/// An IPv4 frame from the station, its checksums right, so that what is inside is looked at.
fn frame(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = mac_from_seed(&[7; 32]).0.to_vec();
    frame.extend(STATION_MAC);
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(u16::try_from(20 + payload.len()).unwrap_or(u16::MAX).to_be_bytes());
    frame.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
    frame.extend(STATION.octets());
    frame.extend(SERVER.octets());
    let sum = frame[14..34].chunks(2).fold(0u32, |sum, pair| {
        let sum = sum + u32::from(u16::from_be_bytes([pair[0], pair[1]]));
        (sum & 0xffff) + (sum >> 16)
    });
    let [_, _, high, low] = (!sum).to_be_bytes();
    frame[24..26].copy_from_slice(&[high, low]);
    frame.extend(payload);
    frame
}

fuzz_target!(|bytes: &[u8]| {
    let mut settings = NatSettings::new(Subnet::default());
    settings.resolvers = vec![SocketAddr::from(([192, 0, 2, 53], 53))];
    settings.limits.held_bytes = 10_000;
    let port = Port {
        mtu: 1500,
        max_segment: None,
    };
    let mut now = Instant::now();
    let mut nat = Nat::new(settings, mac_from_seed(&[7; 32]), port, [9; 32], now);
    let mut host = Host::default();
    let mut rest = bytes;
    while let Some((&[step, mood, length], after)) = rest.split_first_chunk() {
        let (piece, after) = after.split_at(usize::from(length).min(after.len()));
        rest = after;
        host.mood = mood;
        let id = SocketId {
            place: u32::from(step >> 4) % 4,
            turn: u32::from(length) % 3,
        };
        match step & 15 {
            0 => nat.handle_frame(piece, false, &mut host, now),
            1..=4 => nat.handle_frame(&frame(6, piece), true, &mut host, now),
            5 => nat.handle_frame(&frame(17, piece), true, &mut host, now),
            6 => nat.handle_frame(&frame(1, piece), true, &mut host, now),
            7 => nat.handle_connected(id, host.moody(), &mut host, now),
            8 => nat.handle_readable(id, &mut host, now),
            9 => nat.handle_writable(id, &mut host, now),
            10 => nat.handle_datagram(id, SocketAddr::from((SERVER, 53)), piece, &mut host, now),
            11 | 12 => {
                now += Duration::from_millis(u64::from(mood) * u64::from(mood) * 50);
                nat.handle_timeout(&mut host, now);
            }
            _ => nat.work(&mut host, now),
        }
        nat.work(&mut host, now);
        while let Some(frame) = nat.poll_frame() {
            assert_eq!(frame.bytes[..6], STATION_MAC);
            assert!(frame.bytes.len() <= 1514);
        }
        while nat.poll_event().is_some() {}
    }
    nat.close_all(&mut host, now);
    now += Duration::from_secs(3600);
    nat.handle_timeout(&mut host, now);
    assert!(host.open.is_empty(), "every socket is closed");
    assert!(nat.table(now).is_empty());
});
