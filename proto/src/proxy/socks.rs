//! SOCKS5 (RFC 1928) with user and password (RFC 1929): the client's half of CONNECT.

use std::net::IpAddr;

use super::Credentials;

/// A conversation with a proxy.
#[derive(Debug)]
pub struct Socks {
    target: Vec<u8>,
    credentials: Option<Credentials>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Greeted,
    Named,
    Asked,
}

/// What an answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is not all there; read more, and give all of it again.
    More,
    /// So many bytes were read; send these.
    Send(usize, Vec<u8>),
    /// So many bytes were read, and the stream is open.
    Open(usize),
}

/// Why there is no stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// It is no SOCKS5.
    #[error("it does not answer as a SOCKS5 proxy")]
    NotSocks,
    /// It wants a user and a password, or another scheme.
    #[error("it wants a user and a password")]
    NoCredentials,
    /// It takes none of what we can show.
    #[error("it takes no user and password, and wants something else")]
    NoMethod,
    /// The user or the password is wrong.
    #[error("it refuses this user and password")]
    WrongCredentials,
    /// It lets nobody through to there.
    #[error("its rules do not allow it")]
    NotAllowed,
    /// It does not get there.
    #[error("it cannot reach that address ({0})")]
    Unreachable(&'static str),
    /// A name, a user or a password is longer than the protocol has room for.
    #[error("a name, a user or a password has more than 255 bytes")]
    TooLong,
}

impl Socks {
    /// A conversation that shall lead to `host:port`, and its first bytes.
    ///
    /// # Errors
    /// When something is too long.
    pub fn new(
        host: &str,
        port: u16,
        credentials: Option<Credentials>,
    ) -> Result<(Self, Vec<u8>), Refused> {
        let mut target = match host.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) => [&[1], address.octets().as_slice()].concat(),
            Ok(IpAddr::V6(address)) => [&[4], address.octets().as_slice()].concat(),
            Err(_) => [&[3], counted(host)?.as_slice()].concat(),
        };
        target.extend(port.to_be_bytes());
        if let Some(Credentials { user, password }) = &credentials {
            counted(user).and_then(|_| counted(password))?;
        }
        // Without a user no user is offered: some proxies choose it then, and refuse the empty one.
        let greeting = match credentials {
            Some(_) => vec![VERSION, 2, NO_METHOD_NEEDED, USER_PASSWORD],
            None => vec![VERSION, 1, NO_METHOD_NEEDED],
        };
        let state = State::Greeted;
        let socks = Self {
            target,
            credentials,
            state,
        };
        Ok((socks, greeting))
    }

    /// The proxy has said this, from what was not read of it before.
    ///
    /// # Errors
    /// When there will be no stream.
    pub fn handle(&mut self, said: &[u8]) -> Result<Step, Refused> {
        match self.state {
            State::Greeted => self.method(said),
            State::Named => self.named(said),
            State::Asked => asked(said),
        }
    }

    fn method(&mut self, said: &[u8]) -> Result<Step, Refused> {
        if said.first().is_some_and(|version| *version != VERSION) {
            return Err(Refused::NotSocks);
        }
        let Some(&method) = said.get(1) else {
            return Ok(Step::More);
        };
        match (method, &self.credentials) {
            (NO_METHOD_NEEDED, _) => Ok(self.ask(2)),
            (USER_PASSWORD, Some(Credentials { user, password })) => {
                let mut words = vec![AUTH_VERSION];
                words.extend(counted(user)?);
                words.extend(counted(password)?);
                self.state = State::Named;
                Ok(Step::Send(2, words))
            }
            (USER_PASSWORD | NONE_ACCEPTABLE, None) => Err(Refused::NoCredentials),
            (_, _) => Err(Refused::NoMethod),
        }
    }

    fn named(&mut self, said: &[u8]) -> Result<Step, Refused> {
        // Some say the version of SOCKS here, not that of the sub-negotiation.
        if said
            .first()
            .is_some_and(|version| ![AUTH_VERSION, VERSION].contains(version))
        {
            return Err(Refused::NotSocks);
        }
        match said.get(1) {
            None => Ok(Step::More),
            Some(0) => Ok(self.ask(2)),
            Some(_) => Err(Refused::WrongCredentials),
        }
    }

    fn ask(&mut self, read: usize) -> Step {
        self.state = State::Asked;
        Step::Send(
            read,
            [&[VERSION, CONNECT, 0], self.target.as_slice()].concat(),
        )
    }
}

fn asked(said: &[u8]) -> Result<Step, Refused> {
    if said.first().is_some_and(|version| *version != VERSION) {
        return Err(Refused::NotSocks);
    }
    match said.get(1) {
        None => return Ok(Step::More),
        Some(0) => {}
        Some(2) => return Err(Refused::NotAllowed),
        Some(&code) => return Err(Refused::Unreachable(meaning(code))),
    }
    let address = match (said.get(3), said.get(4)) {
        (None, _) | (Some(3), None) => return Ok(Step::More),
        (Some(1), _) => 4,
        (Some(4), _) => 16,
        (Some(3), Some(&length)) => 1 + usize::from(length),
        (Some(_), _) => return Err(Refused::NotSocks),
    };
    let length = 4 + address + 2;
    Ok(if said.len() < length {
        Step::More
    } else {
        Step::Open(length)
    })
}

/// RFC 1928, section 6.
const fn meaning(code: u8) -> &'static str {
    match code {
        1 => "it says: a failure",
        3 => "it says: network unreachable",
        4 => "it says: host unreachable",
        5 => "it says: connection refused",
        6 => "it says: too far away",
        7 => "it says: it does not connect for others",
        8 => "it says: no such kind of address",
        _ => "it says what no proxy says",
    }
}

fn counted(text: &str) -> Result<Vec<u8>, Refused> {
    let length = u8::try_from(text.len()).map_err(|_| Refused::TooLong)?;
    Ok([&[length], text.as_bytes()].concat())
}

const VERSION: u8 = 5;
const AUTH_VERSION: u8 = 1;
const NO_METHOD_NEEDED: u8 = 0;
const USER_PASSWORD: u8 = 2;
const NONE_ACCEPTABLE: u8 = 255;
const CONNECT: u8 = 1;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    use super::*;

    fn alice() -> Option<Credentials> {
        Some(Credentials {
            user: "alice".into(),
            password: Zeroizing::new("secret".into()),
        })
    }

    #[test]
    fn with_a_password_to_a_name() {
        let (mut socks, greeting) = Socks::new("vps.example", 443, alice()).expect("short");
        assert_eq!(greeting, [5, 2, 0, 2]);
        assert_eq!(socks.handle(&[5]), Ok(Step::More));
        let words = b"\x01\x05alice\x06secret".to_vec();
        assert_eq!(socks.handle(&[5, 2]), Ok(Step::Send(2, words)));
        let request = b"\x05\x01\x00\x03\x0bvps.example\x01\xbb".to_vec();
        assert_eq!(socks.handle(&[1, 0]), Ok(Step::Send(2, request)));
        let answer = [5, 0, 0, 1, 192, 0, 2, 1, 0, 80, 22, 3];
        for cut in 0..10 {
            assert_eq!(socks.handle(&answer[..cut]), Ok(Step::More), "{cut}");
        }
        assert_eq!(socks.handle(&answer), Ok(Step::Open(10)));
    }

    #[test]
    fn without_a_password_to_an_address() {
        let (mut socks, greeting) = Socks::new("192.0.2.1", 7777, None).expect("short");
        assert_eq!(greeting, [5, 1, 0]);
        let request = vec![5, 1, 0, 1, 192, 0, 2, 1, 0x1e, 0x61];
        assert_eq!(socks.handle(&[5, 0]), Ok(Step::Send(2, request)));
        assert_eq!(
            socks.handle(b"\x05\x00\x00\x03\x01a\x00\x50"),
            Ok(Step::Open(8))
        );
    }

    #[test]
    fn refusals_are_told_apart() {
        let begin = |who| Socks::new("a", 1, who).expect("short").0;
        assert_eq!(begin(None).handle(&[5, 255]), Err(Refused::NoCredentials));
        assert_eq!(begin(alice()).handle(&[5, 255]), Err(Refused::NoMethod));
        assert_eq!(begin(None).handle(b"HTTP/1.1"), Err(Refused::NotSocks));
        let mut socks = begin(alice());
        assert!(socks.handle(&[5, 2]).is_ok());
        assert_eq!(socks.handle(&[1, 1]), Err(Refused::WrongCredentials));
        let mut socks = begin(None);
        assert!(socks.handle(&[5, 0]).is_ok());
        assert_eq!(socks.handle(&[5, 2]), Err(Refused::NotAllowed));
        assert_eq!(socks.handle(&[5, 0, 0, 9, 0]), Err(Refused::NotSocks));
        assert!(matches!(
            socks.handle(&[5, 5]),
            Err(Refused::Unreachable(_))
        ));
        assert_eq!(
            Socks::new(&"a".repeat(256), 1, None).err(),
            Some(Refused::TooLong)
        );
    }

    proptest! {
        #[test]
        fn no_answer_is_read_beyond_its_end(said in prop::collection::vec(any::<u8>(), 0..40), steps in 0usize..3) {
            let (mut socks, _) = Socks::new("a", 1, alice()).expect("short");
            for step in [[5u8, 2], [1, 0]].iter().take(steps) {
                prop_assert!(socks.handle(step).is_ok());
            }
            if let Ok(Step::Send(read, _) | Step::Open(read)) = socks.handle(&said) {
                prop_assert!(read <= said.len());
            }
        }
    }
}
