//! STUN messages that come in: whose are they, are they authentic, what do they show?
//!
//! ```text
//!   request ─▶ our index? ─▶ its index? ─▶ integrity ─▶ source allowed? ─▶ seen before? ─▶ answer, and check the way back
//!   answer  ─▶ our transaction? ─────────▶ integrity ─▶ its pair is a path
//! ```

use std::net::SocketAddr;
use std::time::Instant;

use rand::RngExt;

use super::check::PairId;
use super::liveness::IDLE;
use super::{Handled, Paths, Refused, candidate};
use crate::wire::stun::{self, Class, Message, Transaction};
use crate::{SocketId, Transmit};

impl Paths {
    /// A STUN message came in.
    pub fn handle_stun(
        &mut self,
        socket: SocketId,
        remote: SocketAddr,
        bytes: &[u8],
        now: Instant,
    ) -> Handled {
        let handled = match stun::parse(bytes) {
            Err(error) => Handled::Refused(error.into()),
            Ok(message) => match message.class {
                Class::Request => self.handle_request((socket, remote), &message, bytes, now),
                Class::Success => self.handle_response((socket, remote), &message, bytes, now),
                Class::Error | Class::Indication => Handled::NotMine,
            },
        };
        if matches!(handled, Handled::Refused(_)) {
            self.counters.refused += 1;
        }
        self.run(now);
        handled
    }

    fn handle_request(
        &mut self,
        id: PairId,
        message: &Message,
        bytes: &[u8],
        now: Instant,
    ) -> Handled {
        let Some(username) = message
            .username
            .filter(|name| name.receiver == self.config.local_index)
        else {
            return Handled::NotMine;
        };
        if username.sender != self.config.remote_index {
            return Handled::Refused(Refused::WrongLink);
        }
        if !stun::verify(bytes, &self.config.receive_key) {
            return Handled::Refused(Refused::Integrity);
        }
        if candidate::is_refused(id.1.ip(), &self.config.refused) || id.1.port() == 0 {
            return Handled::Refused(Refused::RefusedSource);
        }
        // A fresh check has a fresh transaction: a second one from elsewhere is a copy that somebody else sends.
        let before = self
            .seen
            .iter()
            .find(|(seen, _)| *seen == message.transaction);
        match before.map(|(_, source)| *source) {
            Some(source) if source != id.1 => return Handled::Refused(Refused::Replayed),
            Some(_) => {}
            None => {
                self.remember(message.transaction, id.1);
                self.check_peer_reflexive(id, now);
                self.search.heard_from(id.0, id.1, now);
            }
        }
        self.answer(id, message.transaction);
        Handled::Accepted
    }

    fn remember(&mut self, transaction: Transaction, source: SocketAddr) {
        if self.seen.len() >= MAX_SEEN {
            self.seen.pop_front();
        }
        self.seen.push_back((transaction, source));
    }

    fn answer(&mut self, (socket, remote): PairId, transaction: Transaction) {
        if self.transmits.len() < MAX_TRANSMITS {
            let contents = stun::encode_response(transaction, remote, Some(&self.config.send_key));
            self.transmits.push_back(Transmit {
                socket,
                ..Transmit::datagram(remote, contents)
            });
            self.counters.answers_sent += 1;
        }
    }

    fn handle_response(
        &mut self,
        from: PairId,
        message: &Message,
        bytes: &[u8],
        now: Instant,
    ) -> Handled {
        // A STUN server has no key; what it says only steers a search.
        if self
            .search
            .handle_answer(message.transaction, message.mapped, now)
        {
            return Handled::Accepted;
        }
        let searched = self.search.find(message.transaction);
        let listed = self.checklist.find(message.transaction);
        let by_search = searched.map(|(socket, to, sent)| ((socket, to), sent));
        let Some((id, sent)) = listed.or(by_search) else {
            return Handled::NotMine;
        };
        if !stun::verify(bytes, &self.config.receive_key) {
            return Handled::Refused(Refused::Integrity);
        }
        if listed.is_none() {
            self.found_by_search(id, sent, now);
        } else if let Some(pair) = self.checklist.pairs.get_mut(&id) {
            pair.succeed(id.1, now.saturating_duration_since(sent), now);
        }
        let idle = self.rng.random_range(IDLE);
        match &mut self.active {
            Some(active) if active.id == id => active.liveness.proved(idle, now),
            Some(_) => {}
            None => self.checklist.calm(),
        }
        // The way back may be another one than the way there: each is proved for itself.
        if from != id {
            self.check_peer_reflexive(from, now);
        }
        self.choose(now);
        Handled::Accepted
    }

    /// Something authenticated came from there: there may be a path (RFC 8445, section 7.3.1.3).
    pub(super) fn check_peer_reflexive(&mut self, id: PairId, now: Instant) {
        if candidate::is_refused(id.1.ip(), &self.config.refused) {
            return;
        }
        let hoped_for = self.search.hopes_for(id.0, id.1);
        if !self.checklist.learn(id, hoped_for) {
            return;
        }
        if let Some(pair) = self.checklist.pairs.get_mut(&id) {
            pair.trigger(now);
        }
    }
}

/// Requests that are remembered: more than both ends send in a round.
const MAX_SEEN: usize = 256;
/// Answers that wait for the driver.
const MAX_TRANSMITS: usize = 64;
