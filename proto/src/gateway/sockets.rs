//! What the NAT asks of the host's sockets: the one seam between its decisions and the system.
//!
//! A call says what is to be done and tells at once what came of it; none waits. What comes later comes as an input of
//! [`super::nat::Nat`]. The driver implements it with non-blocking sockets, a test with queues in memory.
//!
//! Bytes of a TCP stream are never kept on the way: what a station sent is given to the socket and acknowledged when the
//! socket has taken it; what the socket has is looked at ([`Sockets::peek`]) and stays there until the station has
//! acknowledged it ([`Sockets::consume`]).

use std::net::{IpAddr, SocketAddr};

/// A socket, numbered by the NAT: a place and how often it was used before, so that nothing late is taken for another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId {
    /// Small, and used again.
    pub place: u32,
    /// Counts the uses of the place.
    pub turn: u32,
}

/// Kinds of datagram sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagrams {
    /// UDP.
    Udp,
    /// ICMP echo, where the system lets ordinary users ping (Linux: `ping_group_range`).
    Ping,
}

/// Why the system did not do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The other host has nothing there, or ended the connection by force.
    #[error("refused")]
    Refused,
    /// It ended an open connection by force.
    #[error("reset")]
    Reset,
    /// No way to that host.
    #[error("host unreachable")]
    HostUnreachable,
    /// No way to that network.
    #[error("network unreachable")]
    NetworkUnreachable,
    /// No answer.
    #[error("no answer in time")]
    TimedOut,
    /// The datagram is larger than the path takes.
    #[error("too large for the path")]
    TooLarge,
    /// The system's rules forbid it.
    #[error("not permitted by the system")]
    NotPermitted,
    /// No descriptors, ports or memory left.
    #[error("the system has no sockets left")]
    Exhausted,
    /// Try again later; nothing is wrong.
    #[error("not now")]
    Busy,
    /// Anything else.
    #[error("the system refuses")]
    Other,
}

/// What a look into a stream found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peeked {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Nothing now; an input will say when there is.
    Nothing,
    /// The other host sends no more.
    End,
}

/// How a datagram is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sending {
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Rather an error than fragments.
    pub dont_fragment: bool,
}

/// The host's sockets.
pub trait Sockets {
    /// Begins a TCP connection; how it goes comes as an input.
    ///
    /// # Errors
    /// When it cannot even be begun.
    fn connect(&mut self, id: SocketId, to: SocketAddr) -> Result<(), Failure>;

    /// Gives bytes to a connected stream; says how many it took, 0 when it is full (an input tells when it is not).
    ///
    /// # Errors
    /// When the connection has ended.
    fn send(&mut self, id: SocketId, bytes: &[u8]) -> Result<usize, Failure>;

    /// About how many bytes more the stream would take now.
    fn room(&mut self, id: SocketId) -> usize;

    /// The stream has little or no room: an input is wanted when it has more, also when it was never quite full.
    fn tell_when_writable(&mut self, id: SocketId);

    /// Copies what the stream has from `offset` bytes behind the first that is not consumed.
    ///
    /// # Errors
    /// When the connection has ended.
    fn peek(&mut self, id: SocketId, offset: usize, into: &mut [u8]) -> Result<Peeked, Failure>;

    /// The first `count` bytes of the stream are done with.
    fn consume(&mut self, id: SocketId, count: usize);

    /// Nothing more will be sent on the stream.
    fn shutdown(&mut self, id: SocketId);

    /// Closes any socket; a stream with `reset` by force, so that the other host knows.
    fn close(&mut self, id: SocketId, reset: bool);

    /// Opens a datagram socket of the family of `family`.
    ///
    /// # Errors
    /// When the system refuses.
    fn open(&mut self, id: SocketId, kind: Datagrams, family: IpAddr) -> Result<(), Failure>;

    /// Sends a datagram; for a ping, the ICMP message, whose identifier the system replaces.
    ///
    /// # Errors
    /// When the system refuses.
    fn send_to(
        &mut self,
        id: SocketId,
        to: SocketAddr,
        how: Sending,
        bytes: &[u8],
    ) -> Result<(), Failure>;
}
