//! A second mapping before the first one ends: some NATs forget a mapping after a fixed time, however busy it is.
//!
//! ```text
//!   socket A  ├──────────── mapping ────────────┤ forgotten
//!   socket B                    ├─ asks STUN, told as a candidate, checked, taken ─────────────┤
//!                      7/10 of the lifetime      A is closed                C …
//! ```
//!
//! Only where the observer has seen the main socket's mapping change twice after about the same time, and where a mapping
//! serves all destinations. The main socket itself stays: the rendezvous notices its new address by itself.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Node;
use crate::wire::control::Dependence;
use crate::wire::stun::{self, Change, Class, Message, Transaction};
use crate::{SocketId, Transmit};

/// The sockets that carry paths one after the other.
#[derive(Debug, Default)]
pub(super) struct Rotation {
    /// The one in use, when it is not the main one.
    current: Option<Fresh>,
    /// The one that is made ready.
    next: Option<Fresh>,
    /// The one that was in use before.
    retired: Option<(SocketId, Instant)>,
}

#[derive(Debug)]
struct Fresh {
    socket: SocketId,
    born: Instant,
    asked: Vec<Transaction>,
    ask_at: Instant,
    mapped: Option<SocketAddr>,
}

impl Rotation {
    /// Where the socket in use is to be reached, when it is not the main one.
    pub(super) fn mapped(&self) -> Option<SocketAddr> {
        self.current.as_ref()?.mapped
    }

    fn is_preparing(&self) -> bool {
        self.next.is_some()
    }
}

impl Node {
    /// Everything about second mappings that time brings.
    pub(super) fn handle_rotation(&mut self, now: Instant) {
        if let Some((socket, _)) = self.rotation.retired.take_if(|(_, at)| *at <= now) {
            self.close_sockets(&[socket]);
        }
        if self.rotation_due().is_some_and(|due| due <= now) && !self.rotation.is_preparing() {
            self.rotation.next = Some(Fresh {
                socket: SocketId::MAIN,
                born: now,
                asked: Vec::new(),
                ask_at: now + PATIENCE,
                mapped: None,
            });
            self.open_for_rotation();
        }
        // Neither a socket nor an answer: another try.
        let late = |next: &mut Fresh| now >= next.born + PATIENCE;
        if let Some(late) = self.rotation.next.take_if(late)
            && late.socket != SocketId::MAIN
        {
            self.close_sockets(&[late.socket]);
        }
    }

    /// The socket for the second mapping is there.
    pub(super) fn rotation_socket(&mut self, socket: Option<SocketId>, now: Instant) {
        match (&mut self.rotation.next, socket) {
            (Some(next), Some(socket)) => {
                next.socket = socket;
                next.born = now;
                next.ask_at = now;
            }
            (None, Some(socket)) => self.close_sockets(&[socket]),
            (_, None) => {}
        }
    }

    pub(super) fn poll_rotation(&mut self, now: Instant) -> Option<Transmit> {
        let server = self.client.server()?;
        let next = self.rotation.next.as_ref()?;
        if next.socket == SocketId::MAIN || next.ask_at > now {
            return None;
        }
        let transaction = self.rng_transaction();
        let next = self.rotation.next.as_mut()?;
        next.asked.push(transaction);
        next.ask_at = now + ASK_AGAIN;
        Some(Transmit {
            socket: next.socket,
            ..Transmit::datagram(server, stun::encode_probe(transaction, Change::default()))
        })
    }

    /// Whether a STUN message answers the second mapping's question; then paths move there.
    pub(super) fn handle_rotation_answer(&mut self, message: &Message, now: Instant) -> bool {
        let mine = |next: &mut Fresh| {
            message.class == Class::Success && next.asked.contains(&message.transaction)
        };
        let (Some(mut next), Some(mapped)) = (self.rotation.next.take_if(mine), message.mapped)
        else {
            return false;
        };
        next.mapped = Some(mapped);
        let socket = next.socket;
        let before = self.rotation.current.replace(next);
        let retiring = before.map_or(SocketId::MAIN, |before| before.socket);
        if retiring != SocketId::MAIN {
            self.rotation.retired = Some((retiring, now + RETIREMENT));
        }
        for index in self.links.indices() {
            if let Some(link) = self.links.get_mut(index) {
                link.use_socket(socket, retiring, now);
            }
        }
        self.spread_candidates(now);
        true
    }

    /// When the next of these is due.
    pub(super) fn rotation_timeout(&self) -> Option<Instant> {
        let retired = self.rotation.retired.map(|(_, at)| at);
        let next = self.rotation.next.as_ref();
        let can_ask = self.client.server().is_some();
        let asking = next.map(|next| {
            let end = next.born + PATIENCE;
            if can_ask { next.ask_at.min(end) } else { end }
        });
        let due = self.rotation_due().filter(|_| next.is_none());
        [retired, asking, due].into_iter().flatten().min()
    }

    /// The socket that a new link is to use.
    pub(super) fn rotation_in_use(&self) -> Option<SocketId> {
        Some(self.rotation.current.as_ref()?.socket)
    }

    /// The network is another one: what was made in the old one leads nowhere.
    pub(super) fn forget_rotation(&mut self, now: Instant) {
        let Rotation {
            current,
            next,
            retired,
        } = std::mem::take(&mut self.rotation);
        let sockets = [
            current.map(|it| it.socket),
            next.map(|it| it.socket),
            retired.map(|it| it.0),
        ];
        let sockets: Vec<SocketId> = sockets
            .into_iter()
            .flatten()
            .filter(|socket| *socket != SocketId::MAIN)
            .collect();
        self.close_sockets(&sockets);
        for index in self.links.indices() {
            if let Some(link) = self.links.get_mut(index) {
                link.use_socket(SocketId::MAIN, SocketId::MAIN, now);
            }
        }
    }

    fn rotation_due(&self) -> Option<Instant> {
        if self.class.mapping != Dependence::Independent || self.stopping.is_some() {
            return None;
        }
        let lifetime = self.observer.lifetime()?;
        match &self.rotation.current {
            Some(current) => Some(current.born + lifetime * 7 / 10),
            // How old the main socket's mapping is, is not known exactly: it may end any time.
            None => self.observer.mapped_since(),
        }
    }
}

/// How long a second mapping may take to be known.
const PATIENCE: Duration = Duration::from_secs(3);
/// From one question to the next.
const ASK_AGAIN: Duration = Duration::from_millis(300);
/// How long the socket before is kept: the other end may still send there.
const RETIREMENT: Duration = Duration::from_secs(10);
