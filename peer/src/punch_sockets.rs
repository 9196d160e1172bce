//! The sockets beside the main one that a node asks for: opened and closed as it says. The data plane reads them, like the main
//! one; here is written by them what the node wants sent.
//!
//! There are none most of the time, seven for a second or two when the NAT is looked at, up to 256 for some seconds while a
//! port is searched for, and one for as long as a path lives on it.

use std::collections::BTreeMap;

use kuguri_proto::node::Command;
use kuguri_proto::{SocketId, SocketRequest, Transmit};

use crate::dataplane::DataPlane;
use crate::udp::UdpSocket;

/// All of them.
#[derive(Debug, Default)]
pub struct PunchSockets {
    open: BTreeMap<SocketId, UdpSocket>,
}

impl PunchSockets {
    /// Does what the node asks; what it is to be told, if anything.
    pub fn apply(&mut self, request: SocketRequest, plane: &mut DataPlane) -> Option<Command> {
        match request {
            SocketRequest::Close(id) => {
                plane.forget(id);
                self.open.remove(&id);
                None
            }
            SocketRequest::Open(id) => Some(self.open(id, plane).unwrap_or_else(|error| {
                tracing::debug!(%error, "no further socket");
                Command::SocketRefused { id }
            })),
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

    fn open(&mut self, id: SocketId, plane: &mut DataPlane) -> anyhow::Result<Command> {
        let socket = UdpSocket::bind(0)?;
        let port = socket.port()?;
        plane.listen(id, socket.shared())?;
        self.open.insert(id, socket);
        Ok(Command::SocketOpened { id, port })
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::dataplane::Up;

    #[tokio::test]
    async fn a_socket_lives_from_its_opening_to_its_closing() {
        let main = UdpSocket::bind(0).expect("a port");
        let mut plane = DataPlane::start(main.shared(), None).expect("threads");
        let mut sockets = PunchSockets::default();
        let mut open = |id| match sockets.apply(SocketRequest::Open(SocketId(id)), &mut plane) {
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
        let Some(Up::Datagram {
            socket,
            remote,
            bytes,
            ..
        }) = plane.recv().await
        else {
            panic!("nothing came up");
        };
        assert_eq!((socket, remote, bytes), (SocketId(2), first, vec![7]));
        let closed = sockets.apply(SocketRequest::Close(SocketId(1)), &mut plane);
        assert_eq!(closed, None);
        sockets.send(Transmit {
            socket: SocketId(1),
            ..Transmit::datagram(second, vec![8])
        });
        sockets.send(Transmit {
            socket: SocketId(2),
            ..Transmit::datagram(second, vec![9])
        });
        let Some(Up::Datagram { bytes, .. }) = plane.recv().await else {
            panic!("nothing came up");
        };
        assert_eq!(bytes, vec![9], "the closed one sends nothing");
        assert_eq!(sockets.open.len(), 1);
    }
}
