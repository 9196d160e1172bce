//! A STUN server's whole mind: one request in, at most one answer out, nothing remembered.
//!
//! An answer is never larger than its request, so a false source address gains nothing (TRAVERSAL goal G6). Attributes
//! that do not fit are left out, the least needed first; RFC 5780's PADDING, which would make answers large, is never sent, and
//! no answer goes to another address than the one that asked. [`Policy::Compatible`] gives up the first of these, not the others.

use std::net::SocketAddr;

use stun_rs::attributes::discovery::{OtherAddress, ResponseOrigin};
use stun_rs::attributes::stun::XorMappedAddress;
use stun_rs::{MessageClass, StunAttribute};

use super::{
    ATTRIBUTE_HEADER, Change, Class, FINGERPRINT, HEADER, Message, classic, encode, parse,
};

/// The server's addresses, as the Internet sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerAddresses {
    /// The one that the answer goes out by: the one that the request came to, unless it asks for another.
    pub origin: SocketAddr,
    /// Another that answers STUN too: other port, or other address and port.
    pub other: Option<SocketAddr>,
}

/// Who gets an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Whoever asks in at least as many bytes as the answer has.
    #[default]
    Strict,
    /// Also clients of other makers, which do not pad their questions, and those from before RFC 5389, which have no magic
    /// cookie. Whoever answers in this way must bound how often: see [`Reply::is_larger_than`].
    Compatible,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// From which of the server's sockets it goes out, seen from the one that the request came to.
    pub change: Change,
    /// The datagram.
    pub contents: Vec<u8>,
}

impl Reply {
    /// Whether somebody who puts a stranger's address on the request gains by it.
    #[must_use]
    pub const fn is_larger_than(&self, request: &[u8]) -> bool {
        self.contents.len() > request.len()
    }
}

/// The answer to a datagram that came from `source`, to be sent back by the socket that it came in by.
///
/// `None` for whatever is not a well-formed Binding request, wants its answer from elsewhere (CHANGE-REQUEST), comes from
/// an impossible source, or is smaller than the smallest answer.
#[must_use]
pub fn answer(request: &[u8], source: SocketAddr, server: &ServerAddresses) -> Option<Vec<u8>> {
    let here = |change| (change == Change::default()).then_some(*server);
    Some(reply(request, source, Policy::Strict, here)?.contents)
}

/// The same, with the sockets that there are: `server` tells the addresses of the one that is asked for, seen from the one that
/// the request came to.
///
/// `None` as in [`answer`], and when the wanted socket is not there: an answer from another place than the wanted one would
/// tell the client something false about its NAT.
#[must_use]
pub fn reply(
    request: &[u8],
    source: SocketAddr,
    policy: Policy,
    server: impl Fn(Change) -> Option<ServerAddresses>,
) -> Option<Reply> {
    if source.port() == 0 {
        return None;
    }
    let mapped = canonical(source);
    let message = match (parse(request), policy) {
        (Ok(message), _) => message,
        (Err(_), Policy::Strict) => return None,
        (Err(_), Policy::Compatible) => {
            let request = classic::parse(request)?;
            let ServerAddresses { origin, other } = server(request.change)?;
            return Some(Reply {
                change: request.change,
                contents: classic::emit(&request, mapped, canonical(origin), other.map(canonical)),
            });
        }
    };
    if message.class != Class::Request {
        return None;
    }
    Some(Reply {
        change: message.change,
        contents: modern(
            request.len(),
            &message,
            mapped,
            &server(message.change)?,
            policy,
        )?,
    })
}

/// XOR-MAPPED-ADDRESS, and of the rest what fits into as many bytes as were asked with. A compatible answer has what RFC 5780
/// needs besides, also when it does not fit: OTHER-ADDRESS, and RESPONSE-ORIGIN for who asks for an answer from elsewhere.
fn modern(
    room: usize,
    message: &Message,
    mapped: SocketAddr,
    server: &ServerAddresses,
    policy: Policy,
) -> Option<Vec<u8>> {
    let compatible = policy == Policy::Compatible;
    let needed = HEADER + size_of_address(mapped);
    if room < needed && !compatible {
        return None;
    }
    let mut room = room.saturating_sub(needed);
    let mut take = |size: usize| {
        let left = room.checked_sub(size);
        room = left.unwrap_or(room);
        left.is_some()
    };
    let fingerprint = take(FINGERPRINT);
    let mut attributes: Vec<StunAttribute> = vec![XorMappedAddress::from(mapped).into()];
    if let Some(other) = server.other.map(canonical)
        && (take(size_of_address(other)) || compatible)
    {
        attributes.push(OtherAddress::from(other).into());
    }
    let origin = canonical(server.origin);
    let changed = message.change != Change::default();
    if take(size_of_address(origin)) || (compatible && changed) {
        attributes.push(ResponseOrigin::from(origin).into());
    }
    Some(encode(
        MessageClass::SuccessResponse,
        message.transaction,
        attributes,
        None,
        fingerprint,
    ))
}

/// An IPv4 address that a dual-stack socket shows as an IPv6 one is said as IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

const fn size_of_address(address: SocketAddr) -> usize {
    ATTRIBUTE_HEADER + if address.is_ipv4() { 8 } else { 20 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{REQUEST_SIZE, encode_request};
    use super::*;

    fn server(v6: bool) -> ServerAddresses {
        let address = if v6 {
            "[2001:db8::1]:4433"
        } else {
            "203.0.113.1:4433"
        };
        let origin: SocketAddr = address.parse().expect("an address");
        ServerAddresses {
            origin,
            other: Some(SocketAddr::new(origin.ip(), 4434)),
        }
    }

    #[test]
    fn a_padded_request_gets_everything() {
        for (v6, source) in [(false, "192.0.2.7:9"), (true, "[2001:db8::7]:9")] {
            let source = source.parse().expect("an address");
            let request = encode_request([5; 12], None, None, Some(REQUEST_SIZE));
            let answer = answer(&request, source, &server(v6)).expect("an answer");
            let message = parse(&answer).expect("own bytes");
            assert_eq!(message.class, Class::Success);
            assert_eq!(message.transaction, [5; 12]);
            assert_eq!(message.mapped, Some(source));
            assert_eq!(message.other_address, server(v6).other);
            assert_eq!(message.response_origin, Some(server(v6).origin));
        }
    }

    #[test]
    fn a_bare_request_gets_nothing_since_any_answer_is_larger() {
        let mut bare = encode_request([5; 12], None, None, None)[..HEADER].to_vec();
        bare[3] = 0;
        assert!(parse(&bare).is_ok());
        assert_eq!(
            answer(
                &bare,
                "192.0.2.7:9".parse().expect("an address"),
                &server(false)
            ),
            None
        );
    }

    #[test]
    fn a_mapped_ipv4_source_is_told_as_ipv4() {
        let request = encode_request([5; 12], None, None, Some(REQUEST_SIZE));
        let source = "[::ffff:192.0.2.7]:9".parse().expect("an address");
        let answer = answer(&request, source, &server(false)).expect("an answer");
        assert_eq!(
            parse(&answer).expect("own bytes").mapped,
            "192.0.2.7:9".parse().ok()
        );
    }

    #[test]
    fn no_answer_from_a_wrong_place() {
        let mut request = encode_request([5; 12], None, None, None)[..HEADER].to_vec();
        request.extend([0x00, 0x03, 0, 4, 0, 0, 0, 2, 0x80, 0x22, 0, 4, 0, 0, 0, 0]);
        request[3] = 16;
        assert!(parse(&request).expect("well formed").change.port);
        let source = "192.0.2.7:9".parse().expect("an address");
        assert_eq!(answer(&request, source, &server(false)), None);
        request[HEADER + 7] = 0;
        assert!(answer(&request, source, &server(false)).is_some());
    }

    /// A server at two addresses with two ports each, asked at the first of both.
    fn four(change: Change) -> Option<ServerAddresses> {
        let at = |address: bool, port: bool| {
            let ip = [203, 0, 113, 1 + u8::from(address)];
            SocketAddr::from((ip, 3478 + u16::from(port)))
        };
        Some(ServerAddresses {
            origin: at(change.address, change.port),
            other: Some(at(true, true)),
        })
    }

    fn bare(cookie: bool, flags: Option<u8>) -> Vec<u8> {
        let mut bytes = encode_request([5; 12], None, None, None)[..HEADER].to_vec();
        bytes[3] = 0;
        if !cookie {
            bytes[4..8].fill(7);
        }
        if let Some(flags) = flags {
            bytes[3] = 8;
            bytes.extend([0, 3, 0, 4, 0, 0, 0, flags]);
        }
        bytes
    }

    #[test]
    fn a_compatible_server_answers_everybody_and_by_the_wanted_socket() {
        let source: SocketAddr = "192.0.2.7:9".parse().expect("an address");
        for (flags, address, port) in [
            (0, false, false),
            (2, false, true),
            (4, true, false),
            (6, true, true),
        ] {
            let change = Change { address, port };
            let request = bare(true, Some(flags));
            assert_eq!(reply(&request, source, Policy::Strict, four), None);
            let reply = reply(&request, source, Policy::Compatible, four).expect("an answer");
            assert_eq!(reply.change, change);
            assert!(reply.is_larger_than(&request));
            let message = parse(&reply.contents).expect("own bytes");
            assert_eq!(message.mapped, Some(source));
            assert_eq!(message.other_address, "203.0.113.2:3479".parse().ok());
            let origin = four(change).map(|it| it.origin);
            assert_eq!(message.response_origin, origin.filter(|_| flags != 0));
        }
        let smallest = reply(&bare(true, None), source, Policy::Compatible, four);
        assert_eq!(smallest.map(|it| it.contents.len()), Some(44));
        let old = reply(&bare(false, Some(6)), source, Policy::Compatible, four);
        let old = old.expect("an answer to an old client");
        assert!(old.change.address && old.change.port);
        assert_eq!(old.contents.len(), 56);
        assert_eq!(
            reply(&bare(false, None), source, Policy::Strict, four),
            None
        );
    }

    #[test]
    fn a_strict_server_answers_by_the_wanted_socket_when_that_is_no_gain() {
        let source: SocketAddr = "192.0.2.7:9".parse().expect("an address");
        let mut request = bare(true, Some(6));
        request.extend([&[0, 0x26, 0, 40][..], &[0; 40]].concat());
        request[3] = 52;
        let answer = reply(&request, source, Policy::Strict, four).expect("an answer");
        assert!(answer.change.address && answer.change.port);
        assert!(!answer.is_larger_than(&request));
        let origin = parse(&answer.contents).expect("own bytes").response_origin;
        assert_eq!(origin, "203.0.113.2:3479".parse().ok());
        let one = |change: Change| four(change).filter(|_| !change.address);
        assert_eq!(reply(&request, source, Policy::Compatible, one), None);
    }

    proptest! {
        /// The bound that a compatible server is honest about: 2.8 with IPv4, 4.6 with IPv6.
        #[test]
        fn a_compatible_answer_is_bounded(cookie: bool, flags in prop::option::of(0u8..8), ip: std::net::IpAddr, port in 1u16..) {
            let source = SocketAddr::new(ip, port);
            let request = bare(cookie, flags);
            let answer = reply(&request, source, Policy::Compatible, four).expect("an answer");
            prop_assert!(answer.contents.len() <= HEADER + 3 * 24);
            prop_assert!(ip.is_ipv6() || answer.contents.len() <= 56);
        }

        #[test]
        fn a_strict_answer_is_never_larger(flags in prop::option::of(0u8..8), cookie: bool, pad in 0usize..100, ip: std::net::IpAddr, port: u16) {
            let mut request = bare(cookie, flags);
            let pad = pad & !3;
            request.extend([&[0, 0x26, 0, u8::try_from(pad).expect("small")][..], &vec![0; pad]].concat());
            request[3] += u8::try_from(pad + 4).expect("small");
            if let Some(answer) = reply(&request, SocketAddr::new(ip, port), Policy::Strict, four) {
                prop_assert!(!answer.is_larger_than(&request));
            }
        }

        #[test]
        fn an_answer_is_never_larger_than_its_request(pad in 0usize..300, ip: std::net::IpAddr, port: u16, v6: bool) {
            let request = encode_request([5; 12], None, None, Some(pad));
            if let Some(answer) = answer(&request, SocketAddr::new(ip, port), &server(v6)) {
                prop_assert!(answer.len() <= request.len());
            }
        }

        #[test]
        fn an_answer_is_not_answered(ip: std::net::IpAddr, port in 1u16..) {
            let source = SocketAddr::new(ip, port);
            let request = encode_request([5; 12], None, None, Some(REQUEST_SIZE));
            let first = answer(&request, source, &server(true)).expect("an answer");
            prop_assert_eq!(answer(&first, source, &server(true)), None);
        }
    }
}
