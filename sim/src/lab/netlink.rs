//! What the kernel is asked about interfaces: a hand-written piece of rtnetlink (rtnetlink(7), RFC 3549), so that no
//! `ip` need be installed. One request, one acknowledgement; it knows nothing of the laboratory.
//!
//! ```text
//! nlmsghdr 16      family header        attributes, each padded to 4 bytes
//! len type flags seq pid | ifinfomsg …  | len type payload | len type payload …
//! ```

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

/// One end of a veth pair.
#[derive(Clone, Copy, Debug)]
pub(super) struct VethEnd<'a> {
    /// The interface's name.
    pub(super) name: &'a str,
    /// Its hardware address.
    pub(super) mac: [u8; 6],
    /// Its MTU in bytes.
    pub(super) mtu: u32,
}

/// Makes a pair of interfaces that are each other's wire: `near` in the thread's namespace, `far` in another one.
pub(super) fn add_veth(
    near: VethEnd<'_>,
    far: VethEnd<'_>,
    far_namespace: &File,
) -> io::Result<()> {
    let namespace = far_namespace.as_raw_fd().to_ne_bytes();
    let far = Attributes::new()
        .raw(&ifinfomsg(0, 0, 0))
        .veth_end(far)
        .put(libc::IFLA_NET_NS_FD, &namespace);
    let info = Attributes::new().put(libc::IFLA_INFO_KIND, b"veth").put(
        libc::IFLA_INFO_DATA,
        &Attributes::new().put(VETH_INFO_PEER, &far.0).0,
    );
    let attributes = Attributes::new()
        .veth_end(near)
        .put(libc::IFLA_LINKINFO, &info.0);
    request(libc::RTM_NEWLINK, CREATE, &ifinfomsg(0, 0, 0), &attributes)
}

/// Makes a bridge (IEEE 802.1D, without spanning tree) in the thread's namespace.
pub(super) fn add_bridge(name: &str) -> io::Result<()> {
    let name = [name.as_bytes(), &[0]].concat();
    let info = Attributes::new().put(libc::IFLA_INFO_KIND, b"bridge");
    let attributes = Attributes::new()
        .put(libc::IFLA_IFNAME, &name)
        .put(libc::IFLA_LINKINFO, &info.0);
    request(libc::RTM_NEWLINK, CREATE, &ifinfomsg(0, 0, 0), &attributes)
}

/// Makes an interface a port of a bridge.
pub(super) fn set_bridge(index: u32, bridge: u32) -> io::Result<()> {
    let attributes = Attributes::new().put(libc::IFLA_MASTER, &bridge.to_ne_bytes());
    request(libc::RTM_NEWLINK, 0, &ifinfomsg(index, 0, 0), &attributes)
}

/// Brings an interface up, with an MTU, and says whether it is to resolve neighbours (ARP, NDP).
pub(super) fn set_up(index: u32, mtu: Option<u32>, neighbours: bool) -> io::Result<()> {
    let flags = if neighbours {
        libc::IFF_UP
    } else {
        libc::IFF_UP | libc::IFF_NOARP
    };
    let change = libc::IFF_UP | libc::IFF_NOARP;
    let mut attributes = Attributes::new();
    if let Some(mtu) = mtu {
        attributes = attributes.put(libc::IFLA_MTU, &mtu.to_ne_bytes());
    }
    let header = ifinfomsg(index, flags.cast_unsigned(), change.cast_unsigned());
    request(libc::RTM_NEWLINK, 0, &header, &attributes)
}

/// Gives an interface an address; IPv6 without duplicate address detection, usable at once.
pub(super) fn add_address(index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
    let [a, b, c, d] = index.to_ne_bytes();
    let header = [family(address), prefix, IFA_F_NODAD, 0, a, b, c, d];
    let octets = octets(address);
    let attributes = Attributes::new()
        .put(libc::IFA_LOCAL, &octets)
        .put(libc::IFA_ADDRESS, &octets);
    request(libc::RTM_NEWADDR, CREATE, &header, &attributes)
}

/// Takes an address away again.
pub(super) fn remove_address(index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
    let [a, b, c, d] = index.to_ne_bytes();
    let header = [family(address), prefix, 0, 0, a, b, c, d];
    let attributes = Attributes::new().put(libc::IFA_LOCAL, &octets(address));
    request(libc::RTM_DELADDR, 0, &header, &attributes)
}

/// The default route of one address family: through a gateway, or straight out of the interface.
pub(super) fn add_default_route(
    index: u32,
    any: IpAddr,
    gateway: Option<IpAddr>,
) -> io::Result<()> {
    let scope = if gateway.is_some() {
        libc::RT_SCOPE_UNIVERSE
    } else {
        libc::RT_SCOPE_LINK
    };
    let header = [
        family(any),
        0,
        0,
        0,
        libc::RT_TABLE_MAIN,
        libc::RTPROT_STATIC,
        scope,
        libc::RTN_UNICAST,
        0,
        0,
        0,
        0,
    ];
    let mut attributes = Attributes::new().put(libc::RTA_OIF, &index.to_ne_bytes());
    if let Some(gateway) = gateway {
        attributes = attributes.put(libc::RTA_GATEWAY, &octets(gateway));
    }
    request(libc::RTM_NEWROUTE, CREATE, &header, &attributes)
}

/// Sends one request in the thread's namespace and waits for the kernel's answer to it.
fn request(
    kind: u16,
    flags: libc::c_int,
    header: &[u8],
    attributes: &Attributes,
) -> io::Result<()> {
    let body = [header, &attributes.0].concat();
    let length = u32::try_from(HEADER + body.len()).map_err(|_| Errno::EMSGSIZE)?;
    let flags =
        u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags).map_err(|_| Errno::EINVAL)?;
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]); // sequence number and port: one request per socket needs neither
    message.extend(body);

    let socket = open()?;
    send(socket.as_raw_fd(), &message, MsgFlags::empty())?;
    let mut answer = [0; 1024];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    verdict(&answer[..length])
}

fn open() -> io::Result<OwnedFd> {
    Ok(socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?)
}

/// An acknowledgement is an error message with the number 0.
fn verdict(answer: &[u8]) -> io::Result<()> {
    let number = answer
        .get(HEADER..HEADER + 4)
        .and_then(|bytes| bytes.try_into().ok())
        .map(i32::from_ne_bytes);
    match number {
        Some(0) => Ok(()),
        Some(number) => Err(io::Error::from_raw_os_error(number.wrapping_neg())),
        None => Err(Errno::EBADMSG.into()),
    }
}

/// A run of attributes, as it stands in a message.
struct Attributes(Vec<u8>);

impl Attributes {
    const fn new() -> Self {
        Self(Vec::new())
    }

    /// One attribute more.
    fn put(mut self, kind: u16, payload: &[u8]) -> Self {
        let length =
            u16::try_from(payload.len() + 4).expect("an attribute here is a few bytes long");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.raw(payload)
    }

    /// Bytes, padded to a multiple of four.
    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn veth_end(self, end: VethEnd<'_>) -> Self {
        let name = [end.name.as_bytes(), &[0]].concat();
        self.put(libc::IFLA_IFNAME, &name)
            .put(libc::IFLA_ADDRESS, &end.mac)
            .put(libc::IFLA_MTU, &end.mtu.to_ne_bytes())
    }
}

/// Family, type, index, flags, mask of the flags to change.
fn ifinfomsg(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let words = [0, index, flags, change];
    words.into_iter().flat_map(u32::to_ne_bytes).collect()
}

const fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Bytes of a `nlmsghdr`.
const HEADER: usize = 16;
const CREATE: libc::c_int = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
// linux/if_addr.h, linux/veth.h
const IFA_F_NODAD: u8 = 2;
const VETH_INFO_PEER: u16 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_but_count_their_own_length() {
        let bytes = Attributes::new().put(3, b"eth0\0").put(4, &[1]).0;
        let length = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        assert_eq!((length(0), length(12)), (9, 5));
        assert_eq!(bytes.len(), 20);
    }

    #[test]
    fn an_answer_is_an_acknowledgement_an_error_or_nonsense() {
        let answer = |number: i32| [vec![0; HEADER], number.to_ne_bytes().to_vec()].concat();
        assert!(verdict(&answer(0)).is_ok());
        let refused = verdict(&answer(-libc::EPERM)).expect_err("it says EPERM");
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        assert!(verdict(&[0; HEADER]).is_err());
    }
}
