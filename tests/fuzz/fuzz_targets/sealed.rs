//! Any bytes as a sealed datagram's header, and as the plaintext in it: what is read is written again.

#![no_main]

use kuguri_proto::wire::chunk::{Chunk, HEADER, chunks};
use kuguri_proto::wire::sealed::{self, Header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(header) = Header::parse(bytes) {
        assert_eq!(header.to_bytes(), bytes[..sealed::HEADER]);
    }
    let read: Vec<Chunk<'_>> = chunks(bytes).filter_map(Result::ok).collect();
    assert!(read.iter().map(Chunk::encoded_len).sum::<usize>() <= bytes.len());
    assert!(chunks(bytes).count() <= bytes.len() / HEADER + 1);
    let mut written = Vec::new();
    for chunk in &read {
        chunk.emit(&mut written).expect("its length was in 16 bits");
    }
    assert_eq!(chunks(&written).collect::<Result<Vec<_>, _>>(), Ok(read));
});
