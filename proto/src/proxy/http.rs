//! HTTP CONNECT (RFC 9110, section 9.3.6), and the head of an HTTP answer, whoever it comes from.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::digest::Challenge;
use super::{Credentials, authority};

/// The head of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The status code.
    pub status: u16,
    /// What stands behind it, for people.
    pub reason: String,
    /// Names in lower case, and values.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Bytes of the whole head.
    pub length: usize,
}

impl Head {
    /// The first header of that name, in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let mut named = self.headers.iter().filter(|(it, _)| it == name);
        named.next().map(|(_, value)| value.as_slice())
    }

    /// The same as text that can be shown.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        let value = String::from_utf8_lossy(self.header(name)?);
        Some(
            value
                .chars()
                .filter(|c| !c.is_control())
                .take(SHOWN)
                .collect(),
        )
    }
}

/// Bytes that are no head of an HTTP answer, or too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no answer of an HTTP server")]
pub struct NotHttp;

/// The head at the beginning of `bytes`; `None` while it is not all there.
///
/// # Errors
/// When it can become none any more.
pub fn parse(bytes: &[u8]) -> Result<Option<Head>, NotHttp> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(bytes.get(..MAX_HEAD).unwrap_or(bytes));
    match parsed.map_err(|_| NotHttp)? {
        httparse::Status::Partial if bytes.len() >= MAX_HEAD => Err(NotHttp),
        httparse::Status::Partial => Ok(None),
        httparse::Status::Complete(length) => {
            let reason = response.reason.unwrap_or_default();
            Ok(Some(Head {
                status: response.code.ok_or(NotHttp)?,
                reason: reason
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(SHOWN)
                    .collect(),
                headers: response
                    .headers
                    .iter()
                    .map(|header| (header.name.to_ascii_lowercase(), header.value.to_vec()))
                    .collect(),
                length,
            }))
        }
    }
}

/// Asks a proxy for a stream to `host:port`; `authorization` is what [`authorize`] gave.
#[must_use]
pub fn connect(host: &str, port: u16, authorization: Option<&str>) -> Vec<u8> {
    let target = authority(host, port);
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(authorization) = authorization {
        request += &format!("Proxy-Authorization: {authorization}\r\n");
    }
    (request + "\r\n").into_bytes()
}

/// Why a challenge cannot be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// The proxy wants none of the schemes that we know.
    Scheme,
    /// What it wants cannot be made of this user and password.
    Credentials,
}

/// The answer to a proxy's 407: by Digest if it knows that, since then the password is not shown; else by Basic. `cnonce` is
/// a text that is new each time.
///
/// # Errors
/// When it wants something else.
pub fn authorize(
    head: &Head,
    credentials: &Credentials,
    (host, port): (&str, u16),
    cnonce: &str,
) -> Result<String, NoAnswer> {
    let plain = |c: char| !c.is_control();
    if !credentials
        .user
        .chars()
        .chain(credentials.password.chars())
        .all(plain)
    {
        return Err(NoAnswer::Credentials);
    }
    let named = head.headers.iter();
    let challenges = named
        .filter(|(name, _)| name == "proxy-authenticate")
        .filter_map(|(_, value)| std::str::from_utf8(value).ok())
        .flat_map(challenges);
    let challenges: Vec<(String, &str)> = challenges.take(MAX_CHALLENGES).collect();
    let digests = challenges.iter().filter(|(scheme, _)| scheme == "digest");
    let digest = digests.filter_map(|(_, rest)| Challenge::parse(rest)).max();
    if let Some(digest) = digest {
        let target = authority(host, port);
        return Ok(digest.answer(credentials, "CONNECT", &target, cnonce));
    }
    if !challenges.iter().any(|(scheme, _)| scheme == "basic") {
        return Err(NoAnswer::Scheme);
    }
    if credentials.user.contains(':') {
        return Err(NoAnswer::Credentials);
    }
    let text = format!("{}:{}", credentials.user, credentials.password.as_str());
    Ok(format!("Basic {}", STANDARD.encode(text)))
}

/// The challenges in a header's value: each a scheme in lower case, and its parameters. Several may stand in one value, with
/// commas between them as between parameters (RFC 9110, section 11.6.1).
fn challenges(value: &str) -> Vec<(String, &str)> {
    let (mut found, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    let mut pieces = Vec::new();
    for (at, c) in value.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => {
                pieces.push(start..at);
                start = at + 1;
            }
            _ => {}
        }
    }
    pieces.push(start..value.len());
    for piece in pieces {
        let text = value[piece.clone()].trim_start();
        let (word, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
        // `name = value` with blanks is a parameter too.
        let is_scheme =
            !word.is_empty() && !word.contains('=') && !rest.trim_start().starts_with('=');
        if is_scheme {
            let begin = piece.end - rest.len();
            found.push((word.to_ascii_lowercase(), begin..piece.end));
        } else if let Some((_, range)) = found.last_mut() {
            range.end = piece.end;
        }
    }
    found
        .into_iter()
        .map(|(scheme, range)| (scheme, value.get(range).unwrap_or_default()))
        .collect()
}

/// Bytes of a head.
pub const MAX_HEAD: usize = 8192;
const MAX_HEADERS: usize = 64;
const MAX_CHALLENGES: usize = 16;
/// Characters of what others say that are shown.
const SHOWN: usize = 100;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    use super::*;

    fn alice() -> Credentials {
        Credentials {
            user: "alice".into(),
            password: Zeroizing::new("open sesame".into()),
        }
    }

    fn head(text: &str) -> Head {
        parse(text.as_bytes()).expect("HTTP").expect("whole")
    }

    #[test]
    fn an_answer_is_read_when_it_is_all_there() {
        let text = "HTTP/1.1 200 Connection established\r\nVia: a\r\n\r\n\x16\x03";
        for cut in 0..text.len() - 2 {
            assert_eq!(parse(&text.as_bytes()[..cut]), Ok(None), "{cut}");
        }
        let read = head(text);
        assert_eq!((read.status, read.length), (200, text.len() - 2));
        assert_eq!(read.header("via"), Some(b"a".as_slice()));
        assert_eq!(read.reason, "Connection established");
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for bad in [
            "SSH-2.0-OpenSSH_9\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "\x16\x03\x01",
            "HTTP/1.1 abc\r\n\r\n",
        ] {
            assert_eq!(parse(bad.as_bytes()), Err(NotHttp), "{bad}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\nA: {}", "a".repeat(MAX_HEAD));
        assert_eq!(parse(endless.as_bytes()), Err(NotHttp));
        let many = "A: b\r\n".repeat(MAX_HEADERS + 1);
        assert_eq!(
            parse(format!("HTTP/1.1 200 OK\r\n{many}\r\n").as_bytes()),
            Err(NotHttp)
        );
    }

    #[test]
    fn a_request_names_its_target_twice_and_no_more() {
        assert_eq!(
            connect("vps.example", 443, None),
            b"CONNECT vps.example:443 HTTP/1.1\r\nHost: vps.example:443\r\n\r\n"
        );
        let request = connect("2001:db8::1", 7777, Some("Basic YTpi"));
        let request = String::from_utf8(request).expect("text");
        assert!(request.starts_with("CONNECT [2001:db8::1]:7777 HTTP/1.1\r\n"));
        assert!(request.ends_with("\r\nProxy-Authorization: Basic YTpi\r\n\r\n"));
    }

    #[test]
    fn the_password_is_shown_only_where_nothing_better_is_known() {
        let target = ("vps.example", 443);
        let of = |headers: &str| {
            let head = head(&format!("HTTP/1.1 407 No\r\n{headers}\r\n\r\n"));
            authorize(&head, &alice(), target, "c")
        };
        let basic = of("Proxy-Authenticate: Basic realm=\"a, Digest b\"").expect("an answer");
        assert_eq!(basic, "Basic YWxpY2U6b3BlbiBzZXNhbWU=");
        for both in [
            "Proxy-Authenticate: Basic realm=\"x\"\r\nProxy-Authenticate: Digest realm=\"x\", nonce=\"n\", qop=\"auth\"",
            "Proxy-Authenticate: Digest realm=\"x\", nonce=\"n\", qop=\"auth\", Basic realm=\"x\"",
            "Proxy-Authenticate: NTLM, Basic realm = \"x\", digest realm=\"x\" , nonce=\"n\"",
        ] {
            let answer = of(both).expect(both);
            assert!(answer.starts_with("Digest username=\"alice\""), "{answer}");
        }
        assert_eq!(of("Proxy-Authenticate: Negotiate"), Err(NoAnswer::Scheme));
        assert_eq!(of("Via: a"), Err(NoAnswer::Scheme));
    }

    #[test]
    fn no_header_can_be_written_by_a_password() {
        let wrong = Credentials {
            password: Zeroizing::new("a\r\nX: y".into()),
            ..alice()
        };
        let head = head("HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\n\r\n");
        assert_eq!(
            authorize(&head, &wrong, ("a", 1), "c"),
            Err(NoAnswer::Credentials)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_and_any_challenge_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,80}") {
            let _ = parse(&bytes);
            for (_, rest) in challenges(&text) {
                let _ = Challenge::parse(rest);
            }
        }
    }
}
