//! The loop's side of SecureNAT: starts and stops the thread beside it, and carries frames and events to and fro.

use std::future::pending;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use kuguri_proto::gateway::{Frame, NatEvent, NatSettings, Port};
use kuguri_proto::node::{Command, Node};
use kuguri_proto::wire::control::Network;
use tokio::sync::Notify;

use crate::outside::{Outside, lan};

/// What the user wants of the virtual host.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Whether the NAT runs.
    pub nat: bool,
    /// The NAT's settings; addresses and resolvers of the machine are filled in when it starts.
    pub settings: NatSettings,
    /// Resolvers instead of the machine's own.
    pub resolvers: Vec<std::net::SocketAddr>,
}

/// SecureNAT in the loop.
#[derive(Debug)]
pub(super) struct SecureNat {
    wanted: Wanted,
    outside: Option<Outside>,
    wake: Arc<Notify>,
    frames: Vec<Vec<u8>>,
    taken: Vec<Frame>,
    events: Vec<NatEvent>,
}

impl SecureNat {
    pub(super) fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            outside: None,
            wake: Arc::new(Notify::new()),
            frames: Vec::new(),
            taken: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Starts, stops or changes what runs, after what is wanted.
    pub(super) fn apply(&mut self, node: &mut Node) -> anyhow::Result<()> {
        let Some(mac) = node.gateway_mac() else {
            return Ok(());
        };
        let wanted = &mut self.wanted;
        let subnet = wanted.settings.subnet;
        let mut network = Network::default();
        if wanted.nat {
            wanted.settings.own_addresses = lan::own_addresses();
            wanted.settings.resolvers = if wanted.resolvers.is_empty() {
                lan::resolvers()
            } else {
                wanted.resolvers.clone()
            };
            let inside = (subnet.network(), subnet.prefix());
            let routes = lan::networks(&[inside]).into_iter();
            network.routes = routes
                .map(|(net, prefix)| (IpAddr::V4(net), prefix))
                .collect();
            network.dns = vec![IpAddr::V4(subnet.address())];
            network.domain = lan::domain();
        }
        match (&self.outside, wanted.nat) {
            (Some(outside), true) => outside.set(wanted.settings.clone()),
            (None, true) => {
                let port = Port {
                    mtu: 1500,
                    max_segment: None,
                };
                let wake = Arc::clone(&self.wake);
                let settings = wanted.settings.clone();
                self.outside = Some(Outside::start(settings, mac, port, move || {
                    wake.notify_one()
                })?);
            }
            (_, false) => self.outside = None,
        }
        let on = wanted.nat;
        node.handle_command(Command::Nat { on, network }, Instant::now());
        Ok(())
    }

    /// Waits until the thread has something.
    pub(super) async fn ready(&self) {
        if self.outside.is_some() {
            self.wake.notified().await;
        } else {
            pending().await
        }
    }

    /// Takes what the thread has: frames for the node; its events are left for [`Self::next_event`].
    pub(super) fn take(&mut self, node: &mut Node) {
        if let Some(outside) = &self.outside {
            outside.take(&mut self.taken, &mut self.events);
            let now = Instant::now();
            for frame in self.taken.drain(..) {
                node.handle_nat_frame(&frame.bytes, now);
            }
        }
    }

    /// Gives the thread what the node has for it.
    pub(super) fn give(&mut self, node: &mut Node) {
        if let Some(outside) = &self.outside {
            self.frames
                .extend(std::iter::from_fn(|| node.poll_nat_frame()));
            outside.send(&mut self.frames);
        }
    }

    pub(super) fn take_events(&mut self) -> Vec<NatEvent> {
        std::mem::take(&mut self.events)
    }

    pub(super) const fn outside(&self) -> Option<&Outside> {
        self.outside.as_ref()
    }

    pub(super) const fn wanted(&mut self) -> &mut Wanted {
        &mut self.wanted
    }
}
