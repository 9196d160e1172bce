//! The bytes of NAT-PMP (RFC 6886, section 3): the outside address, and a mapping for UDP. All numbers are big-endian.

use std::net::Ipv4Addr;

/// What a server says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Its outside address.
    Address(Ipv4Addr),
    /// The mapping is there.
    Mapped {
        /// The inside port.
        inside: u16,
        /// The outside port.
        outside: u16,
        /// In seconds.
        lifetime: u32,
        /// Seconds since the server's state began.
        epoch: u32,
    },
    /// It will not be.
    Refused,
}

/// Bytes that are no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no NAT-PMP answer")]
pub struct NotNatPmp;

/// Asks for the outside address.
#[must_use]
pub fn request_address() -> Vec<u8> {
    vec![0, ADDRESS]
}

/// Asks for a mapping for so many seconds; 0 ends it.
#[must_use]
pub fn request_map(inside: u16, outside: u16, lifetime: u32) -> Vec<u8> {
    let outside = if lifetime == 0 { 0 } else { outside };
    let mut bytes = vec![0, MAP_UDP, 0, 0];
    bytes.extend(inside.to_be_bytes());
    bytes.extend(outside.to_be_bytes());
    bytes.extend(lifetime.to_be_bytes());
    bytes
}

/// What an answer says.
///
/// # Errors
/// When it is none.
pub fn parse(bytes: &[u8]) -> Result<Answer, NotNatPmp> {
    const ADDRESS_ANSWER: u8 = RESPONSE | ADDRESS;
    const MAP_ANSWER: u8 = RESPONSE | MAP_UDP;
    match *bytes {
        [0, ADDRESS_ANSWER, 0, 0, _, _, _, _, a, b, c, d] => {
            Ok(Answer::Address(Ipv4Addr::new(a, b, c, d)))
        }
        [
            0,
            MAP_ANSWER,
            0,
            0,
            e0,
            e1,
            e2,
            e3,
            i0,
            i1,
            o0,
            o1,
            l0,
            l1,
            l2,
            l3,
        ] => Ok(Answer::Mapped {
            inside: u16::from_be_bytes([i0, i1]),
            outside: u16::from_be_bytes([o0, o1]),
            lifetime: u32::from_be_bytes([l0, l1, l2, l3]),
            epoch: u32::from_be_bytes([e0, e1, e2, e3]),
        }),
        [0, MAP_ANSWER | ADDRESS_ANSWER, 0, 0, ..] => Err(NotNatPmp),
        [0, MAP_ANSWER | ADDRESS_ANSWER, _, _, _, _, _, _, ..] => Ok(Answer::Refused),
        _ => Err(NotNatPmp),
    }
}

const ADDRESS: u8 = 0;
const MAP_UDP: u8 = 1;
const RESPONSE: u8 = 128;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_stand_as_the_rfc_draws_them() {
        assert_eq!(request_address(), [0, 0]);
        assert_eq!(
            request_map(47_001, 47_001, 7200),
            [0, 1, 0, 0, 0xb7, 0x99, 0xb7, 0x99, 0, 0, 0x1c, 0x20]
        );
        assert_eq!(request_map(1, 5, 0)[6..], [0; 6], "an end names no port");
        let address = [0, 128, 0, 0, 0, 0, 0, 9, 198, 51, 100, 7];
        assert_eq!(
            parse(&address),
            Ok(Answer::Address(Ipv4Addr::new(198, 51, 100, 7)))
        );
        let mapped = [
            0, 129, 0, 0, 0, 0, 0, 9, 0xb7, 0x99, 0, 250, 0, 0, 0x0e, 0x10,
        ];
        let expected = Answer::Mapped {
            inside: 47_001,
            outside: 250,
            lifetime: 3600,
            epoch: 9,
        };
        assert_eq!(parse(&mapped), Ok(expected));
        assert_eq!(parse(&[0, 129, 0, 2, 0, 0, 0, 9]), Ok(Answer::Refused));
        assert_eq!(parse(&mapped[..15]), Err(NotNatPmp));
    }

    /// What miniupnpd 2.3.1 said, at last and before it had a public address.
    #[test]
    fn the_answers_of_a_real_gateway_are_read() {
        let address = [0, 0x80, 0, 0, 0, 0, 0, 2, 0x2d, 0x2d, 0x2d, 7];
        assert_eq!(
            parse(&address),
            Ok(Answer::Address(Ipv4Addr::new(45, 45, 45, 7)))
        );
        let mapped = [
            0, 0x81, 0, 0, 0, 0, 0, 2, 0xb7, 0x99, 0xb7, 0x99, 0, 0, 0x1c, 0x20,
        ];
        let expected = Answer::Mapped {
            inside: 47_001,
            outside: 47_001,
            lifetime: 7200,
            epoch: 2,
        };
        assert_eq!(parse(&mapped), Ok(expected));
        let no_address = [0, 0x80, 0, 3, 0, 0, 0, 3, 0, 0, 0, 0];
        assert_eq!(parse(&no_address), Ok(Answer::Refused));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..24)) {
            let _ = parse(&bytes);
        }
    }
}
