//! What `serve` and `connect` have in common: from what is wanted to a running loop.

use std::convert::Infallible;
use std::future::pending;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use kuguri_proto::identity::{Identity, PeerId};
use kuguri_proto::node::{Config, Event, Node, ReachConfig, RendezvousServer, Role};
use kuguri_proto::traversal::Budget;
use kuguri_proto::wire::ethernet::MacAddr;
use kuguri_rendezvous::private;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::admin::{self, Asked};
use crate::config::address::HostPort;
use crate::config::state::State;
use crate::driver::secure_nat::Wanted;
use crate::driver::{Driver, NEVER_REGISTERED, Observe, Parts, Plug};
use crate::output::Saying;
use crate::route::Routes;
use crate::tap::Card;
use crate::udp::UdpSocket;
use crate::ways::Ways;
use crate::ways::via::{Route, Via};

/// What both verbs may be told.
#[derive(Debug, clap::Args)]
pub(super) struct Common {
    /// A fixed UDP port; a free one otherwise
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(super) port: u16,
    /// The way to the rendezvous: auto, udp, https, http-proxy=URL, socks=URL or ssh=DESTINATION
    ///
    /// auto sends UDP, and takes HTTPS when that is not answered, straight or through the proxy that https_proxy or
    /// all_proxy names in the environment; and UDP again when it is answered. Any other one is the only one: with https
    /// and through proxies and ssh no UDP leaves this machine, and the hub is reached by the rendezvous. A URL is
    /// http://USER:PASSWORD@HOST:PORT or socks5://…; user and password may be left out.
    #[arg(
        long,
        value_name = "WAY",
        default_value = "auto",
        hide_default_value = true
    )]
    pub(super) via: Via,
    /// The password for the proxy, on the first line of a private file: arguments can be seen by others
    #[arg(long, value_name = "FILE")]
    pub(super) proxy_password_file: Option<PathBuf>,
    /// Never a direct path: everything by the rendezvous, so that no peer learns this machine's address
    #[arg(long)]
    pub(super) relay_only: bool,
    #[command(flatten)]
    pub(super) reach: Reach,
    /// How frames are sealed; auto is AES-256-GCM where both machines have it in hardware
    #[arg(long, value_enum, default_value_t, value_name = "CIPHER")]
    pub(super) cipher: Cipher,
    /// One JSON object per event on stdout
    #[arg(long)]
    pub(super) json: bool,
}

/// What this side is ready to seal with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Cipher {
    /// By what this machine has in hardware
    #[default]
    Auto,
    /// Also where it is slow, if the other side agrees
    #[value(name = "aes-256-gcm")]
    Aes256Gcm,
    /// Always
    #[value(name = "chacha20-poly1305")]
    ChaCha20Poly1305,
}

impl Cipher {
    /// Whether AES-256-GCM is offered.
    fn offers_aes(self) -> bool {
        match self {
            Self::Auto => aes_in_hardware(),
            Self::Aes256Gcm => true,
            Self::ChaCha20Poly1305 => false,
        }
    }
}

/// A peer that is wanted.
pub(super) struct Start<'s> {
    pub(super) state: &'s State,
    /// Of the process; the caller holds its lock.
    pub(super) name: String,
    pub(super) identity: Identity,
    pub(super) role: Role,
    /// In the order of preference.
    pub(super) rendezvous: Vec<(HostPort, Option<PeerId>)>,
    pub(super) common: Common,
    pub(super) wish: Option<Wish>,
    pub(super) secure_nat: Option<Wanted>,
}

/// How hard to try to get through NATs.
#[derive(Debug, clap::Args)]
pub(super) struct Reach {
    /// Never search for the port that a NAT gives: fewer packets, and more links by the relay
    #[arg(long)]
    no_port_search: bool,
    /// Never ask the router for an open port (PCP, NAT-PMP)
    #[arg(long)]
    no_port_mapping: bool,
    /// Another STUN server, by address and port, to see how our NAT behaves; may be given several times
    #[arg(long = "stun", value_name = "ADDRESS")]
    stun: Vec<SocketAddr>,
}

impl Reach {
    fn config(self) -> ReachConfig {
        let budget = if self.no_port_search {
            Budget::off()
        } else {
            Budget::default()
        };
        ReachConfig {
            budget,
            portmap: !self.no_port_mapping,
            stun: self.stun,
        }
    }
}

/// A virtual LAN card that is wanted.
pub(super) struct Wish {
    pub(super) interface: String,
    pub(super) mac: MacAddr,
    pub(super) with_address: bool,
}

/// Runs it until it ends.
pub(super) async fn run(start: Start<'_>, mut observer: impl Observe) -> anyhow::Result<()> {
    let mut stop = signals()?;
    let socket = UdpSocket::bind(start.common.port)?;
    let plug = match start.wish {
        Some(wish) => Some(plug(wish).await?),
        None => None,
    };
    let (_listener, mut asked) = admin::listen(start.state, &start.name)?;
    let WantedWays { via, environment } =
        wanted_ways(&start.common, &start.rendezvous, &mut observer)?;
    let found = if let (Via::Only(_), Some((_, key))) = (&via, start.rendezvous.first()) {
        // Its name is asked for where the stream ends, and perhaps only there.
        unresolved(*key)
    } else {
        let (ipv6, has_proxy) = (socket.has_ipv6(), environment.is_some());
        tokio::select! {
            found = find(&start.rendezvous, ipv6, has_proxy, &mut observer) => found?,
            _ = stop.recv() => return Err(anyhow!(NEVER_REGISTERED)),
            never = answer_meanwhile(&mut asked) => match never {},
        }
    };
    let server = start.rendezvous.first().map(|(server, _)| server);
    let only = matches!(via, Via::Only(_));
    let ways = ways(server, &via, &found, environment, socket.port()?)?;
    let config = Config {
        identity: start.identity,
        role: start.role,
        rendezvous: found,
        host_name: host_name(),
        seed: rand::random(),
        aes_in_hardware: start.common.cipher.offers_aes(),
        relay_only: start.common.relay_only || only,
        reach: start.common.reach.config(),
    };
    let parts = Parts {
        name: start.name,
        socket,
        ways,
        plug,
        secure_nat: start.secure_nat,
        asked,
        stop,
    };
    let node = Node::new(config, Instant::now());
    Driver::new(node, parts, observer)?.run().await
}

/// There is nothing to tell yet; who asks hears why.
async fn answer_meanwhile(asked: &mut mpsc::Receiver<Asked>) -> Infallible {
    while let Some(Asked { answer, .. }) = asked.recv().await {
        // Who asked may have gone.
        let _ = answer.send(json!({ "error": "the name of its rendezvous is not resolved yet; is the network up?" }));
    }
    pending().await
}

async fn plug(wish: Wish) -> anyhow::Result<Plug> {
    let routes = Routes::connect()?;
    Ok(Plug {
        card: Card::open(&wish.interface, wish.mac, &routes).await?,
        routes,
        mac: wish.mac.to_string(),
        with_address: wish.with_address,
    })
}

/// The ways that are wanted.
struct WantedWays {
    via: Via,
    /// Through which proxy, if nothing was said.
    environment: Option<Route>,
}

/// What the flags and the environment say, with the password that stands in a file.
fn wanted_ways(
    common: &Common,
    rendezvous: &[(HostPort, Option<PeerId>)],
    observer: &mut impl Observe,
) -> anyhow::Result<WantedWays> {
    let mut wanted = WantedWays {
        via: common.via.clone(),
        environment: None,
    };
    if let (Via::Auto, Some((server, _))) = (&wanted.via, rendezvous.first()) {
        match Route::from_environment(server.host(), |name| std::env::var(name).ok()) {
            Ok(route) => wanted.environment = route,
            Err(sentence) => observer.observe(&Saying::Note(&sentence))?,
        }
    }
    if let Some(path) = &common.proxy_password_file {
        let route = match &mut wanted.via {
            Via::Only(route) => Some(route),
            Via::Auto => wanted.environment.as_mut(),
            Via::Udp => None,
        };
        set_password(route, path)?;
    }
    Ok(wanted)
}

fn set_password(route: Option<&mut Route>, path: &Path) -> anyhow::Result<()> {
    let user = route
        .and_then(Route::proxy_mut)
        .and_then(|proxy| proxy.credentials.as_mut());
    let user = user.context(
        "--proxy-password-file needs a proxy with a user, such as --via http-proxy=http://USER@HOST:PORT",
    )?;
    let file =
        private::open(path)?.with_context(|| format!("there is no file {}", path.display()))?;
    let mut text = Zeroizing::new(String::new());
    file.take(LONGEST_PASSWORD)
        .read_to_string(&mut text)
        .with_context(|| format!("{} cannot be read", path.display()))?;
    let line = text.lines().next().unwrap_or_default();
    user.password = Zeroizing::new(line.to_owned());
    Ok(())
}

/// The ways to the rendezvous that was found.
fn ways(
    server: Option<&HostPort>,
    via: &Via,
    found: &RendezvousServer,
    environment: Option<Route>,
    port: u16,
) -> anyhow::Result<Ways> {
    let now = Instant::now();
    match (server, found.key, via) {
        (Some(server), Some(key), _) => {
            let known = !found.addresses.is_empty();
            Ok(Ways::plan(
                via,
                (server, key),
                known,
                environment,
                port,
                now,
            ))
        }
        // A server shows nothing but a page to who does not know its key.
        (_, _, Via::Only(_)) => bail!(
            "by HTTPS the rendezvous is known by its key alone: name it once with --rendezvous-key KEY, as `kuguri rendezvous` prints it"
        ),
        _ => Ok(Ways::udp(now)),
    }
}

/// A rendezvous whose address nobody here has to know.
const fn unresolved(key: Option<PeerId>) -> RendezvousServer {
    RendezvousServer {
        addresses: Vec::new(),
        key,
    }
}

/// Resolves the first rendezvous that can be resolved; tried for ever, since names come back with the network. Not where there is
/// a proxy that can resolve them.
async fn find(
    wanted: &[(HostPort, Option<PeerId>)],
    ipv6: bool,
    has_proxy: bool,
    observer: &mut impl Observe,
) -> anyhow::Result<RendezvousServer> {
    loop {
        let mut reason = "the invite names no rendezvous".to_owned();
        for (server, key) in wanted {
            match resolve(server, ipv6).await {
                Ok(addresses) => {
                    let key = *key;
                    return Ok(RendezvousServer { addresses, key });
                }
                Err(why) => reason = why,
            }
        }
        if has_proxy && let Some((_, Some(key))) = wanted.first() {
            return Ok(unresolved(Some(*key)));
        }
        let fatal = false;
        observer.observe(&Saying::Node(&Event::RendezvousFailed { reason, fatal }))?;
        tokio::time::sleep(RESOLVE_AGAIN).await;
    }
}

async fn resolve(server: &HostPort, ipv6: bool) -> Result<Vec<SocketAddr>, String> {
    let host = server.host();
    let trying = "still trying; is the name right, and is the network up?";
    let found = match tokio::time::timeout(RESOLVE_WITHIN, server.resolve()).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return Err(format!("{host} cannot be resolved ({error}), {trying}")),
        Err(_elapsed) => return Err(format!("{host} cannot be resolved in time, {trying}")),
    };
    let (usable, other): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|address| ipv6 || address.is_ipv4());
    if usable.is_empty() && !other.is_empty() {
        return Err(format!(
            "{host} has only IPv6 addresses, and this machine has no IPv6; still trying"
        ));
    }
    Ok(usable)
}

/// The error that a rendezvous with another key than `expected` is: what was seen, and the one thing to do about it.
/// `None` when `reason` is about something else.
pub(super) fn wrong_key(
    reason: &str,
    expected: Option<PeerId>,
    advice: &str,
) -> Option<anyhow::Error> {
    // What is said after the two keys is for those who do not know where the expected one is from.
    let keys = format!(", not {}", expected?);
    let (seen, _) = reason.split_once(&keys)?;
    Some(anyhow!("{seen}{keys} {advice}"))
}

/// Ctrl-C, SIGTERM and SIGHUP ask for the end.
fn signals() -> anyhow::Result<mpsc::Receiver<()>> {
    let (tell, told) = mpsc::channel(2);
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        loop {
            let heard = tokio::select! {
                heard = interrupt.recv() => heard,
                heard = terminate.recv() => heard,
                heard = hangup.recv() => heard,
            };
            if heard.is_none() {
                // No more signals can come.
                pending::<()>().await;
            }
            if tell.send(()).await.is_err() {
                return;
            }
        }
    });
    Ok(told)
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "unknown".to_owned(),
        name => name.chars().take(LONGEST_HOST_NAME).collect(),
    }
}

/// Whether sealing by AES-256-GCM is fast here.
fn aes_in_hardware() -> bool {
    #[cfg(target_arch = "x86_64")]
    let has = std::is_x86_feature_detected!("aes") && std::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    let has = std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let has = false;
    has
}

/// How long the resolver may take before it is told.
const RESOLVE_WITHIN: Duration = Duration::from_secs(5);
/// Between attempts.
const RESOLVE_AGAIN: Duration = Duration::from_secs(2);
/// Bytes of a password's file.
const LONGEST_PASSWORD: u64 = 1024;
/// Bytes, as RFC 1123 limits a label.
const LONGEST_HOST_NAME: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_key_is_one_sentence_with_one_advice() {
        let (shown, expected) = (PeerId([1; 32]), PeerId([2; 32]));
        let fact =
            format!("the rendezvous at 192.0.2.1:7777 shows the key {shown}, not {expected}");
        for reason in [fact.clone(), format!("{fact}; check this or that")] {
            let error = wrong_key(&reason, Some(expected), "as before; do this").expect("it is");
            assert_eq!(error.to_string(), format!("{fact} as before; do this"));
        }
        let other = "the rendezvous at 192.0.2.1:7777 speaks another version";
        assert!(wrong_key(other, Some(expected), "").is_none());
        assert!(wrong_key(&fact, None, "").is_none());
    }
}
