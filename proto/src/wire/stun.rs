//! STUN (RFC 8489) with the parts of RFC 5780 that tell how a NAT behaves: Binding requests and responses, nothing else.
//!
//! ```text
//!  datagram ─▶ prefilter: length, cookie, method, attribute borders ─▶ only what we read ─▶ decoder ─▶ Message
//!              (no memory taken, nothing interpreted)                  (the rest is cut out)
//! ```
//!
//! This is the only user of the `stun-rs` library. It hands the library no attribute that Kuguri does not read, so a
//! stranger's bytes never reach the text parsers of REALM, NONCE or SOFTWARE. It knows formats, never what a message
//! is good for: that is decided in `link::path` and `rendezvous::observe`.
//!
//! MESSAGE-INTEGRITY-SHA256 is keyed in the manner of the short-term credential mechanism (RFC 8489, section 9.1): the
//! password is the lower-case hexadecimal text of a 32-byte key. The older HMAC-SHA1 is neither made nor accepted.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use stun_rs::attributes::discovery::{
    ChangeRequest, ChangeRequestFlags, OtherAddress, Padding, ResponseOrigin,
};
use stun_rs::attributes::stun::{Fingerprint, MessageIntegritySha256, UserName, XorMappedAddress};
use stun_rs::methods::BINDING;
use stun_rs::{
    HMACKey, MessageClass, MessageDecoderBuilder, MessageEncoderBuilder, StunAttribute,
    StunMessageBuilder, TransactionId, get_input_text,
};

mod classic;
mod prefilter;
mod server;

pub use server::{Policy, Reply, ServerAddresses, answer, reply};

/// No message is larger than this, in bytes, either way.
pub const MAX_SIZE: usize = 1500;

/// The size in bytes to which a request to a STUN server is padded, so that a whole answer is not larger (IPv6 included).
pub const REQUEST_SIZE: usize = 104;

/// A transaction id (RFC 8489, section 5): 96 random bits.
pub type Transaction = [u8; 12];

/// A key for MESSAGE-INTEGRITY-SHA256.
pub type Key = [u8; 32];

/// Why bytes are not a message that we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StunError {
    /// Shorter than a header, larger than [`MAX_SIZE`], or not as long as the header says.
    #[error("not as long as a STUN message of this kind can be")]
    Length,
    /// The first two bits or the magic cookie are others.
    #[error("no STUN message (RFC 8489)")]
    NotStun,
    /// A method other than Binding.
    #[error("a STUN method other than Binding")]
    Method,
    /// An attribute is cut off, or its value is not what its type says.
    #[error("malformed STUN attribute")]
    Attribute,
    /// An attribute that must be understood, and is not.
    #[error("unknown STUN attribute {0:#06x} that must be understood")]
    Unknown(u16),
    /// The check sum of a FINGERPRINT is wrong.
    #[error("wrong STUN fingerprint")]
    Fingerprint,
}

/// What a message is for (RFC 8489, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Asks for an answer.
    Request,
    /// The answer.
    Success,
    /// The answer that says no.
    Error,
    /// Wants no answer.
    Indication,
}

/// Whom a check is for and from, in USERNAME: the link indices that the two ends chose for sealed datagrams.
///
/// As text it is `receiver:sender`, each in eight lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Username {
    /// The receiver's index of the link.
    pub receiver: u32,
    /// The sender's index of it.
    pub sender: u32,
}

/// From where an answer is wanted (RFC 5780, section 7.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// From the server's other address.
    pub address: bool,
    /// From the server's other port.
    pub port: bool,
}

/// A Binding message, as far as we read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is for.
    pub class: Class,
    /// Which request it is, or answers.
    pub transaction: Transaction,
    /// USERNAME, when it is one of ours.
    pub username: Option<Username>,
    /// XOR-MAPPED-ADDRESS: the receiver's address as the sender sees it.
    pub mapped: Option<SocketAddr>,
    /// RESPONSE-ORIGIN: the address that the server answered from.
    pub response_origin: Option<SocketAddr>,
    /// OTHER-ADDRESS: the server's other address and port.
    pub other_address: Option<SocketAddr>,
    /// CHANGE-REQUEST.
    pub change: Change,
}

/// The link that a request is for, by its USERNAME; `None` when it is no request or carries none of ours.
#[must_use]
pub fn receiver_index(message: &Message) -> Option<u32> {
    match message.class {
        Class::Request => message.username.map(|name| name.receiver),
        Class::Success | Class::Error | Class::Indication => None,
    }
}

/// The message that `bytes` are. Its integrity is *not* checked: that is [`verify`]'s, with a key.
///
/// # Errors
/// When they are not one whole Binding message with attributes that we understand.
pub fn parse(bytes: &[u8]) -> Result<Message, StunError> {
    let outline = prefilter::outline(bytes)?;
    let (message, _) = MessageDecoderBuilder::default()
        .build()
        .decode(&outline.kept)
        .map_err(|_| StunError::Attribute)?;
    if let Some(value) = outline.fingerprint
        && !get_input_text::<Fingerprint>(bytes)
            .is_some_and(|text| Fingerprint::from(value).validate(&text))
    {
        return Err(StunError::Fingerprint);
    }
    let flags = message
        .get::<ChangeRequest>()
        .and_then(|a| Some(a.as_change_request().ok()?.flags()));
    let change = flags.map_or_else(Change::default, |flags| Change {
        address: flags.contains(ChangeRequestFlags::ChangeIp),
        port: flags.contains(ChangeRequestFlags::ChangePort),
    });
    Ok(Message {
        class: outline.class,
        transaction: outline.transaction,
        username: message
            .get::<UserName>()
            .and_then(|a| a.as_user_name().ok()?.as_str().parse().ok()),
        mapped: message
            .get::<XorMappedAddress>()
            .and_then(|a| Some(*a.as_xor_mapped_address().ok()?.socket_address())),
        response_origin: message
            .get::<ResponseOrigin>()
            .and_then(|a| Some(*a.as_response_origin().ok()?.socket_address())),
        other_address: message
            .get::<OtherAddress>()
            .and_then(|a| Some(*a.as_other_address().ok()?.socket_address())),
        change,
    })
}

/// Whether a message's MESSAGE-INTEGRITY-SHA256 was made with `key`; `false` when it has none. Takes constant time for
/// the comparison.
#[must_use]
pub fn verify(bytes: &[u8], key: &Key) -> bool {
    let Ok(outline) = prefilter::outline(bytes) else {
        return false;
    };
    let (Some(tag), Some(text)) = (
        outline.integrity,
        get_input_text::<MessageIntegritySha256>(bytes),
    ) else {
        return false;
    };
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, password(key).as_bytes());
    aws_lc_rs::hmac::verify(&key, &text, &tag).is_ok()
}

/// A Binding request with FINGERPRINT, padded (PADDING, RFC 5780, section 7.6) to `pad_to` bytes when it is smaller.
#[must_use]
pub fn encode_request(
    transaction: Transaction,
    username: Option<Username>,
    key: Option<&Key>,
    pad_to: Option<usize>,
) -> Vec<u8> {
    let mut attributes: Vec<StunAttribute> = Vec::new();
    let mut size = HEADER + FINGERPRINT + key.map_or(0, |_| INTEGRITY);
    if let Some(username) = username {
        let name = UserName::new(username.to_string()).expect("hex digits and a colon are a name");
        attributes.push(name.into());
        size += USERNAME;
    }
    let pad_to = pad_to.unwrap_or(0).min(MAX_SIZE) & !3;
    if let Some(room) = pad_to.checked_sub(size + ATTRIBUTE_HEADER) {
        let padding = Padding::new("\0".repeat(room)).expect("smaller than the limit of 64000");
        attributes.push(padding.into());
    }
    encode(MessageClass::Request, transaction, attributes, key, true)
}

/// A Binding request to a STUN server, of [`REQUEST_SIZE`] bytes, that wants its answer from elsewhere if `change` says so.
#[must_use]
pub fn encode_probe(transaction: Transaction, change: Change) -> Vec<u8> {
    if change == Change::default() {
        return encode_request(transaction, None, None, Some(REQUEST_SIZE));
    }
    let flags = match (change.address, change.port) {
        (true, true) => ChangeRequestFlags::ChangeIp | ChangeRequestFlags::ChangePort,
        (true, false) => ChangeRequestFlags::ChangeIp.into(),
        (false, _) => ChangeRequestFlags::ChangePort.into(),
    };
    let room = REQUEST_SIZE - HEADER - FINGERPRINT - CHANGE_REQUEST - ATTRIBUTE_HEADER;
    let padding = Padding::new("\0".repeat(room)).expect("smaller than the limit of 64000");
    let attributes = vec![ChangeRequest::new(Some(flags)).into(), padding.into()];
    encode(MessageClass::Request, transaction, attributes, None, true)
}

/// A Binding success response with FINGERPRINT that says `mapped`.
#[must_use]
pub fn encode_response(transaction: Transaction, mapped: SocketAddr, key: Option<&Key>) -> Vec<u8> {
    let attributes = vec![XorMappedAddress::from(mapped).into()];
    encode(
        MessageClass::SuccessResponse,
        transaction,
        attributes,
        key,
        true,
    )
}

fn encode(
    class: MessageClass,
    transaction: Transaction,
    attributes: Vec<StunAttribute>,
    key: Option<&Key>,
    fingerprint: bool,
) -> Vec<u8> {
    let mut builder = StunMessageBuilder::new(BINDING, class)
        .with_transaction_id(TransactionId::from(transaction));
    for attribute in attributes {
        builder = builder.with_attribute(attribute);
    }
    if let Some(key) = key {
        let key = HMACKey::new_short_term(password(key)).expect("hex digits are a password");
        builder = builder.with_attribute(MessageIntegritySha256::new(key));
    }
    if fingerprint {
        builder = builder.with_attribute(Fingerprint::default());
    }
    let mut buffer = vec![0; MAX_SIZE + HEADER];
    let size = MessageEncoderBuilder::default()
        .build()
        .encode(&mut buffer, &builder.build())
        .expect("every attribute is ours and the buffer is larger than their sum");
    buffer.truncate(size);
    buffer
}

fn password(key: &Key) -> String {
    use fmt::Write as _;
    key.iter()
        .fold(String::with_capacity(64), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

impl fmt::Display for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}:{:08x}", self.receiver, self.sender)
    }
}

impl FromStr for Username {
    type Err = StunError;

    fn from_str(text: &str) -> Result<Self, StunError> {
        let index =
            |digits: &str| u32::from_str_radix(digits, 16).map_err(|_| StunError::Attribute);
        let (receiver, sender) = text.split_once(':').ok_or(StunError::Attribute)?;
        let username = Self {
            receiver: index(receiver)?,
            sender: index(sender)?,
        };
        // One text for one name: no sign, no missing or capital digit.
        if username.to_string() == text {
            Ok(username)
        } else {
            Err(StunError::Attribute)
        }
    }
}

/// Sizes in bytes, attribute headers included.
const HEADER: usize = 20;
const ATTRIBUTE_HEADER: usize = 4;
const USERNAME: usize = ATTRIBUTE_HEADER + 20;
const INTEGRITY: usize = ATTRIBUTE_HEADER + 32;
const FINGERPRINT: usize = ATTRIBUTE_HEADER + 4;
const CHANGE_REQUEST: usize = ATTRIBUTE_HEADER + 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::vectors::Vector;

    const NAME: Username = Username {
        receiver: 0x0123_4567,
        sender: 0x89ab_cdef,
    };

    /// RFC 5769, section 2.2, without its SHA-1 integrity and what follows: an IPv4 response.
    #[test]
    fn the_rfcs_mapped_address_is_read() {
        let response = [
            0x01, 0x01, 0x00, 0x1c, 0x21, 0x12, 0xa4, 0x42, 0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34,
            0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae, 0x80, 0x22, 0x00, 0x0b, 0x74, 0x65, 0x73, 0x74,
            0x20, 0x76, 0x65, 0x63, 0x74, 0x6f, 0x72, 0x20, 0x00, 0x20, 0x00, 0x08, 0x00, 0x01,
            0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43,
        ];
        let message = parse(&response).expect("the RFC's");
        assert_eq!(message.class, Class::Success);
        assert_eq!(message.mapped, "192.0.2.1:32853".parse().ok());
    }

    /// What PROTOCOL.md says of path checks.
    #[test]
    fn the_vectors_of_checks_hold() {
        let vector = Vector::named("path-check");
        let transaction = vector.array("transaction");
        let (requester, answerer) = (vector.array("requester-key"), vector.array("answerer-key"));
        let name = Username {
            receiver: 0x9a8b_7c6d,
            sender: 0x0102_0304,
        };
        let request = encode_request(transaction, Some(name), Some(&requester), None);
        assert_eq!(request, vector.bytes("request"));
        assert!(verify(&request, &requester) && !verify(&request, &answerer));
        assert_eq!(parse(&request).map(|it| it.username), Ok(Some(name)));
        for (field, mapped) in [
            ("answer", "203.0.113.5:40000"),
            ("answer-ipv6", "[2001:db8::5]:40000"),
        ] {
            let mapped = mapped.parse().expect("an address");
            let answer = encode_response(transaction, mapped, Some(&answerer));
            assert_eq!(answer, vector.bytes(field), "{field}");
            assert!(verify(&answer, &answerer));
            assert_eq!(parse(&answer).map(|it| it.mapped), Ok(Some(mapped)));
        }
    }

    /// What PROTOCOL.md says of asking a rendezvous.
    #[test]
    fn the_vectors_of_observation_hold() {
        let vector = Vector::named("observation");
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let request = encode_request(vector.array("transaction"), None, None, Some(REQUEST_SIZE));
        assert_eq!(request, vector.bytes("request"));
        let server = ServerAddresses {
            origin: address("198.51.100.1:7777"),
            other: Some(address("198.51.100.1:7778")),
        };
        let answer = answer(&request, address("203.0.113.5:40000"), &server).expect("an answer");
        assert_eq!(answer, vector.bytes("answer"));
    }

    #[test]
    fn a_name_is_written_in_one_way() {
        assert_eq!("01234567:89abcdef".parse(), Ok(NAME));
        for other in [
            "1234567:89abcdef",
            "01234567:89ABCDEF",
            "+1234567:89abcdef",
            "01234567",
            "",
        ] {
            assert_eq!(
                other.parse::<Username>(),
                Err(StunError::Attribute),
                "{other}"
            );
        }
    }

    #[test]
    fn a_request_is_as_large_as_asked() {
        for size in [96, REQUEST_SIZE, 1280, MAX_SIZE] {
            let request = encode_request([1; 12], None, None, Some(size));
            assert_eq!(request.len(), size & !3);
            assert!(parse(&request).is_ok());
        }
        assert_eq!(
            encode_request([1; 12], None, None, Some(usize::MAX)).len(),
            MAX_SIZE
        );
    }

    #[test]
    fn a_wish_for_another_source_is_read_as_it_was_written() {
        for (address, port) in [(false, false), (false, true), (true, false), (true, true)] {
            let change = Change { address, port };
            let probe = encode_probe([4; 12], change);
            assert_eq!(probe.len(), REQUEST_SIZE);
            assert_eq!(parse(&probe).map(|it| it.change), Ok(change));
        }
    }

    #[test]
    fn an_unknown_attribute_is_refused_only_when_it_must_be_understood() {
        let with = |kind: u16| {
            let mut bytes = encode_request([2; 12], None, None, None)[..HEADER].to_vec();
            bytes.extend([&kind.to_be_bytes()[..], &[0, 1, 7, 0, 0, 0]].concat());
            bytes[3] = 8;
            bytes
        };
        assert_eq!(parse(&with(0x7001)), Err(StunError::Unknown(0x7001)));
        assert!(
            parse(&with(0x8022)).is_ok(),
            "SOFTWARE is not even looked at"
        );
    }

    proptest! {
        #[test]
        fn a_check_comes_back_as_it_was(transaction: Transaction, receiver: u32, sender: u32, key: Key, pad in 0usize..600) {
            let name = Username { receiver, sender };
            let bytes = encode_request(transaction, Some(name), Some(&key), Some(pad));
            let message = parse(&bytes).expect("own bytes");
            prop_assert_eq!(message.class, Class::Request);
            prop_assert_eq!(message.transaction, transaction);
            prop_assert_eq!(message.username, Some(name));
            prop_assert_eq!(receiver_index(&message), Some(receiver));
            prop_assert!(verify(&bytes, &key));
        }

        #[test]
        fn an_answer_comes_back_as_it_was(transaction: Transaction, ip: std::net::IpAddr, port: u16, key: Key) {
            let mapped = SocketAddr::new(ip, port);
            let bytes = encode_response(transaction, mapped, Some(&key));
            prop_assert_eq!(parse(&bytes).expect("own bytes").mapped, Some(mapped));
            prop_assert!(verify(&bytes, &key));
            let request = encode_request(transaction, Some(NAME), Some(&key), None);
            prop_assert!(bytes.len() <= request.len(), "a check is not amplified");
        }

        #[test]
        fn a_changed_message_is_never_verified(key: Key, at in 0usize..1000, flip in 1u8..) {
            let mut bytes = encode_request([3; 12], Some(NAME), Some(&key), None);
            let protected = bytes.len() - FINGERPRINT;
            bytes[at % protected] ^= flip;
            // The length in the header is adjusted before the HMAC is made (RFC 8489, section 14.6): it alone is free,
            // and a false one does not parse.
            prop_assert!(!(verify(&bytes, &key) && parse(&bytes).is_ok()));
            let mut other = key;
            other[at % 32] ^= flip;
            prop_assert!(!verify(&encode_request([3; 12], Some(NAME), Some(&key), None), &other));
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), as_stun: bool, key: Key) {
            if as_stun && bytes.len() >= HEADER {
                let length = u16::try_from(bytes.len() - HEADER).expect("short");
                bytes[..4].copy_from_slice(&[&[0, 1][..], &length.to_be_bytes()].concat());
                bytes[4..8].copy_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
            }
            let _ = (parse(&bytes), verify(&bytes, &key));
        }

        #[test]
        fn damaged_messages_never_panic(at in 0usize..1000, value: u8, cut in 0usize..140) {
            let mut bytes = encode_request([3; 12], Some(NAME), Some(&[9; 32]), Some(140));
            let length = bytes.len();
            bytes[at % length] = value;
            let _ = (parse(&bytes), verify(&bytes, &[9; 32]), parse(&bytes[..cut]));
        }
    }
}
