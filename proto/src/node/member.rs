//! The part of a node that joins a hub: one link to it, tried again for ever.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{Event, MemberConfig, Node, Side};
use crate::identity::PeerId;
use crate::link::Link;
use crate::wire::control::{Join, OPEN_FRAMES, Refusal, Welcome};

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
            features: OPEN_FRAMES,
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
            Stage::Linked(_) => self.relay_again,
            Stage::Refused => None,
        }
    }

    /// The link ended: the next attempt follows after a pause that doubles, with jitter.
    pub(super) fn link_closed(&mut self, index: u32, now: Instant) {
        if self.link() == Some(index) {
            let pause = RETRY_FIRST.saturating_mul(1 << self.failures.min(5));
            self.failures += 1;
            self.wait(pause.min(RETRY_MAX), now);
        }
    }

    /// The hub is not registered: asking again costs one small message, so the pause stays short.
    pub(super) fn hub_absent(&mut self, index: u32, now: Instant) {
        if self.link() == Some(index) {
            self.wait(RETRY_ABSENT, now);
        }
    }

    /// An established link has no relay channel any more; the next one is asked for after a pause.
    pub(super) fn relay_lost(&mut self, now: Instant) {
        self.relay_again = Some(now + self.jitter(RETRY_FIRST));
    }

    fn wait(&mut self, pause: Duration, now: Instant) {
        self.relay_again = None;
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
        let index = self.fresh_index();
        let setup = self.setup(hub, channel, index);
        let link = Link::connect(&setup, now);
        self.add_link(index, link, now);
        if let Side::Member(member) = &mut self.side {
            member.stage = Stage::Linked(index);
            member.heard = false;
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

    pub(super) fn joined(&mut self, welcome: Welcome) {
        let Side::Member(member) = &mut self.side else {
            return;
        };
        member.failures = 0;
        member.hub_name.clone_from(&welcome.hub_name);
        self.events.push_back(Event::Joined {
            hub_name: welcome.hub_name,
            address: welcome.address,
            gateway: welcome.gateway,
            mtu: welcome.mtu,
        });
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
/// The longest pause.
const RETRY_MAX: Duration = Duration::from_secs(30);
