//! A STUN server's whole mind: one request in, at most one answer out, nothing remembered.
//!
//! An answer is never larger than its request, so a false source address gains nothing (TRAVERSAL goal G6). Attributes
//! that do not fit are left out, the least needed first; RFC 5780's PADDING, which would make answers large, is never sent.

use std::net::SocketAddr;

use stun_rs::attributes::discovery::{OtherAddress, ResponseOrigin};
use stun_rs::attributes::stun::XorMappedAddress;
use stun_rs::{MessageClass, StunAttribute};

use super::{ATTRIBUTE_HEADER, Change, Class, FINGERPRINT, HEADER, encode, parse};

/// The server's addresses, as the Internet sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerAddresses {
    /// The one that the request came to, and that the answer goes out by.
    pub origin: SocketAddr,
    /// Another that answers STUN too: other port, or other address and port.
    pub other: Option<SocketAddr>,
}

/// The answer to a datagram that came from `source`, to be sent back by the socket that it came in by.
///
/// `None` for whatever is not a well-formed Binding request, wants its answer from elsewhere (CHANGE-REQUEST), comes from
/// an impossible source, or is smaller than the smallest answer.
#[must_use]
pub fn answer(request: &[u8], source: SocketAddr, server: &ServerAddresses) -> Option<Vec<u8>> {
    let message = parse(request).ok()?;
    // An answer from another place than the wanted one would tell the client something false about its NAT.
    if message.class != Class::Request || message.change != Change::default() || source.port() == 0
    {
        return None;
    }
    let mapped = canonical(source);
    let mut room = request
        .len()
        .checked_sub(HEADER + size_of_address(mapped))?;
    let mut take = |size: usize| {
        let left = room.checked_sub(size);
        room = left.unwrap_or(room);
        left.is_some()
    };
    let fingerprint = take(FINGERPRINT);
    let mut attributes: Vec<StunAttribute> = vec![XorMappedAddress::from(mapped).into()];
    if let Some(other) = server.other.map(canonical)
        && take(size_of_address(other))
    {
        attributes.push(OtherAddress::from(other).into());
    }
    let origin = canonical(server.origin);
    if take(size_of_address(origin)) {
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

    proptest! {
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
