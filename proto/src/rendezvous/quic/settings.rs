//! How our QUIC is set, and where its chance and its time come from: one seed and the caller's clock, nothing else.
//!
//! What stays outside of our seed is TLS's own randomness (hellos, key shares): it changes bytes, never sizes or order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::{hkdf, hmac};
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::{
    ClientConfig, ConnectionId, ConnectionIdGenerator, EndpointConfig, InvalidCid, NoneTokenLog,
    NoneTokenStore, ServerConfig, TimeSource, TransportConfig, VarInt,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::identity::Identity;

/// A quiet connection is kept alive this often, by the peer. NATs would be content with 15 s (RFC 4787, REQ-5 asks for two
/// minutes, and few obey); but it is also how soon a peer finds out that the rendezvous started again, or that a NAT gave it
/// another address.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// A connection that is silent this long is over: three keep-alives, each of which is repeated when it is lost.
pub const MAX_IDLE: Duration = Duration::from_secs(15);

/// The endpoint's settings for both roles. `restart_key` recognises connections of an earlier run with the same key.
pub(super) fn endpoint(restart_key: &[u8; 32], rng: &mut StdRng) -> EndpointConfig {
    let mac = hmac::Key::new(hmac::HMAC_SHA256, restart_key);
    let ids = ConnectionIds {
        mac: hmac::Key::new(hmac::HMAC_SHA256, &restart_key.map(|byte| !byte)),
        seed: draw(rng),
    };
    let mut config = EndpointConfig::new(Arc::new(mac));
    config
        .cid_generator(move || Box::new(ids.generator()))
        .rng_seed(Some(draw(rng)))
        // The first byte tells QUIC from our other datagrams: the fixed bit must stay fixed (RFC 9287, section 3).
        .grease_quic_bit(false);
    config
}

/// A client's settings for one connection.
pub(super) fn client(tls: rustls::ClientConfig, rng: &mut StdRng) -> ClientConfig {
    let tls = QuicClientConfig::try_from(tls).expect("the back end has AES-128-GCM");
    let id = ConnectionId::new(&draw::<20>(rng));
    let mut config = ClientConfig::new(Arc::new(tls));
    let mut transport = transport();
    transport.keep_alive_interval(Some(KEEP_ALIVE));
    config
        .transport_config(Arc::new(transport))
        .token_store(Arc::new(NoneTokenStore))
        .initial_dst_cid_provider(Arc::new(move || id));
    config
}

/// A server's settings. Every address is proven by Retry, so no token outlives its connection.
pub(super) fn server(
    tls: rustls::ServerConfig,
    clock: &Arc<Clock>,
    rng: &mut StdRng,
) -> ServerConfig {
    let tls = QuicServerConfig::try_from(tls).expect("the back end has AES-128-GCM");
    let token_key = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&draw::<32>(rng));
    let mut config = ServerConfig::new(Arc::new(tls), Arc::new(token_key));
    config.transport_config(Arc::new(transport()));
    config.validation_token.sent(0).log(Arc::new(NoneTokenLog));
    config
        .migration(true)
        .time_source(Arc::clone(clock) as Arc<dyn TimeSource>);
    config
}

/// One stream of small messages: everything is as small as that allows, because there may be many connections.
fn transport() -> TransportConfig {
    let mut config = TransportConfig::default();
    let idle = u32::try_from(MAX_IDLE.as_millis()).expect("15 s are few milliseconds");
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0)
        .stream_receive_window(VarInt::from_u32(WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(u64::from(WINDOW))
        .max_idle_timeout(Some(VarInt::from_u32(idle).into()))
        .initial_rtt(INITIAL_RTT)
        .mtu_discovery_config(None)
        .enable_segmentation_offload(false)
        .allow_spin(false);
    config
}

/// The time that QUIC's tokens read: seconds since the endpoint was made.
pub(super) struct Clock {
    start: Instant,
    seconds: AtomicU64,
}

impl Clock {
    pub(super) fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self {
            start: now,
            seconds: AtomicU64::new(0),
        })
    }

    pub(super) fn set(&self, now: Instant) {
        let seconds = now.saturating_duration_since(self.start).as_secs();
        self.seconds.store(seconds, Ordering::Relaxed);
    }
}

impl TimeSource for Clock {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.seconds.load(Ordering::Relaxed))
    }
}

/// Connection ids that only we can have made: five random bytes and four of their MAC, so garbage gets no reset.
struct ConnectionIds {
    mac: hmac::Key,
    seed: [u8; 32],
}

impl ConnectionIds {
    fn generator(&self) -> ConnectionIdSource {
        ConnectionIdSource {
            mac: self.mac.clone(),
            rng: StdRng::from_seed(self.seed),
        }
    }
}

struct ConnectionIdSource {
    mac: hmac::Key,
    rng: StdRng,
}

impl ConnectionIdSource {
    fn tag(&self, nonce: &[u8]) -> [u8; ID_TAG] {
        let tag = hmac::sign(&self.mac, nonce);
        *tag.as_ref()
            .first_chunk()
            .expect("HMAC-SHA256 has 32 bytes")
    }
}

impl ConnectionIdGenerator for ConnectionIdSource {
    fn generate_cid(&mut self) -> ConnectionId {
        let nonce: [u8; ID_NONCE] = draw(&mut self.rng);
        ConnectionId::new(&[nonce.as_slice(), &self.tag(&nonce)].concat())
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        match id.split_at_checked(ID_NONCE) {
            Some((nonce, tag)) if tag == self.tag(nonce) => Ok(()),
            _ => Err(InvalidCid),
        }
    }

    fn cid_len(&self) -> usize {
        ID_NONCE + ID_TAG
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// A key that is the same at every start with the same identity, so that a rendezvous which starts again can tell its old
/// peers at once that their connections are gone (stateless reset, RFC 9000, section 10.3) instead of leaving them to wait.
pub(super) fn restart_key(identity: &Identity) -> [u8; 32] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, identity.seed());
    let tag = hmac::sign(&key, b"kuguri rendezvous restart key");
    *tag.as_ref()
        .first_chunk()
        .expect("HMAC-SHA256 has 32 bytes")
}

pub(super) fn draw<const N: usize>(rng: &mut StdRng) -> [u8; N] {
    let mut bytes = [0; N];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// Room for one control message of the largest size.
const WINDOW: u32 = 18 * 1024;
/// Before the first measurement: half of RFC 9002's 333 ms, so that a lost first datagram costs half a second, not one.
const INITIAL_RTT: Duration = Duration::from_millis(166);
const ID_NONCE: usize = 5;
const ID_TAG: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_connection_ids_are_known_again_after_a_restart_and_others_never() {
        let source = |key: u8, seed: u64| ConnectionIdSource {
            mac: hmac::Key::new(hmac::HMAC_SHA256, &[key; 32]),
            rng: StdRng::seed_from_u64(seed),
        };
        let id = source(1, 1).generate_cid();
        assert!(source(1, 2).validate(&id).is_ok());
        assert!(source(2, 1).validate(&id).is_err());
        assert!(source(1, 1).validate(&ConnectionId::new(&[])).is_err());
    }
}
