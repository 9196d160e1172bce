//! HTTPS for who cannot send UDP: a proper web server, in which a peer that knows the rendezvous's key finds a way for its datagrams.
//!
//! ```text
//!   TCP 443, 7777 ─ TLS ─ HTTP/1.1 ─┬─ a browser, anybody ─▶ page
//!                                   └─ Upgrade, with proof ─▶ carrier ══ 127.a.b.c:* ══▶ the UDP socket at 127.0.0.1
//! ```
//!
//! A carrier is a middle box that belongs to us: for the rendezvous its peers are at a loopback address, one for each source, so
//! that what it allows to one source stays as it is. It runs in threads of its own and shares nothing with the rendezvous but
//! that UDP port. It decides nothing about peers.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use kuguri_proto::carrier::{self, Binding};
use kuguri_proto::identity::Identity;
use kuguri_proto::identity::tls::provider;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ProtocolVersion, ServerConfig};
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, warn};

pub mod certificate;
pub mod listen;
mod page;
pub mod pump;
mod seats;

use pump::{Carrier, Counters};
use seats::{Masks, Seat, Seats};

/// TLS alone reads four kilobytes at a time.
type Tcp = BufReader<TcpStream>;

/// Listeners that run until this is dropped.
#[derive(Debug)]
pub struct Https {
    runtime: Option<Runtime>,
}

/// What all connections share.
struct Server {
    identity: Identity,
    certificate: Arc<CertifiedKey>,
    acceptor: TlsAcceptor,
    /// The UDP socket that carriers lead to.
    to: SocketAddr,
    visitors: Seats,
    carriers: Seats,
    masks: Masks,
}

impl Https {
    /// Serves on these sockets; carriers lead to the UDP socket at `to`, an address of this machine.
    ///
    /// # Errors
    /// When the system refuses a thread or a socket.
    pub fn start(
        listeners: Vec<std::net::TcpListener>,
        identity: &Identity,
        certificate: Arc<CertifiedKey>,
        to: SocketAddr,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("https")
            .enable_all()
            .build()?;
        let carriers = listen::room_for_files(CARRIERS * 2) / 2;
        let server = Arc::new(Server {
            identity: Identity::from_seed(identity.seed()),
            acceptor: TlsAcceptor::from(Arc::new(tls(Arc::clone(&certificate)))),
            certificate,
            to,
            visitors: Seats::new(VISITORS, VISITORS_OF_SOURCE),
            carriers: Seats::new(carriers, CARRIERS_OF_SOURCE),
            masks: Masks::default(),
        });
        let guard = runtime.enter();
        for listener in listeners {
            listener.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener)?;
            runtime.spawn(Arc::clone(&server).accept(listener));
        }
        drop(guard);
        let runtime = Some(runtime);
        Ok(Self { runtime })
    }
}

impl Drop for Https {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Server {
    async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, remote)) => {
                    let Some(seat) = self.visitors.take(remote.ip()) else {
                        debug!(%remote, "too many connections");
                        continue;
                    };
                    tokio::spawn(Arc::clone(&self).visit(stream, remote.ip(), seat));
                }
                // No file is free, or this one is gone already.
                Err(error) => {
                    debug!(%error, "no connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// One connection, from its first byte until it has shown that it is a peer's, or is over.
    async fn visit(self: Arc<Self>, stream: TcpStream, source: IpAddr, seat: Seat) {
        listen::tune(&stream);
        let stream = BufReader::with_capacity(listen::READ, stream);
        let shaken = timeout(HANDSHAKE, self.acceptor.accept(stream)).await;
        let Ok(Ok(stream)) = shaken else {
            return;
        };
        let binding = binding(&stream);
        let service = service_fn(|request| {
            let answer = self.answer(request, binding, source);
            async { Ok::<_, Infallible>(answer) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HANDSHAKE)
            .max_buf_size(HEAD)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        // Its end is no news, whatever it is.
        let _ = timeout(VISIT, connection).await;
        drop(seat);
    }

    fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
        binding: Option<Binding>,
        source: IpAddr,
    ) -> Response<Full<Bytes>> {
        if !wants_carrier(&request) {
            return page::answer(request.method(), request.uri().path());
        }
        let proof = request.headers().get(carrier::PROOF);
        let known = proof.zip(binding).filter(|(proof, binding)| {
            binding.is_client_proof(self.identity.id(), proof.as_bytes())
        });
        let Some((_, binding)) = known else {
            return self.answer_stranger(&request);
        };
        let Some(seat) = self.carriers.take(source) else {
            return page::busy();
        };
        tokio::spawn(Arc::clone(self).carry(request, source, seat));
        switching(&binding.server_proof(&self.identity))
    }

    /// Somebody who knows what this is, but not its key; or somebody between us and who does. The page, and what our own
    /// certificate is: whoever knows the key can see that it was shown another.
    fn answer_stranger(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let mut response = page::answer(request.method(), request.uri().path());
        if let Ok(certificate) = self.certificate.end_entity_cert()
            && let Ok(said) = carrier::statement(&self.identity, certificate).try_into()
        {
            let name = HeaderName::from_static(carrier::STATEMENT);
            response.headers_mut().insert(name, said);
        }
        response
    }

    /// Carries datagrams until the stream ends.
    async fn carry(self: Arc<Self>, request: Request<Incoming>, source: IpAddr, seat: Seat) {
        let mask = self.masks.of(source);
        let Ok(upgraded) = hyper::upgrade::on(request).await else {
            return;
        };
        let Ok(parts) = upgraded.downcast::<TokioIo<TlsStream<Tcp>>>() else {
            return;
        };
        let counters = Arc::new(Counters::default());
        let begun = self.begin(parts.io.into_inner(), mask, &parts.read_buf, &counters);
        match begun.await {
            Ok(carrier) => {
                debug!(%source, %mask, all = self.carriers.taken(), "a carrier begins");
                let end = carrier.await;
                debug!(%source, %mask, %end, ?counters, "a carrier ends");
            }
            Err(error) => warn!(%error, "a carrier gets no socket"),
        }
        drop(seat);
    }

    async fn begin(
        &self,
        stream: TlsStream<Tcp>,
        mask: Ipv4Addr,
        begun: &[u8],
        counters: &Arc<Counters>,
    ) -> io::Result<Carrier<TlsStream<Tcp>>> {
        let from: IpAddr = if self.to.is_ipv4() {
            mask.into()
        } else {
            Ipv6Addr::LOCALHOST.into()
        };
        let udp = UdpSocket::bind((from, 0)).await?;
        udp.connect(self.to).await?;
        Carrier::new(stream, udp, begun, Arc::clone(counters))
    }
}

/// Whether it is a request of the kind that peers make.
fn wants_carrier(request: &Request<Incoming>) -> bool {
    let headers = request.headers();
    request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && has_token(headers, &CONNECTION, "upgrade")
        && has_token(headers, &UPGRADE, carrier::PROTOCOL)
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(token))
}

fn switching(proof: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(carrier::PROTOCOL));
    if let Ok(proof) = proof.try_into() {
        headers.insert(HeaderName::from_static(carrier::PROOF), proof);
    }
    response
}

/// What only the ends of this session know; of TLS 1.3 alone, whose exporter covers the whole handshake.
fn binding(stream: &TlsStream<Tcp>) -> Option<Binding> {
    let (_, session) = stream.get_ref();
    if session.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        return None;
    }
    let exported = session.export_keying_material([0; 32], carrier::LABEL, None);
    exported.ok().map(Binding)
}

fn tls(certificate: Arc<CertifiedKey>) -> ServerConfig {
    let certificate = SingleCertAndKey::from(certificate);
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the back end has TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificate));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.send_tls13_tickets = 0;
    config
}

/// Threads that encrypt.
const THREADS: usize = 2;
/// Connections at once that have not shown that they are a peer's, in all and of one IPv4 address or IPv6 /64.
const VISITORS: usize = 1024;
const VISITORS_OF_SOURCE: usize = 64;
/// Carriers at once, likewise: as many of one source as may be registered from there.
const CARRIERS: usize = 8192;
const CARRIERS_OF_SOURCE: usize = 1024;
/// For TLS's handshake, and for each request's head.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Of a connection that is no carrier.
const VISIT: Duration = Duration::from_secs(60);
/// Bytes of a request's head.
const HEAD: usize = 8192;
/// After a failure to accept.
const PAUSE: Duration = Duration::from_millis(100);
