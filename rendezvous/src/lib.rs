//! The rendezvous process: sockets, clock, key file and output around [`kuguri_proto::rendezvous`], which decides.
//!
//! ```text
//!   UDP port N   ──batch──▶ driver ──▶ proto::rendezvous::server ──▶ driver ──batch──▶ UDP port N
//!   UDP port N+1 ──(STUN)─▶                                                          ▶ UDP port N+1
//!   the same two at the second address, if there is one, for STUN alone
//!   TCP 443, N ─ https ─ carriers ═▶ UDP port N, by loopback
//! ```
//!
//! It is a program of its own (`kuguri-rendezvous`) and the same as `kuguri rendezvous`: both call [`run`].

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, anyhow};
use kuguri_proto::identity::Identity;
use kuguri_proto::rendezvous::server::{Config, Limits, Server};
use kuguri_proto::wire::stun::Policy;
use rustls::pki_types::UnixTime;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, warn};

mod driver;
pub mod https;
pub mod keyfile;
mod out;
pub mod private;
pub mod socket;
mod source;
pub mod state;

use driver::Driver;
use https::listen::{self, Wanted};
use https::{Https, certificate};
use out::Lines;
use socket::UdpEndpoint;

/// The UDP port of a rendezvous, unless told otherwise; STUN's alternate port is the next one.
pub const DEFAULT_PORT: u16 = 7777;

/// Registers peers, tells them how they look from outside, and relays between them when nothing better works.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Address to listen at [default: all, IPv6 and IPv4]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<IpAddr>,
    /// UDP port; STUN also answers at the next one. 0 takes any two that are free
    #[arg(long, value_name = "N", default_value_t = DEFAULT_PORT)]
    pub port: u16,
    /// A second address of this machine, for STUN alone: with it clients learn all about their NATs (RFC 5780). Needs --listen
    #[arg(long, value_name = "ADDR", requires = "listen")]
    pub second_address: Option<IpAddr>,
    /// Answers STUN clients of other makers too, which ask in fewer bytes than an answer has: a few times a second for each
    /// address, since somebody may send a question in another's name
    #[arg(long)]
    pub stun_compatible: bool,
    /// HTTPS on this TCP port too, for peers that UDP does not get out of; may be given several times [default: 443 and the
    /// UDP port's number, as far as they can be had]
    #[arg(long, value_name = "[ADDR:]PORT")]
    pub https: Vec<Wanted>,
    /// No HTTPS
    #[arg(long, conflicts_with = "https")]
    pub no_https: bool,
    /// The certificate that HTTPS shows, with those that lead to it, in PEM [default: one made at the first start]
    #[arg(long, value_name = "FILE", requires = "https_key")]
    pub https_cert: Option<PathBuf>,
    /// Its key, in PEM
    #[arg(long, value_name = "FILE", requires = "https_cert")]
    pub https_key: Option<PathBuf>,
    /// Directory of the key file
    ///
    /// Without it: /var/lib/kuguri for root, else $XDG_STATE_HOME/kuguri or ~/.local/state/kuguri.
    #[arg(long, env = "KUGURI_STATE", value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Says what happens in JSON, one object a line
    #[arg(long)]
    pub json: bool,
    /// What to log on stderr, as in "info" or "kuguri_rendezvous=debug,warn"
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,
}

/// Runs a rendezvous until Ctrl-C or SIGTERM. Makes its own runtime: not to be called inside of one.
///
/// # Errors
/// One sentence that says what is wrong and what to do: key file, port.
pub fn run(options: Options) -> anyhow::Result<()> {
    let threads = "the system refuses a thread";
    let log = Lines::to(std::io::stderr()).context(threads)?;
    let said = Lines::to(std::io::stdout()).context(threads)?;
    start_log(&options.log, &log)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the system refuses what a program needs to wait for the network")?;
    let result = runtime.block_on(serve(&options, &said));
    said.settle();
    log.settle();
    result.and_then(|()| unwritten(&said).map_or(Ok(()), |sentence| Err(anyhow!(sentence))))
}

/// What nobody could read.
fn unwritten(said: &Lines) -> Option<String> {
    let error = said.failure()?;
    Some(format!(
        "stdout cannot be written ({error}); make room there, or send it elsewhere"
    ))
}

async fn serve(options: &Options, said: &Lines) -> anyhow::Result<()> {
    // Before anything is said, so that whoever waits for our first line may stop us right after it.
    let mut interrupt = signal(SignalKind::interrupt()).context("signals cannot be caught")?;
    let mut terminate = signal(SignalKind::terminate()).context("signals cannot be caught")?;
    let directory = match &options.state {
        Some(directory) => directory.clone(),
        None => state::default_directory()?,
    };
    let path = directory.join("rendezvous.key");
    let identity = keyfile::load_or_create(&path, "rendezvous")?;
    let (main, alternate) = UdpEndpoint::bind_pair(options.listen, options.port)?;
    let (port, stun_port) = (main.port(), alternate.port());
    let mut others = vec![alternate];
    if let Some(second) = options.second_address {
        check_second(second, options.listen)?;
        for port in [port, stun_port] {
            others.push(UdpEndpoint::bind_second(second, port)?);
        }
    }
    let (https, https_ports) = start_https(options, &identity, &directory, port)?;
    let started = Started {
        event: "listening",
        addresses: socket::reachable_at(options.listen, port),
        stun_port,
        second_address: options.second_address,
        https_ports,
        key: identity.id().to_string(),
        key_file: path,
    };
    let config = Config {
        addresses: started.addresses.iter().map(SocketAddr::ip).collect(),
        port,
        alternate_port: Some(stun_port),
        second_address: options.second_address,
        stun: if options.stun_compatible {
            Policy::Compatible
        } else {
            Policy::Strict
        },
        limits: Limits::default(),
    };
    let server = Server::new(&identity, config, rand::random(), Instant::now());
    said.say(started.text(options.json)?);
    said.settle();
    if let Some(sentence) = unwritten(said) {
        error!("{sentence}");
    }
    let stop = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let events = options.json.then(|| said.clone());
    let ended = Driver::new(server, main, others, events).run(stop).await;
    drop(https);
    ended
}

/// The HTTPS listeners, unless none is wanted, and their ports. A port that cannot be had is said; the others go on.
fn start_https(
    options: &Options,
    identity: &Identity,
    directory: &Path,
    port: u16,
) -> anyhow::Result<(Option<Https>, Vec<u16>)> {
    if options.no_https {
        return Ok((None, Vec::new()));
    }
    let certificate = match (&options.https_cert, &options.https_key) {
        (Some(chain), Some(key)) => certificate::from_files(chain, key)?,
        _ => certificate::load_or_create(&directory.join("rendezvous.pem"))?,
    };
    if let Some(problem) = certificate::problem_with_dates(&certificate, UnixTime::now()) {
        warn!(
            "the certificate for HTTPS {problem}: browsers will refuse it; peers do not need it to be valid"
        );
    }
    let mut wanted = options.https.clone();
    if wanted.is_empty() {
        let address = options.listen;
        wanted.extend([443, port].map(|port| Wanted { address, port }));
        wanted.dedup();
    }
    let (listeners, problems) = listen::bind(&wanted);
    for problem in problems {
        warn!("{problem}");
    }
    let mut ports = Vec::new();
    for listener in &listeners {
        ports.push(listener.local_addr()?.port());
    }
    if listeners.is_empty() {
        return Ok((None, ports));
    }
    // The socket listens at all addresses, or at that one.
    let own = options.listen.filter(|it| !it.is_unspecified());
    let to = SocketAddr::new(own.unwrap_or_else(|| Ipv4Addr::LOCALHOST.into()), port);
    let https = Https::start(listeners, identity, certificate, to)
        .context("the system refuses a thread for HTTPS; --no-https does without")?;
    Ok((Some(https), ports))
}

/// Whether the second address is one that a client can tell from the first.
fn check_second(second: IpAddr, first: Option<IpAddr>) -> anyhow::Result<()> {
    let first = first.unwrap_or(second);
    if second.is_unspecified() || first.is_unspecified() {
        anyhow::bail!(
            "with --second-address both it and --listen must be single addresses of this machine; \
             {first} and {second} are not"
        );
    }
    if second == first || second.is_ipv4() != first.is_ipv4() {
        anyhow::bail!(
            "--second-address {second} must be another address than --listen {first}, and of the same family"
        );
    }
    Ok(())
}

/// The first thing said: what peers need.
#[derive(Serialize)]
struct Started {
    event: &'static str,
    addresses: Vec<SocketAddr>,
    stun_port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    second_address: Option<IpAddr>,
    /// TCP ports with HTTPS.
    https_ports: Vec<u16>,
    key: String,
    key_file: PathBuf,
}

impl Started {
    fn text(&self, json: bool) -> anyhow::Result<String> {
        if json {
            return Ok(serde_json::to_string(self)?);
        }
        let mut text = String::from("rendezvous is up; Ctrl-C ends it\n");
        for address in &self.addresses {
            writeln!(text, "  address  {address}")?;
        }
        if let Some(second) = self.second_address {
            writeln!(text, "  second   {second}, for STUN")?;
        }
        if !self.https_ports.is_empty() {
            let ports: Vec<String> = self.https_ports.iter().map(u16::to_string).collect();
            writeln!(text, "  https    TCP port {}", ports.join(" and "))?;
        }
        writeln!(text, "  key      {}", self.key)?;
        writeln!(text, "  kept in  {}", self.key_file.display())?;
        let port = match self.addresses.first() {
            Some(address) if address.port() != DEFAULT_PORT => format!(":{}", address.port()),
            _ => String::new(),
        };
        write!(
            text,
            "\nat the office, with the address that is reached from there:\n  \
             kuguri serve NAME --rendezvous HOST{port} --rendezvous-key {}",
            self.key
        )?;
        Ok(text)
    }
}

fn start_log(filter: &str, log: &Lines) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter).map_err(|_| {
        anyhow!(
            "--log {filter} is no filter; write as in --log info or --log kuguri_rendezvous=debug"
        )
    })?;
    let log = log.clone();
    // Whoever calls us may have a log already.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || log.clone())
        .with_ansi(false)
        .with_target(false)
        .try_init();
    Ok(())
}
