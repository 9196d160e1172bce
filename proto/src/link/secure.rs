//! The part of a link that exists once there are keys: seals what goes out, opens what comes in, and says by which path.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use zeroize::Zeroizing;

use super::arq::Arq;
use super::pack::{self, Packer, Reassembler};
use super::path::{Paths, PathsConfig};
use super::rekey::Rekeying;
use super::seal::keys::EXPORTED;
use super::seal::{LinkKeys, Role, Suite};
use super::{LinkEvent, Outgoing, Via};
use crate::Transmit;
use crate::node::status::Counters;
use crate::offload::checksum;
use crate::rendezvous::Channel;
use crate::wire::chunk::{self, Chunk};
use crate::wire::sealed::{HEADER, TAG};

mod pings;

use pings::Pings;

/// Bytes of UDP payload that every relayed path is taken to carry, without the relay's own header: what QUIC demands of a path
/// (RFC 9000, section 14), and the rendezvous is reached by QUIC.
pub(super) const RELAY_MTU: usize = 1196;

/// Sealing, opening, packing and paths of one link.
pub(super) struct Secure {
    pub(super) paths: Paths,
    pub(super) rekeying: Rekeying,
    packer: Packer,
    reassembler: Reassembler,
    pongs: VecDeque<(Via, u64, u16)>,
    pings: Pings,
    last_sign: Instant,
    events: VecDeque<LinkEvent>,
    /// A datagram on its way a second time, by the relay.
    copy: Option<Outgoing>,
    malformed: u64,
}

/// What came out of a datagram.
#[derive(Default)]
pub(super) struct Contents {
    pub(super) segments: Vec<Vec<u8>>,
    pub(super) frames: Vec<Vec<u8>>,
}

impl Secure {
    pub(super) fn new(
        exported: &Zeroizing<[u8; EXPORTED]>,
        (suite, role): (Suite, Role),
        (local_index, remote_index): (u32, u32),
        rng: &mut StdRng,
        now: Instant,
    ) -> Self {
        let keys = LinkKeys::derive(exported, role);
        let paths = PathsConfig {
            local_index,
            remote_index,
            send_key: *keys.check_key,
            receive_key: *keys.peer_check_key,
            starter: role == Role::Client,
            refused: Vec::new(),
        };
        Self {
            paths: Paths::new(paths, rng.random(), now),
            rekeying: Rekeying::new(
                keys,
                role,
                suite,
                remote_index,
                StdRng::from_seed(rng.random()),
                now,
            ),
            packer: Packer::new(QUEUE_BYTES),
            reassembler: Reassembler::default(),
            pongs: VecDeque::new(),
            pings: Pings::default(),
            last_sign: now,
            events: VecDeque::new(),
            copy: None,
            malformed: 0,
        }
    }

    // ---- in

    /// Opens a datagram; `None` when it is not authentic or not fresh.
    pub(super) fn open(&mut self, datagram: &mut [u8], via: Via, now: Instant) -> Option<Contents> {
        let size = u16::try_from(datagram.len()).unwrap_or(u16::MAX);
        let opener = std::sync::Arc::clone(self.rekeying.opener());
        let plaintext = opener.open(datagram, now).ok()?.plaintext;
        Some(self.handle_opened(plaintext, (via, size), now))
    }

    /// A datagram of `size` bytes was opened, here or by a data plane, that came by `via`; these of its chunks are to be read.
    pub(super) fn handle_opened(
        &mut self,
        plaintext: &[u8],
        (via, size): (Via, u16),
        now: Instant,
    ) -> Contents {
        self.rekeying.handle_opened(now);
        if let Via::Direct { socket, remote } = via {
            self.paths.handle_authenticated(socket, remote, now);
        }
        let mut contents = Contents::default();
        for chunk in chunk::chunks(plaintext) {
            let Ok(chunk) = chunk else {
                self.malformed += 1;
                break;
            };
            self.take(chunk, &mut contents, (via, size), now);
        }
        contents
    }

    fn take(
        &mut self,
        chunk: Chunk<'_>,
        contents: &mut Contents,
        (via, size): (Via, u16),
        now: Instant,
    ) {
        match chunk {
            Chunk::Frame(frame) => match pack::check_length(frame.len()) {
                Ok(()) => contents.frames.push(frame.to_vec()),
                Err(_) => self.malformed += 1,
            },
            Chunk::OpenFrame(frame) => {
                let mut whole = frame.to_vec();
                if pack::check_length(frame.len()).is_ok() && checksum::finish_frame(&mut whole) {
                    contents.frames.push(whole);
                } else {
                    self.malformed += 1;
                }
            }
            Chunk::Fragment(fragment) => match self.reassembler.handle_fragment(fragment, now) {
                Ok(whole) => contents.frames.extend(whole),
                Err(_) => self.malformed += 1,
            },
            Chunk::Segment(segment) => contents.segments.push(segment.to_vec()),
            Chunk::Ping { id } => {
                if self.pongs.len() < PONGS_MAX {
                    self.pongs.push_back((via, id, size));
                }
            }
            Chunk::Pong { id, .. } if Pings::is_mine(id) => {
                self.events.extend(self.pings.handle_pong(id, now))
            }
            Chunk::Pong { id, size } => {
                let from = match via {
                    Via::Direct { remote, .. } => Some(remote),
                    Via::Relay(_) => None,
                };
                self.paths
                    .handle_probe_answer(id, usize::from(size), from, now);
            }
        }
    }

    pub(super) fn queue_frame(&mut self, frame: &[u8]) -> bool {
        self.packer.push(frame.to_vec()).is_ok()
    }

    pub(super) fn ping(&mut self, id: u64, now: Instant) {
        self.events.extend(self.pings.add(Some(id), now));
    }

    /// Pings that have no answer yet.
    pub(super) fn unanswered_pings(&self) -> impl Iterator<Item = u64> {
        self.pings.unanswered()
    }

    /// Asks for a sign of life, when the last one asked for is some time ago.
    pub(super) fn keep_alive(&mut self, now: Instant) {
        if now >= self.last_sign + SIGN_INTERVAL {
            self.last_sign = now;
            let _ = self.pings.add(None, now);
        }
    }

    /// The same at once, and by every way: something says that the peer may be gone.
    pub(super) fn check_alive(&mut self, now: Instant) {
        self.last_sign = now;
        let _ = self.pings.add(None, now);
        self.paths.doubt(now);
    }

    /// When a sign of life is to be asked for, at `earliest` or later.
    pub(super) fn keepalive_due(&self, earliest: Instant) -> Instant {
        earliest.max(self.last_sign + SIGN_INTERVAL)
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.paths.handle_timeout(now);
        self.rekeying.handle_timeout(now);
        self.reassembler.handle_timeout(now);
        self.events.extend(self.pings.handle_timeout(now));
    }

    // ---- out

    /// The next datagram. Checks and probes first: they are small, and what follows depends on them.
    pub(super) fn poll_transmit(
        &mut self,
        arq: Option<&mut Arq>,
        relay: Option<Channel>,
        now: Instant,
    ) -> Option<Outgoing> {
        if let Some(check) = self.paths.poll_transmit(now) {
            return Some(Outgoing::Direct(check));
        }
        if let Some(probe) = self.paths.poll_probe(now) {
            let via = Via::direct(probe.socket, probe.remote);
            return self.seal(via, |payload| {
                let fits = Chunk::Ping { id: probe.id }.emit(payload).is_ok();
                payload.resize((probe.size - TAG).max(payload.len()), 0);
                fits
            });
        }
        if let Some((via, id, size)) = self.pongs.pop_front() {
            return self.seal(via, |payload| {
                Chunk::Pong { id, size }.emit(payload).is_ok()
            });
        }
        self.poll_data(arq, relay, now)
    }

    /// Pings, a segment of the ARQ and frames, as many as one datagram of the best path holds. While that path is in doubt the
    /// same datagram goes by the relay too; the other side's replay window takes whichever comes first.
    fn poll_data(
        &mut self,
        arq: Option<&mut Arq>,
        relay: Option<Channel>,
        now: Instant,
    ) -> Option<Outgoing> {
        if let Some(copy) = self.copy.take() {
            return Some(copy);
        }
        let (via, mtu, relay_too) = self.way(relay)?;
        let payload = self.data(via, mtu - TAG, arq, now)?;
        if matches!(via, Via::Direct { .. }) {
            self.paths.handle_sent(now);
        }
        let sealed = self.seal_payload(via, payload)?;
        if let (Some(channel), Outgoing::Direct(direct)) = (relay_too, &sealed) {
            self.copy = Some(Outgoing::Relay(channel, direct.contents.clone()));
        }
        Some(sealed)
    }

    /// By which way datagrams go, how large they may be, and the relay channel that they go by too.
    pub(super) fn way(&self, relay: Option<Channel>) -> Option<(Via, usize, Option<Channel>)> {
        let relay_too = relay.filter(|_| self.paths.is_suspect());
        let Some(path) = self.paths.best() else {
            return Some((Via::Relay(relay?), RELAY_MTU, None));
        };
        let via = Via::direct(path.socket, path.remote);
        let mtu = match relay_too {
            Some(_) => path.mtu.min(RELAY_MTU),
            None => path.mtu,
        };
        Some((via, mtu, relay_too))
    }

    /// What waits, up to `end` bytes with room for the header.
    fn data(
        &mut self,
        via: Via,
        end: usize,
        arq: Option<&mut Arq>,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let mut payload = vec![0; HEADER];
        if let Some(id) = self.pings.next(matches!(via, Via::Direct { .. }), now) {
            Chunk::Ping { id }.emit(&mut payload).ok()?;
        }
        if let Some(arq) = arq {
            let mut segment = Vec::new();
            if arq.poll_transmit(&mut segment, end - payload.len() - chunk::HEADER, now) {
                Chunk::Segment(&segment).emit(&mut payload).ok()?;
            }
        }
        self.packer.fill(&mut payload, HEADER, end - HEADER);
        (payload.len() > HEADER).then_some(payload)
    }

    fn seal(&mut self, via: Via, write: impl FnOnce(&mut Vec<u8>) -> bool) -> Option<Outgoing> {
        let mut payload = vec![0; HEADER];
        if write(&mut payload) {
            self.seal_payload(via, payload)
        } else {
            None
        }
    }

    fn seal_payload(&mut self, via: Via, mut payload: Vec<u8>) -> Option<Outgoing> {
        self.rekeying.sealer().seal_tail(&mut payload, 0).ok()?;
        Some(match via {
            Via::Relay(channel) => Outgoing::Relay(channel, payload),
            Via::Direct { socket, remote } => Outgoing::Direct(Transmit {
                socket,
                ..Transmit::datagram(remote, payload)
            }),
        })
    }

    /// What the node is to know.
    pub(super) fn poll_event(&mut self) -> Option<LinkEvent> {
        self.events.pop_front()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let times = [
            self.paths.poll_timeout(),
            self.reassembler.poll_timeout(),
            self.pings.poll_timeout(),
            self.rekeying.poll_timeout(),
        ];
        times.into_iter().flatten().min()
    }

    /// Adds what was counted here to a link's counters.
    pub(super) fn count(&self, counters: &mut Counters) {
        let (opened, reassembled, packed) = (
            self.rekeying.opener().counters(),
            self.reassembler.counters(),
            self.packer.counters(),
        );
        counters.datagrams_sent = self.rekeying.sealer().sealed();
        counters.datagrams_received = opened.opened;
        counters.dropped_forged = opened.forged + opened.unknown_epoch;
        counters.dropped_replayed = opened.replayed + opened.too_old;
        counters.dropped_malformed += opened.malformed + self.malformed;
        counters.dropped_incomplete =
            reassembled.expired + reassembled.evicted + reassembled.inconsistent;
        counters.dropped_queue += packed.dropped;
    }

    pub(super) fn epoch(&self) -> u8 {
        self.rekeying.sealer().epoch()
    }

    /// The round trip of the path in use, as last measured.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.paths.rtt().or(self.pings.relay_round_trip)
    }
}

/// Bytes of frames that wait for a link to be drained.
const QUEUE_BYTES: usize = 1 << 20;
/// Pings that wait for their answer; more at once are not answered.
const PONGS_MAX: usize = 64;
/// Signs of life are not asked for more often than this; a link that answers is asked only after silence.
const SIGN_INTERVAL: Duration = Duration::from_millis(600);
