//! Pings, as any machine sends them: ICMP echo (RFC 792) over IPv4. To be called on a thread inside the machine that
//! pings. What a ping carries is told: pings through Kuguri carry the text that the listener looks for.

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

/// What came of a series of pings. Times in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Series {
    /// How many were sent.
    pub(super) sent: u16,
    /// How many were answered.
    pub(super) answered: u16,
    /// The fastest.
    pub(super) min_ms: f64,
    /// The average.
    pub(super) avg_ms: f64,
    /// The slowest.
    pub(super) max_ms: f64,
}

/// Pings one after the other.
pub(super) fn series(target: Ipv4Addr, text: &'static str, count: u16) -> io::Result<Series> {
    let mut ping = Ping::new(target, text)?;
    let mut times = Vec::new();
    for _ in 0..count {
        ping.ask();
        times.extend(ping.answer_within(PATIENCE));
    }
    Ok(Series::of(count, &times))
}

/// Asks again and again until there is an answer, and says when; `None` when nobody answers in time.
pub(super) fn first_answer(
    target: Ipv4Addr,
    text: &'static str,
    limit: Duration,
) -> io::Result<Option<Instant>> {
    let mut ping = Ping::new(target, text)?;
    let end = Instant::now() + limit;
    while Instant::now() < end {
        ping.ask();
        if ping.answer_within(RETRY).is_some() {
            return Ok(Some(Instant::now()));
        }
    }
    Ok(None)
}

impl Series {
    fn of(sent: u16, times: &[Duration]) -> Self {
        let ms: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
        let answered = u16::try_from(ms.len()).unwrap_or(sent);
        Self {
            sent,
            answered,
            min_ms: ms.iter().copied().reduce(f64::min).unwrap_or_default(),
            avg_ms: ms.iter().sum::<f64>() / f64::from(answered.max(1)),
            max_ms: ms.iter().copied().reduce(f64::max).unwrap_or_default(),
        }
    }
}

/// One socket and what was sent by it.
struct Ping {
    socket: Socket,
    target: Ipv4Addr,
    text: &'static str,
    identifier: u16,
    sent_at: Vec<Instant>,
}

impl Ping {
    /// With a ping socket (icmp(7)), or a raw one where the machine's settings allow none.
    fn new(target: Ipv4Addr, text: &'static str) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::ICMPV4))
            .or_else(|_| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)))?;
        Ok(Self {
            socket,
            target,
            text,
            identifier: rand::random(),
            sent_at: Vec::new(),
        })
    }

    /// Sends one; while there is no way to the target it is as good as lost.
    fn ask(&mut self) {
        let sequence = u16::try_from(self.sent_at.len()).unwrap_or(u16::MAX);
        self.sent_at.push(Instant::now());
        let address = SocketAddrV4::new(self.target, 0).into();
        let request = request(self.identifier, sequence, self.text);
        let _ = self.socket.send_to(&request, &address);
    }

    /// The round trip of whichever of our pings is answered first.
    fn answer_within(&self, limit: Duration) -> Option<Duration> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            self.socket.set_read_timeout(Some(left)).ok()?;
            let mut buffer = [0; 2048];
            let length = (&self.socket).read(&mut buffer).unwrap_or_default();
            let sent_at = reply(&buffer[..length], self.text)
                .and_then(|sequence| self.sent_at.get(usize::from(sequence)));
            if let Some(sent_at) = sent_at {
                return Some(sent_at.elapsed());
            }
        }
    }
}

/// type 8, code 0, checksum, identifier, sequence, text.
fn request(identifier: u16, sequence: u16, text: &str) -> Vec<u8> {
    let mut packet = vec![8, 0, 0, 0];
    packet.extend(identifier.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.extend(text.as_bytes());
    let checksum = checksum(&packet).to_be_bytes();
    packet[2..4].copy_from_slice(&checksum);
    packet
}

/// The sequence number of an echo reply; a raw socket gives it with its IP header.
fn reply(packet: &[u8], text: &str) -> Option<u16> {
    let icmp = match packet.first()? {
        first if first >> 4 == 4 => packet.get(usize::from(first & 15) * 4..)?,
        _ => packet,
    };
    match icmp {
        [0, 0, _, _, _, _, high, low, rest @ ..] if rest == text.as_bytes() => {
            Some(u16::from_be_bytes([*high, *low]))
        }
        _ => None,
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let sum = bytes.chunks(2).fold(0u32, |sum, pair| {
        let word = [pair[0], pair.get(1).copied().unwrap_or_default()];
        let sum = sum + u32::from(u16::from_be_bytes(word));
        (sum & 0xffff) + (sum >> 16)
    });
    let [_, _, high, low] = (!sum).to_be_bytes();
    u16::from_be_bytes([high, low])
}

/// How long one ping of a series waits.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the first answer is asked for.
const RETRY: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_turned_round_is_a_reply_with_or_without_ip_header() {
        let mut packet = request(7, 513, "text");
        assert_eq!(checksum(&packet), 0, "a right checksum sums to zero");
        assert_eq!(reply(&packet, "text"), None, "a request is no reply");
        packet[0] = 0;
        assert_eq!(reply(&packet, "text"), Some(513));
        let with_header = [&[0x45; 20], packet.as_slice()].concat();
        assert_eq!(reply(&with_header, "text"), Some(513));
        packet.pop();
        assert_eq!(reply(&packet, "text"), None, "somebody else's ping");
        assert_eq!(reply(&[], "text"), None);
    }

    #[test]
    fn a_series_without_answers_is_all_zero() {
        let nothing = Series::of(3, &[]);
        assert_eq!((nothing.sent, nothing.answered), (3, 0));
        let two = Series::of(3, &[Duration::from_millis(10), Duration::from_millis(20)]);
        assert_eq!((two.min_ms, two.avg_ms, two.max_ms), (10.0, 15.0, 20.0));
    }
}
