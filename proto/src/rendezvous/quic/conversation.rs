//! One connection: its single stream, cut into messages, and what of it the endpoint must be told.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use bincode::{Decode, Encode};
use quinn_proto::{
    Connection, ConnectionError, Dir, ReadError, Side, StreamEvent, StreamId, TransportErrorCode,
    WriteError,
};
use rustls::pki_types::CertificateDer;

use super::{Event, Goodbye, Id, Lost};
use crate::identity::{PeerId, tls};
use crate::wire::codec::Framer;

/// A connection with its stream of messages.
pub(super) struct Conversation {
    pub(super) connection: Connection,
    /// The timer that is noted for it at the endpoint.
    pub(super) timer: Option<Instant>,
    id: Id,
    stream: Option<StreamId>,
    incoming: Framer,
    outgoing: Vec<u8>,
    remote: SocketAddr,
    /// We have closed it, or reported its end: nothing more is read or reported.
    over: bool,
}

impl Conversation {
    pub(super) fn new(id: Id, connection: Connection) -> Self {
        Self {
            remote: connection.remote_address(),
            connection,
            timer: None,
            id,
            stream: None,
            incoming: Framer::default(),
            outgoing: Vec::new(),
            over: false,
        }
    }

    /// Queues a message; `false` when the other side does not take what it was sent.
    pub(super) fn send<M: Encode>(&mut self, message: &M) -> bool {
        let Ok(bytes) = Framer::frame(message) else {
            return false;
        };
        if self.outgoing.len() + bytes.len() > MAX_QUEUE {
            return false;
        }
        self.outgoing.extend(bytes);
        self.flush();
        true
    }

    /// Ends it, telling the other side why.
    pub(super) fn close(&mut self, why: Goodbye, now: Instant) {
        self.over = true;
        self.connection
            .close(now, why.code().into(), bytes::Bytes::new());
    }

    /// Takes what happened in the connection and makes events of it.
    pub(super) fn pump<M: Decode<()>>(&mut self, events: &mut VecDeque<Event<M>>, now: Instant) {
        while let Some(event) = self.connection.poll() {
            match event {
                quinn_proto::Event::Connected => self.connected(events, now),
                quinn_proto::Event::ConnectionLost { reason } => self.lost(reason, events),
                quinn_proto::Event::Stream(StreamEvent::Opened { dir: Dir::Bi }) => {
                    self.stream = self.connection.streams().accept(Dir::Bi);
                }
                quinn_proto::Event::Stream(_)
                | quinn_proto::Event::HandshakeDataReady
                | quinn_proto::Event::DatagramReceived
                | quinn_proto::Event::DatagramsUnblocked => {}
            }
        }
        if self.over {
            return;
        }
        self.note_address(events);
        self.read(events, now);
        self.flush();
    }

    fn connected<M>(&mut self, events: &mut VecDeque<Event<M>>, now: Instant) {
        let Some(peer) = self.peer() else {
            return self.close(Goodbye::Malformed, now);
        };
        if self.connection.side() == Side::Client {
            self.stream = self.connection.streams().open(Dir::Bi);
        }
        events.push_back(Event::Connected { id: self.id, peer });
    }

    fn peer(&self) -> Option<PeerId> {
        let identity = self.connection.crypto_session().peer_identity()?;
        let certificates = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
        tls::peer_id(&certificates)
    }

    fn lost<M>(&mut self, reason: ConnectionError, events: &mut VecDeque<Event<M>>) {
        if !self.over {
            let why = Lost::from(reason);
            events.push_back(Event::Lost { id: self.id, why });
        }
        self.over = true;
    }

    fn note_address<M>(&mut self, events: &mut VecDeque<Event<M>>) {
        let remote = self.connection.remote_address();
        if remote != self.remote {
            self.remote = remote;
            events.push_back(Event::AddressChanged {
                id: self.id,
                remote,
            });
        }
    }

    fn read<M: Decode<()>>(&mut self, events: &mut VecDeque<Event<M>>, now: Instant) {
        if self.read_stream().is_err() {
            return self.malformed(events, now);
        }
        loop {
            match self.incoming.next_message() {
                Ok(Some(message)) => events.push_back(Event::Message {
                    id: self.id,
                    message,
                }),
                Ok(None) => return,
                Err(_) => return self.malformed(events, now),
            }
        }
    }

    /// Moves the stream's bytes into the framer. The flow-control window bounds them. The stream never ends.
    fn read_stream(&mut self) -> Result<(), StreamEnded> {
        let Some(stream) = self.stream else {
            return Ok(());
        };
        let mut stream = self.connection.recv_stream(stream);
        let mut chunks = stream.read(true).map_err(|_| StreamEnded)?;
        let end = loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => self.incoming.push(&chunk.bytes),
                Err(ReadError::Blocked) => break Ok(()),
                Ok(None) | Err(ReadError::Reset(_)) => break Err(StreamEnded),
            }
        };
        // Whether a window update is due is found out by the next poll_transmit in any case.
        let _ = chunks.finalize();
        end
    }

    fn malformed<M>(&mut self, events: &mut VecDeque<Event<M>>, now: Instant) {
        let why = Lost::Malformed;
        events.push_back(Event::Lost { id: self.id, why });
        self.close(Goodbye::Malformed, now);
    }

    fn flush(&mut self) {
        let Some(stream) = self.stream else {
            return;
        };
        while !self.outgoing.is_empty() {
            match self.connection.send_stream(stream).write(&self.outgoing) {
                Ok(written) => drop(self.outgoing.drain(..written)),
                Err(WriteError::Blocked | WriteError::Stopped(_) | WriteError::ClosedStream) => {
                    return;
                }
            }
        }
    }
}

struct StreamEnded;

impl From<ConnectionError> for Lost {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ConnectionClosed(close) if close.error_code == no_common_alpn() => {
                Self::OtherVersion
            }
            ConnectionError::ConnectionClosed(close)
                if close.error_code == TransportErrorCode::CONNECTION_REFUSED =>
            {
                Self::Refused
            }
            // Only the code: the text is the other side's to choose.
            ConnectionError::ConnectionClosed(close) => Self::Broken(close.error_code.to_string()),
            ConnectionError::ApplicationClosed(close) => {
                Self::Goodbye(Goodbye::from_code(close.error_code.into_inner()))
            }
            ConnectionError::Reset => Self::Restarted,
            ConnectionError::TimedOut => Self::Silent,
            ConnectionError::TransportError(error) => Self::Broken(error.to_string()),
            // Anybody on the way can say "no such version of QUIC": worth another attempt, never the end.
            ConnectionError::VersionMismatch
            | ConnectionError::LocallyClosed
            | ConnectionError::CidsExhausted => Self::Broken(error.to_string()),
        }
    }
}

/// TLS's alert no_application_protocol (RFC 7301, section 3.2) as a QUIC error.
fn no_common_alpn() -> TransportErrorCode {
    TransportErrorCode::crypto(120)
}

/// Messages that the other side does not take are queued up to this, in bytes.
const MAX_QUEUE: usize = 64 * 1024;
