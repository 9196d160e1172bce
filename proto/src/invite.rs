//! The one string that brings a member to a hub: `kuguri://` and base64url of
//!
//! ```text
//!   ┌─────────┬──────────────────────────────────────────────┬──────────┐
//!   │ version │ hub key · rendezvous … · token · hub's name  │ checksum │
//!   │ 1 byte  │ bincode                                      │ 4 bytes  │
//!   └─────────┴──────────────────────────────────────────────┴──────────┘
//! ```
//!
//! People send it by mail and chat, so what those add is forgiven: line breaks, spaces, quotation marks and brackets around
//! it, words before it. Whatever else has changed is found by the checksum, the first four bytes of a SHA-256 over the rest.
//! Version and checksum stay where they are in every version, so that an old program can say "newer" and not "damaged".

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bincode::{Decode, Encode};
use zeroize::Zeroizing;

use crate::identity::PeerId;
use crate::wire::codec;

/// What a member needs to know to join a hub.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct Invite {
    /// The hub's key.
    pub hub: PeerId,
    /// Where the hub is registered, from one to [`MAX_RENDEZVOUS`].
    pub rendezvous: Vec<RendezvousRef>,
    /// What to show to the hub; `None` when it knows the member's key.
    pub token: Option<[u8; 16]>,
    /// The hub's name, for people, at most [`MAX_NAME`] bytes.
    pub hub_name: String,
}

/// A public server, and the key that it must show.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RendezvousRef {
    /// A DNS name or an IP address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Its key.
    pub key: PeerId,
}

/// Why a text is not an invite. Each says in one sentence what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    /// Nothing there.
    #[error("the invite is empty; paste the whole kuguri://… text that the hub printed")]
    Empty,
    /// Something else.
    #[error(
        "this is not an invite; an invite begins with kuguri://, copy it whole from what the hub printed"
    )]
    NotAnInvite,
    /// Cut off, or some character of it is wrong.
    #[error("the invite is damaged or cut off; copy it again, whole, from what the hub printed")]
    Mangled,
    /// Of a version that this program does not know.
    #[error("the invite was made by a newer version of Kuguri (format {0}); update this one")]
    Newer(u8),
    /// Whole, but with contents that no hub's invite has; or, when making one, that none may have.
    #[error("the invite has {0}; ask the hub for another one")]
    Invalid(&'static str),
}

impl Invite {
    /// The text for people to send.
    ///
    /// # Errors
    /// [`InviteError::Invalid`] when it would break a limit.
    pub fn to_text(&self) -> Result<String, InviteError> {
        self.check()?;
        let body = codec::encode(self).map_err(|_| InviteError::Invalid("too much in it"))?;
        let body = Zeroizing::new(body);
        let mut bytes = Zeroizing::new(Vec::with_capacity(body.len() + 5));
        bytes.push(VERSION);
        bytes.extend_from_slice(&body);
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        Ok(format!("{SCHEME}{}", URL_SAFE_NO_PAD.encode(&*bytes)))
    }

    fn check(&self) -> Result<(), InviteError> {
        let wrong = if self.rendezvous.is_empty() {
            "no rendezvous"
        } else if self.rendezvous.len() > MAX_RENDEZVOUS {
            "too many rendezvous"
        } else if self.rendezvous.iter().any(|r| !is_host(&r.host)) {
            "a rendezvous that is neither a name nor an address"
        } else if self.rendezvous.iter().any(|r| r.port == 0) {
            "a rendezvous without a port"
        } else if self.hub_name.len() > MAX_NAME || !self.hub_name.chars().all(is_printable) {
            "a hub's name that is too long or cannot be shown"
        } else {
            return Ok(());
        };
        Err(InviteError::Invalid(wrong))
    }
}

impl FromStr for Invite {
    type Err = InviteError;

    fn from_str(text: &str) -> Result<Self, InviteError> {
        let bytes = Zeroizing::new(unwrap_text(text)?);
        let (content, sum) = bytes.split_last_chunk().ok_or(InviteError::Mangled)?;
        if checksum(content) != *sum {
            return Err(InviteError::Mangled);
        }
        match content.split_first() {
            Some((&VERSION, body)) => {
                let invite: Self = codec::decode(body).map_err(|_| InviteError::Mangled)?;
                invite.check()?;
                Ok(invite)
            }
            Some((&newer, _)) if newer > VERSION => Err(InviteError::Newer(newer)),
            _ => Err(InviteError::Mangled),
        }
    }
}

impl fmt::Debug for Invite {
    /// Never shows the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invite")
            .field("hub", &self.hub)
            .field("rendezvous", &self.rendezvous)
            .field("token", &self.token.map(|_| "…"))
            .field("hub_name", &self.hub_name)
            .finish()
    }
}

/// Takes off what mail and chat programs put around and into a text, and the scheme.
fn unwrap_text(text: &str) -> Result<Vec<u8>, InviteError> {
    if text.len() > MAX_TEXT {
        return Err(InviteError::NotAnInvite);
    }
    let text: Zeroizing<String> =
        Zeroizing::new(text.chars().filter(|c| !is_wrapping(*c)).collect());
    if text.is_empty() {
        return Err(InviteError::Empty);
    }
    // `to_ascii_lowercase` keeps every character's place, so what is found in it is there in the text as well.
    let lowercase = Zeroizing::new(text.to_ascii_lowercase());
    let start = lowercase.find(SCHEME).ok_or(InviteError::NotAnInvite)? + SCHEME.len();
    let encoded = text[start..].trim_end_matches(is_punctuation);
    if encoded.is_empty() {
        return Err(InviteError::Mangled);
    }
    URL_SAFE_NO_PAD
        .decode(encoded)
        .map_err(|_| InviteError::Mangled)
}

/// White space, invisible characters, the `=` of a soft line break (RFC 2045, section 6.7), the `>` of a quoted line and what
/// is put around an address: none of them is ever part of an invite.
fn is_wrapping(c: char) -> bool {
    c.is_whitespace()
        || c.is_control()
        || "=<>\"'`“”„‘’«»\u{ad}\u{200b}\u{200c}\u{200d}\u{2060}\u{feff}".contains(c)
}

/// What a sentence puts behind an invite.
fn is_punctuation(c: char) -> bool {
    ".,;:!?/)]}*。、，）".contains(c)
}

fn checksum(content: &[u8]) -> [u8; 4] {
    let input = Zeroizing::new([CHECKSUM_CONTEXT, content].concat());
    let hash = digest(&SHA256, &input);
    *hash.as_ref().first_chunk().expect("SHA-256 has 32 bytes")
}

/// An IP address, or a name of letters, digits and hyphens (RFC 1123, section 2.1) that cannot be taken for one.
fn is_host(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok()
        || host.len() <= MAX_HOST
            && host.split('.').all(is_label)
            && host.rsplit('.').next().is_some_and(|top| !is_number(top))
}

fn is_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || *b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn is_number(label: &str) -> bool {
    label.bytes().all(|b| b.is_ascii_digit())
}

/// Neither steers a terminal nor turns the direction of writing: a name is shown to people as it is.
fn is_printable(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// What an invite begins with.
pub const SCHEME: &str = "kuguri://";
/// No invite names more servers.
pub const MAX_RENDEZVOUS: usize = 4;
/// A hub's name is not longer, in bytes.
pub const MAX_NAME: usize = 63;
/// A host's name is not longer, in bytes (RFC 1035, section 2.3.4, without the root's dot).
pub const MAX_HOST: usize = 253;
/// The version of the format.
const VERSION: u8 = 1;
/// No text with an invite in it is longer, in bytes: the largest invite takes about 1,800, the rest is a mail's wrapping.
const MAX_TEXT: usize = 8 * 1024;
/// Separates this use of the hash from every other.
const CHECKSUM_CONTEXT: &[u8] = b"kuguri invite";

#[cfg(test)]
mod tests;
