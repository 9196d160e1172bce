//! `HOST[:PORT]`, as a person writes the rendezvous: read once, shown in one form ever after.
//!
//! The one form is also the name under which its key is remembered, so that `vps.example` and `vps.example:7777` are
//! the same server.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::str::FromStr;

use kuguri_rendezvous::DEFAULT_PORT;

/// A host name or IP address and a UDP port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    host: String,
    port: u16,
}

impl HostPort {
    /// From a name or an IP address without brackets, and a port.
    ///
    /// # Errors
    /// When it is neither.
    pub fn new(host: &str, port: u16) -> Result<Self, NotAHostPort> {
        let plain = |c: char| c.is_alphanumeric() || "-._:%".contains(c);
        let address = !host.contains(':') || host.parse::<Ipv6Addr>().is_ok();
        if host.is_empty() || port == 0 || !address || !host.chars().all(plain) {
            return Err(NotAHostPort);
        }
        Ok(Self {
            host: host.to_ascii_lowercase(),
            port,
        })
    }

    /// The name or address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Asks the system's resolver for its addresses, in the resolver's order.
    ///
    /// # Errors
    /// When the name cannot be resolved now.
    pub async fn resolve(&self) -> std::io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((self.host(), self.port))
            .await?
            .collect())
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Text that is neither a host nor a host and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write HOST or HOST:PORT, such as vps.example, 192.0.2.1:7777 or [2001:db8::1]:7777")]
pub struct NotAHostPort;

impl FromStr for HostPort {
    type Err = NotAHostPort;

    fn from_str(text: &str) -> Result<Self, NotAHostPort> {
        let (host, port) = split(text.trim())?;
        let port = match port {
            None => DEFAULT_PORT,
            Some(digits) => digits.parse().map_err(|_| NotAHostPort)?,
        };
        Self::new(host, port)
    }
}

/// The host, and the port's digits when there are any.
fn split(text: &str) -> Result<(&str, Option<&str>), NotAHostPort> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or(NotAHostPort)?;
        host.parse::<Ipv6Addr>().map_err(|_| NotAHostPort)?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(NotAHostPort),
        };
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Ok((text, None));
    }
    match text.split_once(':') {
        Some((_, port)) if port.contains(':') => Err(NotAHostPort),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((text, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_of_writing_it_has_one_form() {
        for (written, form) in [
            ("vps.example", "vps.example:7777"),
            ("VPS.example:443", "vps.example:443"),
            ("192.0.2.1", "192.0.2.1:7777"),
            ("2001:db8::1", "[2001:db8::1]:7777"),
            ("[2001:db8::1]", "[2001:db8::1]:7777"),
            ("[2001:db8::1]:443", "[2001:db8::1]:443"),
        ] {
            let parsed: HostPort = written.parse().expect(written);
            assert_eq!(parsed.to_string(), form);
            assert_eq!(form.parse(), Ok(parsed), "the form reads back");
        }
    }

    #[test]
    fn other_text_is_refused() {
        for bad in [
            "", ":7777", "a:0", "a:65536", "a:b", "a:1:2", "[::1", "[::1]x", "[a]:1", "a b",
            "http://a",
        ] {
            assert_eq!(bad.parse::<HostPort>(), Err(NotAHostPort), "{bad}");
        }
    }
}
