//! STUN as it was before it had a magic cookie (RFC 3489), as far as a server needs it: old clients still ask that way.
//!
//! ```text
//!   0x0001 │ length │ transaction id, 16 bytes │ CHANGE-REQUEST, others that we leave unread
//!   0x0101 │ length │ the same id              │ MAPPED-ADDRESS, SOURCE-ADDRESS, CHANGED-ADDRESS
//! ```
//!
//! A request that wants its answer sent to somebody else (RESPONSE-ADDRESS) is refused, as everything is that is not whole.

use std::net::{IpAddr, SocketAddr};

use super::prefilter::{CHANGE_REQUEST, COOKIE, MAPPED_ADDRESS};
use super::{Change, HEADER, MAX_SIZE};

/// A Binding request of an old client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    id: [u8; 16],
    /// From where the answer is wanted.
    pub(super) change: Change,
}

/// The request that `bytes` are; `None` when they are none, or one of a newer client.
pub(super) fn parse(bytes: &[u8]) -> Option<Request> {
    let (header, mut rest) = bytes.split_first_chunk::<HEADER>()?;
    let [0, 1, high, low, id @ ..] = *header else {
        return None;
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if id[..4] == COOKIE || bytes.len() > MAX_SIZE || length != rest.len() {
        return None;
    }
    let mut change = Change::default();
    while let Some((&[k0, k1, l0, l1], body)) = rest.split_first_chunk::<4>() {
        let kind = u16::from_be_bytes([k0, k1]);
        let (value, after) = body.split_at_checked(usize::from(u16::from_be_bytes([l0, l1])))?;
        match (kind, value) {
            (CHANGE_REQUEST, [_, _, _, flags]) => {
                change.address = flags & 4 != 0;
                change.port = flags & 2 != 0;
            }
            (CHANGE_REQUEST | RESPONSE_ADDRESS, _) => return None,
            _ => {}
        }
        rest = after;
    }
    rest.is_empty().then_some(Request { id, change })
}

/// The answer: how the client looks from outside, where it comes from, and where else the server answers.
pub(super) fn emit(
    request: &Request,
    mapped: SocketAddr,
    source: SocketAddr,
    changed: Option<SocketAddr>,
) -> Vec<u8> {
    let mut attributes = Vec::new();
    let all = [
        (MAPPED_ADDRESS, Some(mapped)),
        (SOURCE_ADDRESS, Some(source)),
        (CHANGED_ADDRESS, changed),
    ];
    for (kind, address) in all {
        if let Some(address) = address {
            emit_address(&mut attributes, kind, address);
        }
    }
    let length = u16::try_from(attributes.len()).expect("three addresses are short");
    let header = [0x0101_u16.to_be_bytes(), length.to_be_bytes()].concat();
    [header, request.id.to_vec(), attributes].concat()
}

fn emit_address(out: &mut Vec<u8>, kind: u16, address: SocketAddr) {
    let (family, ip) = match address.ip() {
        IpAddr::V4(v4) => (1, v4.octets().to_vec()),
        IpAddr::V6(v6) => (2, v6.octets().to_vec()),
    };
    let length = if family == 1 { 8_u16 } else { 20 };
    out.extend([kind.to_be_bytes(), length.to_be_bytes()].concat());
    out.extend([0, family]);
    out.extend(address.port().to_be_bytes());
    out.extend(ip);
}

// RFC 3489, section 11.2.
const RESPONSE_ADDRESS: u16 = 0x0002;
const SOURCE_ADDRESS: u16 = 0x0004;
const CHANGED_ADDRESS: u16 = 0x0005;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(attributes: &[u8]) -> Vec<u8> {
        let length = u8::try_from(attributes.len()).expect("short");
        [&[0, 1, 0, length][..], &[9; 16], attributes].concat()
    }

    #[test]
    fn an_old_clients_question_and_answer() {
        let bare = parse(&request(&[])).expect("a request");
        assert_eq!(bare.change, Change::default());
        let both = parse(&request(&[0, 3, 0, 4, 0, 0, 0, 6])).expect("a request");
        assert!(both.change.address && both.change.port);
        let at = |text: &str| text.parse().expect("an address");
        let answer = emit(
            &bare,
            at("192.0.2.1:32853"),
            at("203.0.113.1:3478"),
            Some(at("203.0.113.2:3479")),
        );
        let expected = [
            &[1, 1, 0, 36][..],
            &[9; 16],
            &[0, 1, 0, 8, 0, 1, 0x80, 0x55, 192, 0, 2, 1],
            &[0, 4, 0, 8, 0, 1, 0x0d, 0x96, 203, 0, 113, 1],
            &[0, 5, 0, 8, 0, 1, 0x0d, 0x97, 203, 0, 113, 2],
        ];
        assert_eq!(answer, expected.concat());
    }

    #[test]
    fn whoever_wants_the_answer_elsewhere_or_is_of_today_is_refused() {
        assert_eq!(
            parse(&request(&[0, 2, 0, 8, 0, 1, 0, 53, 192, 0, 2, 66])),
            None
        );
        assert_eq!(parse(&request(&[0, 3, 0, 2, 0, 0])), None);
        let mut today = request(&[]);
        today[4..8].copy_from_slice(&COOKIE);
        assert_eq!(parse(&today), None);
        let mut response = request(&[]);
        response[0] = 1;
        assert_eq!(parse(&response), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), as_request: bool) {
            let mut bytes = bytes;
            if as_request && bytes.len() >= HEADER {
                let length = u8::try_from(bytes.len() - HEADER).expect("short");
                bytes[..4].copy_from_slice(&[0, 1, 0, length]);
            }
            let _ = parse(&bytes);
        }
    }
}
