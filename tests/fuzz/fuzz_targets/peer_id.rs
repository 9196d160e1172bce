//! Any text as a key, and any bytes as a SubjectPublicKeyInfo: each key has one text and one encoding.

#![no_main]

use kuguri_proto::identity::PeerId;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(id) = text.parse::<PeerId>()
    {
        assert_eq!(id.to_string(), text.trim());
        assert_eq!(id.short().len(), 8);
    }
    if let Some(id) = PeerId::from_spki(bytes) {
        assert_eq!(id.to_spki(), bytes);
    }
    if let Some(key) = bytes.first_chunk::<32>() {
        assert_eq!(PeerId(*key).to_string().parse(), Ok(PeerId(*key)));
    }
});
