//! One carrier, from the first attempt to its end, in a thread of its own.
//!
//! ```text
//!   attempts at several ports, one after the other ─▶ the first that is the rendezvous ─▶ 127.0.0.1:* ═ main socket
//! ```

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use kuguri_proto::identity::PeerId;
use kuguri_proto::proxy::authority;
use kuguri_proto::rendezvous::ways::Failure;
use kuguri_rendezvous::https::pump::{Carrier, Counters};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::client::TlsStream;

use super::problem::Problem;
use super::stream::{self, Stream};
use super::upgrade::upgrade;
use super::via::Route;

/// How a carrier can be had.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) route: Route,
    /// The rendezvous's name or address.
    pub(super) host: String,
    /// TCP ports at which it may be, the likelier first.
    pub(super) ports: Vec<u16>,
    /// The key that it must prove.
    pub(super) key: PeerId,
}

/// A carrier, or the attempt at one; ends when it is dropped.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) attempt: u64,
    pub(super) counters: Arc<Counters>,
    _stop: oneshot::Sender<()>,
}

/// What a carrier tells.
#[derive(Debug)]
pub(crate) struct Told {
    pub(super) number: usize,
    pub(super) attempt: u64,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// It is open, and is at this address.
    Open(SocketAddr),
    /// It has ended, or has not come about.
    Ended(Problem),
}

/// Starts one, for the main socket's `port`.
pub(super) fn start(
    plan: Plan,
    (number, attempt): (usize, u64),
    port: u16,
    tell: mpsc::Sender<Told>,
) -> io::Result<Running> {
    let (stop, stopped) = oneshot::channel();
    let counters: Arc<Counters> = Arc::default();
    let running = Running {
        attempt,
        counters: Arc::clone(&counters),
        _stop: stop,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::Builder::new()
        .name("kuguri-https".into())
        .spawn(move || {
            runtime.block_on(async move {
                let say = async |what| {
                    let told = Told {
                        number,
                        attempt,
                        what,
                    };
                    // Who asked may have gone.
                    let _ = tell.send(told).await;
                };
                tokio::select! {
                    problem = run(&plan, port, counters, &say) => say(What::Ended(problem)).await,
                    _ = stopped => {}
                }
            });
            // A name that does not resolve is not waited for.
            runtime.shutdown_background();
        })?;
    Ok(running)
}

async fn run(plan: &Plan, port: u16, counters: Arc<Counters>, say: &impl AsyncFn(What)) -> Problem {
    let (stream, begun) = match race(plan).await {
        Ok(open) => open,
        Err(problem) => return problem,
    };
    let carrier = async {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        udp.connect((Ipv4Addr::LOCALHOST, port)).await?;
        let address = udp.local_addr()?;
        io::Result::Ok((Carrier::new(stream, udp, &begun, counters)?, address))
    };
    match carrier.await {
        Ok((carrier, address)) => {
            say(What::Open(address)).await;
            let error = carrier.await;
            tracing::debug!(%error, route = %plan.route, "a carrier has ended");
            Problem::passing(format!("the connection by {} has ended", plan.route))
        }
        Err(error) => Problem::passing(format!("there is no loopback socket for HTTPS ({error})")),
    }
}

/// The first of the ports at which the rendezvous proves its key.
async fn race(plan: &Plan) -> Result<(TlsStream<Stream>, Vec<u8>), Problem> {
    // A proxy is not to be asked twice at once: it may count wrong passwords.
    let pause = match plan.route {
        Route::Straight => ATTEMPT_DELAY,
        Route::Http(_) | Route::Socks(_) | Route::Ssh(_) => PROXY_DELAY,
    };
    let mut ports: VecDeque<u16> = plan.ports.iter().copied().collect();
    let (mut attempts, mut found) = (JoinSet::new(), None::<Problem>);
    loop {
        if let Some(port) = ports.pop_front() {
            attempts.spawn(attempt(plan.clone(), port));
        }
        let ended = tokio::select! {
            Some(ended) = attempts.join_next() => ended,
            () = sleep(pause), if !ports.is_empty() => continue,
            else => break,
        };
        match ended {
            Ok(Ok(open)) => return Ok(open),
            Ok(Err(problem)) => {
                if problem.failure == Failure::Lasting {
                    ports.clear();
                }
                if found.as_ref().is_none_or(|it| it.weight < problem.weight) {
                    found = Some(problem);
                }
            }
            Err(_) => {}
        }
        if attempts.is_empty() && ports.is_empty() {
            break;
        }
    }
    Err(found.unwrap_or_else(|| Problem::passing("HTTPS was not tried")))
}

async fn attempt(plan: Plan, port: u16) -> Result<(TlsStream<Stream>, Vec<u8>), Problem> {
    let Plan {
        route, host, key, ..
    } = &plan;
    let attempt = async {
        let stream = stream::open(route, host, port).await?;
        let said = stream.said.clone();
        match (upgrade(stream, host, port, *key).await, said) {
            (Err(problem), Some(said)) => Err(said.problem(problem).await),
            (result, _) => result,
        }
    };
    let place = authority(host, port);
    timeout(ATTEMPT, attempt).await.unwrap_or_else(|_| {
        Err(Problem::passing(format!(
            "{place} does not answer by {route}"
        )))
    })
}

/// Between attempts at several ports (RFC 8305, section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
const PROXY_DELAY: Duration = Duration::from_secs(3);
/// From the first packet to the proof.
const ATTEMPT: Duration = Duration::from_secs(10);
