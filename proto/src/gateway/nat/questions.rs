//! Questions to the virtual host's name server: handed to the host's own resolvers, raw (REQUIREMENTS E11).
//!
//! ```text
//!   station ──question, number 7──▶ own number, own socket ──▶ resolver 1, silent 2 s ──▶ resolver 2 … ──▶ SERVFAIL
//! ```
//!
//! Every question has a socket of its own, so its port and number are as hard to guess as the host's (RFC 5452). What a
//! question or an answer says is read only as far as its header. Over TCP the stream goes to the first resolver.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::RngExt;

use super::{Key, Nat, Place, Thing};
use crate::gateway::event::NatEvent;
use crate::gateway::sockets::{Datagrams, Sending, SocketId, Sockets};
use crate::wire::ethernet::MacAddr;

/// A question under way.
#[derive(Debug)]
pub(super) struct Question {
    mac: MacAddr,
    station: SocketAddr,
    /// The station's number for it.
    number: u16,
    /// Ours.
    own: u16,
    bytes: Vec<u8>,
    resolver: SocketAddr,
    tries: usize,
    again: Instant,
}

impl Nat {
    pub(super) fn take_question<S: Sockets>(
        &mut self,
        mac: MacAddr,
        station: SocketAddr,
        bytes: &[u8],
        sockets: &mut S,
        now: Instant,
    ) {
        let Some(&[high, low, flags, ..]) = bytes.first_chunk::<12>() else {
            self.counters.malformed += 1;
            return;
        };
        if flags & RESPONSE != 0 || bytes.len() > LARGEST {
            self.counters.malformed += 1;
            return;
        }
        let number = u16::from_be_bytes([high, low]);
        let key = Key::Question(station, number);
        if self.by_key.contains_key(&key) {
            return; // It asks again; so do we, by ourselves.
        }
        let Some(&resolver) = self.settings.resolvers.first() else {
            return self.answer_failure(mac, station, bytes);
        };
        let most = self.settings.limits.questions;
        if !self.take_share(
            station.ip(),
            "questions",
            |share| &mut share.questions,
            most,
            now,
        ) {
            return;
        }
        self.learn(station.ip(), mac);
        let own = self.rng.random();
        let mut bytes = bytes.to_vec();
        bytes[..2].copy_from_slice(&u16::to_be_bytes(own));
        let question = Question {
            mac,
            station,
            number,
            own,
            bytes,
            resolver,
            tries: 0,
            again: now,
        };
        let id = self.put(key, 0, Thing::Question(Box::new(question)));
        self.ask(id, sockets, now);
    }

    /// Asks the next resolver in turn, by a fresh socket.
    fn ask<S: Sockets>(&mut self, id: SocketId, sockets: &mut S, now: Instant) {
        let resolvers = self.settings.resolvers.len();
        let Some(Thing::Question(question)) = self.places.get_mut(id).map(|place| &mut place.thing)
        else {
            return;
        };
        let Some(&resolver) = self
            .settings
            .resolvers
            .get(question.tries % resolvers.max(1))
        else {
            return;
        };
        let other_family = question.tries > 0 && question.resolver.is_ipv4() != resolver.is_ipv4();
        question.resolver = resolver;
        question.again = now + PATIENCE;
        if other_family {
            sockets.close(id, false);
        }
        let opened = if question.tries == 0 || other_family {
            sockets.open(id, Datagrams::Udp, resolver.ip())
        } else {
            Ok(())
        };
        question.tries += 1;
        let how = Sending {
            ttl: crate::gateway::out::TTL,
            dont_fragment: false,
        };
        // What cannot be sent now is tried at the next one in a moment, like what is not answered.
        let sent = opened.and_then(|()| sockets.send_to(id, resolver, how, &question.bytes));
        if sent.is_err() {
            question.again = now + PAUSE;
        }
        let again = question.again;
        self.schedule(id, again);
    }

    pub(super) fn take_answer<S: Sockets>(
        &mut self,
        id: SocketId,
        from: SocketAddr,
        bytes: &[u8],
        sockets: &mut S,
    ) {
        let Some(Thing::Question(question)) = self.places.get(id).map(|place| &place.thing) else {
            return;
        };
        let Some(&[high, low, flags, ..]) = bytes.first_chunk::<12>() else {
            self.counters.malformed += 1;
            return;
        };
        let right = u16::from_be_bytes([high, low]) == question.own && flags & RESPONSE != 0;
        if !right || from != question.resolver {
            self.counters.filtered += 1;
            return;
        }
        let (mac, station) = (question.mac, question.station);
        let mut answer = bytes.to_vec();
        answer[..2].copy_from_slice(&question.number.to_be_bytes());
        let own = SocketAddr::new(self.own_address(station.ip()), 53);
        self.send_udp(mac, own, station, &answer);
        self.forget_question(id, sockets);
    }

    pub(super) fn question_time_out<S: Sockets>(
        &mut self,
        id: SocketId,
        sockets: &mut S,
        now: Instant,
    ) {
        let Some(Thing::Question(question)) = self.places.get(id).map(|place| &place.thing) else {
            return;
        };
        if question.again > now {
            let again = question.again;
            return self.schedule(id, again);
        }
        if question.tries < TRIES && !self.settings.resolvers.is_empty() {
            return self.ask(id, sockets, now);
        }
        let resolver = question.resolver;
        let (mac, station, number) = (question.mac, question.station, question.number);
        let mut bytes = question.bytes.clone();
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        self.forget_question(id, sockets);
        self.complain(NatEvent::ResolverSilent { resolver }, now);
        self.answer_failure(mac, station, &bytes);
    }

    pub(super) fn forget_question<S: Sockets>(&mut self, id: SocketId, sockets: &mut S) {
        if let Some(Place {
            thing: Thing::Question(question),
            ..
        }) = self.remove(id)
        {
            sockets.close(id, false);
            self.give_share(question.station.ip(), |share| &mut share.questions);
        }
    }

    /// The question again, with the code for a failed server (RFC 1035, section 4.1.1).
    fn answer_failure(&mut self, mac: MacAddr, station: SocketAddr, question: &[u8]) {
        let mut answer = question.to_vec();
        answer[2] |= RESPONSE;
        answer[3] = (answer[3] & 0xf0) | SERVER_FAILURE;
        let own = SocketAddr::new(self.own_address(station.ip()), 53);
        self.send_udp(mac, own, station, &answer);
    }
}

/// The bit that tells answers from questions.
const RESPONSE: u8 = 0x80;
/// RCODE 2.
const SERVER_FAILURE: u8 = 2;
/// Bytes of a question.
const LARGEST: usize = 4096;
/// Before the next resolver is asked.
const PATIENCE: Duration = Duration::from_secs(2);
/// The same when the system did not even send it.
const PAUSE: Duration = Duration::from_millis(250);
/// How often all of them together are asked.
const TRIES: usize = 3;
