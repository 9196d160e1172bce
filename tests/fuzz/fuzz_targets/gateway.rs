//! Any frame to the virtual host: at most one answer, no longer than the question, to the station that asked, and one that
//! it would not answer itself.

#![no_main]

use std::time::Instant;

use kuguri_proto::gateway::{Gateway, Subnet, mac_from_seed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut gateway = Gateway::new(mac_from_seed(&[7; 32]), Subnet::default(), 1500);
    let now = Instant::now();
    gateway.handle_frame(bytes, now);
    let Some(answer) = gateway.poll_frame() else {
        return;
    };
    assert!(answer.len() <= bytes.len());
    assert_eq!(answer[6..12], gateway.mac().0);
    assert_eq!(gateway.poll_frame(), None);
    gateway.handle_frame(&answer, now);
    assert_eq!(gateway.poll_frame(), None);
});
