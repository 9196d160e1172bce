//! The bytes of PCP's MAP for UDP over IPv4 (RFC 6887, sections 7 and 11.1). All numbers are big-endian.
//!
//! ```text
//!    0 version 2 │ R, opcode 1 │ reserved │ result │ 4 lifetime │ 8 client's address, or epoch and zeros │
//!   24 nonce (12) │ 36 protocol 17, reserved (3) │ 40 inside port │ 42 outside port │ 44 outside address (16)
//! ```

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};

/// A mapping, wanted or given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// Drawn at random by who asks, and returned.
    pub nonce: [u8; 12],
    /// Inside; of an answer only the port counts.
    pub inside: SocketAddrV4,
    /// Outside: suggested, or given.
    pub outside: SocketAddrV4,
}

/// What a server says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The mapping is there.
    Mapped {
        /// Which.
        map: Map,
        /// In seconds.
        lifetime: u32,
        /// Seconds since the server's state began.
        epoch: u32,
    },
    /// It will not be.
    Refused {
        /// Of the request.
        nonce: [u8; 12],
    },
    /// The server speaks NAT-PMP.
    OlderVersion,
}

/// Bytes that are no answer to a MAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no answer to a PCP MAP request")]
pub struct NotPcp;

/// A request for `map`, for so many seconds; 0 ends it.
#[must_use]
pub fn request(map: &Map, lifetime: u32) -> Vec<u8> {
    let mut bytes = vec![VERSION, MAP, 0, 0];
    bytes.extend(lifetime.to_be_bytes());
    bytes.extend(map.inside.ip().to_ipv6_mapped().octets());
    bytes.extend(map.nonce);
    bytes.extend([UDP, 0, 0, 0]);
    bytes.extend(map.inside.port().to_be_bytes());
    bytes.extend(map.outside.port().to_be_bytes());
    bytes.extend(map.outside.ip().to_ipv6_mapped().octets());
    bytes
}

/// What an answer says.
///
/// # Errors
/// When it is none, or one to another request than a MAP for UDP over IPv4.
pub fn parse(bytes: &[u8]) -> Result<Answer, NotPcp> {
    // RFC 6886, section 3.5: unsupported version, said in version 0.
    if let [0, 128..=255, 0, 1, ..] = bytes {
        return Ok(Answer::OlderVersion);
    }
    let bytes: &[u8; SIZE] = bytes.first_chunk().ok_or(NotPcp)?;
    if bytes[0] != VERSION || bytes[1] != RESPONSE | MAP {
        return Err(NotPcp);
    }
    let word =
        |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let half = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let nonce: [u8; 12] = bytes[24..36].try_into().map_err(|_| NotPcp)?;
    if bytes[3] != 0 {
        return Ok(Answer::Refused { nonce });
    }
    let outside: [u8; 16] = bytes[44..60].try_into().map_err(|_| NotPcp)?;
    let outside = Ipv6Addr::from(outside).to_ipv4_mapped().ok_or(NotPcp)?;
    if bytes[36] != UDP {
        return Err(NotPcp);
    }
    Ok(Answer::Mapped {
        map: Map {
            nonce,
            inside: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, half(40)),
            outside: SocketAddrV4::new(outside, half(42)),
        },
        lifetime: word(4),
        epoch: word(8),
    })
}

const VERSION: u8 = 2;
const MAP: u8 = 1;
const RESPONSE: u8 = 0x80;
const UDP: u8 = 17;
/// Of a request and of an answer, without options.
const SIZE: usize = 60;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_stands_as_the_rfc_draws_it() {
        let map = Map {
            nonce: [7; 12],
            inside: "192.168.1.2:47001".parse().expect("an address"),
            outside: "0.0.0.0:0".parse().expect("an address"),
        };
        let bytes = request(&map, 7200);
        assert_eq!(bytes.len(), SIZE);
        assert_eq!(bytes[..8], [2, 1, 0, 0, 0, 0, 0x1c, 0x20]);
        assert_eq!(bytes[18..24], [0xff, 0xff, 192, 168, 1, 2]);
        assert_eq!(bytes[36..44], [17, 0, 0, 0, 0xb7, 0x99, 0, 0]);
    }

    fn bytes(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().collect();
        let pair = |pair: &[u8]| {
            let text = std::str::from_utf8(pair).expect("ASCII");
            u8::from_str_radix(text, 16).expect("hexadecimal digits")
        };
        digits.chunks(2).map(pair).collect()
    }

    /// What miniupnpd 2.3.1 said to such a request, and before it had a public address.
    #[test]
    fn the_answers_of_a_real_gateway_are_read() {
        let given = "0281000000001c200000000200000000000000000000000000398a75\
                     59dd80ab8f4c0e7d11000000b799b79900000000000000000000ffff\
                     2d2d2d07";
        let map = Map {
            nonce: [
                0x00, 0x39, 0x8a, 0x75, 0x59, 0xdd, 0x80, 0xab, 0x8f, 0x4c, 0x0e, 0x7d,
            ],
            inside: "0.0.0.0:47001".parse().expect("an address"),
            outside: "45.45.45.7:47001".parse().expect("an address"),
        };
        assert_eq!(
            parse(&bytes(given)),
            Ok(Answer::Mapped {
                map,
                lifetime: 7200,
                epoch: 2
            })
        );
        let refused = "028100080000001e00000003000000000000000000000000d574fcfe\
                       ba064c03157ad29411000000b799b79900000000000000000000ffff\
                       c6336407";
        assert!(matches!(parse(&bytes(refused)), Ok(Answer::Refused { .. })));
    }

    proptest! {
        #[test]
        fn an_answer_is_read_as_it_was_written(nonce: [u8; 12], ip: Ipv4Addr, inside: u16, outside: u16, lifetime: u32, epoch: u32) {
            let map = Map {
                nonce,
                inside: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, inside),
                outside: SocketAddrV4::new(ip, outside),
            };
            let mut bytes = request(&map, lifetime);
            bytes[1] |= RESPONSE;
            bytes[8..12].copy_from_slice(&epoch.to_be_bytes());
            prop_assert_eq!(parse(&bytes), Ok(Answer::Mapped { map, lifetime, epoch }));
            bytes[3] = 2;
            prop_assert_eq!(parse(&bytes), Ok(Answer::Refused { nonce }));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&bytes);
        }
    }
}
