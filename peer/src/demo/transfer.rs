//! The transfer: plain TCP from one machine to another for a fixed time, every byte compared. The text is plain on
//! purpose: it is what the listener looks for.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde::Serialize;

/// What was moved.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Transfer {
    /// Bytes that arrived and were as they were sent.
    pub(super) bytes: u64,
    /// From the first byte sent to the last one's receipt.
    pub(super) seconds: f64,
}

impl Transfer {
    /// Megabits per second.
    pub(super) fn mbit_per_second(&self) -> f64 {
        // A transfer of the demo is far below 2^53 bytes.
        let bits = u32::try_from(self.bytes / 1000).map_or(f64::MAX, f64::from) * 8.0;
        bits / 1000.0 / self.seconds
    }
}

/// Sends for as long as said, and waits until the receiver has it all. On a thread inside the sender's machine.
pub(super) fn send(to: SocketAddr, duration: Duration) -> io::Result<Transfer> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let start = Instant::now();
    let mut sent = 0;
    let mut blocks = 0..;
    while let Some(number) = blocks.next().filter(|_| start.elapsed() < duration) {
        let block = block(number);
        stream.write_all(&block)?;
        sent += block.len() as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut count = [0; 8];
    stream.read_exact(&mut count)?;
    let bytes = u64::from_be_bytes(count);
    if bytes != sent {
        return Err(io::Error::other(format!(
            "{sent} bytes were sent, {bytes} arrived"
        )));
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(Transfer { bytes, seconds })
}

/// Takes one transfer and tells the sender how many bytes arrived as they should. The listener was opened inside the
/// receiver's machine.
pub(super) fn receive(listener: &TcpListener) -> io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut count = 0;
    for number in 0.. {
        let expected = block(number);
        let mut block = Vec::new();
        (&mut stream)
            .take(expected.len() as u64)
            .read_to_end(&mut block)?;
        if block.is_empty() {
            break;
        }
        if block != expected {
            return Err(io::Error::other(format!(
                "block {number} is not as it was sent"
            )));
        }
        count += block.len() as u64;
    }
    stream.write_all(&count.to_be_bytes())
}

/// A run of lines that anybody could read, different for each number.
fn block(number: u32) -> Vec<u8> {
    (0..LINES)
        .flat_map(|line| format!("{MARKER} {number:08} {line:04}\n").into_bytes())
        .collect()
}

/// The text that is sent in every ping and every line, and must not be seen on the way.
pub(super) const MARKER: &str = "KUGURI-DEMO: nobody on the way may read this line";
const LINES: u32 = 512;
/// How long nothing may happen.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::thread;

    use super::*;

    #[test]
    fn what_is_sent_arrives_and_is_counted() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("bound");
        let receiver = thread::spawn(move || receive(&listener));
        let transfer = send(address, Duration::from_millis(20)).expect("sends");
        receiver.join().expect("ends").expect("all equal");
        assert!(transfer.bytes > 0);
        assert_eq!(transfer.bytes % block(0).len() as u64, 0);
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("bound");
        let receiver = thread::spawn(move || receive(&listener));
        let mut changed = block(0);
        changed[7] ^= 1;
        let mut stream = TcpStream::connect(address).expect("connects");
        stream.write_all(&changed).expect("sends");
        stream.shutdown(Shutdown::Write).expect("ends");
        let error = receiver.join().expect("ends").expect_err("noticed");
        assert!(error.to_string().contains("block 0"), "{error}");
    }

    #[test]
    fn throughput_is_in_megabits() {
        let transfer = Transfer {
            bytes: 25_000_000,
            seconds: 2.0,
        };
        assert!((transfer.mbit_per_second() - 100.0).abs() < 1e-9);
    }
}
