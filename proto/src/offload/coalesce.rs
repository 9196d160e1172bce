//! From frames that came one after the other to super-frames that the kernel takes as one.
//!
//! ```text
//!   arena  … │ headers a1 │ payload │ … │ headers b1 │ payload │ … │ headers a2 │ payload │ …
//!                             └────────────────┐                       ┌─────────┘
//!   super  │ vnet │ headers of a, changed │ payload of a1 │ payload of a2 │      no byte of payload is copied
//! ```
//!
//! The rules are those of the kernel's receive offload (GRO): TCP of one flow joins when nothing but what must differ
//! differs: the lengths, IPv4's id, the sequence number that follows, PSH on the last, the checksum. Equal UDP datagrams of one
//! flow join likewise. Frames of a flow leave in the order in which they came; a frame without a [`Layout`] lets
//! all flows leave before it. Nothing waits longer than its batch: the caller ends each by [`Coalescer::flush`].
//!
//! A frame whose checksum is there joins others only if it is right.

use std::ops::Range;

use super::checksum;
use super::layout::{Layout, MAX_HEADERS, Protocol, Version};
use super::split::{ACK, PSH};
use super::vnet::{Gso, VnetHeader};

/// A frame or super-frame, as positions in the arena that it came in.
#[derive(Clone, Debug)]
pub struct Super {
    /// What to say to the kernel before it.
    pub vnet: VnetHeader,
    /// How many frames it stands for.
    pub frames: usize,
    /// Bytes of all of it.
    pub len: usize,
    head: [u8; MAX_HEADERS],
    head_len: usize,
    pieces: Vec<Range<usize>>,
}

impl Super {
    /// The headers, when they are other bytes than those that came; else nothing, and the first piece begins with them.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        self.head.get(..self.head_len).unwrap_or_default()
    }

    /// What follows the headers, in order.
    #[must_use]
    pub fn pieces(&self) -> &[Range<usize>] {
        &self.pieces
    }

    /// The bytes behind each other, in `to`, in place of what was there.
    pub fn copy_to(&self, arena: &[u8], to: &mut Vec<u8>) {
        to.clear();
        to.extend_from_slice(self.head());
        for piece in &self.pieces {
            to.extend_from_slice(arena.get(piece.clone()).unwrap_or_default());
        }
    }
}

/// Frames of one batch that wait for what may follow them. `K` says where a frame goes: only equals join.
#[derive(Debug)]
pub struct Coalescer<K> {
    flows: Vec<Flow<K>>,
    /// Those that are not in use, with their memory.
    spare: Vec<Super>,
}

#[derive(Debug)]
struct Flow<K> {
    to: K,
    layout: Layout,
    /// The first frame's place in the arena.
    first: Range<usize>,
    /// Whether checksums are open; finished ones have been found right.
    open: bool,
    /// Whether the last frame had PSH: nothing is put behind it.
    pushed: bool,
    /// What must come next.
    next: u32,
    size: usize,
    gathered: Super,
}

impl<K: Copy + Eq> Coalescer<K> {
    /// Nothing waits.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            flows: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// Takes the frame at `arena[frame]` to `to`. Gives to `emit` whatever cannot wait any more.
    ///
    /// `open`: its checksum is open (see [`checksum::finish_frame`]).
    pub fn push(
        &mut self,
        arena: &[u8],
        frame: Range<usize>,
        open: bool,
        to: K,
        mut emit: impl FnMut(K, &Super),
    ) {
        let Some(bytes) = arena.get(frame.clone()) else {
            return;
        };
        let Some(layout) = Layout::parse(bytes) else {
            self.flush(arena, &mut emit);
            return self.emit_alone(frame, None, to, &mut emit);
        };
        let open_layout = open.then_some(&layout);
        let found = self
            .flows
            .iter()
            .position(|flow| flow.to == to && flow.is_same(arena, bytes, &layout));
        if let Some(at) = found {
            if self.flows[at].joins(arena, &frame, &layout, open) {
                if self.flows[at].is_full() {
                    self.end(at, arena, &mut emit);
                }
                return;
            }
            self.end(at, arena, &mut emit);
        }
        if !may_begin(bytes, &layout, open) {
            return self.emit_alone(frame, open_layout, to, &mut emit);
        }
        if self.flows.len() >= FLOWS {
            self.end(0, arena, &mut emit);
        }
        self.begin(bytes, frame, layout, open, to);
    }

    /// Gives everything that waits to `emit`.
    pub fn flush(&mut self, arena: &[u8], mut emit: impl FnMut(K, &Super)) {
        while !self.flows.is_empty() {
            self.end(0, arena, &mut emit);
        }
    }

    fn begin(&mut self, bytes: &[u8], frame: Range<usize>, layout: Layout, open: bool, to: K) {
        let mut gathered = self.fresh();
        let payload = frame.start + layout.payload..frame.start + layout.end;
        gathered.frames = 1;
        gathered.len = layout.end;
        let size = payload.len();
        gathered.pieces.push(payload);
        self.flows.push(Flow {
            to,
            next: sequence(bytes, &layout).wrapping_add(u32::try_from(size).unwrap_or_default()),
            size,
            pushed: is_pushed(bytes, &layout),
            layout,
            first: frame,
            open,
            gathered,
        });
    }

    fn end(&mut self, at: usize, arena: &[u8], emit: &mut impl FnMut(K, &Super)) {
        let mut flow = self.flows.remove(at);
        flow.complete(arena);
        emit(flow.to, &flow.gathered);
        self.give_back(flow.gathered);
    }

    fn emit_alone(
        &mut self,
        frame: Range<usize>,
        open: Option<&Layout>,
        to: K,
        emit: &mut impl FnMut(K, &Super),
    ) {
        let mut alone = self.fresh();
        alone.frames = 1;
        alone.len = frame.len();
        alone.vnet = open.map(open_header).unwrap_or_default();
        alone.pieces.push(frame);
        emit(to, &alone);
        self.give_back(alone);
    }

    fn fresh(&mut self) -> Super {
        self.spare.pop().unwrap_or_else(|| Super {
            vnet: VnetHeader::default(),
            frames: 0,
            len: 0,
            head: [0; MAX_HEADERS],
            head_len: 0,
            pieces: Vec::new(),
        })
    }

    fn give_back(&mut self, mut used: Super) {
        used.vnet = VnetHeader::default();
        used.head_len = 0;
        used.pieces.clear();
        self.spare.push(used);
    }
}

impl<K: Copy + Eq> Default for Coalescer<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K> Flow<K> {
    /// Whether a frame belongs to this flow: the same stations, VLAN, addresses and ports.
    fn is_same(&self, arena: &[u8], frame: &[u8], layout: &Layout) -> bool {
        let own = &self.layout;
        let addresses = match layout.version {
            Version::V4 => layout.network + 12..layout.network + 20,
            Version::V6 => layout.network + 8..layout.network + 40,
        };
        let ports = layout.transport..layout.transport + 4;
        let first = self.first(arena);
        // The ports first: that is where flows differ most.
        layout.protocol == own.protocol
            && layout.version == own.version
            && layout.network == own.network
            && first.get(own.transport..own.transport + 4) == frame.get(ports)
            && first.get(addresses.clone()) == frame.get(addresses)
            && first.get(..layout.network) == frame.get(..layout.network)
    }

    /// Appends the frame if it follows; whether it did.
    fn joins(&mut self, arena: &[u8], frame: &Range<usize>, layout: &Layout, open: bool) -> bool {
        let Some(bytes) = arena.get(frame.clone()) else {
            return false;
        };
        let size = layout.end - layout.payload;
        let fits = self.gathered.len + size <= LARGEST && size <= self.size && size > 0;
        let last = self.gathered.pieces.last();
        let regular = last.is_some_and(|piece| piece.len() == self.size) && !self.pushed;
        let follows = layout.protocol == Protocol::Udp && size > 0
            || layout.protocol == Protocol::Tcp && sequence(bytes, layout) == self.next;
        if !(fits && regular && follows && open == self.open)
            || layout.payload != self.layout.payload
            || !alike(self.first(arena), bytes, layout)
            || !(open || checksum::is_right(bytes, layout))
        {
            return false;
        }
        self.gathered.frames += 1;
        self.gathered.len += size;
        self.next = self
            .next
            .wrapping_add(u32::try_from(size).unwrap_or_default());
        let payload = frame.start + layout.payload..frame.start + layout.end;
        self.pushed = is_pushed(bytes, layout);
        self.gathered.pieces.push(payload);
        true
    }

    fn is_full(&self) -> bool {
        self.gathered.pieces.len() >= PIECES || self.gathered.len + self.size > LARGEST
    }

    /// Writes the headers of what has been gathered.
    fn complete(&mut self, arena: &[u8]) {
        let (layout, first) = (self.layout, self.first.clone());
        if self.gathered.frames == 1 {
            if self.open {
                self.gathered.vnet = open_header(&layout);
            }
            self.gathered.pieces.clear();
            self.gathered
                .pieces
                .push(first.start..first.start + layout.end);
            return;
        }
        let head_len = layout.payload;
        let gathered = &mut self.gathered;
        let Some(head) = gathered.head.get_mut(..head_len) else {
            return;
        };
        head.copy_from_slice(&arena[first.start..first.start + head_len]);
        gathered.head_len = head_len;
        set_lengths(head, &layout, gathered.len);
        if self.pushed {
            head[layout.transport + 13] |= PSH;
        }
        let whole = Layout {
            end: gathered.len,
            ..layout
        };
        let open = checksum::fold(checksum::pseudo(head, &whole, whole.end - whole.transport));
        let field = layout.transport + layout.protocol.checksum_offset();
        head[field..field + 2].copy_from_slice(&open.to_ne_bytes());
        gathered.vnet = VnetHeader {
            gso: match (layout.protocol, layout.version) {
                (Protocol::Tcp, Version::V4) => Gso::Tcp4,
                (Protocol::Tcp, Version::V6) => Gso::Tcp6,
                (Protocol::Udp, _) => Gso::Udp,
            },
            hdr_len: u16::try_from(head_len).unwrap_or_default(),
            gso_size: u16::try_from(self.size).unwrap_or_default(),
            ..open_header(&layout)
        };
    }

    fn first<'a>(&self, arena: &'a [u8]) -> &'a [u8] {
        arena.get(self.first.clone()).unwrap_or_default()
    }
}

/// Whether others may be put behind this frame.
fn may_begin(frame: &[u8], layout: &Layout, open: bool) -> bool {
    let plain = match layout.protocol {
        Protocol::Tcp => flags(frame, layout) & !PSH == ACK,
        Protocol::Udp => true,
    };
    // An IPv4 header that is wrong would be right when it is written anew.
    let network = layout.version == Version::V6
        || checksum::fold(checksum::sum(&frame[layout.network..layout.transport])) == 0xffff;
    plain && network && layout.end > layout.payload && (open || checksum::is_right(frame, layout))
}

/// Whether two frames of a flow have headers that differ only where those of pieces do.
fn alike(first: &[u8], frame: &[u8], layout: &Layout) -> bool {
    let Layout {
        version,
        protocol,
        network,
        transport,
        payload,
        ..
    } = *layout;
    let same = |from: usize, to: usize| first.get(from..to) == frame.get(from..to);
    let network = match version {
        // Version, length of the header, traffic class; flags; time to live; options. Its checksum must be right.
        Version::V4 => {
            same(network, network + 2)
                && same(network + 6, network + 10)
                && same(network + 20, transport)
                && checksum::fold(checksum::sum(&frame[network..transport])) == 0xffff
        }
        Version::V6 => same(network, network + 4) && same(network + 6, network + 8),
    };
    let transport = match protocol {
        // Acknowledgement, flags but for PSH, window; urgent pointer and options.
        Protocol::Tcp => {
            same(transport + 8, transport + 13)
                && flags(first, layout) & !PSH == flags(frame, layout) & !PSH
                && same(transport + 14, transport + 16)
                && same(transport + 18, payload)
        }
        Protocol::Udp => true,
    };
    network && transport
}

fn set_lengths(head: &mut [u8], layout: &Layout, len: usize) {
    let (network, transport) = (layout.network, layout.transport);
    let mut put = |at: usize, value: usize| {
        let value = u16::try_from(value).unwrap_or_default().to_be_bytes();
        head[at..at + 2].copy_from_slice(&value);
    };
    if layout.protocol == Protocol::Udp {
        put(transport + 4, len - transport);
    }
    match layout.version {
        Version::V4 => {
            put(network + 2, len - network);
            put(network + 10, 0);
            checksum::finish(head, network, 10, transport);
        }
        Version::V6 => put(network + 4, len - transport),
    }
}

fn open_header(layout: &Layout) -> VnetHeader {
    VnetHeader {
        needs_csum: true,
        csum_start: u16::try_from(layout.transport).unwrap_or_default(),
        csum_offset: u16::try_from(layout.protocol.checksum_offset()).unwrap_or_default(),
        ..VnetHeader::default()
    }
}

fn sequence(frame: &[u8], layout: &Layout) -> u32 {
    let bytes = frame
        .get(layout.transport + 4..)
        .and_then(<[u8]>::first_chunk);
    bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

fn is_pushed(frame: &[u8], layout: &Layout) -> bool {
    layout.protocol == Protocol::Tcp && flags(frame, layout) & PSH != 0
}

fn flags(frame: &[u8], layout: &Layout) -> u8 {
    frame.get(layout.transport + 13).copied().unwrap_or(0xff)
}

/// Flows that wait at once; the oldest leaves for one more.
const FLOWS: usize = 16;
/// Frames that become one: what the kernel takes of UDP.
const PIECES: usize = 64;
/// Bytes of a super-frame: an IP packet's length is 16 bits.
const LARGEST: usize = 65_535;

#[cfg(test)]
mod tests;
