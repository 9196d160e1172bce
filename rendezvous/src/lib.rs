//! The rendezvous process: sockets, clock, key file and output around [`kuguri_proto::rendezvous`], which decides.
//!
//! ```text
//!   UDP port N   ──batch──▶ driver ──▶ proto::rendezvous::server ──▶ driver ──batch──▶ UDP port N
//!   UDP port N+1 ──(STUN)─▶                                                          ▶ UDP port N+1
//! ```
//!
//! It is a program of its own (`kuguri-rendezvous`) and the same as `kuguri rendezvous`: both call [`run`].

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, anyhow};
use kuguri_proto::rendezvous::server::{Config, Limits, Server};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

mod driver;
pub mod keyfile;
mod out;
pub mod private;
pub mod socket;
mod source;
pub mod state;

use driver::Driver;
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
    result
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
    said.say(started.text(options.json)?);
    let stop = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let events = options.json.then(|| said.clone());
    Driver::new(server, main, alternate, events).run(stop).await
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
    fn text(&self, json: bool) -> anyhow::Result<String> {
        if json {
            return Ok(serde_json::to_string(self)?);
        }
        let mut text = String::from("rendezvous is up; Ctrl-C ends it\n");
        for address in &self.addresses {
            writeln!(text, "  address  {address}")?;
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
