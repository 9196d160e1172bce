//! Real nodes on a pretended Internet: `kuguri sim`, and the claims of `tests`. Binds the roles of scenarios to nodes and the
//! cells of the matrix to runs; what is pretended, and how fast, is `kuguri_sim`'s affair.
//!
//! ```text
//!   kuguri sim run ────► cast ──┐
//!                               ├─► world: Machine (node, rendezvous) as a host of kuguri_sim
//!   kuguri sim matrix ─► pairs ─┘
//!   kuguri sim nat-box          kuguri_sim::lab alone
//! ```

pub mod cast;
pub mod frames;
pub mod pairs;
pub mod world;
