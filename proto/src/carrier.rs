//! Datagrams inside an HTTPS stream: how they are framed, and how both ends of a TLS session prove that they are its ends.
//!
//! ```text
//!  peer                                                          rendezvous (or a hub)
//!    │ ── TLS 1.3 ──────────────────────────────────────────────▶ │   any certificate
//!    │ ── GET / HTTP/1.1, Upgrade: kuguri/1, Kuguri-Proof: P ───▶ │   P: knows the pinned key     (HMAC)
//!    │ ◀── 101 Switching Protocols, Kuguri-Proof: S ───────────── │   S: has the pinned key       (Ed25519)
//!    │ ◀═ length, datagram ‖ length, datagram ‖ … ══════════════▶ │   both over this session's exporter
//! ```
//!
//! It decides who is at the other end. Certificates decide nothing: whoever opens TLS on the way has two sessions with two
//! exporters, and no proof fits. It knows neither TLS nor HTTP, only what they carry.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::identity::{Identity, PeerId};

/// What the request asks to be upgraded to (RFC 9110, section 7.8).
pub const PROTOCOL: &str = "kuguri/1";
/// The header of both proofs.
pub const PROOF: &str = "kuguri-proof";
/// The header in which a server that gives no carrier says which certificate is its own.
pub const STATEMENT: &str = "kuguri-certificate";
/// The label of the TLS exporter (RFC 8446, section 7.5), without a context.
pub const LABEL: &[u8] = b"EXPORTER-kuguri-https-1";
/// Bytes before each datagram: its length.
pub const HEADER: usize = 2;
/// The largest datagram, in bytes.
pub const MAX_DATAGRAM: usize = 65_507;

/// What only the two ends of one TLS session know: 32 bytes by the exporter of [`LABEL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Binding(pub [u8; 32]);

impl Binding {
    /// What a client shows: it knows the server's key, and is the end of this session.
    #[must_use]
    pub fn client_proof(&self, server: PeerId) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &server.0);
        URL_SAFE_NO_PAD.encode(hmac::sign(&key, &self.text(CLIENT)))
    }

    /// Whether a client has shown it; takes as long for any wrong text of one length.
    #[must_use]
    pub fn is_client_proof(&self, server: PeerId, proof: &[u8]) -> bool {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &server.0);
        URL_SAFE_NO_PAD
            .decode(proof)
            .is_ok_and(|tag| hmac::verify(&key, &self.text(CLIENT), &tag).is_ok())
    }

    /// What a server shows: it has the key, and is the end of this session.
    #[must_use]
    pub fn server_proof(&self, identity: &Identity) -> String {
        sign(identity, &self.text(SERVER))
    }

    /// Whether the server with that key has shown it.
    #[must_use]
    pub fn is_server_proof(&self, server: PeerId, proof: &[u8]) -> bool {
        is_signed(server, &self.text(SERVER), proof)
    }

    fn text(&self, whose: &[u8]) -> Vec<u8> {
        [whose, &self.0].concat()
    }
}

/// What a server says of its certificate (DER) to who asked for a carrier and gets none.
#[must_use]
pub fn statement(identity: &Identity, certificate: &[u8]) -> String {
    let hash = digest(&SHA256, certificate);
    let hash = hash.as_ref();
    let signature = sign(identity, &[CERTIFICATE, hash].concat());
    format!("{}.{signature}", URL_SAFE_NO_PAD.encode(hash))
}

/// Whether what was said is the statement of the server with that key about this very certificate; `None` when it is no word of
/// that server.
#[must_use]
pub fn is_of_certificate(server: PeerId, certificate: &[u8], said: &[u8]) -> Option<bool> {
    let dot = said.iter().position(|byte| *byte == b'.')?;
    let (hash, signature) = (said.get(..dot)?, said.get(dot + 1..)?);
    let hash = URL_SAFE_NO_PAD.decode(hash).ok()?;
    let text = [CERTIFICATE, hash.as_slice()].concat();
    is_signed(server, &text, signature).then(|| hash == digest(&SHA256, certificate).as_ref())
}

/// The datagram that stands first in `stream`, and what is behind it; `None` when it is not all there.
#[must_use]
pub fn first(stream: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = stream.split_first_chunk::<HEADER>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

/// Writes a datagram behind `stream`. One that is too large for any network is left out, which says `false`.
pub fn append(stream: &mut Vec<u8>, datagram: &[u8]) -> bool {
    let length = u16::try_from(datagram.len()).ok();
    let Some(length) = length.filter(|_| datagram.len() <= MAX_DATAGRAM) else {
        return false;
    };
    stream.extend_from_slice(&length.to_be_bytes());
    stream.extend_from_slice(datagram);
    true
}

fn sign(identity: &Identity, text: &[u8]) -> String {
    let pair = Ed25519KeyPair::from_seed_unchecked(identity.seed())
        .expect("any 32 bytes are an Ed25519 seed");
    URL_SAFE_NO_PAD.encode(pair.sign(text))
}

fn is_signed(by: PeerId, text: &[u8], signature: &[u8]) -> bool {
    let key = UnparsedPublicKey::new(&ED25519, by.0);
    URL_SAFE_NO_PAD
        .decode(signature)
        .is_ok_and(|signature| key.verify(text, &signature).is_ok())
}

const CLIENT: &[u8] = b"kuguri https client";
const SERVER: &[u8] = b"kuguri https server";
const CERTIFICATE: &[u8] = b"kuguri https certificate";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::vectors::Vector;

    /// What PROTOCOL.md says.
    #[test]
    fn the_vectors_hold() {
        let vector = Vector::named("carrier");
        let identity = Identity::from_seed(&vector.array("seed"));
        let binding = Binding(vector.array("exporter"));
        assert_eq!(
            binding.client_proof(identity.id()),
            vector.text("client-proof")
        );
        assert_eq!(binding.server_proof(&identity), vector.text("server-proof"));
        let certificate = vector.bytes("certificate");
        assert_eq!(statement(&identity, certificate), vector.text("statement"));
        let mut stream = Vec::new();
        assert!(append(&mut stream, vector.bytes("datagram")));
        assert_eq!(stream, vector.bytes("framed"));
    }

    #[test]
    fn a_proof_is_of_one_key_and_one_session() {
        let (own, other) = (Identity::from_seed(&[1; 32]), Identity::from_seed(&[2; 32]));
        let (here, there) = (Binding([3; 32]), Binding([4; 32]));
        let client = here.client_proof(own.id());
        let server = here.server_proof(&own);
        assert!(here.is_client_proof(own.id(), client.as_bytes()));
        assert!(here.is_server_proof(own.id(), server.as_bytes()));
        for (binding, key) in [(there, own.id()), (here, other.id())] {
            assert!(!binding.is_client_proof(key, client.as_bytes()));
            assert!(!binding.is_server_proof(key, server.as_bytes()));
        }
        assert!(!here.is_server_proof(own.id(), client.as_bytes()));
        assert!(!here.is_client_proof(own.id(), b""));
    }

    #[test]
    fn a_statement_is_of_one_certificate() {
        let own = Identity::from_seed(&[1; 32]);
        let said = statement(&own, b"one");
        let of = |server, certificate| is_of_certificate(server, certificate, said.as_bytes());
        assert_eq!(of(own.id(), b"one"), Some(true));
        assert_eq!(of(own.id(), b"two"), Some(false));
        assert_eq!(of(PeerId([9; 32]), b"one"), None);
        for bad in ["", ".", "a.b", &said[1..]] {
            assert_eq!(
                is_of_certificate(own.id(), b"one", bad.as_bytes()),
                None,
                "{bad}"
            );
        }
    }

    #[test]
    fn what_no_network_carries_is_not_framed() {
        let mut stream = Vec::new();
        assert!(!append(&mut stream, &[0; MAX_DATAGRAM + 1]));
        assert!(stream.is_empty());
        assert!(append(&mut stream, &[0; MAX_DATAGRAM]));
    }

    proptest! {
        #[test]
        fn datagrams_come_out_as_they_went_in(
            datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut stream = Vec::new();
            for datagram in &datagrams {
                prop_assert!(append(&mut stream, datagram));
            }
            let (mut rest, mut read) = (stream.as_slice(), Vec::new());
            while let Some((datagram, behind)) = first(rest) {
                read.push(datagram.to_vec());
                rest = behind;
            }
            prop_assert_eq!(&read, &datagrams);
            prop_assert!(rest.is_empty());
            // Of a part of a stream nothing is read that is not whole.
            let (mut rest, mut count) = (&stream[..cut.index(stream.len() + 1)], 0);
            while let Some((datagram, behind)) = first(rest) {
                prop_assert_eq!(datagram, datagrams[count].as_slice());
                (count, rest) = (count + 1, behind);
            }
        }
    }
}
