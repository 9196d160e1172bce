//! Carriers against a true server of ours, and against what else may stand in its place; all on loopback.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use kuguri_proto::identity::{Identity, PeerId};
use kuguri_proto::proxy::Credentials;
use kuguri_proto::rendezvous::ways::Failure;
use kuguri_rendezvous::https::{Https, certificate};
use rustls::ServerConfig;
use rustls::sign::SingleCertAndKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::carrier::{Plan, Told, What, start};
use super::problem::Problem;
use super::via::{Proxy, Route};

/// A server of ours, before a UDP socket in a rendezvous's place.
struct Server {
    _https: Https,
    port: u16,
    key: PeerId,
    udp: UdpSocket,
    _files: tempfile::TempDir,
}

async fn server() -> Server {
    let files = tempfile::tempdir().expect("a directory");
    let identity = Identity::from_seed(&[7; 32]);
    let certificate = certificate::load_or_create(&files.path().join("test.pem")).expect("made");
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let to = udp.local_addr().expect("bound");
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("bound").port();
    Server {
        _https: Https::start(vec![listener], &identity, certificate, to).expect("threads"),
        port,
        key: identity.id(),
        udp,
        _files: files,
    }
}

fn plan(route: Route, ports: &[u16], key: PeerId) -> Plan {
    Plan {
        route,
        host: "127.0.0.1".to_owned(),
        ports: ports.to_vec(),
        key,
    }
}

/// What the first word of a carrier is, and the carrier.
async fn first_word(plan: Plan, main: &UdpSocket) -> (Result<SocketAddr, Problem>, Box<dyn Send>) {
    let (tell, mut told) = mpsc::channel(4);
    let port = main.local_addr().expect("bound").port();
    let running = start(plan, (0, 1), port, tell).expect("a thread");
    let word = timeout(PATIENCE, told.recv()).await.expect("in time");
    let Some(Told { what, .. }) = word else {
        panic!("it says nothing")
    };
    let word = match what {
        What::Open(address) => Ok(address),
        What::Ended(problem) => Err(problem),
    };
    // Whoever does not listen any more ends it.
    (word, Box::new((running, told)))
}

async fn main_socket() -> UdpSocket {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port")
}

async fn refusal(plan: Plan) -> Problem {
    let main = main_socket().await;
    let (word, _running) = first_word(plan, &main).await;
    word.expect_err("no carrier")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_of_all_sizes_go_both_ways_and_strangers_are_not_heard() {
    let (server, main) = (server().await, main_socket().await);
    // The first port is nobody's; that holds nothing up.
    let nobody = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let closed = nobody.local_addr().expect("bound").port();
    drop(nobody);
    let plan = plan(Route::Straight, &[closed, server.port], server.key);
    let (near, _running) = first_word(plan, &main).await;
    let near = near.expect("a carrier");
    let mut buffer = vec![0; 65_536];
    let mut far = None;
    for size in [1, 1200, 1472, 9000, 65_000] {
        let datagram: Vec<u8> = (0..size)
            .map(|at| u8::try_from(at % 251).expect("small"))
            .collect();
        main.send_to(&datagram, near).await.expect("sent");
        let received = timeout(PATIENCE, server.udp.recv_from(&mut buffer)).await;
        let (length, from) = received.expect("in time").expect("received");
        assert!(buffer[..length] == datagram && from.ip().is_loopback());
        assert_ne!(from.ip(), Ipv4Addr::LOCALHOST, "it stands for its source");
        server.udp.send_to(&datagram, from).await.expect("sent");
        let (length, from_near) = timeout(PATIENCE, main.recv_from(&mut buffer))
            .await
            .expect("in time")
            .expect("received");
        assert!(buffer[..length] == datagram && from_near == near);
        far = Some(from);
    }
    // Others on this machine are not heard by either socket: what comes next is what was sent next.
    let stranger = main_socket().await;
    stranger.send_to(b"forged", near).await.expect("sent");
    stranger
        .send_to(b"forged", far.expect("known"))
        .await
        .expect("sent");
    main.send_to(b"true", near).await.expect("sent");
    let (length, _) = timeout(PATIENCE, server.udp.recv_from(&mut buffer))
        .await
        .expect("in time")
        .expect("received");
    assert_eq!(&buffer[..length], b"true");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_another_key_is_named_as_that() {
    let server = server().await;
    let problem = refusal(plan(Route::Straight, &[server.port], PeerId([9; 32]))).await;
    assert!(
        problem.sentence.contains("has another key than"),
        "{problem:?}"
    );
    assert_eq!(problem.failure, Failure::Lasting);
}

/// Opens TLS in both directions, with a certificate of its own, as inspecting firewalls do.
async fn inspector(to: u16) -> u16 {
    let files = tempfile::tempdir().expect("a directory");
    let own = certificate::load_or_create(&files.path().join("own.pem")).expect("made");
    let config = ServerConfig::builder_with_provider(kuguri_proto::identity::tls::provider())
        .with_safe_default_protocol_versions()
        .expect("TLS")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut near = acceptor.accept(stream).await?;
                let far = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await?;
                let name = "localhost".try_into().expect("a name");
                let connector = TlsConnector::from(Arc::new(super::upgrade::tls()));
                let mut far = connector.connect(name, far).await?;
                copy_bidirectional(&mut near, &mut far).await
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_opens_tls_on_the_way_is_named_and_gets_no_carrier() {
    let server = server().await;
    let port = inspector(server.port).await;
    let problem = refusal(plan(Route::Straight, &[port], server.key)).await;
    assert!(problem.sentence.contains("opens TLS"), "{problem:?}");
    assert_eq!(problem.failure, Failure::Lasting);
}

/// A server that says this to whoever comes, and hangs up; in TLS or in the clear.
async fn saying(words: &'static str, tls: bool) -> u16 {
    let files = tempfile::tempdir().expect("a directory");
    let own = certificate::load_or_create(&files.path().join("own.pem")).expect("made");
    let config = ServerConfig::builder_with_provider(kuguri_proto::identity::tls::provider())
        .with_safe_default_protocol_versions()
        .expect("TLS")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut heard = [0; 4096];
                if tls {
                    let mut stream = acceptor.accept(stream).await?;
                    let _ = stream.read(&mut heard).await?;
                    stream.write_all(words.as_bytes()).await?;
                    stream.shutdown().await?;
                } else {
                    let _ = stream.read(&mut heard).await?;
                    stream.write_all(words.as_bytes()).await?;
                }
                io::Result::Ok(())
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_else_answers_is_named_in_one_sentence() {
    let key = PeerId([9; 32]);
    for (words, tls, named) in [
        (
            "HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\n\r\n",
            true,
            "to http://login.example/) instead",
        ),
        ("HTTP/1.1 200 OK\r\n\r\n<h1>Log in", true, "captive portal"),
        (
            "HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\n\r\n",
            false,
            "captive portal",
        ),
        (
            "HTTP/1.1 404 Not Found\r\n\r\n",
            true,
            "is no rendezvous of Kuguri: it answers 404 Not Found",
        ),
        (
            "HTTP/1.1 101 Switching Protocols\r\nKuguri-Proof: AAAA\r\n\r\n",
            true,
            "opens TLS",
        ),
        ("SSH-2.0-OpenSSH\r\n\r\n", true, "does not answer in HTTP"),
        ("", true, "ends the connection without an answer"),
        ("HTTP/1.1 200 O", true, "without a whole answer"),
    ] {
        let port = saying(words, tls).await;
        let problem = refusal(plan(Route::Straight, &[port], key)).await;
        assert!(problem.sentence.contains(named), "{words}: {problem:?}");
        assert!(!problem.sentence.contains('\n'), "{problem:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_that_answer_badly_are_named_in_one_sentence() {
    let key = PeerId([9; 32]);
    let challenge = "HTTP/1.1 407 No\r\nProxy-Authenticate: NTLM\r\n\r\n";
    for (words, socks, named, failure) in [
        (
            "garbage\r\n\r\n",
            false,
            "does not answer in HTTP",
            Failure::Passing,
        ),
        (
            "",
            false,
            "ends the connection without an answer",
            Failure::Passing,
        ),
        (
            "HTTP/1.1 403 Forbidden\r\n\r\n",
            false,
            "does not let through to 127.0.0.1:9 (403 Forbidden)",
            Failure::Passing,
        ),
        (
            "HTTP/1.1 502 Bad Gateway\r\n\r\n",
            false,
            "does not get to 127.0.0.1:9",
            Failure::Passing,
        ),
        (
            challenge,
            false,
            "neither Basic nor Digest",
            Failure::Lasting,
        ),
        (
            "HTTP/1.1 400 No\r\n\r\n",
            true,
            "does not answer as a SOCKS5 proxy",
            Failure::Passing,
        ),
        (
            "",
            true,
            "ends the connection without a whole answer",
            Failure::Passing,
        ),
        ("\x05\x7f", true, "wants something else", Failure::Lasting),
    ] {
        let proxy = Proxy {
            host: "127.0.0.1".into(),
            port: saying(words, false).await,
            credentials: Some(Credentials::default()),
        };
        let route = if socks {
            Route::Socks(proxy)
        } else {
            Route::Http(proxy)
        };
        let problem = refusal(plan(route, &[9], key)).await;
        assert!(problem.sentence.contains(named), "{words}: {problem:?}");
        assert_eq!(problem.failure, failure, "{words}");
    }
}

/// However busy the machine is.
const PATIENCE: Duration = Duration::from_secs(30);
