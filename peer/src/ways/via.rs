//! `--via`: which ways to the rendezvous the user wants, and what the environment says of proxies.

use std::fmt;
use std::str::FromStr;

use kuguri_proto::proxy::Credentials;
use zeroize::Zeroizing;

/// What the user wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Via {
    /// UDP, and when it is not answered HTTPS, straight and through the environment's proxy.
    #[default]
    Auto,
    /// UDP alone.
    Udp,
    /// This alone; not a datagram leaves this machine by UDP.
    Only(Route),
}

/// How a TCP stream gets out of this network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// By itself.
    Straight,
    /// Through an HTTP proxy, by CONNECT.
    Http(Proxy),
    /// Through a SOCKS5 proxy.
    Socks(Proxy),
    /// Through `ssh -W`, from this destination.
    Ssh(String),
}

/// A proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Its name or address.
    pub host: String,
    /// Its TCP port.
    pub port: u16,
    /// Who we are for it.
    pub credentials: Option<Credentials>,
}

impl FromStr for Via {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, rest) = text.split_once('=').unwrap_or((text, ""));
        Ok(match (kind, rest) {
            ("auto", "") => Self::Auto,
            ("udp", "") => Self::Udp,
            ("https", "") => Self::Only(Route::Straight),
            ("http-proxy", url) if !url.is_empty() => match route(url, "http", 3128)? {
                it @ Route::Http(_) => Self::Only(it),
                Route::Straight | Route::Socks(_) | Route::Ssh(_) => {
                    return Err("an HTTP proxy's URL begins with http://".into());
                }
            },
            ("socks", url) if !url.is_empty() => match route(url, "socks5", 1080)? {
                it @ Route::Socks(_) => Self::Only(it),
                Route::Straight | Route::Http(_) | Route::Ssh(_) => {
                    return Err("a SOCKS proxy's URL begins with socks5://".into());
                }
            },
            ("ssh", to) if !to.is_empty() => Self::Only(Route::Ssh(ssh(to)?)),
            _ => {
                return Err(
                    "write auto, udp, https, http-proxy=URL, socks=URL or ssh=DESTINATION".into(),
                );
            }
        })
    }
}

impl Route {
    /// What the environment says about a proxy for `host`: a sentence when it cannot be understood. `variable` reads a variable.
    ///
    /// # Errors
    /// When a variable names what is no proxy of ours.
    pub fn from_environment(
        host: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, String> {
        let value = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let either = |name: &str| value(name).or_else(|| value(&name.to_uppercase()));
        if either("no_proxy").is_some_and(|list| is_excepted(host, &list)) {
            return Ok(None);
        }
        for name in ["https_proxy", "all_proxy"] {
            if let Some(url) = either(name) {
                let read = route(url.trim(), "http", 3128);
                return read
                    .map(Some)
                    .map_err(|problem| format!("the environment's {name} is not used: {problem}"));
            }
        }
        Ok(None)
    }

    /// The proxy's credentials, if there is a proxy.
    pub fn proxy_mut(&mut self) -> Option<&mut Proxy> {
        match self {
            Self::Http(proxy) | Self::Socks(proxy) => Some(proxy),
            Self::Straight | Self::Ssh(_) => None,
        }
    }
}

/// For people: without any password.
impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Straight => f.write_str("https"),
            Self::Http(proxy) => write!(f, "https through the HTTP proxy {proxy}"),
            Self::Socks(proxy) => write!(f, "https through the SOCKS proxy {proxy}"),
            Self::Ssh(to) => write!(f, "https through ssh {to}"),
        }
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&kuguri_proto::proxy::authority(&self.host, self.port))
    }
}

/// `[SCHEME://][USER[:PASSWORD]@]HOST[:PORT][/]`
fn route(url: &str, without_scheme: &str, without_port: u16) -> Result<Route, String> {
    let (scheme, rest) = url.split_once("://").unwrap_or((without_scheme, url));
    let scheme = scheme.to_ascii_lowercase();
    let default = match (scheme.as_str(), url.contains("://")) {
        ("http", true) => 80,
        ("socks5" | "socks5h" | "socks", _) => 1080,
        _ => without_port,
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (user, place) = match rest.rsplit_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, rest),
    };
    let credentials = user.map(credentials).transpose()?;
    let (host, port) = host_port(place, default)?;
    let proxy = Proxy {
        host,
        port,
        credentials,
    };
    match scheme.as_str() {
        "http" => Ok(Route::Http(proxy)),
        "socks5" | "socks5h" | "socks" => Ok(Route::Socks(proxy)),
        _ => Err(format!(
            "{scheme}:// is no kind of proxy that Kuguri knows; it knows http:// and socks5://"
        )),
    }
}

fn host_port(text: &str, default: u16) -> Result<(String, u16), String> {
    let wrong = || "a proxy is HOST:PORT, such as proxy.example:3128".to_owned();
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (host, rest) = match (bracketed, text.split_once(':')) {
        (Some((host, "")), _) => (host, None),
        (Some((host, rest)), _) => (host, Some(rest.strip_prefix(':').ok_or_else(wrong)?)),
        (None, Some((_, port))) if port.contains(':') => (text, None),
        (None, Some((host, port))) => (host, Some(port)),
        (None, None) => (text, None),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:%".contains(c);
    if host.is_empty() || !host.chars().all(plain) {
        return Err(wrong());
    }
    let port = rest.map_or(Ok(default), |digits| digits.parse().map_err(|_| wrong()))?;
    if port == 0 {
        return Err(wrong());
    }
    Ok((host.to_owned(), port))
}

fn credentials(text: &str) -> Result<Credentials, String> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    Ok(Credentials {
        user: decoded(user)?,
        password: Zeroizing::new(decoded(password)?),
    })
}

/// What `%41` and the like stand for.
fn decoded(text: &str) -> Result<String, String> {
    let wrong = || "in a proxy's user and password, % is written %25".to_owned();
    let (mut bytes, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [
            rest.next().ok_or_else(wrong)?,
            rest.next().ok_or_else(wrong)?,
        ];
        let digits = std::str::from_utf8(&digits).map_err(|_| wrong())?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

/// A destination that ssh takes for one, and not for an option.
fn ssh(to: &str) -> Result<String, String> {
    if to.starts_with('-') || to.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("write ssh=USER@HOST or ssh=HOST, as for ssh itself".into());
    }
    Ok(to.to_owned())
}

/// Whether a host is to be reached without a proxy: `*`, the name itself or the end of it, as programs have it.
fn is_excepted(host: &str, list: &str) -> bool {
    let host = host.to_ascii_lowercase();
    list.split([',', ' ']).map(str::trim).any(|exception| {
        let exception = exception.trim_start_matches('.').to_ascii_lowercase();
        !exception.is_empty()
            && (exception == "*"
                || host == exception
                || host
                    .strip_suffix(&exception)
                    .is_some_and(|rest| rest.ends_with('.')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn via(text: &str) -> Via {
        text.parse().expect(text)
    }

    fn proxy(host: &str, port: u16, user: Option<(&str, &str)>) -> Proxy {
        Proxy {
            host: host.into(),
            port,
            credentials: user.map(|(user, password)| Credentials {
                user: user.into(),
                password: Zeroizing::new(password.into()),
            }),
        }
    }

    #[test]
    fn every_way_is_written_as_the_help_says() {
        assert_eq!(via("auto"), Via::Auto);
        assert_eq!(via("udp"), Via::Udp);
        assert_eq!(via("https"), Via::Only(Route::Straight));
        let squid = Route::Http(proxy("10.0.0.1", 3128, None));
        assert_eq!(via("http-proxy=10.0.0.1"), Via::Only(squid.clone()));
        assert_eq!(via("http-proxy=http://10.0.0.1:3128/"), Via::Only(squid));
        let named = Route::Http(proxy("p.example", 80, Some(("a@b", "c:d%"))));
        assert_eq!(
            via("http-proxy=http://a%40b:c:d%25@p.example"),
            Via::Only(named)
        );
        let socks = Route::Socks(proxy("2001:db8::1", 1080, Some(("a", ""))));
        assert_eq!(via("socks=socks5h://a@[2001:db8::1]"), Via::Only(socks));
        assert_eq!(via("ssh=me@vps"), Via::Only(Route::Ssh("me@vps".into())));
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "",
            "tcp",
            "udp=1",
            "http-proxy",
            "http-proxy=",
            "http-proxy=socks5://a",
            "http-proxy=https://a:443",
            "socks=http://a",
            "socks=a:b",
            "socks=a:0",
            "http-proxy=a b",
            "http-proxy=%zz@a",
            "ssh=",
            "ssh=-oProxyCommand=x",
            "ssh=a b",
        ] {
            assert!(bad.parse::<Via>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        let route = via("http-proxy=http://alice:secret@p.example:1");
        let Via::Only(route) = route else {
            panic!("a route")
        };
        assert!(!format!("{route} {route:?}").contains("secret"));
    }

    #[test]
    fn the_environment_is_asked_as_other_programs_do() {
        let of = |variables: &[(&str, &str)], host: &str| {
            Route::from_environment(host, |name| {
                let mut named = variables.iter().filter(|(it, _)| *it == name);
                named.next().map(|(_, value)| (*value).to_owned())
            })
        };
        let one = Route::Http(proxy("p", 80, None));
        for name in ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
            assert_eq!(
                of(&[(name, "http://p")], "a"),
                Ok(Some(one.clone())),
                "{name}"
            );
        }
        let both = [("https_proxy", "http://p"), ("ALL_PROXY", "socks5://q")];
        assert_eq!(of(&both, "a"), Ok(Some(one)));
        for (list, host) in [
            ("*", "a"),
            ("b,a.example", "a.example"),
            (".example", "a.example"),
            ("10.0.0.1", "10.0.0.1"),
        ] {
            let variables = [("no_proxy", list), both[0]];
            assert_eq!(of(&variables, host), Ok(None), "{list} {host}");
        }
        assert!(matches!(
            of(&[("no_proxy", "xample"), both[0]], "a.example"),
            Ok(Some(_))
        ));
        assert_eq!(of(&[("https_proxy", "")], "a"), Ok(None));
        assert!(of(&[("https_proxy", "ftp://x")], "a").is_err());
    }
}
