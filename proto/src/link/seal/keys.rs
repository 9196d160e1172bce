//! The key schedule: from one TLS exporter value to every key of a link.
//!
//! ```text
//!   TLS exporter, 64 bytes
//!     ├─ "kuguri/1 check"  ‖ sender          ─▶ key of that side's path checks
//!     ├─ "kuguri/1 resume"                   ─▶ resumption secret
//!     └─ "kuguri/1 chain"                    ─▶ C0 ─▶ C1 ─▶ C2 ─▶ …   one per epoch; a step mixes in a fresh X25519
//!                                                │     │
//!          "kuguri/1 seal" ‖ suite ‖ sender ‖ epoch    └─▶ keys of epoch 1, both directions
//!                                                └───────▶ keys of epoch 0, both directions
//! ```
//!
//! It decides the labels and nothing else; who steps when is `link::rekey`. Everything secret is wiped when dropped.

use aws_lc_rs::aead::{AES_256_GCM, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
use aws_lc_rs::hkdf::{self, HKDF_SHA256, KeyType, Prk, Salt};
use zeroize::Zeroizing;

use crate::wire::control::{ALPN_AES, ALPN_CHACHA};

/// The label with which TLS exports the secret of a link (RFC 8446, section 7.5); the context is empty.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-kuguri-1";
/// Bytes that are exported.
pub const EXPORTED: usize = 64;

/// How frames are sealed. Agreed by TLS, by ALPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// AES-256-GCM (RFC 5116, section 5.2).
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439).
    ChaCha20Poly1305,
}

impl Suite {
    /// What a machine offers, best first.
    #[must_use]
    pub const fn offers(aes_in_hardware: bool) -> &'static [&'static [u8]] {
        if aes_in_hardware {
            &[ALPN_AES, ALPN_CHACHA]
        } else {
            &[ALPN_CHACHA]
        }
    }

    /// The suite that an ALPN name stands for.
    #[must_use]
    pub fn from_alpn(name: &[u8]) -> Option<Self> {
        match name {
            ALPN_AES => Some(Self::Aes256Gcm),
            ALPN_CHACHA => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }

    /// Its name for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "AES-256-GCM",
            Self::ChaCha20Poly1305 => "ChaCha20-Poly1305",
        }
    }

    /// Its number in the key schedule.
    const fn number(self) -> u8 {
        match self {
            Self::Aes256Gcm => 1,
            Self::ChaCha20Poly1305 => 2,
        }
    }
}

/// Which side of the TLS session somebody is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It opened the link.
    Client,
    /// It answered.
    Server,
}

impl Role {
    /// The other side.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }

    /// Its number in the key schedule, as sender.
    const fn number(self) -> u8 {
        match self {
            Self::Client => 0,
            Self::Server => 1,
        }
    }
}

/// 32 secret bytes, wiped when dropped.
pub type Secret = Zeroizing<[u8; 32]>;

/// Everything that is derived once per link.
pub struct LinkKeys {
    /// C0: the keys of epoch 0 and the root of all later ones.
    pub chain: Chain,
    /// Authenticates the path checks that this side sends.
    pub check_key: Secret,
    /// Authenticates the path checks that the other side sends.
    pub peer_check_key: Secret,
    /// Proves after an outage that both sides had this link.
    pub resumption: Secret,
}

impl LinkKeys {
    /// The keys of the side `role` of a link.
    #[must_use]
    pub fn derive(exported: &[u8; EXPORTED], role: Role) -> Self {
        let check =
            |sender: Role| extract_and_expand(exported, &[b"kuguri/1 check", &[sender.number()]]);
        Self {
            chain: Chain(extract_and_expand(exported, &[b"kuguri/1 chain"])),
            check_key: check(role),
            peer_check_key: check(role.other()),
            resumption: extract_and_expand(exported, &[b"kuguri/1 resume"]),
        }
    }
}

/// The chain secret of an epoch.
pub struct Chain(Secret);

impl Chain {
    /// The key that `sender` seals with in this epoch.
    #[must_use]
    pub fn key(&self, suite: Suite, sender: Role, epoch: u8) -> EpochKey {
        EpochKey::new(suite, epoch, &self.key_bytes(suite, sender, epoch))
    }

    /// The chain secret of the next epoch, `epoch`: from this one and what X25519 agreed.
    #[must_use]
    pub fn step(&self, agreed: &[u8], epoch: u8, offer: &[u8; 32], answer: &[u8; 32]) -> Self {
        let material = Zeroizing::new([self.0.as_slice(), agreed].concat());
        let info: &[&[u8]] = &[b"kuguri/1 rekey", &[epoch], offer, answer];
        Self(extract_and_expand(&material, info))
    }

    pub(super) fn key_bytes(&self, suite: Suite, sender: Role, epoch: u8) -> Secret {
        let prk = Prk::new_less_safe(HKDF_SHA256, self.0.as_slice());
        let context = [suite.number(), sender.number(), epoch];
        expand(&prk, &[b"kuguri/1 seal", &context])
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    #[cfg(test)]
    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The sealing keys of both suites and senders are those of a test vector.
    #[cfg(test)]
    pub(crate) fn assert_keys(&self, vector: &crate::wire::vectors::Vector, epoch: u8) {
        for (suite, s) in [
            (Suite::Aes256Gcm, "aes"),
            (Suite::ChaCha20Poly1305, "chacha"),
        ] {
            for (sender, r) in [(Role::Client, "client"), (Role::Server, "server")] {
                let expected = vector.array(&format!("{s}-{r}-{epoch}"));
                assert_eq!(*self.key_bytes(suite, sender, epoch), expected, "{s} {r}");
            }
        }
    }
}

/// An AEAD key of one direction and epoch. The back end wipes it when dropped.
pub struct EpochKey {
    pub(super) epoch: u8,
    pub(super) aead: LessSafeKey,
}

impl EpochKey {
    pub(super) fn new(suite: Suite, epoch: u8, key: &[u8; 32]) -> Self {
        let algorithm = match suite {
            Suite::Aes256Gcm => &AES_256_GCM,
            Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        let key = UnboundKey::new(algorithm, key).expect("both suites have keys of 32 bytes");
        Self {
            epoch,
            aead: LessSafeKey::new(key),
        }
    }

    /// The epoch that it belongs to.
    #[must_use]
    pub const fn epoch(&self) -> u8 {
        self.epoch
    }
}

/// HKDF with SHA-256 and no salt (RFC 5869).
fn extract_and_expand(material: &[u8], info: &[&[u8]]) -> Secret {
    expand(&Salt::none(HKDF_SHA256).extract(material), info)
}

fn expand(prk: &Prk, info: &[&[u8]]) -> Secret {
    struct Length;
    impl KeyType for Length {
        fn len(&self) -> usize {
            32
        }
    }
    let mut secret = Secret::default();
    prk.expand(info, Length)
        .and_then(|okm: hkdf::Okm<'_, Length>| okm.fill(secret.as_mut_slice()))
        .expect("32 bytes are one block of HKDF-SHA-256");
    secret
}

impl std::fmt::Debug for EpochKey {
    /// Never shows a key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EpochKey(epoch {})", self.epoch)
    }
}

impl std::fmt::Debug for LinkKeys {
    /// Never shows a key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LinkKeys(…)")
    }
}

impl std::fmt::Debug for Chain {
    /// Never shows a key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Chain(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::wire::vectors::Vector;

    /// What PROTOCOL.md says.
    #[test]
    fn the_vectors_hold() {
        let vector = Vector::named("key-schedule");
        let keys = LinkKeys::derive(&vector.array("exported"), Role::Client);
        assert_eq!(*keys.check_key, vector.array("check-client"));
        assert_eq!(*keys.peer_check_key, vector.array("check-server"));
        assert_eq!(*keys.resumption, vector.array("resumption"));
        assert_eq!(*keys.chain.bytes(), vector.array("chain-0"));
        keys.chain.assert_keys(&vector, 0);
        assert_eq!(EXPORTER_LABEL, Vector::named("alpn").bytes("exporter"));
    }

    /// RFC 5869, appendix A.3: no salt and no info; its 42 bytes begin with our 32.
    #[test]
    fn hkdf_is_that_of_the_rfc() {
        let okm = [
            0x8d, 0xa4, 0xe7, 0x75, 0xa5, 0x63, 0xc1, 0x8f, 0x71, 0x5f, 0x80, 0x2a, 0x06, 0x3c,
            0x5a, 0x31, 0xb8, 0xa1, 0x1f, 0x5c, 0x5e, 0xe1, 0x87, 0x9e, 0xc3, 0x45, 0x4e, 0x5f,
            0x3c, 0x73, 0x8d, 0x2d,
        ];
        assert_eq!(*extract_and_expand(&[0x0b; 22], &[]), okm);
    }

    /// The GCM specification, test case 14: key, nonce and plaintext of zeros, no associated data.
    #[test]
    fn aes_is_that_of_the_specification() {
        let key = EpochKey::new(Suite::Aes256Gcm, 0, &[0; 32]);
        let mut block = [0; 16].to_vec();
        let sealed = key.aead.seal_in_place_append_tag(
            super::super::nonce(0),
            aws_lc_rs::aead::Aad::empty(),
            &mut block,
        );
        let expected = [
            0xce, 0xa7, 0x40, 0x3d, 0x4d, 0x60, 0x6b, 0x6e, 0x07, 0x4e, 0xc5, 0xd3, 0xba, 0xf3,
            0x9d, 0x18, 0xd0, 0xd1, 0xc8, 0xa7, 0x99, 0x99, 0x6b, 0xf0, 0x26, 0x5b, 0x98, 0xb5,
            0xd4, 0x8a, 0xb9, 0x19,
        ];
        assert_eq!((sealed, block.as_slice()), (Ok(()), expected.as_slice()));
    }

    #[test]
    fn every_use_has_its_own_key() {
        let keys = LinkKeys::derive(&[7; EXPORTED], Role::Client);
        let mut seen = BTreeSet::from([
            *keys.check_key,
            *keys.peer_check_key,
            *keys.resumption,
            *keys.chain.bytes(),
        ]);
        for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
            for role in [Role::Client, Role::Server] {
                for epoch in [0, 1] {
                    seen.insert(*keys.chain.key_bytes(suite, role, epoch));
                }
            }
        }
        assert_eq!(seen.len(), 12);
    }

    #[test]
    fn both_sides_derive_the_same() {
        let client = LinkKeys::derive(&[7; EXPORTED], Role::Client);
        let server = LinkKeys::derive(&[7; EXPORTED], Role::Server);
        assert_eq!(client.check_key, server.peer_check_key);
        assert_eq!(client.peer_check_key, server.check_key);
        assert_eq!(client.resumption, server.resumption);
        assert_eq!(client.chain.bytes(), server.chain.bytes());
    }

    #[test]
    fn a_step_depends_on_everything_in_it() {
        let chain = LinkKeys::derive(&[7; EXPORTED], Role::Client).chain;
        let other = LinkKeys::derive(&[8; EXPORTED], Role::Client).chain;
        let (a, b) = ([1; 32], [2; 32]);
        let steps = [
            chain.step(&a, 1, &a, &b),
            other.step(&a, 1, &a, &b),
            chain.step(&b, 1, &a, &b),
            chain.step(&a, 2, &a, &b),
            chain.step(&a, 1, &b, &b),
            chain.step(&a, 1, &a, &a),
        ];
        let distinct: BTreeSet<_> = steps.iter().map(|step| *step.bytes()).collect();
        assert_eq!(distinct.len(), steps.len());
    }

    #[test]
    fn secrets_are_not_shown() {
        let keys = LinkKeys::derive(&[7; EXPORTED], Role::Client);
        let key = keys.chain.key(Suite::Aes256Gcm, Role::Client, 3);
        assert_eq!(
            format!("{keys:?} {:?} {key:?}", keys.chain),
            "LinkKeys(…) Chain(…) EpochKey(epoch 3)"
        );
    }
}
