//! Any text as an invite; and any contents under a correct checksum, where the decoder and the limits are alone.

#![no_main]

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kuguri_proto::invite::{Invite, SCHEME};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        accepted_or_refused(text);
    }
    accepted_or_refused(&sealed(bytes));
});

fn accepted_or_refused(text: &str) {
    if let Ok(invite) = text.parse::<Invite>() {
        let again = invite.to_text().expect("an invite within the limits");
        assert_eq!(again.parse(), Ok(invite));
    }
}

/// The text around version and body, as the format's description has it.
fn sealed(content: &[u8]) -> String {
    let sum = digest(&SHA256, &[b"kuguri invite", content].concat());
    let bytes = [content, &sum.as_ref()[..4]].concat();
    format!("{SCHEME}{}", URL_SAFE_NO_PAD.encode(bytes))
}
