//! What a proxy, or whoever stands in its place, answers: the head of an HTTP answer and the challenges in it, and SOCKS5. A first
//! byte says which.

#![no_main]

use kuguri_proto::proxy::socks::{Socks, Step};
use kuguri_proto::proxy::{Credentials, http};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match bytes.split_first() {
        Some((0, said)) => head(said),
        Some((1, said)) => socks(said, None),
        Some((_, said)) => socks(said, Some(alice())),
        None => {}
    }
});

fn alice() -> Credentials {
    Credentials {
        user: "alice".into(),
        password: String::from("secret").into(),
    }
}

/// A head is as long as it says, is read again from its own bytes alone, and no answer to it has a line of somebody else's in it.
fn head(said: &[u8]) {
    let Ok(Some(head)) = http::parse(said) else {
        return;
    };
    assert!(head.length <= said.len().min(http::MAX_HEAD));
    assert_eq!(http::parse(&said[..head.length]), Ok(Some(head.clone())));
    assert_eq!(http::parse(&said[..head.length - 1]), Ok(None));
    if let Ok(answer) = http::authorize(&head, &alice(), ("vps.example", 443), "c") {
        assert!(!answer.contains(['\r', '\n']), "{answer:?}");
        let shown = said.windows(6).any(|word| word == b"secret");
        assert!(shown || !answer.contains("secret"), "{answer:?}");
    }
}

/// Nothing is read that was not said, and after the stream is open nothing more is wanted.
fn socks(mut said: &[u8], credentials: Option<Credentials>) {
    let Ok((mut socks, _)) = Socks::new("vps.example", 443, credentials) else {
        return;
    };
    for _ in 0..3 {
        match socks.handle(said) {
            Ok(Step::Send(read, _)) => said = &said[read..],
            Ok(Step::Open(read)) => {
                assert!(read <= said.len());
                return;
            }
            Ok(Step::More) | Err(_) => return,
        }
    }
}
