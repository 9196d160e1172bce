//! TLS 1.3 between two peers, without a socket: bytes from the ARQ in, bytes for the ARQ out.
//!
//! ```text
//!   ARQ ──handle_bytes──▶ ┌─────┐ ──read───▶ control messages
//!                         │ TLS │
//!   ARQ ◀──poll_bytes──── └─────┘ ◀──write── control messages
//!                            └─ export ─▶ keys of the sealed datagrams
//! ```
//!
//! Both sides show a raw public key. The client goes on only if it is the one that it expects: until then nothing of
//! its own leaves but the hello, not even who it is. It knows no control message and no time. TLS draws its
//! randomness from the cryptographic back end, so its bytes differ from run to run even under one seed.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::{AlertDescription, ClientConnection, Connection, Error, ServerConnection};
use zeroize::Zeroizing;

use super::seal::keys::{EXPORTED, EXPORTER_LABEL, Role, Suite};
use crate::identity::tls::{client_config, no_name, peer_id, server_config};
use crate::identity::{Identity, PeerId};

/// No more plaintext than this waits in either direction, in bytes.
pub const MAX_BUFFERED: usize = 256 * 1024;

/// One TLS session.
#[derive(Debug)]
pub struct TlsSession {
    connection: Connection,
    role: Role,
    /// The key that the other side must show; any when `None`.
    expected: Option<PeerId>,
    /// What the other side said and nobody has read.
    received: Vec<u8>,
    /// Bytes that were written and have not left.
    unsent: usize,
    closed: bool,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Handshaking,
    Established { peer: PeerId, suite: Suite },
    Failed(TlsError),
}

/// Why a session failed. It cannot be used any more, but [`TlsSession::poll_bytes`] may still have an alert that
/// tells the other side.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// Somebody else answered, or the invite is wrong.
    #[error(
        "the peer has key {shown}, but {expected} was expected: it is not the peer that you want to reach"
    )]
    WrongKey {
        /// Whom this side wanted.
        expected: PeerId,
        /// The key that the other side has proved to have.
        shown: PeerId,
    },
    /// No version and cipher is known to both.
    #[error(
        "the peer speaks another version of the protocol: the older one of the two must be updated"
    )]
    OtherVersion,
    /// The other side shows no key, or none that this version knows.
    #[error("the peer shows no Ed25519 key")]
    NoKey,
    /// The other side does not take what this one says.
    #[error("the peer refused the TLS session: {0}")]
    RefusedByPeer(String),
    /// What arrived is not what a TLS peer sends: its fault, or damage on the way.
    #[error("what the peer sent is damaged or not TLS: {0}")]
    Malformed(String),
    /// More was sent to us than anybody reads, or is written than can leave: ours.
    #[error("more than {MAX_BUFFERED} bytes wait in the TLS session")]
    Full,
    /// Asked for too early or too late: ours.
    #[error("the TLS session is not established")]
    NotEstablished,
}

impl TlsSession {
    /// The side that opens a link to `expected`.
    #[must_use]
    pub fn client(identity: &Identity, expected: PeerId, aes_in_hardware: bool) -> Self {
        // Any key is taken by the verifier and judged in `establish`, where both keys can be named.
        let config = client_config(identity, None, Suite::offers(aes_in_hardware));
        let connection = ClientConnection::new(Arc::new(config), no_name())
            .expect("a configuration with TLS 1.3 and no SNI");
        Self::new(connection.into(), Role::Client, Some(expected))
    }

    /// The side that answers; [`Self::peer`] then tells who the other is.
    #[must_use]
    pub fn server(identity: &Identity, aes_in_hardware: bool) -> Self {
        let config = server_config(identity, Suite::offers(aes_in_hardware));
        let connection =
            ServerConnection::new(Arc::new(config)).expect("a configuration with TLS 1.3");
        Self::new(connection.into(), Role::Server, None)
    }

    fn new(connection: Connection, role: Role, expected: Option<PeerId>) -> Self {
        let mut session = Self {
            connection,
            role,
            expected,
            received: Vec::new(),
            unsent: 0,
            closed: false,
            state: State::Handshaking,
        };
        // `write` keeps the limit: rustls would cut a message in two.
        session.connection.set_buffer_limit(None);
        session
    }

    /// Takes bytes of the stream, in pieces of any size; [`Self::read`] after each, which should be well below
    /// [`MAX_BUFFERED`].
    ///
    /// # Errors
    /// When the session has failed, now or before.
    pub fn handle_bytes(&mut self, mut bytes: &[u8]) -> Result<(), TlsError> {
        while !bytes.is_empty() {
            self.check()?;
            if let Err(error) = self.take(&mut bytes) {
                self.state = State::Failed(error.clone());
                return Err(error);
            }
        }
        self.check()
    }

    /// Says something to the other side; it leaves after the handshake.
    ///
    /// # Errors
    /// [`TlsError::Full`] (nothing of it was taken), or what the session has failed with.
    pub fn write(&mut self, plaintext: &[u8]) -> Result<(), TlsError> {
        self.check()?;
        if self.unsent.saturating_add(plaintext.len()) > MAX_BUFFERED {
            return Err(TlsError::Full);
        }
        let written = self.connection.writer().write_all(plaintext);
        written.map_err(|_| TlsError::NotEstablished)?;
        self.unsent += plaintext.len();
        Ok(())
    }

    /// Says that this side will write no more.
    pub fn close(&mut self) {
        self.connection.send_close_notify();
    }

    /// Appends to `stream` what the other side must get.
    pub fn poll_bytes(&mut self, stream: &mut Vec<u8>) {
        if matches!(
            self.state,
            State::Failed(TlsError::WrongKey { .. } | TlsError::NoKey)
        ) {
            return;
        }
        while self.connection.wants_write() {
            let written = self.connection.write_tls(stream);
            written.expect("a Vec takes everything");
        }
        if !self.connection.is_handshaking() {
            self.unsent = 0;
        }
    }

    /// Appends to `plaintext` what the other side said.
    pub fn read(&mut self, plaintext: &mut Vec<u8>) {
        plaintext.append(&mut self.received);
    }

    /// Whether both sides have proved their keys.
    #[must_use]
    pub const fn is_established(&self) -> bool {
        matches!(self.state, State::Established { .. })
    }

    /// Whether the other side has said that it writes no more.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Which side this is.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The other side's key, once established.
    #[must_use]
    pub const fn peer(&self) -> Option<PeerId> {
        match self.state {
            State::Established { peer, .. } => Some(peer),
            State::Handshaking | State::Failed(_) => None,
        }
    }

    /// How datagrams are to be sealed, once established.
    #[must_use]
    pub const fn suite(&self) -> Option<Suite> {
        match self.state {
            State::Established { suite, .. } => Some(suite),
            State::Handshaking | State::Failed(_) => None,
        }
    }

    /// The secret from which the link's keys are derived, equal on both sides (RFC 8446, section 7.5).
    ///
    /// # Errors
    /// [`TlsError::NotEstablished`].
    pub fn export(&self) -> Result<Zeroizing<[u8; EXPORTED]>, TlsError> {
        if !self.is_established() {
            return Err(TlsError::NotEstablished);
        }
        let mut exported = Zeroizing::new([0; EXPORTED]);
        self.connection
            .export_keying_material(exported.as_mut_slice(), EXPORTER_LABEL, None)
            .map_err(|_| TlsError::NotEstablished)?;
        Ok(exported)
    }

    fn check(&self) -> Result<(), TlsError> {
        match &self.state {
            State::Failed(error) => Err(error.clone()),
            State::Handshaking | State::Established { .. } => Ok(()),
        }
    }

    /// Takes some of `bytes`, as much as rustls reads at a time.
    fn take(&mut self, bytes: &mut &[u8]) -> Result<(), TlsError> {
        let read = self.connection.read_tls(bytes);
        // Nothing is read behind the other side's goodbye.
        if read.map_err(|error| TlsError::Malformed(error.to_string()))? == 0 {
            *bytes = &[];
        }
        let io = self.connection.process_new_packets().map_err(blame)?;
        self.establish()?;
        self.closed = io.peer_has_closed();
        let waiting = io.plaintext_bytes_to_read();
        if self.received.len().saturating_add(waiting) > MAX_BUFFERED {
            return Err(TlsError::Full);
        }
        let before = self.received.len();
        self.received.resize(before + waiting, 0);
        let read = self
            .connection
            .reader()
            .read_exact(&mut self.received[before..]);
        read.map_err(|error| TlsError::Malformed(error.to_string()))
    }

    /// Judges the other side, once its proofs are there.
    fn establish(&mut self) -> Result<(), TlsError> {
        if self.connection.is_handshaking() || self.is_established() {
            return Ok(());
        }
        let certificates = self.connection.peer_certificates();
        let peer = certificates.and_then(peer_id).ok_or(TlsError::NoKey)?;
        if let Some(expected) = self.expected.filter(|expected| *expected != peer) {
            return Err(TlsError::WrongKey {
                expected,
                shown: peer,
            });
        }
        let alpn = self.connection.alpn_protocol();
        let suite = alpn
            .and_then(Suite::from_alpn)
            .ok_or(TlsError::OtherVersion)?;
        self.state = State::Established { peer, suite };
        Ok(())
    }
}

/// Whose fault an error of rustls is.
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "whatever else rustls finds wrong is wrong with what the peer sent"
)]
fn blame(error: Error) -> TlsError {
    match error {
        Error::NoApplicationProtocol
        | Error::AlertReceived(
            AlertDescription::NoApplicationProtocol | AlertDescription::ProtocolVersion,
        )
        | Error::PeerIncompatible(_) => TlsError::OtherVersion,
        Error::AlertReceived(alert) => TlsError::RefusedByPeer(format!("{alert:?}")),
        Error::NoCertificatesPresented | Error::InvalidCertificate(_) => TlsError::NoKey,
        error => TlsError::Malformed(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
