//! Super-frames: one frame of up to 64 KB instead of fifty, as far as the kernel of either side can take them.
//!
//! ```text
//!   kernel ─ TSO/USO super-frame ─▶ split ─▶ pieces that each fit one sealed datagram ═▶ coalesce ─ super-frame ─▶ kernel
//! ```
//!
//! What travels are ordinary Ethernet frames: whoever gets one of them alone can use it. For a TCP super-frame the size of
//! the pieces is ours to choose, so no piece ever needs two datagrams. Checksums that the sending kernel has left open
//! (as every kernel does with a card that can finish them) stay open when the peer takes such frames: the tag of the
//! sealed datagram protects the bytes on the way better than they would.
//!
//! It decides where frames are cut and which belong together; it knows no link, no switch, and keeps no bytes.

pub mod checksum;
pub mod coalesce;
pub mod layout;
pub mod split;
pub mod vnet;

pub use coalesce::{Coalescer, Super};
pub use layout::{Layout, Protocol, Version};
pub use split::{Pieces, SplitError, split, split_frame};
pub use vnet::{Gso, VnetHeader};
