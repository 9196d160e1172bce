//! The certificate that the HTTPS listeners show: made at the first start and kept, or somebody's own from files.
//!
//! Peers do not believe it: they want a proof by the rendezvous's key over the session itself (`kuguri_proto::carrier`). It is
//! for TLS to have one, for browsers, and for networks that let only certificates through which they know.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kuguri_proto::identity::tls::provider;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, RootCertStore};

use crate::keyfile;
use crate::private::{self, PrivateError};

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The file with the key is not private, or cannot be read.
    #[error(transparent)]
    Refused(PrivateError),
    /// A file cannot be read.
    #[error("{} cannot be read ({error}); check --https-cert and --https-key", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// It is read, and is no certificate, or no key.
    #[error("{} is damaged or no {what} in PEM ({problem}); it is left as it is", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The key is another certificate's.
    #[error(
        "the key in {} does not belong to the certificate in {}", key.display(), certificate.display()
    )]
    Apart {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
    },
    /// There is none, and none can be made.
    #[error("the certificate {} cannot be made ({error}); name another directory by --state DIR", path.display())]
    NotMade {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// The certificate and its key in one file; made there on the first call, and never replaced.
///
/// # Errors
/// See [`FileError`].
pub fn load_or_create(path: &Path) -> Result<Arc<CertifiedKey>, FileError> {
    if let Some(found) = load(path)? {
        return Ok(found);
    }
    let made = |error| FileError::NotMade {
        path: path.into(),
        error,
    };
    let text = make().map_err(|error| made(io::Error::other(error)))?;
    keyfile::create_private(path, &text).map_err(made)?;
    // Perhaps another process was faster: what is in the file counts.
    load(path)?.ok_or_else(|| made(io::ErrorKind::NotFound.into()))
}

/// A certificate, with those that lead to it, and its key, from files that somebody else keeps.
///
/// # Errors
/// See [`FileError`].
pub fn from_files(certificate: &Path, key: &Path) -> Result<Arc<CertifiedKey>, FileError> {
    let unreadable = |error| FileError::Unreadable {
        path: certificate.into(),
        error,
    };
    let chain = std::fs::read(certificate).map_err(unreadable)?;
    let secret = read_private(key)?.ok_or_else(|| FileError::Unreadable {
        path: key.into(),
        error: io::ErrorKind::NotFound.into(),
    })?;
    certified((&chain, certificate), (&secret, key))
}

fn load(path: &Path) -> Result<Option<Arc<CertifiedKey>>, FileError> {
    let Some(bytes) = read_private(path)? else {
        return Ok(None);
    };
    certified((&bytes, path), (&bytes, path)).map(Some)
}

fn read_private(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let Some(file) = private::open(path).map_err(FileError::Refused)? else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    file.take(MAX_SIZE)
        .read_to_end(&mut bytes)
        .map_err(|error| FileError::Unreadable {
            path: path.into(),
            error,
        })?;
    Ok(Some(bytes))
}

fn certified(
    (chain, of_chain): (&[u8], &Path),
    (key, of_key): (&[u8], &Path),
) -> Result<Arc<CertifiedKey>, FileError> {
    let damaged = |path: &Path, what, problem: String| FileError::Damaged {
        path: path.into(),
        what,
        problem,
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
    let chain = chain.map_err(|error| damaged(of_chain, "certificate", error.to_string()))?;
    if chain.is_empty() {
        let problem = "there is no certificate in it".to_owned();
        return Err(damaged(of_chain, "certificate", problem));
    }
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| damaged(of_key, "key", error.to_string()))?;
    match CertifiedKey::from_der(chain, key, &provider()) {
        Ok(certified) => Ok(Arc::new(certified)),
        Err(Error::InconsistentKeys(_)) => Err(FileError::Apart {
            certificate: of_chain.into(),
            key: of_key.into(),
        }),
        Err(error) => Err(damaged(of_chain, "certificate", error.to_string())),
    }
}

/// A self-signed certificate and its key, both in PEM. It names nobody: what it is called would be seen on the way.
fn make() -> Result<String, rcgen::Error> {
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "localhost");
    let certificate = params.self_signed(&key)?;
    Ok([
        "# The certificate of this Kuguri rendezvous for HTTPS, and its secret key.\n",
        &pem("CERTIFICATE", certificate.der()),
        &pem("PRIVATE KEY", &key.serialize_der()),
    ]
    .concat())
}

/// RFC 7468.
fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().copied().map(char::from));
        pem.push('\n');
    }
    pem + &format!("-----END {label}-----\n")
}

/// What is wrong with the dates of a certificate, if anything: browsers will say so, peers do not care.
#[must_use]
pub fn problem_with_dates(key: &CertifiedKey, now: UnixTime) -> Option<&'static str> {
    let certificate = key.end_entity_cert().ok()?;
    // Its dates are looked at before it is asked whose it is, so that any root does.
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).ok()?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .ok()?;
    let name = ServerName::try_from("localhost").ok()?;
    match verifier.verify_server_cert(certificate, &[], &name, &[], now) {
        Err(Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => Some("has expired"),
        Err(Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        )) => Some("is not valid yet"),
        Ok(_) | Err(_) => None,
    }
}

/// More than any chain and key; whatever is larger is none.
const MAX_SIZE: u64 = 256 * 1024;

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;

    fn private(path: &Path, text: &str) {
        fs::write(path, text).expect("written");
        fs::set_permissions(path, Permissions::from_mode(0o600)).expect("ours");
    }

    #[test]
    fn made_once_private_and_the_same_ever_after() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("test.pem");
        let first = load_or_create(&path).expect("made");
        let second = load_or_create(&path).expect("kept");
        assert_eq!(first.cert, second.cert);
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(problem_with_dates(&first, UnixTime::now()), None);
        // As from files, since it is written as others are.
        let again = from_files(&path, &path).expect("read");
        assert_eq!(again.cert, first.cert);
    }

    #[test]
    fn what_is_damaged_is_named_and_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, other) = (
            directory.path().join("test.pem"),
            directory.path().join("other.pem"),
        );
        load_or_create(&path).expect("made");
        load_or_create(&other).expect("made");
        let apart = from_files(&path, &other).expect_err("apart").to_string();
        assert!(apart.contains("does not belong"), "{apart}");
        let good = fs::read_to_string(&path).expect("there");
        let (certificate, key) = good.split_once("-----BEGIN PRIVATE").expect("both");
        for (text, named) in [
            ("", "there is no certificate in it"),
            (certificate, "no key in PEM"),
            (
                &format!("-----BEGIN PRIVATE{key}"),
                "there is no certificate in it",
            ),
            (&good.replace("MII", "MIA"), "damaged"),
        ] {
            private(&path, text);
            let error = load_or_create(&path).expect_err(text).to_string();
            assert!(
                error.contains(named) && error.contains("test.pem"),
                "{error}"
            );
            assert_eq!(fs::read_to_string(&path).expect("there"), text);
        }
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("ours");
        assert!(matches!(load_or_create(&path), Err(FileError::Refused(_))));
    }

    #[test]
    fn a_certificate_that_has_expired_is_noticed() {
        let directory = tempfile::tempdir().expect("a directory");
        let certified = load_or_create(&directory.path().join("test.pem")).expect("made");
        let year =
            |year: u64| UnixTime::since_unix_epoch(Duration::from_secs((year - 1970) * 31_557_600));
        assert_eq!(
            problem_with_dates(&certified, year(4100)),
            Some("has expired")
        );
        assert_eq!(
            problem_with_dates(&certified, year(1972)),
            Some("is not valid yet")
        );
    }
}
