//! The rendezvous process: sockets, clock, key file and output around [`kuguri_proto::rendezvous`], which decides.
//!
//! ```text
//!   UDP port N   ──batch──▶ driver ──▶ proto::rendezvous::server ──▶ driver ──batch──▶ UDP port N
//!   UDP port N+1 ──(STUN)─▶                                                          ▶ UDP port N+1
//! ```
//!
//! It is a program of its own (`kuguri-rendezvous`) and the same as `kuguri rendezvous`: both call [`run`].

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context as _;
use kuguri_proto::rendezvous::server::{Config, Limits, Server};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

mod driver;
pub mod keyfile;
pub mod socket;
mod source;
pub mod state;

use driver::Driver;
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
    /// Directory of the key file [default: /var/lib/kuguri for root, else ~/.local/state/kuguri]
    #[arg(long, value_name = "DIR")]
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
    start_log(&options.log)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the system refuses what a program needs to wait for the network")?;
    runtime.block_on(serve(&options))
}

async fn serve(options: &Options) -> anyhow::Result<()> {
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
    let started = Started {
        event: "listening",
        addresses: socket::reachable_at(options.listen, main.port()),
        stun_port: alternate.port(),
        key: identity.id().to_string(),
        key_file: path,
    };
    let config = Config {
        addresses: started.addresses.iter().map(SocketAddr::ip).collect(),
        port: main.port(),
        alternate_port: Some(alternate.port()),
        limits: Limits::default(),
    };
    let server = Server::new(&identity, config, rand::random(), Instant::now());
    started.say(options.json)?;
    let stop = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    Driver::new(server, main, alternate, options.json)
        .run(stop)
        .await
}

/// The first thing said: what peers need.
#[derive(Serialize)]
struct Started {
    event: &'static str,
    addresses: Vec<SocketAddr>,
    stun_port: u16,
    key: String,
    key_file: PathBuf,
}

impl Started {
    fn say(&self, json: bool) -> anyhow::Result<()> {
        let mut out = anstream::stdout().lock();
        if json {
            return say_json(self);
        }
        writeln!(out, "rendezvous is up; Ctrl-C ends it")?;
        for address in &self.addresses {
            writeln!(out, "  address  {address}")?;
        }
        writeln!(out, "  key      {}", self.key)?;
        writeln!(out, "  kept in  {}", self.key_file.display())?;
        writeln!(
            out,
            "\nat the office, with the address that is reached from there:"
        )?;
        let port = match self.addresses.first() {
            Some(address) if address.port() != DEFAULT_PORT => format!(":{}", address.port()),
            _ => String::new(),
        };
        writeln!(
            out,
            "  kuguri serve NAME --rendezvous HOST{port} --rendezvous-key {}",
            self.key
        )?;
        Ok(out.flush()?)
    }
}

/// Writes one JSON object on a line of stdout.
fn say_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut out = anstream::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(value)?)?;
    Ok(out.flush()?)
}

fn start_log(filter: &str) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .with_context(|| format!("--log {filter} is no filter; try --log info"))?;
    // Whoever calls us may have a log already.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .try_init();
    Ok(())
}
