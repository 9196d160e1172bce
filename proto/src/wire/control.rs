//! What two linked peers say to each other inside TLS (over the ARQ), beside frames.
//!
//! Messages are framed by [`super::codec::Framer`]. Version and cipher are agreed before them, by ALPN ([`ALPN_AES`],
//! [`ALPN_CHACHA`]), so the handshake's transcript protects that choice against a downgrade.

use std::net::{IpAddr, SocketAddr};

use bincode::{Decode, Encode};

use super::ethernet::MacAddr;

mod search;

pub use search::{MAX_LISTED_PORTS, Ports, Search};

/// Protocol version 1, frames sealed by AES-256-GCM: offered first by peers with the instructions for it.
pub const ALPN_AES: &[u8] = b"kuguri/1 aes-256-gcm";
/// Protocol version 1, frames sealed by ChaCha20-Poly1305: offered by everybody.
pub const ALPN_CHACHA: &[u8] = b"kuguri/1 chacha20-poly1305";

/// No more candidates than this are taken from a peer (it could aim us at strangers).
pub const MAX_CANDIDATES: usize = 16;

/// A message between two peers.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Control {
    /// The member asks to join the hub; its first message.
    Join(Join),
    /// The hub lets it in.
    Welcome(Welcome),
    /// The hub does not let it in; the link ends.
    Refuse(Refusal),
    /// Where the sender can perhaps be reached, and when to start checking.
    Candidates(Candidates),
    /// The sender's half of the next epoch's key agreement.
    Rekey(Rekey),
    /// The sender ends the link on purpose.
    Bye(Bye),
    /// The hub says what else its network has, to members with [`FEATURE_NETWORK`]; again whenever that changes.
    Network(Network),
    /// A step of a search for the port that a NAT gives.
    Search(Search),
}

/// The member's request.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Join {
    /// What it shows to be let in.
    pub credential: Credential,
    /// The name of its machine, for people; at most 63 bytes.
    pub host_name: String,
    /// The address of its virtual LAN card.
    pub mac: MacAddr,
    /// Bits for what else it can do; unknown ones are ignored.
    pub features: u64,
}

/// What a member shows to be let in. Its key, which TLS has proved, is known anyway.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub enum Credential {
    /// Nothing but its key.
    Key,
    /// The token of an invite.
    Token([u8; 16]),
}

/// The hub's answer to a member that may join.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Welcome {
    /// The hub's name, for people.
    pub hub_name: String,
    /// An address for the virtual LAN card and the length of its prefix, when the hub gives one.
    pub address: Option<(IpAddr, u8)>,
    /// The address of the hub's own virtual host, when it has one.
    pub gateway: Option<IpAddr>,
    /// The virtual network's MTU in bytes of IP packet.
    pub mtu: u16,
    /// Bits for what else the hub can do; unknown ones are ignored.
    pub features: u64,
}

/// What a hub's network has beside its members. Each replaces the one before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Network {
    /// Networks behind the hub's virtual host, with the lengths of their prefixes; at most [`MAX_ROUTES`].
    pub routes: Vec<(IpAddr, u8)>,
    /// Its resolvers; at most [`MAX_RESOLVERS`].
    pub dns: Vec<IpAddr>,
    /// The domain that its names are in; may be empty.
    pub domain: String,
}

/// Bit of [`Join::features`]: the member understands [`Control::Network`].
pub const FEATURE_NETWORK: u64 = 1 << 1;
/// No more routes than this are taken from a hub.
pub const MAX_ROUTES: usize = 64;
/// No more resolvers than this are taken from a hub.
pub const MAX_RESOLVERS: usize = 4;

/// Why a hub does not let a peer in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
pub enum Refusal {
    /// The invite's token is not one of the hub's: withdrawn, used up, expired or never given.
    UnknownToken,
    /// The hub has as many members as it takes.
    Full,
    /// The hub has no address left to give.
    NoAddress,
    /// This peer is not a hub.
    NotAHub,
}

/// Where the sender can perhaps be reached.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Candidates {
    /// Counts the sender's lists up; a list replaces the ones before it.
    pub round: u32,
    /// At most [`MAX_CANDIDATES`], best first.
    pub candidates: Vec<Candidate>,
    /// How the NAT before the sender behaves, as far as it knows: it steers what is tried.
    pub nat: NatClass,
}

/// How a NAT behaves, seen from inside. It steers and never vetoes: many are misjudged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, serde::Serialize)]
pub struct NatClass {
    /// For which destinations a socket keeps its outside address (RFC 4787, section 4.1).
    pub mapping: Dependence,
    /// Who may send to it (RFC 4787, section 5).
    pub filtering: Dependence,
    /// How outside ports are chosen.
    pub allocation: Allocation,
}

/// How far a NAT's decision depends on the other side.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, serde::Serialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Dependence {
    /// It is not known.
    #[default]
    Unknown,
    /// Not at all: endpoint-independent.
    Independent,
    /// On its address.
    Address,
    /// On its address and port.
    AddressAndPort,
}

/// How a NAT chooses outside ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Allocation {
    /// It is not known.
    #[default]
    Unknown,
    /// The inside port, for a socket's first destination at least.
    Preserving,
    /// One after the other.
    Sequential {
        /// From one port to the next, modulo 65536.
        step: u16,
    },
    /// Any of a range that is much smaller than all ports.
    Block {
        /// The lowest port that was seen.
        first: u16,
        /// The highest.
        last: u16,
    },
    /// Any.
    Random,
}

/// One address at which a peer can perhaps be reached (RFC 8445, section 5.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, serde::Serialize)]
pub struct Candidate {
    /// How the address was learnt.
    pub kind: CandidateKind,
    /// The address.
    pub address: SocketAddr,
}

/// How a candidate's address was learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CandidateKind {
    /// An interface of the machine has it.
    Host,
    /// A STUN server saw it.
    ServerReflexive,
    /// A gateway's port-mapping protocol gave it.
    Mapped,
    /// Computed from a NAT's behaviour.
    Predicted,
    /// Seen as the source of an authenticated check.
    PeerReflexive,
}

/// One side's half of a key agreement for a new epoch.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Rekey {
    /// The epoch that the new keys are for.
    pub epoch: u8,
    /// Whether this answers the other side's half.
    pub answer: bool,
    /// An X25519 public key.
    pub public: [u8; 32],
}

/// Why a peer ends the link on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
pub enum Bye {
    /// Its process ends.
    ShuttingDown,
    /// Its user said so.
    Disconnected,
    /// The same member has joined again from elsewhere.
    Replaced,
}

impl std::fmt::Debug for Credential {
    /// Never shows a token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Key => "Key",
            Self::Token(_) => "Token(…)",
        })
    }
}

/// Feature of [`Join`] and [`Welcome`]: takes frames with open checksums ([`super::chunk::Chunk::OpenFrame`]).
pub const OPEN_FRAMES: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::codec::Framer;
    use crate::wire::vectors::Vector;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn join(credential: Credential, features: u64) -> Control {
        Control::Join(Join {
            credential,
            host_name: "laptop".into(),
            mac: MacAddr([0x02, 0x00, 0x5e, 0x10, 0x00, 0x01]),
            features,
        })
    }

    fn welcome(
        hub_name: &str,
        (address, gateway): (Option<(IpAddr, u8)>, Option<IpAddr>),
        (mtu, features): (u16, u64),
    ) -> Control {
        Control::Welcome(Welcome {
            hub_name: hub_name.into(),
            address,
            gateway,
            mtu,
            features,
        })
    }

    fn candidates() -> Vec<Candidate> {
        [
            (CandidateKind::Host, "192.168.1.5:47001"),
            (CandidateKind::ServerReflexive, "203.0.113.5:40000"),
            (CandidateKind::Mapped, "198.51.100.7:250"),
            (CandidateKind::Predicted, "198.51.100.7:40002"),
            (CandidateKind::PeerReflexive, "[2001:db8::1]:40000"),
        ]
        .map(|(kind, address)| Candidate {
            kind,
            address: address.parse().expect("an address"),
        })
        .to_vec()
    }

    fn rekey(epoch: u8, answer: bool, public: &str) -> Control {
        Control::Rekey(Rekey {
            epoch,
            answer,
            public: Vector::named("rekey").array(public),
        })
    }

    fn list(round: u32, candidates: Vec<Candidate>) -> Control {
        let nat = NatClass {
            mapping: Dependence::AddressAndPort,
            filtering: Dependence::Address,
            allocation: Allocation::Sequential { step: u16::MAX },
        };
        Control::Candidates(Candidates {
            round,
            candidates,
            nat,
        })
    }

    fn messages() -> Vec<(&'static str, Control)> {
        let ipv4 = (Some((address("10.9.0.2"), 24)), Some(address("10.9.0.1")));
        let ipv6 = (Some((address("fd00::2"), 64)), None);
        vec![
            ("join-key", join(Credential::Key, 0)),
            ("join-token", join(Credential::Token([0xa5; 16]), 300)),
            ("welcome", welcome("office", ipv4, (1500, 0))),
            ("welcome-ipv6", welcome("", ipv6, (1400, 1))),
            ("welcome-bare", welcome("office", (None, None), (250, 0))),
            (
                "refuse-unknown-token",
                Control::Refuse(Refusal::UnknownToken),
            ),
            ("refuse-full", Control::Refuse(Refusal::Full)),
            ("refuse-no-address", Control::Refuse(Refusal::NoAddress)),
            ("refuse-not-a-hub", Control::Refuse(Refusal::NotAHub)),
            ("candidates", list(1, candidates())),
            ("candidates-none", list(70_000, Vec::new())),
            ("search-opened", search::tests::opened()),
            ("search-opened-within", search::tests::opened_within()),
            ("search-waiting", search::tests::waiting()),
            ("search-ladder", search::tests::ladder()),
            (
                "search-ended",
                Control::Search(Search::Ended { attempt: 7 }),
            ),
            ("rekey-offer", rekey(1, false, "offer-public")),
            ("rekey-answer", rekey(255, true, "answer-public")),
            ("bye-shutting-down", Control::Bye(Bye::ShuttingDown)),
            ("bye-disconnected", Control::Bye(Bye::Disconnected)),
            ("bye-replaced", Control::Bye(Bye::Replaced)),
            (
                "network",
                Control::Network(Network {
                    routes: vec![(address("192.168.1.0"), 24), (address("fd01::"), 64)],
                    dns: vec![address("10.9.0.1")],
                    domain: "office.example".into(),
                }),
            ),
            ("network-none", Control::Network(Network::default())),
        ]
    }

    /// What PROTOCOL.md says.
    #[test]
    fn the_vectors_hold() {
        let vector = Vector::named("control");
        assert_eq!(vector.fields().count(), messages().len());
        for (name, message) in messages() {
            let bytes = vector.bytes(name);
            assert_eq!(Framer::frame(&message).expect("small"), bytes, "{name}");
            let mut framer = Framer::default();
            framer.push(bytes);
            assert_eq!(framer.next_message(), Ok(Some(message)), "{name}");
        }
    }

    /// What PROTOCOL.md says.
    #[test]
    fn the_names_are_as_described() {
        let vector = Vector::named("alpn");
        assert_eq!(ALPN_AES, vector.bytes("aes"));
        assert_eq!(ALPN_CHACHA, vector.bytes("chacha"));
    }
}
