//! What HTTPS says to browsers, and to who asks badly; on loopback.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use kuguri_proto::carrier::{self, Binding};
use kuguri_proto::identity::tls::provider;
use kuguri_proto::identity::{Identity, PeerId};
use kuguri_rendezvous::https::{Https, certificate};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned,
};

struct Server {
    _https: Https,
    address: SocketAddr,
    key: PeerId,
    _files: tempfile::TempDir,
}

fn server() -> Server {
    let files = tempfile::tempdir().expect("a directory");
    let identity = Identity::from_seed(&[7; 32]);
    let certificate = certificate::load_or_create(&files.path().join("test.pem")).expect("made");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("bound");
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
    Server {
        _https: Https::start(vec![listener], &identity, certificate, nowhere).expect("threads"),
        address,
        key: identity.id(),
        _files: files,
    }
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

fn connect(server: &Server) -> Tls {
    let tcp = TcpStream::connect(server.address).expect("it listens");
    tcp.set_read_timeout(Some(PATIENCE)).expect("not zero");
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("TLS")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any))
        .with_no_client_auth();
    let name = "localhost".try_into().expect("a name");
    let session = ClientConnection::new(Arc::new(config), name).expect("a session");
    let mut stream = StreamOwned::new(session, tcp);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).expect("TLS");
    }
    stream
}

fn binding(stream: &Tls) -> Binding {
    let exported = stream
        .conn
        .export_keying_material([0; 32], carrier::LABEL, None);
    Binding(exported.expect("TLS 1.3"))
}

/// The answer to a request, to its end or to the end of its head when nothing more comes.
fn ask(stream: &mut Tls, request: &str) -> String {
    // Whoever is refused early does not read to the end.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(count) => answer.extend_from_slice(&piece[..count]),
        }
        if answer.starts_with(b"HTTP/1.1 101") {
            break;
        }
    }
    String::from_utf8(answer).expect("text")
}

fn get(server: &Server, request: &str) -> String {
    ask(&mut connect(server), request)
}

fn upgrade(proof: &str) -> String {
    format!(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, Upgrade\r\nUpgrade: kuguri/1\r\nKuguri-Proof: {proof}\r\n\r\n"
    )
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").expect("a head").1
}

#[test]
fn a_browser_gets_a_page_that_says_what_this_is_and_how_to_join() {
    let server = server();
    let page = get(
        &server,
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    assert!(
        page.starts_with("HTTP/1.1 200 OK\r\n") && page.contains("content-type: text/html"),
        "{page}"
    );
    assert!(
        page.contains("kuguri connect") && page.trim_end().ends_with("</html>"),
        "{page}"
    );
    assert!(!page.contains(&server.key.to_string()), "nothing secret");
    let head = get(
        &server,
        "HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    assert!(
        head.starts_with("HTTP/1.1 200 OK\r\n") && body(&head).is_empty(),
        "{head}"
    );
    let lost = get(
        &server,
        "GET /wp-login.php HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    assert!(lost.starts_with("HTTP/1.1 404 Not Found\r\n"), "{lost}");
    let post = get(
        &server,
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc",
    );
    assert!(
        post.starts_with("HTTP/1.1 405 ") && post.contains("allow: GET, HEAD"),
        "{post}"
    );
}

#[test]
fn who_does_not_know_the_key_gets_the_page_and_who_does_a_carrier() {
    let server = server();
    let page = get(
        &server,
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    let mut other_session = connect(&server);
    let stolen = binding(&connect(&server)).client_proof(server.key);
    let guessed = binding(&other_session).client_proof(PeerId([9; 32]));
    for proof in ["", "AAAA", &stolen] {
        let answer = get(&server, &upgrade(proof));
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\n"),
            "{proof}: {answer}"
        );
        assert_eq!(body(&answer), body(&page));
    }
    let answer = ask(&mut other_session, &upgrade(&guessed));
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");

    let mut stream = connect(&server);
    let binding = binding(&stream);
    let answer = ask(&mut stream, &upgrade(&binding.client_proof(server.key)));
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    let proof = answer
        .lines()
        .find_map(|line| line.strip_prefix("kuguri-proof: "));
    assert!(binding.is_server_proof(server.key, proof.expect("a proof").as_bytes()));
}

#[test]
fn a_statement_tells_which_certificate_is_the_servers_own() {
    let server = server();
    let mut stream = connect(&server);
    let certificate = stream.conn.peer_certificates().expect("shown")[0].clone();
    let answer = ask(&mut stream, &upgrade("AAAA"));
    let said = answer
        .lines()
        .find_map(|line| line.strip_prefix("kuguri-certificate: "));
    let said = said.expect("a statement").as_bytes();
    assert_eq!(
        carrier::is_of_certificate(server.key, &certificate, said),
        Some(true)
    );
    assert_eq!(
        carrier::is_of_certificate(server.key, b"another", said),
        Some(false)
    );
}

#[test]
fn requests_that_can_be_read_in_two_ways_and_endless_heads_are_refused() {
    let server = server();
    let smuggled =
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nContent-Length: 0\r\n\r\nGET /x";
    let answer = get(&server, smuggled);
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    // Both lengths: one request is answered, and nothing behind it is taken for another.
    let both = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n";
    let answer = get(&server, both);
    assert!(!answer.contains("404"), "{answer}");
    for (name, size) in [("a", 20_000), ("cookie", 9000)] {
        let answer = get(
            &server,
            &format!(
                "GET / HTTP/1.1\r\nHost: a\r\n{name}: {}\r\n\r\n",
                "x".repeat(size)
            ),
        );
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
            "{answer}"
        );
    }
    let many = "A: b\r\n".repeat(200);
    let answer = get(&server, &format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"));
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
        "{answer}"
    );
    let garbage = get(&server, "\x16\x03\x01 / nonsense\r\n\r\n");
    assert!(garbage.starts_with("HTTP/1.1 400 "), "{garbage}");
}

#[test]
fn one_source_cannot_hold_all_places_by_saying_nothing() {
    let server = server();
    let idle: Vec<TcpStream> = (0..64)
        .map(|_| TcpStream::connect(server.address).expect("it listens"))
        .collect();
    // One more of the same source is let go at once.
    let mut surplus = TcpStream::connect(server.address).expect("it listens");
    surplus.set_read_timeout(Some(PATIENCE)).expect("not zero");
    let end = surplus.read(&mut [0; 16]);
    assert!(
        matches!(end, Ok(0))
            || end.is_err_and(|it| it.kind() == std::io::ErrorKind::ConnectionReset)
    );
    // Nobody else is disturbed.
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let other = SocketAddr::from(([127, 0, 0, 2], 0));
    socket
        .bind(&other.into())
        .expect("loopback is a whole network");
    socket.connect(&server.address.into()).expect("it listens");
    let tcp: TcpStream = socket.into();
    tcp.set_read_timeout(Some(PATIENCE)).expect("not zero");
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("TLS")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any))
        .with_no_client_auth();
    let session = ClientConnection::new(Arc::new(config), "localhost".try_into().expect("a name"));
    let mut stream = StreamOwned::new(session.expect("a session"), tcp);
    let page = ask(
        &mut stream,
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    drop(idle);
}

/// Takes any certificate.
#[derive(Debug)]
struct Any;

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// However busy the machine is.
const PATIENCE: Duration = Duration::from_secs(30);
