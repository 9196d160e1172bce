//! What a proxy is told so that it lets a stream through, and what its answers mean: bytes in, bytes out.
//!
//! ```text
//!   http   CONNECT host:port ─▶ 200, or 407 with a challenge ─▶ CONNECT with an answer to it (Basic, Digest)
//!   socks  methods ─▶ user and password ─▶ CONNECT host:port ─▶ open
//! ```
//!
//! Names are resolved by the proxy. Nothing here connects, and nothing is said twice: a wrong password least of all.

pub mod digest;
pub mod http;
pub mod socks;

use zeroize::Zeroizing;

/// A user and a password, wiped when dropped.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password.
    pub password: Zeroizing<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({})", self.user)
    }
}

/// `host:port`, with the brackets that an IPv6 address needs.
#[must_use]
pub fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}
