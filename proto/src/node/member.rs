//! The part of a node that joins a hub: one link to it, tried again for ever.
//!
//! ```text
//!   Waiting ── due ──▶ Linked ── silent for 7 s, or the hub registered anew and does not answer ──▶ a second link beside it
//!      ▲                 │                                                                             │ established
//!      └── closed ───────┘◀─────────────── takes the first one's place ────────────────────────────────┘
//! ```
//!
//! Nothing that anybody can say ends the link: neither a datagram of a hub that has forgotten it, nor the rendezvous. They only
//! make us look, and try a handshake beside it that a false hub cannot finish.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{Event, MemberConfig, Node, Side, welcome};
use crate::gateway::announcement;
use crate::identity::PeerId;
use crate::link::Link;
use crate::rendezvous::{Channel, CloseReason};
use crate::wire::control::{FEATURE_NETWORK, Join, OPEN_FRAMES, Refusal, Welcome};

/// A joined hub, or the wish to join it.
pub(super) struct Member {
    config: MemberConfig,
    hub_name: String,
    rng: StdRng,
    stage: Stage,
    failures: u32,
    heard: bool,
    /// When to ask for a relay channel again, for a link that has lost its own.
    relay_again: Option<Instant>,
    /// A link in the making that is to take the place of a silent one.
    successor: Option<u32>,
    doubt: Option<Doubt>,
}

/// The hub may have forgotten our link: it must be heard of until then.
#[derive(Clone, Copy)]
struct Doubt {
    since: Instant,
    until: Instant,
}

/// Where the one link stands.
enum Stage {
    /// Nothing runs; the next attempt at this time.
    Waiting(Instant),
    /// The link with this index is opening or open.
    Linked(u32),
    /// The hub said no: nothing is tried any more.
    Refused,
}

impl Member {
    pub(super) fn new(config: MemberConfig, seed: [u8; 32], now: Instant) -> Self {
        Self {
            config,
            hub_name: String::new(),
            rng: StdRng::from_seed(seed),
            stage: Stage::Waiting(now),
            failures: 0,
            heard: false,
            relay_again: None,
            successor: None,
            doubt: None,
        }
    }

    pub(super) const fn hub(&self) -> PeerId {
        self.config.hub
    }

    pub(super) fn hub_name(&self) -> String {
        self.hub_name.clone()
    }

    /// The link that frames go by.
    pub(super) const fn link(&self) -> Option<u32> {
        match self.stage {
            Stage::Linked(index) => Some(index),
            Stage::Waiting(_) | Stage::Refused => None,
        }
    }

    pub(super) fn join(&self, host_name: &str) -> Join {
        Join {
            credential: self.config.credential.clone(),
            host_name: host_name.to_owned(),
            mac: self.config.mac,
            features: OPEN_FRAMES | FEATURE_NETWORK,
        }
    }

    /// The hub, when this is the first frame over the present link.
    pub(super) fn first_frame(&mut self) -> Option<PeerId> {
        let first = !std::mem::replace(&mut self.heard, true);
        first.then_some(self.config.hub)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match self.stage {
            Stage::Waiting(at) => Some(at),
            Stage::Linked(_) => {
                let doubt = self.doubt.map(|doubt| doubt.until);
                self.relay_again.into_iter().chain(doubt).min()
            }
            Stage::Refused => None,
        }
    }

    /// A link ended. Was it the one to the hub, then its successor takes its place, or the next attempt follows after a pause
    /// that doubles, with jitter.
    pub(super) fn link_closed(&mut self, index: u32, now: Instant) {
        if self.link_ended(index) {
            let pause = RETRY_FIRST.saturating_mul(1 << self.failures.min(5));
            self.failures += 1;
            self.wait(pause.min(RETRY_MAX), now);
        }
    }

    /// The hub is not registered: asking again costs one small message, so the pause stays short.
    pub(super) fn hub_absent(&mut self, index: u32, now: Instant) {
        if self.link_ended(index) {
            self.wait(RETRY_ABSENT, now);
        }
    }

    /// Whether there is no link any more now that this one has ended.
    fn link_ended(&mut self, index: u32) -> bool {
        self.successor.take_if(|it| *it == index);
        if self.link() != Some(index) {
            return false;
        }
        if let Some(successor) = self.successor.take() {
            self.promote(successor);
            return false;
        }
        true
    }

    /// A link is the one to the hub from now on.
    fn promote(&mut self, index: u32) {
        self.stage = Stage::Linked(index);
        self.successor = None;
        self.doubt = None;
        self.heard = false;
    }

    /// A link has keys. The one to the hub, or the one that takes its place.
    pub(super) fn link_established(&mut self, index: u32) {
        if self.successor == Some(index) {
            self.promote(index);
        }
    }

    /// An established link has no relay channel any more; when the next one is asked for depends on why.
    pub(super) fn relay_lost(&mut self, reason: CloseReason, now: Instant) {
        let pause = match reason {
            CloseReason::PeerReturned => {
                let until = now + self.jitter(DOUBT);
                self.doubt.get_or_insert(Doubt { since: now, until });
                RETURNED
            }
            CloseReason::NotRegistered => RETRY_ABSENT,
            CloseReason::Limit => RETRY_LIMIT,
            CloseReason::PeerGone | CloseReason::ClosedByPeer | CloseReason::Invalid => RETRY_FIRST,
        };
        self.relay_again = Some(now + self.jitter(pause));
    }

    fn wait(&mut self, pause: Duration, now: Instant) {
        self.relay_again = None;
        self.doubt = None;
        self.stage = Stage::Waiting(now + self.jitter(pause));
    }

    fn jitter(&mut self, pause: Duration) -> Duration {
        pause.mul_f64(self.rng.random_range(0.75..1.25))
    }
}

impl Node {
    /// Opens the link to the hub when there is none and its time has come.
    pub(super) fn connect_if_due(&mut self, now: Instant) {
        let Side::Member(member) = &self.side else {
            return;
        };
        let due = matches!(member.stage, Stage::Waiting(at) if at <= now);
        if !due || self.stopping.is_some() {
            return;
        }
        let hub = member.config.hub;
        if !self.client.is_registered() {
            return self.retry_later(now);
        }
        let Some(channel) = self.client.open(hub, now) else {
            return self.retry_later(now);
        };
        let index = self.open_link(hub, channel, now);
        if let Side::Member(member) = &mut self.side {
            member.promote(index);
        }
    }

    fn open_link(&mut self, hub: PeerId, channel: Channel, now: Instant) -> u32 {
        let index = self.fresh_index();
        let setup = self.setup(hub, channel, index);
        let link = Link::connect(&setup, now);
        self.add_link(index, link, now);
        index
    }

    /// Tries to link with the hub anew beside a link on which nothing comes any more: a hub that started again has forgotten
    /// it, and may not be believed when it says so without keys.
    pub(super) fn renew(&mut self, now: Instant) {
        let Side::Member(member) = &self.side else {
            return;
        };
        let (hub, renewing) = (member.hub(), member.successor.is_some());
        if renewing || self.stopping.is_some() || !self.client.is_registered() {
            return;
        }
        let Some(channel) = self.client.open(hub, now) else {
            return;
        };
        let index = self.open_link(hub, channel, now);
        if let Side::Member(member) = &mut self.side {
            member.successor = Some(index);
        }
    }

    /// Links anew when the hub has registered anew and was not heard of on the link since.
    pub(super) fn renew_if_due(&mut self, now: Instant) {
        let Side::Member(member) = &mut self.side else {
            return;
        };
        let Some(doubt) = member.doubt.take_if(|doubt| doubt.until <= now) else {
            return;
        };
        let link = member.link().and_then(|index| self.links.get(index));
        if link.is_some_and(|link| link.last_heard() <= doubt.since) {
            self.renew(now);
        }
    }

    /// Gives the link to the hub a relay channel again when the time for it has come.
    pub(super) fn reopen_relay_if_due(&mut self, now: Instant) {
        let Side::Member(member) = &mut self.side else {
            return;
        };
        let Some(index) = member.link() else { return };
        if member.relay_again.take_if(|at| *at <= now).is_none() {
            return;
        }
        let channel = self.client.open(member.config.hub, now);
        if let Some(link) = self.links.get_mut(index) {
            link.set_relay(channel);
            link.check_alive(now);
        }
        self.settle_link(index, now);
    }

    /// Without a registration there is nothing to try; the registration itself makes it due.
    fn retry_later(&mut self, now: Instant) {
        if let Side::Member(member) = &mut self.side {
            member.stage = Stage::Waiting(now + RETRY_MAX);
        }
    }

    /// The rendezvous knows us: whatever pause there was is over.
    pub(super) fn connect_now(&mut self, now: Instant) {
        if let Side::Member(member) = &mut self.side
            && let Stage::Waiting(at) = &mut member.stage
        {
            *at = now;
        }
        self.connect_if_due(now);
    }

    /// The hub has let us in; but not everything that a hub may say is taken.
    pub(super) fn joined(&mut self, index: u32, welcome: Welcome, now: Instant) {
        let fault = welcome::check(&welcome, self.underlay()).err();
        let Side::Member(member) = &mut self.side else {
            return;
        };
        if member.link() != Some(index) {
            return;
        }
        if let Some(fault) = fault {
            member.wait(RETRY_FAULT, now);
            let successor = member.successor.take();
            if let Some(link) = self.links.get_mut(index) {
                link.reject(fault.to_string(), now);
            }
            self.links.refresh(index);
            if let Some(successor) = successor {
                self.drop_link(successor, now);
            }
            return;
        }
        member.failures = 0;
        member.hub_name = welcome.hub_name.chars().take(NAME_MAX).collect();
        self.events.push_back(Event::Joined {
            hub_name: member.hub_name.clone(),
            address: welcome.address,
            gateway: welcome.gateway,
            mtu: welcome.mtu,
        });
        // Switches learn at once where the card is, and not only when a program first says something.
        let mac = member.config.mac;
        if let Some((IpAddr::V4(address), _)) = welcome.address {
            let announcement = announcement(mac, address);
            self.send_frame(index, &announcement, now);
        }
    }

    /// The addresses that this machine has or needs outside of the virtual network: its own, as it sees them and as others do,
    /// and the rendezvous's.
    fn underlay(&self) -> impl Iterator<Item = IpAddr> {
        let own = self.local_addresses.iter().chain(&self.reflexive).copied();
        let rendezvous = self.client.addresses().iter().copied();
        own.chain(rendezvous).map(|it: SocketAddr| it.ip())
    }

    pub(super) fn refused(&mut self, refusal: Refusal) {
        if let Side::Member(member) = &mut self.side {
            member.stage = Stage::Refused;
        }
        self.events.push_back(Event::Refused(refusal));
    }
}

/// The first pause after a failure; it doubles up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The pause while the hub is not registered.
const RETRY_ABSENT: Duration = Duration::from_secs(2);
/// The longest pause after handshakes that failed.
const RETRY_MAX: Duration = Duration::from_secs(8);
/// The pause while the rendezvous gives us no channel.
const RETRY_LIMIT: Duration = Duration::from_secs(10);
/// The pause after a hub gave us what we cannot take: its owner has to do something.
const RETRY_FAULT: Duration = Duration::from_secs(30);
/// The pause before a hub that has come back is asked for a channel: its other members do so too.
const RETURNED: Duration = Duration::from_millis(50);
/// How long such a hub has to answer on the link that there was.
const DOUBT: Duration = Duration::from_millis(800);
/// Of a hub's name, in characters.
const NAME_MAX: usize = 63;
