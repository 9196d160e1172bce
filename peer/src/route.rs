//! Settings of interfaces by the kernel's routing socket: address, MTU, up, and veth pairs.

use std::net::IpAddr;
use std::os::fd::RawFd;

use kuguri_proto::wire::ethernet::MacAddr;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::{AddressMessageBuilder, Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

/// Why an interface cannot be set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// There is one of that name.
    #[error("an interface or address of that name exists already")]
    Exists,
    /// This process may not.
    #[error("no right to change network interfaces; start it with sudo")]
    NoRight,
    /// The kernel refuses something else.
    #[error("{what}: {reason}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        reason: String,
    },
}

/// A connection to the kernel's routing socket, in the namespace where it was made.
#[derive(Clone, Debug)]
pub struct Routes {
    handle: Handle,
}

/// What a card is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// MTU in bytes of IP packet.
    pub mtu: u16,
    /// Address and prefix length.
    pub address: Option<(IpAddr, u8)>,
}

impl Routes {
    /// Connects; needs a runtime, which carries the conversation.
    ///
    /// # Errors
    /// When the system has no routing socket.
    pub fn connect() -> Result<Self, RouteError> {
        let (connection, handle, _notices) =
            rtnetlink::new_connection().map_err(|error| RouteError::Kernel {
                what: "opening the routing socket",
                reason: error.to_string(),
            })?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Gives the interface a MAC address.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn set_mac(&self, index: u32, mac: MacAddr) -> Result<(), RouteError> {
        let message = LinkUnspec::new_with_index(index).address(mac.0.to_vec());
        self.set(message.build(), "setting the MAC address").await
    }

    /// Makes a pair of interfaces, down.
    ///
    /// # Errors
    /// [`RouteError::Exists`] when a name is taken, [`RouteError::NoRight`], or when the kernel refuses.
    pub async fn add_veth(&self, name: &str, peer: &str) -> Result<(), RouteError> {
        let message = LinkVeth::new(name, peer).build();
        let made = self.handle.link().add(message).execute().await;
        made.map_err(refused("making a veth pair"))
    }

    /// Moves an interface to the network namespace of the file `namespace`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn move_to(&self, index: u32, namespace: RawFd) -> Result<(), RouteError> {
        let message = LinkUnspec::new_with_index(index).setns_by_fd(namespace);
        self.set(message.build(), "moving a veth's end").await
    }

    /// Brings the interface up with `now`'s settings, in place of those `before`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn configure(
        &self,
        index: u32,
        before: Option<Settings>,
        now: Settings,
    ) -> Result<(), RouteError> {
        let message = LinkUnspec::new_with_index(index).mtu(now.mtu.into()).up();
        self.set(message.build(), "setting MTU and state").await?;
        // Only a matter of speed, and unknown to old kernels.
        let size = LinkAttribute::GsoMaxSize(LARGEST_SUPER_FRAME);
        let message = LinkUnspec::new_with_index(index).append_extra_attribute(size);
        if let Err(error) = self
            .set(message.build(), "setting the largest super-frame")
            .await
        {
            tracing::debug!(%error, "super-frames keep their size");
        }
        let old = before.and_then(|settings| settings.address);
        if let Some(old) = old.filter(|old| Some(*old) != now.address) {
            let message = address_message(index, old);
            match self.handle.address().del(message).execute().await {
                Ok(()) => {}
                // Somebody has removed it already, which is what is wanted.
                Err(error) => tracing::debug!(%error, "the old address"),
            }
        }
        if let Some((address, prefix)) = now.address {
            let request = self.handle.address().add(index, address, prefix).replace();
            request
                .execute()
                .await
                .map_err(refused("setting the address"))?;
        }
        Ok(())
    }

    /// Leads networks through `gateway` behind the interface, in place of those `before`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn set_routes(
        &self,
        index: u32,
        gateway: IpAddr,
        before: &[(IpAddr, u8)],
        now: &[(IpAddr, u8)],
    ) -> Result<(), RouteError> {
        for old in before.iter().filter(|old| !now.contains(old)) {
            if let Some(message) = route_message(index, *old, gateway)
                && let Err(error) = self.handle.route().del(message).execute().await
            {
                // Somebody has removed it already, which is what is wanted.
                tracing::debug!(%error, "an old route");
            }
        }
        for new in now {
            let Some(message) = route_message(index, *new, gateway) else {
                continue;
            };
            let request = self.handle.route().add(message).replace();
            request
                .execute()
                .await
                .map_err(refused("setting a route"))?;
        }
        Ok(())
    }

    /// Takes the interface away.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn delete(&self, index: u32) -> Result<(), RouteError> {
        let deleted = self.handle.link().del(index).execute().await;
        deleted.map_err(refused("removing the interface"))
    }

    async fn set(&self, message: LinkMessage, what: &'static str) -> Result<(), RouteError> {
        let set = self.handle.link().set(message).execute().await;
        set.map_err(refused(what))
    }
}

/// Bytes of a super-frame that still leaves in one batch of datagrams when it is cut, whatever their size: one system call
/// for each instead of two.
const LARGEST_SUPER_FRAME: u32 = 59_000;

fn address_message(index: u32, (address, prefix): (IpAddr, u8)) -> AddressMessage {
    match address {
        IpAddr::V4(v4) => AddressMessageBuilder::<std::net::Ipv4Addr>::new()
            .index(index)
            .address(v4, prefix)
            .build(),
        IpAddr::V6(v6) => AddressMessageBuilder::<std::net::Ipv6Addr>::new()
            .index(index)
            .address(v6, prefix)
            .build(),
    }
}

/// Behind the routes that this machine has of its own: the same network by a card of its own comes first.
fn route_message(index: u32, (net, prefix): (IpAddr, u8), gateway: IpAddr) -> Option<RouteMessage> {
    match (net, gateway) {
        (IpAddr::V4(net), IpAddr::V4(gateway)) => Some(
            RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .destination_prefix(net, prefix)
                .gateway(gateway)
                .output_interface(index)
                .priority(METRIC)
                .build(),
        ),
        (IpAddr::V6(net), IpAddr::V6(gateway)) => Some(
            RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                .destination_prefix(net, prefix)
                .gateway(gateway)
                .output_interface(index)
                .priority(METRIC)
                .build(),
        ),
        _ => None,
    }
}

/// Of our routes; the kernel's own have less and so come first.
const METRIC: u32 = 5000;

fn refused(what: &'static str) -> impl FnOnce(rtnetlink::Error) -> RouteError {
    move |error| {
        let code = if let rtnetlink::Error::NetlinkError(message) = &error {
            message.raw_code().saturating_abs()
        } else {
            0
        };
        match code {
            libc::EEXIST => RouteError::Exists,
            libc::EPERM | libc::EACCES => RouteError::NoRight,
            _ => RouteError::Kernel {
                what,
                reason: error.to_string(),
            },
        }
    }
}
