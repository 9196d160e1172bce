//! From a byte stream to a carrier: TLS, the request, and who it is that answers.

use std::io;
use std::sync::Arc;

use kuguri_proto::carrier::{self, Binding};
use kuguri_proto::identity::PeerId;
use kuguri_proto::identity::tls::provider;
use kuguri_proto::proxy::authority;
use kuguri_proto::proxy::http::Head;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, ProtocolVersion, SignatureScheme};
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::problem::Problem;
use super::stream::{Stream, read_head};

/// Makes a carrier of a stream to `host:port`; gives it with what came right behind the answer.
pub(super) async fn upgrade(
    stream: Stream,
    host: &str,
    port: u16,
    key: PeerId,
) -> Result<(TlsStream<Stream>, Vec<u8>), Problem> {
    let place = authority(host, port);
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| Problem::lasting(format!("{host} is no name for TLS")))?;
    let connector = TlsConnector::from(Arc::new(tls()));
    let mut stream = connector
        .connect(name, stream)
        .await
        .map_err(|error| of_tls(&place, &error))?;
    let (binding, certificate) = session(&stream);
    // Without TLS 1.3 no proof is possible; the answer says who it is that knows no better.
    let proof = binding.unwrap_or_default().client_proof(key);
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {place}\r\nConnection: Upgrade\r\nUpgrade: {}\r\n{}: {proof}\r\n\r\n",
        carrier::PROTOCOL,
        carrier::PROOF,
    );
    let broken = |error: io::Error| Problem::of_stream(&place, &error);
    stream.write_all(request.as_bytes()).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    let (head, begun) = read_head(&mut stream, &place).await?;
    judge(&head, binding, &certificate, key, &place)?;
    Ok((stream, begun))
}

/// Whether it is the rendezvous that answered; if not, who it may be.
fn judge(
    head: &Head,
    binding: Option<Binding>,
    certificate: &[u8],
    key: PeerId,
    place: &str,
) -> Result<(), Problem> {
    if head.status == 101 {
        let proof = head.header(carrier::PROOF).unwrap_or_default();
        if binding.is_some_and(|binding| binding.is_server_proof(key, proof)) {
            return Ok(());
        }
        return Err(Problem::lasting(opened_on_the_way(place)));
    }
    if let Some(said) = head.header(carrier::STATEMENT) {
        return Err(Problem::lasting(
            match carrier::is_of_certificate(key, certificate, said) {
                Some(true) => format!(
                    "the rendezvous at {place} speaks another version of HTTPS than this program; update the older of the two"
                ),
                Some(false) => opened_on_the_way(place),
                None => format!(
                    "the rendezvous at {place} has another key than {key}; check its address and the key or invite that you were given"
                ),
            },
        ));
    }
    let said = format!("{} {}", head.status, head.reason);
    match head.status {
        503 => Err(Problem::telling(format!(
            "the rendezvous at {place} takes no more connections now"
        ))),
        200 | 300..=399 | 511 => {
            let to = head
                .text("location")
                .map_or_else(String::new, |to| format!(" to {to}"));
            Err(Problem::telling(format!(
                "{place} answers with a web page ({said}{to}) instead of the rendezvous: this network wants you to log in \
                 first (captive portal; open any page in a browser), or another web server is there"
            )))
        }
        _ => Err(Problem::telling(format!(
            "{place} is no rendezvous of Kuguri: it answers {said}"
        ))),
    }
}

fn opened_on_the_way(place: &str) -> String {
    format!(
        "something between this machine and the rendezvous at {place} opens TLS (a proxy or firewall that inspects it): the answer \
         is not bound to our connection by the rendezvous's key; ask for an exception for {place}, or use another way with --via"
    )
}

fn of_tls(place: &str, error: &io::Error) -> Problem {
    let inner = error.get_ref().and_then(|it| it.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidMessage(_)) => Problem::telling(format!(
            "{place} does not answer in TLS: this network wants you to log in first (captive portal), or another program is there"
        )),
        Some(other) => Problem::telling(format!("TLS with {place} fails: {other}")),
        None => Problem::of_stream(place, error),
    }
}

/// What only the ends of this session know, when it is TLS 1.3; and the certificate that we were shown.
fn session(stream: &TlsStream<Stream>) -> (Option<Binding>, Vec<u8>) {
    let (_, session) = stream.get_ref();
    let shown = session.peer_certificates().and_then(<[_]>::first);
    let certificate = shown.map(|it| it.to_vec()).unwrap_or_default();
    if session.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        return (None, certificate);
    }
    let exported = session.export_keying_material([0; 32], carrier::LABEL, None);
    (exported.ok().map(Binding), certificate)
}

pub(super) fn tls() -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the back end has TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Whatever))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    config
}

/// Takes any certificate, unread: who is at the other end is proved by the rendezvous's key over the session's exporter, before
/// anything is sent that matters. An exporter of another session than the rendezvous's own proves nothing.
#[derive(Debug)]
struct Whatever;

impl ServerCertVerifier for Whatever {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
