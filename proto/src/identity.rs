//! Who a peer is: an Ed25519 key, and how it appears in TLS (raw public keys, RFC 7250).
//!
//! Both TLS sessions of Kuguri, the one between two peers over the ARQ and the one to the rendezvous inside QUIC,
//! use these: no names, no chains, no dates; the peer's key is its id, and a session is with that key or fails.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

pub mod tls;

/// A peer's id: its Ed25519 public key, 32 bytes. Shown as 43 characters of base64url.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode)]
pub struct PeerId(pub [u8; 32]);

impl PeerId {
    /// The first eight characters, enough for a person to tell peers apart in a table; never for a decision.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string().chars().take(8).collect()
    }

    /// The key as TLS carries it: a SubjectPublicKeyInfo (RFC 8410, section 4).
    #[must_use]
    pub fn to_spki(self) -> Vec<u8> {
        [SPKI_PREFIX.as_slice(), &self.0].concat()
    }

    /// The id behind a SubjectPublicKeyInfo, if it is an Ed25519 key.
    #[must_use]
    pub fn from_spki(spki: &[u8]) -> Option<Self> {
        let key = spki.strip_prefix(SPKI_PREFIX.as_slice())?;
        Some(Self(key.try_into().ok()?))
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId({})", self.short())
    }
}

/// Text that is not a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key is 43 characters of base64url (letters, digits, - and _); copy it again whole")]
pub struct NotAKey;

impl FromStr for PeerId {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        let bytes = URL_SAFE_NO_PAD.decode(text.trim()).map_err(|_| NotAKey)?;
        Ok(Self(bytes.try_into().map_err(|_| NotAKey)?))
    }
}

impl serde::Serialize for PeerId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for PeerId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A peer's secret: the 32-byte Ed25519 seed, wiped when dropped.
pub struct Identity {
    seed: Zeroizing<[u8; 32]>,
    id: PeerId,
}

impl Identity {
    /// The identity of a seed that the caller drew from the system's randomness, or read from its key file.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let pair =
            Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are an Ed25519 seed");
        let id = PeerId(
            pair.public_key()
                .as_ref()
                .try_into()
                .expect("an Ed25519 public key is 32 bytes"),
        );
        Self {
            seed: Zeroizing::new(*seed),
            id,
        }
    }

    /// The public half.
    #[must_use]
    pub const fn id(&self) -> PeerId {
        self.id
    }

    /// The secret half, for the key file alone.
    #[must_use]
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// The key pair as rustls wants it.
    #[must_use]
    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        let pkcs8 = Zeroizing::new([PKCS8_PREFIX.as_slice(), self.seed.as_slice()].concat());
        let der = PrivatePkcs8KeyDer::from(pkcs8.as_slice());
        let signer = rustls::crypto::aws_lc_rs::sign::any_eddsa_type(&der)
            .expect("a well-formed Ed25519 key");
        Arc::new(CertifiedKey::new(
            vec![CertificateDer::from(self.id.to_spki())],
            signer,
        ))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.id.short())
    }
}

/// RFC 8410: SEQUENCE { SEQUENCE { OID 1.3.101.112 }, BIT STRING } before the 32 bytes of the key.
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
/// RFC 8410, section 7: a PKCS #8 private key before the 32 bytes of the seed.
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::vectors::Vector;

    /// What PROTOCOL.md says.
    #[test]
    fn the_vectors_hold() {
        let vector = Vector::named("identity");
        let id = Identity::from_seed(&vector.array("seed")).id();
        assert_eq!(id.0, vector.array("public"));
        assert_eq!(id.to_spki(), vector.bytes("spki"));
        assert_eq!(PeerId::from_spki(vector.bytes("spki")), Some(id));
        assert_eq!(id.to_string(), vector.text("text"));
        assert_eq!(vector.text("text").parse(), Ok(id));
    }

    #[test]
    fn text_and_spki_round_trip() {
        let id = Identity::from_seed(&[7; 32]).id();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(PeerId::from_spki(&id.to_spki()), Some(id));
        assert_eq!("x".parse::<PeerId>(), Err(NotAKey));
    }

    #[test]
    fn the_secret_is_not_shown() {
        assert!(!format!("{:?}", Identity::from_seed(&[7; 32])).contains("7, 7"));
    }
}
