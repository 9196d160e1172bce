//! What the loop does with SecureNAT's word: at a hub its frames and events, at a member its routes.

use std::net::IpAddr;

use super::{Driver, Observe};
use crate::output::{NetworkState, Saying};

/// Routes on the card.
#[derive(Debug, Default)]
pub(super) struct Routed {
    pub(super) gateway: Option<IpAddr>,
    pub(super) wanted: Vec<(IpAddr, u8)>,
    set: Vec<(IpAddr, u8)>,
}

impl<O: Observe> Driver<O> {
    /// Starts, stops or changes SecureNAT as it is wanted.
    pub(super) fn apply_secure_nat(&mut self) {
        if let Some(secure_nat) = &mut self.secure_nat
            && let Err(error) = secure_nat.apply(&mut self.node)
        {
            self.begin_to_end(Some(error.context("SecureNAT cannot start")));
        }
    }

    /// The NAT's thread has something.
    pub(super) fn take_nat(&mut self) {
        let Some(secure_nat) = &mut self.secure_nat else {
            return;
        };
        secure_nat.take(&mut self.node);
        for event in secure_nat.take_events() {
            self.say(&Saying::Nat(&event));
        }
    }

    /// Sets the routes that are wanted, once there is an address to send from.
    pub(super) async fn set_routes(&mut self) {
        let (Some(plug), Some(gateway)) = (&self.parts.plug, self.network.gateway) else {
            return;
        };
        if !plug.with_address {
            return;
        }
        let wanted = self.network.wanted.clone();
        let set = std::mem::replace(&mut self.network.set, wanted.clone());
        let done = plug
            .routes
            .set_routes(plug.card.index(), gateway, &set, &wanted);
        if let Err(error) = done.await {
            let text = format!("the hub's networks cannot be reached: {error}");
            self.say(&Saying::Note(&text));
        }
    }

    pub(super) fn say_network(&mut self, own: Vec<(IpAddr, u8)>, dns: Vec<IpAddr>, domain: String) {
        let text = |nets: &[(IpAddr, u8)]| {
            nets.iter()
                .map(|(net, prefix)| format!("{net}/{prefix}"))
                .collect()
        };
        let state = NetworkState {
            routes: text(&self.network.set),
            own: text(&own),
            dns,
            domain,
        };
        self.say(&Saying::Network(&state));
    }
}
