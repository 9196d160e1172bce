//! What the node has said last, in the form in which threads look things up.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use kuguri_proto::SocketId;
use kuguri_proto::link::Via;
use kuguri_proto::link::batch::Shape;
use kuguri_proto::link::plane::LinkPort;
use kuguri_proto::node::plane::{Forwarding, Plane};
use kuguri_proto::switch::PortNumber;
use kuguri_proto::wire::relay;

use super::Sockets;
use crate::outside::Door;
use crate::udp::UdpPort;

/// Links and where frames go.
#[derive(Debug, Default)]
pub(super) struct Map {
    links: HashMap<u32, Arc<Port>>,
    by_number: HashMap<PortNumber, Arc<Port>>,
    pub(super) forwarding: Forwarding,
    pub(super) relay: Option<SocketAddr>,
    /// The way to the NAT's thread, while it runs.
    pub(super) door: Option<Door>,
}

/// A link, and how to send on it.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) link: LinkPort,
    /// Its port on a hub's switch.
    pub(super) number: Option<PortNumber>,
    pub(super) way: Option<Way>,
}

/// Where datagrams go.
#[derive(Clone, Debug)]
pub(super) struct Way {
    /// By this socket.
    pub(super) socket: Arc<UdpPort>,
    pub(super) destination: SocketAddr,
    pub(super) shape: Shape,
    /// They go there too, with this header before each.
    pub(super) copy: Option<(SocketAddr, [u8; relay::HEADER])>,
}

impl Map {
    pub(super) fn new(plane: Plane, sockets: &Sockets, door: Option<Door>) -> Self {
        let relay = plane.relay;
        let ports = plane.links.into_iter().map(|(link, number)| {
            let way = way(&link, relay, sockets);
            Arc::new(Port { link, number, way })
        });
        let links: HashMap<u32, Arc<Port>> = ports.map(|port| (port.link.index, port)).collect();
        let numbered = links
            .values()
            .filter_map(|port| Some((port.number?, Arc::clone(port))));
        Self {
            by_number: numbered.collect(),
            forwarding: plane.forwarding,
            relay,
            links,
            door,
        }
    }

    /// The link that datagrams name by this number.
    pub(super) fn link(&self, index: u32) -> Option<&Arc<Port>> {
        self.links.get(&index)
    }

    /// The link that is this port of the switch.
    pub(super) fn port(&self, number: PortNumber) -> Option<&Arc<Port>> {
        self.by_number.get(&number)
    }
}

fn way(link: &LinkPort, relay: Option<SocketAddr>, sockets: &Sockets) -> Option<Way> {
    let route = link.route?;
    let (socket, destination, header) = match route.via {
        Via::Direct { socket, remote } => (socket, remote, None),
        Via::Relay(channel) => (SocketId::MAIN, relay?, Some(relay::header(channel))),
    };
    let copy = route
        .copy
        .and_then(|channel| Some((relay?, relay::header(channel))));
    Some(Way {
        socket: Arc::clone(sockets.get(&socket)?),
        destination,
        shape: Shape {
            relay: header,
            mtu: route.mtu,
        },
        copy,
    })
}
