//! Any questions to the DHCP server, true ones with any options among them: an address is one station's at a time, and is of the
//! range.

#![no_main]

use std::time::{Duration, Instant};

use kuguri_proto::gateway::{Dhcp, DhcpSettings, Pool, Subnet, mac_from_seed};
use libfuzzer_sys::fuzz_target;

/// A frame to the server with those options.
fn question(card: u8, own: u8, options: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, card, 8, 0, 0x45, 0]);
    frame.extend(u16::try_from(268 + options.len()).unwrap_or(u16::MAX).to_be_bytes());
    frame.extend([0, 1, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255]);
    let sum = frame[14..34].chunks(2).fold(0u32, |sum, pair| {
        let sum = sum + u32::from(u16::from_be_bytes([pair[0], pair[1]]));
        (sum & 0xffff) + (sum >> 16)
    });
    let [_, _, high, low] = (!sum).to_be_bytes();
    frame[24..26].copy_from_slice(&[high, low]);
    frame.extend([0, 68, 0, 67]);
    frame.extend(u16::try_from(248 + options.len()).unwrap_or(u16::MAX).to_be_bytes());
    frame.extend([0, 0]);
    let mut message = vec![0; 240];
    message[..3].copy_from_slice(&[1, 1, 6]);
    if own > 0 {
        message[12..16].copy_from_slice(&[192, 168, 30, own]);
    }
    message[28..34].copy_from_slice(&[2, 0, 0, 0, 0, card]);
    message[236..].copy_from_slice(&[99, 130, 83, 99]);
    frame.extend(message);
    frame.extend(options);
    frame
}

fuzz_target!(|bytes: &[u8]| {
    let subnet = Subnet::default();
    let mut pool = Pool::new(subnet);
    let mut server = Dhcp::new(DhcpSettings::new(subnet), subnet, mac_from_seed(&[7; 32]));
    let mut now = Instant::now();
    let mut rest = bytes;
    while let Some((&[step, card, own, length], after)) = rest.split_first_chunk() {
        let (piece, after) = after.split_at(usize::from(length).min(after.len()));
        rest = after;
        let frame = match step % 4 {
            0 => piece.to_vec(),
            1 => {
                now += Duration::from_secs(u64::from(card) * 60);
                server.handle_timeout(&mut pool, now);
                continue;
            }
            _ => question(card, own, piece),
        };
        if Dhcp::is_question(&frame) {
            let answer = server.handle_frame(&frame, &mut pool, |_| None, now);
            assert!(answer.is_none_or(|answer| answer.len() >= 342));
        }
        let rows = server.table(now);
        assert!(rows.windows(2).all(|pair| pair[0].address < pair[1].address));
        assert!(rows.iter().all(|row| subnet.contains(row.address) && row.address != subnet.address()));
    }
});
