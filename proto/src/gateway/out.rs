//! Frames on their way to the switch, up to a bound; and what the port they go by can do.

use crate::offload::{self, Gso, Layout, Pieces, SplitError, Version, VnetHeader};
use std::collections::VecDeque;
use std::net::IpAddr;

use super::packet::{Header, Packet, fold, sum};
use crate::wire::ethernet::MacAddr;

/// What the port behind which the virtual host stands can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// Bytes of an IP packet.
    pub mtu: u16,
    /// Bytes of payload of a TCP segment that the port cuts into packets by itself and completes the checksums of
    /// (virtio's `GSO` and `NEEDS_CSUM`); `None` when it takes only whole packets.
    pub max_segment: Option<usize>,
}

/// A frame for the switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Bytes of TCP payload in each packet, when the port is to cut it; its TCP checksum then holds the pseudo-header's sum.
    pub segment: Option<u16>,
}

impl Frame {
    /// Cuts it as the port is to, in pieces of at most `largest` bytes of frame if it is TCP.
    ///
    /// # Errors
    /// When it is not what it says: a fault of the NAT.
    pub fn pieces(&self, largest: usize) -> Result<Pieces<'_>, SplitError> {
        let Some(segment) = self.segment else {
            return offload::split_frame(&self.bytes, false, largest);
        };
        let layout = Layout::parse(&self.bytes).ok_or(SplitError::Malformed)?;
        let place = |at: usize| u16::try_from(at).map_err(|_| SplitError::Malformed);
        let vnet = VnetHeader {
            needs_csum: true,
            gso: match layout.version {
                Version::V4 => Gso::Tcp4,
                Version::V6 => Gso::Tcp6,
            },
            hdr_len: place(layout.payload)?,
            gso_size: segment,
            csum_start: place(layout.transport)?,
            csum_offset: place(layout.protocol.checksum_offset())?,
            ..VnetHeader::default()
        };
        offload::split(vnet, &self.bytes, largest)
    }
}

/// The queue.
#[derive(Debug)]
pub(super) struct Out {
    pub(super) mac: MacAddr,
    pub(super) port: Port,
    queue: VecDeque<Frame>,
    bytes: usize,
    pool: Vec<Vec<u8>>,
    ident: u16,
    pub(super) dropped: u64,
}

impl Out {
    pub(super) const fn new(mac: MacAddr, port: Port) -> Self {
        Self {
            mac,
            port,
            queue: VecDeque::new(),
            bytes: 0,
            pool: Vec::new(),
            ident: 0,
            dropped: 0,
        }
    }

    /// Whether streams may add to it: what they do not send now they keep in their sockets.
    pub(super) fn has_room(&self) -> bool {
        self.bytes < MAX_STREAM_BYTES
    }

    /// A buffer of that length, with anything in it.
    pub(super) fn buffer(&mut self, length: usize) -> Vec<u8> {
        let mut buffer = self.pool.pop().unwrap_or_default();
        buffer.resize(length, 0);
        buffer
    }

    /// Takes a buffer back for another frame.
    pub(super) fn recycle(&mut self, buffer: Vec<u8>) {
        if self.pool.len() < MAX_POOL && buffer.capacity() <= LARGEST_POOLED {
            self.pool.push(buffer);
        }
    }

    pub(super) fn push(&mut self, bytes: Vec<u8>, segment: Option<u16>) {
        // A station that is not known yet: nothing to send to.
        if bytes.starts_with(&[0; 6]) {
            return;
        }
        if self.bytes >= MAX_BYTES {
            self.dropped += 1;
            return;
        }
        self.bytes += bytes.len();
        self.queue.push_back(Frame { bytes, segment });
    }

    pub(super) fn pop(&mut self) -> Option<Frame> {
        let frame = self.queue.pop_front()?;
        self.bytes -= frame.bytes.len();
        Some(frame)
    }

    /// A header for a packet to a station.
    pub(super) fn header(
        &mut self,
        to: MacAddr,
        source: IpAddr,
        destination: IpAddr,
        protocol: u8,
    ) -> Header {
        self.ident = self.ident.wrapping_add(1);
        Header {
            to,
            from: self.mac,
            source,
            destination,
            protocol,
            ttl: TTL,
            ident: self.ident,
            dont_fragment: true,
        }
    }

    /// Sends a packet whole, or in fragments when it is larger than the MTU (RFC 791; RFC 8200, section 4.5).
    pub(super) fn send(&mut self, header: &Header, payload: &[u8]) {
        super::fragment::cut(self, header, payload);
    }
}

/// Puts the checksum over a payload and its pseudo-header where it belongs; 0 is written as all ones (RFC 768).
pub(super) fn put_checksum(header: &Header, payload: &mut [u8], at: usize) {
    payload[at..at + 2].fill(0);
    let checksum = !fold(header.pseudo_sum(payload.len()) + sum(payload));
    let checksum = if checksum == 0 { 0xffff } else { checksum };
    payload[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// Whether a packet came to one host only, from one host that could answer.
pub(super) fn is_unicast(packet: &Packet<'_>) -> bool {
    let plain = |address: IpAddr| match address {
        IpAddr::V4(v4) => !v4.is_multicast() && !v4.is_broadcast() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_multicast() && !v6.is_unspecified(),
    };
    plain(packet.source) && plain(packet.destination)
}

/// The recommended time to live (RFC 1700, "IP time to live").
pub(super) const TTL: u8 = 64;
/// Streams stop to add at this, in bytes.
const MAX_STREAM_BYTES: usize = 1 << 20;
/// Anything more is dropped, in bytes.
const MAX_BYTES: usize = 4 << 20;
/// Buffers kept for reuse.
const MAX_POOL: usize = 64;
/// None larger than this is kept.
const LARGEST_POOLED: usize = 128 << 10;
