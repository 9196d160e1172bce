//! HTTP Digest (RFC 7616): an answer that shows that we know the password, and not the password.
//!
//! MD5 is what proxies still ask for; it protects the password no worse here than the proxy's own choice of it.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use md5::{Digest, Md5};

use super::Credentials;

/// What a proxy asks; a better one is greater.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Challenge {
    hash: Hash,
    /// The keys are of this nonce (`-sess`).
    session: bool,
    /// With a count and a nonce of ours (`qop=auth`); without in RFC 2069.
    counted: bool,
    realm: String,
    nonce: String,
    opaque: Option<String>,
}

/// The better one is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Hash {
    Md5,
    Sha256,
}

impl Challenge {
    /// Reads the parameters of a challenge; `None` when something is missing or wanted that we do not know.
    #[must_use]
    pub fn parse(parameters: &str) -> Option<Self> {
        let mut values = parameters_of(parameters)?;
        let algorithm = values.remove("algorithm").unwrap_or_else(|| "MD5".into());
        let algorithm = algorithm.to_ascii_lowercase();
        let session = algorithm.ends_with("-sess");
        let hash = match algorithm.trim_end_matches("-sess") {
            "md5" => Hash::Md5,
            "sha-256" => Hash::Sha256,
            _ => return None,
        };
        let counted = match values.get("qop") {
            None => false,
            Some(qop)
                if qop
                    .split(',')
                    .any(|it| it.trim().eq_ignore_ascii_case("auth")) =>
            {
                true
            }
            Some(_) => return None,
        };
        Some(Self {
            hash,
            session,
            counted,
            realm: values.remove("realm")?,
            nonce: values.remove("nonce")?,
            opaque: values.remove("opaque"),
        })
    }

    /// The value of `Proxy-Authorization`. `cnonce` is a text of ours that is new each time.
    #[must_use]
    pub fn answer(&self, who: &Credentials, method: &str, uri: &str, cnonce: &str) -> String {
        let hash = |text: String| self.hash.hex(text.as_bytes());
        let Self { realm, nonce, .. } = self;
        let mut secret = hash(format!("{}:{realm}:{}", who.user, who.password.as_str()));
        if self.session {
            secret = hash(format!("{secret}:{nonce}:{cnonce}"));
        }
        let what = hash(format!("{method}:{uri}"));
        let response = hash(if self.counted {
            format!("{secret}:{nonce}:{COUNT}:{cnonce}:auth:{what}")
        } else {
            format!("{secret}:{nonce}:{what}")
        });
        let algorithm = match (self.hash, self.session) {
            (Hash::Md5, false) => "MD5",
            (Hash::Md5, true) => "MD5-sess",
            (Hash::Sha256, false) => "SHA-256",
            (Hash::Sha256, true) => "SHA-256-sess",
        };
        let mut answer = format!(
            "Digest username={}, realm={}, nonce={}, uri={}, algorithm={algorithm}, response=\"{response}\"",
            quoted(&who.user),
            quoted(realm),
            quoted(nonce),
            quoted(uri),
        );
        if self.counted {
            answer += &format!(", qop=auth, nc={COUNT}, cnonce={}", quoted(cnonce));
        } else if self.session {
            answer += &format!(", cnonce={}", quoted(cnonce));
        }
        if let Some(opaque) = &self.opaque {
            answer += &format!(", opaque={}", quoted(opaque));
        }
        answer
    }
}

impl Hash {
    fn hex(self, bytes: &[u8]) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Md5 => hex(&Md5::digest(bytes)),
            Self::Sha256 => hex(digest(&SHA256, bytes).as_ref()),
        }
    }
}

/// `name=value, name="value", …`, names in lower case; `None` when it is not that.
fn parameters_of(mut text: &str) -> Option<BTreeMap<String, String>> {
    let mut values = BTreeMap::new();
    loop {
        text = text.trim_start_matches([' ', '\t', ',']);
        if text.is_empty() {
            return Some(values);
        }
        let (name, rest) = text.split_once('=')?;
        let (value, rest) = value_of(rest.trim_start())?;
        values.insert(name.trim().to_ascii_lowercase(), value);
        text = rest;
    }
}

/// A token, or a text in quotes; and what is behind it.
fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(inside) = text.strip_prefix('"') else {
        let end = text.find(',').unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return Some((value.trim().to_owned(), rest));
    };
    let (mut value, mut escaped) = (String::new(), false);
    for (at, c) in inside.char_indices() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return Some((value, &inside[at + 1..])),
            _ => value.push(c),
        }
    }
    None
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// We answer each nonce once.
const COUNT: &str = "00000001";

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    /// RFC 7616, section 3.9.1.
    #[test]
    fn the_examples_of_the_rfc_hold() {
        let mufasa = Credentials {
            user: "Mufasa".into(),
            password: Zeroizing::new("Circle of Life".into()),
        };
        let nonce = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v";
        let cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";
        let opaque = "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS";
        let mut challenges = Vec::new();
        for (algorithm, response) in [
            ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
            (
                "SHA-256",
                "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
            ),
        ] {
            let challenge = Challenge::parse(&format!(
                "realm=\"http-auth@example.org\", qop=\"auth, auth-int\", algorithm={algorithm}, nonce=\"{nonce}\", opaque=\"{opaque}\""
            ))
            .expect("a challenge");
            let answer = challenge.answer(&mufasa, "GET", "/dir/index.html", cnonce);
            assert!(
                answer.contains(&format!("response=\"{response}\"")),
                "{answer}"
            );
            assert!(
                answer.contains(&format!("opaque=\"{opaque}\"")) && answer.contains("qop=auth")
            );
            challenges.push(challenge);
        }
        assert!(challenges[1] > challenges[0], "SHA-256 is the better one");
    }

    #[test]
    fn what_we_cannot_answer_is_refused() {
        for bad in [
            "realm=\"a\"",
            "nonce=\"a\"",
            "realm=\"a\", nonce=\"b\", algorithm=SHA-512-256",
            "realm=\"a\", nonce=\"b\", qop=\"auth-int\"",
            "realm=\"a",
            "realm",
        ] {
            assert_eq!(Challenge::parse(bad), None, "{bad}");
        }
        let odd = Challenge::parse("NONCE=b ,, realm = \"a\\\"b\"").expect("a challenge");
        assert_eq!((odd.nonce.as_str(), odd.realm.as_str()), ("b", "a\"b"));
        let answer = odd.answer(&Credentials::default(), "CONNECT", "a:1", "c");
        assert!(answer.contains("realm=\"a\\\"b\"") && !answer.contains("cnonce"));
    }
}
