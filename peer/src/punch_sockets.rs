//! The sockets beside the main one that a node asks for: opened and closed as it says, read and written like the main one.
//!
//! There are none most of the time, seven for a second or two when the NAT is looked at, up to 256 for some seconds while a
//! port is searched for, and one for as long as a path lives on it.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::Poll;

use kuguri_proto::node::Command;
use kuguri_proto::{SocketId, SocketRequest, Transmit};

use crate::udp::{Buffers, UdpSocket};

/// All of them.
#[derive(Debug, Default)]
pub struct PunchSockets {
    open: BTreeMap<SocketId, UdpSocket>,
}

impl PunchSockets {
    /// Does what the node asks; what it is to be told, if anything.
    pub fn apply(&mut self, request: SocketRequest) -> Option<Command> {
        match request {
            SocketRequest::Close(id) => {
                self.open.remove(&id);
                None
            }
            SocketRequest::Open(id) => Some(self.open(id)),
        }
    }

    /// Waits until one of them has something to read, or room for what waits.
    pub async fn ready(&self) -> SocketId {
        poll_fn(|context| {
            let mut open = self.open.iter();
            let ready = open.find(|(_, socket)| socket.poll_ready(context).is_ready());
            ready.map_or(Poll::Pending, |(id, _)| Poll::Ready(*id))
        })
        .await
    }

    /// Takes one batch from a socket, and goes on with what waits there.
    pub fn receive(
        &mut self,
        id: SocketId,
        buffers: &mut Buffers,
        each: impl FnMut(SocketAddr, &mut [u8]),
    ) {
        if let Some(socket) = self.open.get_mut(&id) {
            socket.resume();
            socket.receive(buffers, each);
        }
    }

    /// Sends by the socket that the transmit names; it is lost when that is closed, or full.
    pub fn send(&mut self, transmit: Transmit) {
        if let Some(socket) = self.open.get_mut(&transmit.socket)
            && socket.resume()
        {
            socket.send(transmit);
        }
    }

    fn open(&mut self, id: SocketId) -> Command {
        let opened = UdpSocket::bind(0).and_then(|socket| {
            let port = socket
                .port()
                .map_err(|error| crate::udp::UdpError::Io { port: 0, error })?;
            Ok((socket, port))
        });
        match opened {
            Ok((socket, port)) => {
                self.open.insert(id, socket);
                Command::SocketOpened { id, port }
            }
            Err(error) => {
                tracing::debug!(%error, "no further socket");
                Command::SocketRefused { id }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_lives_from_its_opening_to_its_closing() {
        let mut sockets = PunchSockets::default();
        let mut open = |id| match sockets.apply(SocketRequest::Open(SocketId(id))) {
            Some(Command::SocketOpened { port, .. }) => SocketAddr::from(([127, 0, 0, 1], port)),
            other => panic!("{other:?}"),
        };
        let (first, second) = (open(1), open(2));
        assert_ne!(first, second);
        sockets.send(Transmit {
            socket: SocketId(1),
            ttl: Some(2),
            ..Transmit::datagram(second, vec![7])
        });
        let mut got = Vec::new();
        while got.is_empty() {
            let id = sockets.ready().await;
            assert_eq!(id, SocketId(2));
            sockets.receive(id, &mut Buffers::new(), |from, bytes| {
                got.push((from, bytes.to_vec()));
            });
        }
        assert_eq!(got, [(first, vec![7])]);
        assert_eq!(sockets.apply(SocketRequest::Close(SocketId(1))), None);
        sockets.send(Transmit {
            socket: SocketId(1),
            ..Transmit::datagram(second, vec![8])
        });
        assert_eq!(sockets.open.len(), 1, "the closed one sends nothing");
    }
}
