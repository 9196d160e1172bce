//! What the loop does with SecureNAT's word: at a hub its frames and events, at a member its routes.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::anyhow;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::secure_nat::SecureNat;
use super::{Driver, Observe};
use crate::admin::VirtualHost;
use crate::output::{NetworkState, Saying};
use crate::outside::Outside;

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
            && let Err(error) = secure_nat.apply(&mut self.node, &mut self.plane)
        {
            self.begin_to_end(Some(error.context("SecureNAT cannot start")));
        }
    }

    /// The DHCP server has given out or taken back an address: it is kept in a moment, together with those that follow.
    pub(super) fn leases_changed(&mut self) {
        if let Some(secure_nat) = &mut self.secure_nat {
            secure_nat.keep_soon(Instant::now());
        }
    }

    pub(super) fn keep_leases_if_due(&mut self, now: Instant) {
        let kept = self
            .secure_nat
            .as_mut()
            .map(|secure_nat| secure_nat.keep_if_due(&self.node, now));
        if let Some(Err(error)) = kept {
            let text = format!("leases are not kept: {error}");
            self.say(&Saying::Note(&text));
        }
    }

    /// The loop ends: connections are closed, leases kept.
    pub(super) fn end_secure_nat(&mut self) {
        if let Some(mut secure_nat) = self.secure_nat.take()
            && secure_nat.next_timer().is_some()
            && let Err(error) = secure_nat.keep(&self.node, Instant::now())
        {
            tracing::error!(%error, "leases are not kept");
        }
    }

    /// Another process asks about the virtual host.
    pub(super) fn ask_virtual_host(&mut self, ask: VirtualHost, answer: oneshot::Sender<Value>) {
        let Some(secure_nat) = self
            .secure_nat
            .as_mut()
            .filter(|_| self.node.gateway_mac().is_some())
        else {
            let _ =
                answer.send(json!({ "error": "this is a member; only a hub has a virtual host" }));
            return;
        };
        if let (VirtualHost::NatTable | VirtualHost::Status, Some(outside)) =
            (&ask, secure_nat.outside())
        {
            let table = outside.table();
            let status = secure_nat.status(&self.node);
            let whole = ask == VirtualHost::NatTable;
            tokio::spawn(async move {
                let value = match table.await {
                    Ok(table) if whole => json!(table),
                    Ok(table) => with(status, "nat_counters", json!(table.counters)),
                    Err(_) => json!({ "error": "the NAT is just ending" }),
                };
                // Who asked may have gone.
                let _ = answer.send(value);
            });
            return;
        }
        let done = secure_nat.ask(ask, &mut self.node, &mut self.plane);
        let value = done.unwrap_or_else(|problem| json!({ "error": format!("{problem:#}") }));
        let _ = answer.send(value);
    }

    /// The machine has other addresses: the NAT must know its own (REQUIREMENTS E12), members its networks.
    pub(super) fn addresses_changed(&mut self) {
        if self.secure_nat.as_ref().is_some_and(SecureNat::is_outdated) {
            self.apply_secure_nat();
        }
    }

    /// The NAT's thread has something.
    pub(super) fn take_nat(&mut self) {
        let Some(secure_nat) = &mut self.secure_nat else {
            return;
        };
        secure_nat.take(&mut self.node);
        let broken = secure_nat.outside().is_some_and(Outside::is_broken);
        for event in secure_nat.take_events() {
            self.say(&Saying::Nat(&event));
        }
        if broken {
            self.begin_to_end(Some(anyhow!(NAT_FAULT)));
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

fn with(mut object: Value, name: &str, value: Value) -> Value {
    object[name] = value;
    object
}

/// A fault of the program is not worked around: whoever looks after the process starts it again.
const NAT_FAULT: &str = "a fault in this program has stopped the NAT; please report what stands above, and start it again";
