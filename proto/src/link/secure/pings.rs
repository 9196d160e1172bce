//! Pings of a link over the path in use: for `kuguri ping`, and as signs of life over the relay.

use std::time::{Duration, Instant};

use super::super::LinkEvent;

/// The link's own ids start here; `Paths` numbers its probes from zero.
const FIRST_ID: u64 = 1 << 63;
/// A ping that is not answered within this is lost.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pings under way at most; the caller is a person.
const PINGS_MAX: usize = 64;

/// The pings under way.
#[derive(Default)]
pub(super) struct Pings {
    under_way: Vec<Ping>,
    count: u64,
    pub(super) relay_round_trip: Option<Duration>,
}

struct Ping {
    wire_id: u64,
    /// The caller's id; `None` for a sign of life.
    id: Option<u64>,
    sent: Option<Sent>,
    expires: Instant,
}

#[derive(Clone, Copy)]
struct Sent {
    at: Instant,
    direct: bool,
}

impl Pings {
    /// Whether a pong with this id answers one of these.
    pub(super) const fn is_mine(wire_id: u64) -> bool {
        wire_id >= FIRST_ID
    }

    /// Wants a ping sent; one too many is lost at once.
    pub(super) fn add(&mut self, id: Option<u64>, now: Instant) -> Option<LinkEvent> {
        if self.under_way.len() >= PINGS_MAX {
            return id.map(|id| LinkEvent::PingLost { id });
        }
        let wire_id = FIRST_ID + self.count;
        self.count += 1;
        self.under_way.push(Ping {
            wire_id,
            id,
            sent: None,
            expires: now + PATIENCE,
        });
        None
    }

    /// The caller's pings that have no answer yet.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = u64> {
        self.under_way.iter().filter_map(|ping| ping.id)
    }

    /// The id of a ping that is to go out now.
    pub(super) fn next(&mut self, direct: bool, now: Instant) -> Option<u64> {
        let ping = self.under_way.iter_mut().find(|ping| ping.sent.is_none())?;
        ping.sent = Some(Sent { at: now, direct });
        Some(ping.wire_id)
    }

    pub(super) fn handle_pong(&mut self, wire_id: u64, now: Instant) -> Option<LinkEvent> {
        let at = self
            .under_way
            .iter()
            .position(|ping| ping.wire_id == wire_id && ping.sent.is_some())?;
        let ping = self.under_way.swap_remove(at);
        let sent = ping.sent?;
        let round_trip = now.saturating_duration_since(sent.at);
        if !sent.direct {
            self.relay_round_trip = Some(round_trip);
        }
        Some(LinkEvent::Pong {
            id: ping.id?,
            round_trip,
            direct: sent.direct,
        })
    }

    /// The caller's pings that are lost now.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<LinkEvent> {
        let lost = self.under_way.extract_if(.., |ping| ping.expires <= now);
        lost.filter_map(|ping| ping.id.map(|id| LinkEvent::PingLost { id }))
            .collect()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.under_way.iter().map(|ping| ping.expires).min()
    }
}
