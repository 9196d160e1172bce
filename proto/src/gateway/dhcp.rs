//! The virtual DHCP server (RFC 2131; REQUIREMENTS E15 to E17): whose address is whose, for how long.
//!
//! ```text
//!   Discover ─▶ Offer (kept for a moment) ─▶ Request ─▶ Ack: a lease ─▶ Request again, before it ends ─▶ Ack
//!                                               └─▶ Nak                 └─▶ Release, Decline, or silence: gone
//! ```
//!
//! Addresses come from the same [`Pool`] that members get theirs from, so there is one table. A card that is a member's own is
//! that member, and gets the member's address. Others are known by their client identifier, or else by their card.
//!
//! It is the only server of its network and so says no to addresses that it knows nothing good of (section 4.3.2).

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};

use super::event::NatEvent;
use super::out::put_checksum;
use super::packet::{self, Header, Malformed, Packet};
use super::pool::Pool;
use super::settings::DhcpSettings;
use super::subnet::Subnet;
use crate::identity::PeerId;
use crate::wire::ethernet::MacAddr;
use message::{Answer, Question};

mod message;

/// The server.
#[derive(Debug)]
pub struct Dhcp {
    settings: DhcpSettings,
    subnet: Subnet,
    mac: MacAddr,
    leases: BTreeMap<PeerId, Lease>,
    /// Addresses that somebody else seems to have, until then.
    declined: BTreeMap<Ipv4Addr, Instant>,
    given: u64,
    events: VecDeque<NatEvent>,
    counters: DhcpCounters,
    /// Something to keep has changed.
    changed: bool,
}

/// An address that is given out, or offered.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Lease {
    id: u64,
    mac: MacAddr,
    address: Ipv4Addr,
    host_name: String,
    bound: bool,
    granted: Instant,
    expires: Instant,
}

/// What the server has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct DhcpCounters {
    /// Addresses offered.
    pub offered: u64,
    /// Requests granted, renewals included.
    pub granted: u64,
    /// Requests denied.
    pub denied: u64,
    /// Questions without an answer, because no address is left.
    pub exhausted: u64,
    /// Not for it, or through a relay.
    pub ignored: u64,
    /// What is no DHCP message.
    pub malformed: u64,
}

/// A lease as it is kept over a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptLease {
    /// Who has it.
    pub client: PeerId,
    /// Its card.
    pub mac: MacAddr,
    /// The address.
    pub address: Ipv4Addr,
    /// The name that it said it has.
    pub host_name: String,
    /// How long it is still good.
    pub left: Duration,
}

/// A row of the lease table (E17).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DhcpRow {
    /// Counts leases up.
    pub id: u64,
    /// The card.
    pub mac: MacAddr,
    /// The address.
    pub address: Ipv4Addr,
    /// The station's name.
    pub host_name: String,
    /// Seconds since it was given out.
    pub granted_seconds: u64,
    /// Seconds until it ends.
    pub left_seconds: u64,
}

impl DhcpSettings {
    /// The documents' defaults for a network (E15): what the pool of that size gives, two hours, the virtual host for
    /// everything. Routes and domain are the host's.
    #[must_use]
    pub fn new(subnet: Subnet) -> Self {
        let (first, last) = Pool::new(subnet).range();
        Self {
            first,
            last,
            lease: Duration::from_secs(7200),
            gateway: Some(subnet.address()),
            dns: vec![subnet.address()],
            domain: String::new(),
            routes: Vec::new(),
            reservations: Vec::new(),
        }
    }
}

impl Dhcp {
    /// A server of a network, with that MAC address.
    #[must_use]
    pub fn new(settings: DhcpSettings, subnet: Subnet, mac: MacAddr) -> Self {
        Self {
            settings,
            subnet,
            mac,
            leases: BTreeMap::new(),
            declined: BTreeMap::new(),
            given: 0,
            events: VecDeque::new(),
            counters: DhcpCounters::default(),
            changed: false,
        }
    }

    /// Whether a frame is a DHCP client's question.
    #[must_use]
    pub fn is_question(frame: &[u8]) -> bool {
        frame.get(12..14) == Some(&packet::IPV4.to_be_bytes())
            && frame.get(packet::ETHERNET..).is_some_and(super::is_dhcp)
    }

    /// Takes a question; the answer, if any, is a frame for the switch. `member_of` says whose a card is.
    pub fn handle_frame(
        &mut self,
        frame: &[u8],
        pool: &mut Pool,
        member_of: impl Fn(MacAddr) -> Option<PeerId>,
        now: Instant,
    ) -> Option<Vec<u8>> {
        self.expire(pool, now);
        let question = match parse(frame) {
            Ok(question) => question,
            Err(Malformed) => {
                self.counters.malformed += 1;
                return None;
            }
        };
        if !question.relay.is_unspecified() {
            self.counters.ignored += 1;
            return None;
        }
        let client = member_of(question.mac).unwrap_or_else(|| client_of(&question));
        let answer = match question.kind {
            message::DISCOVER => self.discover(client, &question, pool, now),
            message::REQUEST => self.request(client, &question, pool, now),
            message::DECLINE => {
                self.decline(client, &question, pool, now);
                None
            }
            message::RELEASE => {
                self.release(client, &question, pool);
                None
            }
            message::INFORM => Some(Answer {
                kind: message::ACK,
                address: Ipv4Addr::UNSPECIFIED,
                options: self.options(false),
            }),
            _ => {
                self.counters.ignored += 1;
                None
            }
        };
        answer.map(|answer| self.frame(&question, &answer))
    }

    /// Other settings from now on; leases go on.
    pub fn set(&mut self, settings: DhcpSettings) {
        self.settings = settings;
    }

    /// Leases of an earlier run.
    pub fn restore(&mut self, kept: Vec<KeptLease>, pool: &mut Pool, now: Instant) {
        for lease in kept {
            if lease.left.is_zero() || !pool.assign_exactly(lease.client, lease.address) {
                continue;
            }
            let lease_time = self.settings.lease.max(lease.left);
            let granted = now
                .checked_sub(lease_time.saturating_sub(lease.left))
                .unwrap_or(now);
            self.given += 1;
            let restored = Lease {
                id: self.given,
                mac: lease.mac,
                address: lease.address,
                host_name: lease.host_name,
                bound: true,
                granted,
                expires: now + lease.left,
            };
            self.leases.insert(lease.client, restored);
        }
    }

    /// Ends what has not been renewed.
    pub fn handle_timeout(&mut self, pool: &mut Pool, now: Instant) {
        self.expire(pool, now);
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.leases.values().map(|lease| lease.expires).min()
    }

    /// The next thing to tell, if any.
    pub fn poll_event(&mut self) -> Option<NatEvent> {
        self.events.pop_front()
    }

    /// Whether leases have changed since the last question; if so, they should be kept.
    pub const fn take_changed(&mut self) -> bool {
        std::mem::replace(&mut self.changed, false)
    }

    /// Whether a client has a lease now.
    #[must_use]
    pub fn has_lease(&self, client: &PeerId, now: Instant) -> bool {
        self.leases
            .get(client)
            .is_some_and(|lease| lease.expires > now)
    }

    /// What is to be kept over a restart.
    #[must_use]
    pub fn kept(&self, now: Instant) -> Vec<KeptLease> {
        let bound = self.leases.iter().filter(|(_, lease)| lease.bound);
        bound
            .map(|(client, lease)| KeptLease {
                client: *client,
                mac: lease.mac,
                address: lease.address,
                host_name: lease.host_name.clone(),
                left: lease.expires.saturating_duration_since(now),
            })
            .collect()
    }

    /// The lease table, by address.
    #[must_use]
    pub fn table(&self, now: Instant) -> Vec<DhcpRow> {
        let bound = self.leases.values().filter(|lease| lease.bound);
        let mut rows: Vec<DhcpRow> = bound
            .map(|lease| DhcpRow {
                id: lease.id,
                mac: lease.mac,
                address: lease.address,
                host_name: lease.host_name.clone(),
                granted_seconds: now.saturating_duration_since(lease.granted).as_secs(),
                left_seconds: lease.expires.saturating_duration_since(now).as_secs(),
            })
            .collect();
        rows.sort_by_key(|row| row.address);
        rows
    }

    /// What it has done.
    #[must_use]
    pub const fn counters(&self) -> DhcpCounters {
        self.counters
    }

    /// Its settings.
    #[must_use]
    pub const fn settings(&self) -> &DhcpSettings {
        &self.settings
    }

    // ---- the messages

    fn discover(
        &mut self,
        client: PeerId,
        question: &Question,
        pool: &mut Pool,
        now: Instant,
    ) -> Option<Answer> {
        let Some(address) = self.choose(client, question, pool) else {
            self.counters.exhausted += 1;
            if self.counters.exhausted.is_power_of_two() {
                self.tell(NatEvent::DhcpExhausted { mac: question.mac });
            }
            return None;
        };
        if !self.leases.get(&client).is_some_and(|lease| lease.bound) {
            let offer = Lease {
                id: 0,
                mac: question.mac,
                address,
                host_name: question.host_name.clone(),
                bound: false,
                granted: now,
                expires: now + OFFER_TIME,
            };
            self.leases.insert(client, offer);
        }
        self.counters.offered += 1;
        Some(Answer {
            kind: message::OFFER,
            address,
            options: self.options(true),
        })
    }

    /// The address for a client: its own, the one that is kept for its card, the one that it wants, or any (section 4.3.1).
    fn choose(&self, client: PeerId, question: &Question, pool: &mut Pool) -> Option<Ipv4Addr> {
        let reserved = self.reserved(question.mac);
        if let Some(address) = reserved {
            return pool.assign_exactly(client, address).then_some(address);
        }
        if let Some(address) = pool.address_of(client) {
            return Some(address);
        }
        let wanted = question
            .wanted
            .filter(|wanted| self.may_have(*wanted, pool));
        if let Some(address) = wanted
            && pool.assign_exactly(client, address)
        {
            return Some(address);
        }
        // Those in doubt, and those that are kept for others, stay out.
        pool.assign_but(client, |address| {
            self.declined.contains_key(&address) || self.is_reserved(address)
        })
    }

    fn request(
        &mut self,
        client: PeerId,
        question: &Question,
        pool: &mut Pool,
        now: Instant,
    ) -> Option<Answer> {
        if question
            .server
            .is_some_and(|server| server != self.subnet.address())
        {
            // It has chosen another server.
            self.forget(client, pool, "chose another server");
            self.counters.ignored += 1;
            return None;
        }
        let wanted = question.wanted.unwrap_or(question.own);
        let reserved = self.reserved(question.mac);
        let fits = reserved.is_none_or(|reserved| reserved == wanted)
            && (pool.address_of(client) == Some(wanted)
                || (self.may_have(wanted, pool) || reserved == Some(wanted))
                    && pool.assign_exactly(client, wanted));
        if !fits {
            self.counters.denied += 1;
            return Some(Answer {
                kind: message::NAK,
                address: Ipv4Addr::UNSPECIFIED,
                options: vec![self.server_identifier()],
            });
        }
        self.grant(client, question, wanted, now);
        Some(Answer {
            kind: message::ACK,
            address: wanted,
            options: self.options(true),
        })
    }

    fn grant(&mut self, client: PeerId, question: &Question, address: Ipv4Addr, now: Instant) {
        self.counters.granted += 1;
        self.changed = true;
        let seconds = self.settings.lease.as_secs();
        let expires = now + self.settings.lease;
        let before = self.leases.get_mut(&client);
        if let Some(lease) = before.filter(|lease| lease.bound && lease.address == address) {
            lease.expires = expires;
            lease.mac = question.mac;
            return;
        }
        self.given += 1;
        let lease = Lease {
            id: self.given,
            mac: question.mac,
            address,
            host_name: question.host_name.clone(),
            bound: true,
            granted: now,
            expires,
        };
        self.tell(NatEvent::DhcpCreated {
            id: lease.id,
            mac: lease.mac,
            address,
            host_name: lease.host_name.clone(),
            seconds,
        });
        self.leases.insert(client, lease);
    }

    /// Somebody else has the address, says the client (section 3.1, step 5).
    fn decline(&mut self, client: PeerId, question: &Question, pool: &mut Pool, now: Instant) {
        let has = pool.address_of(client);
        if has.is_some() && has == question.wanted && self.leases.contains_key(&client) {
            self.forget(client, pool, "declined");
            if let Some(address) = has.filter(|_| self.declined.len() < MAX_DECLINED) {
                self.declined.insert(address, now + DECLINE_TIME);
            }
        }
    }

    fn release(&mut self, client: PeerId, question: &Question, pool: &mut Pool) {
        if pool.address_of(client) == Some(question.own) {
            self.forget(client, pool, "released");
        }
    }

    // ---- small steps

    /// Whether an address is one that anybody may have.
    fn may_have(&self, address: Ipv4Addr, pool: &Pool) -> bool {
        (self.settings.first..=self.settings.last).contains(&address)
            && pool.peer_at(address).is_none()
            && !self.declined.contains_key(&address)
            && !self.is_reserved(address)
    }

    fn reserved(&self, mac: MacAddr) -> Option<Ipv4Addr> {
        let mut kept = self.settings.reservations.iter();
        kept.find(|(card, _)| *card == mac)
            .map(|(_, address)| *address)
    }

    fn is_reserved(&self, address: Ipv4Addr) -> bool {
        let mut kept = self.settings.reservations.iter();
        kept.any(|(_, reserved)| *reserved == address)
    }

    fn forget(&mut self, client: PeerId, pool: &mut Pool, reason: &'static str) {
        let Some(lease) = self.leases.remove(&client) else {
            return;
        };
        pool.release(client);
        if lease.bound {
            self.changed = true;
            self.tell(NatEvent::DhcpDeleted {
                id: lease.id,
                address: lease.address,
                reason,
            });
        }
    }

    fn expire(&mut self, pool: &mut Pool, now: Instant) {
        self.declined.retain(|_, until| *until > now);
        let over: Vec<PeerId> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.expires <= now)
            .map(|(client, _)| *client)
            .collect();
        for client in over {
            self.forget(client, pool, "expired");
        }
    }

    fn server_identifier(&self) -> (u8, Vec<u8>) {
        (54, self.subnet.address().octets().to_vec())
    }

    /// What stations are told besides their address; what is blank is left out (E16).
    fn options(&self, with_lease: bool) -> Vec<(u8, Vec<u8>)> {
        let settings = &self.settings;
        let mut options = vec![self.server_identifier()];
        if with_lease {
            let seconds = u32::try_from(settings.lease.as_secs()).unwrap_or(u32::MAX);
            options.push((51, seconds.to_be_bytes().to_vec()));
            options.push((58, (seconds / 2).to_be_bytes().to_vec()));
            options.push((59, (seconds / 8 * 7).to_be_bytes().to_vec()));
        }
        let mask = u32::MAX
            .checked_shl(32 - u32::from(self.subnet.prefix()))
            .unwrap_or(0);
        options.push((1, mask.to_be_bytes().to_vec()));
        options.push((28, self.subnet.broadcast().octets().to_vec()));
        if let Some(gateway) = settings.gateway {
            options.push((3, gateway.octets().to_vec()));
        }
        if !settings.dns.is_empty() {
            let servers = settings.dns.iter().flat_map(|server| server.octets());
            options.push((6, servers.collect()));
        }
        if !settings.domain.is_empty() {
            options.push((15, settings.domain.as_bytes().to_vec()));
        }
        if !settings.routes.is_empty() {
            let routes = message::classless_routes(&settings.routes, self.subnet.address());
            options.push((121, routes));
        }
        options
    }

    /// The frame of an answer (section 4.1: to whom it goes).
    fn frame(&self, question: &Question, answer: &Answer) -> Vec<u8> {
        let to_all = (MacAddr::BROADCAST, Ipv4Addr::BROADCAST);
        let (mac, address) = if answer.kind == message::NAK {
            to_all
        } else if !question.own.is_unspecified() {
            (question.mac, question.own)
        } else if question.broadcast || answer.address.is_unspecified() {
            to_all
        } else {
            (question.mac, answer.address)
        };
        let bytes = answer.bytes(question);
        let header = Header {
            to: mac,
            from: self.mac,
            source: self.subnet.address().into(),
            destination: address.into(),
            protocol: packet::UDP,
            ttl: 64,
            ident: 0,
            dont_fragment: true,
        };
        let length = packet::low16(8 + bytes.len());
        let mut payload = vec![0, 67, 0, 68];
        payload.extend(length.to_be_bytes());
        payload.extend([0, 0]);
        payload.extend(bytes);
        put_checksum(&header, &mut payload, 6);
        let mut frame = vec![0; header.len()];
        frame.extend(payload);
        header.write(&mut frame, None);
        frame
    }

    fn tell(&mut self, event: NatEvent) {
        if self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        }
    }
}

fn parse(frame: &[u8]) -> Result<Question, Malformed> {
    let frame = packet::Frame::parse(frame)?;
    let packet = Packet::parse(frame.kind, frame.payload).ok_or(Malformed)??;
    let header: &[u8; 8] = packet.payload.first_chunk().ok_or(Malformed)?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let unchecked = header[6..8] == [0, 0];
    if packet.part.is_some() || (!unchecked && !packet::verify(&packet)) {
        return Err(Malformed);
    }
    Question::parse(packet.payload.get(8..length).ok_or(Malformed)?)
}

/// What stands for a client that is no member, in the pool.
fn client_of(question: &Question) -> PeerId {
    let name = if question.client.is_empty() {
        [&[1], question.mac.0.as_slice()].concat()
    } else {
        question.client.clone()
    };
    let hash = digest(&SHA256, &[CLIENT_CONTEXT, &name].concat());
    let hash = hash.as_ref().first_chunk();
    PeerId(*hash.expect("SHA-256 has 32 bytes"))
}

/// Separates this use of a client's name from every other.
const CLIENT_CONTEXT: &[u8] = b"kuguri dhcp client";
/// An address is kept for whom it was offered to.
const OFFER_TIME: Duration = Duration::from_secs(15);
/// An address in doubt is given to nobody.
const DECLINE_TIME: Duration = Duration::from_secs(600);
/// Addresses in doubt at once.
const MAX_DECLINED: usize = 64;
/// Events that wait for the driver.
const MAX_EVENTS: usize = 4096;

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test may begin at any instant")]
mod tests;
