//! The messages of a port search: what one end says of the ports by which its NAT lets it out, so that the other can send
//! there. Formats only; what is done with them stands in `link::path::search`.

use std::net::IpAddr;

use bincode::{Decode, Encode};

/// No more ports than this are named one by one.
pub const MAX_LISTED_PORTS: usize = 64;

/// A step of a search.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Search {
    /// The sender has opened its NAT towards the receiver by some sockets: the receiver is to send to these ports.
    Opened {
        /// Counts the sender's steps up.
        attempt: u32,
        /// The NAT's address.
        address: IpAddr,
        /// Where on it the sockets are to be met.
        ports: Ports,
        /// How many they are.
        sockets: u16,
    },
    /// The sender has fresh sockets that will leave its NAT by these ports: the receiver is to open its own NAT towards them, the
    /// first of its sockets towards the first port and so on, and to answer by [`Self::Opened`].
    Waiting {
        /// Counts the sender's steps up.
        attempt: u32,
        /// The NAT's address.
        address: IpAddr,
        /// At most [`MAX_LISTED_PORTS`].
        ports: Vec<u16>,
    },
    /// The sender's NAT has just given out the port before `next` and takes one after the other: both ends send to where the
    /// other's next ones will be, at the same moment.
    Ladder {
        /// Counts the sender's steps up.
        attempt: u32,
        /// The NAT's address.
        address: IpAddr,
        /// The port that comes next.
        next: u16,
        /// From one to the one after it, modulo 65536.
        step: u16,
    },
    /// The sender does no more in this attempt.
    Ended {
        /// The receiver's attempt that it answers.
        attempt: u32,
    },
}

/// Where ports are.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Ports {
    /// Exactly these; at most [`MAX_LISTED_PORTS`].
    Listed(Vec<u16>),
    /// Somewhere from one to another.
    Within {
        /// The lowest.
        first: u16,
        /// The highest.
        last: u16,
    },
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::Control;
    use super::*;

    fn address() -> IpAddr {
        "198.51.100.7".parse().expect("an address")
    }

    pub(in super::super) fn opened() -> Control {
        Control::Search(Search::Opened {
            attempt: 1,
            address: address(),
            ports: Ports::Listed(vec![40_002, 250]),
            sockets: 2,
        })
    }

    pub(in super::super) fn opened_within() -> Control {
        Control::Search(Search::Opened {
            attempt: 70_000,
            address: "2001:db8::1".parse().expect("an address"),
            ports: Ports::Within {
                first: 1024,
                last: 65_535,
            },
            sockets: 256,
        })
    }

    pub(in super::super) fn waiting() -> Control {
        Control::Search(Search::Waiting {
            attempt: 2,
            address: address(),
            ports: vec![40_002],
        })
    }

    pub(in super::super) fn ladder() -> Control {
        Control::Search(Search::Ladder {
            attempt: 3,
            address: address(),
            next: 1024,
            step: u16::MAX,
        })
    }
}
