//! What can be known of NATs, and what to do where plain hole punching is not enough. Pure values and decisions.
//!
//! ```text
//!   survey ── sockets, STUN ──▶ answers ──▶ allocation, class ──┐
//!                                                               ├──▶ plan: who opens, who sends, how many ──▶ link::path::search
//!   the peer's class, in its candidates ────────────────────────┘         budget: what may never be exceeded
//! ```
//!
//! Everything here steers and nothing vetoes: a plain punch is tried always, and after one that failed a search is tried even
//! where the classes say that none is needed. It knows neither links nor keys.

pub mod allocation;
pub mod budget;
pub mod plan;
pub mod survey;

pub use budget::{Budget, SearchCounters};
pub use plan::{Plan, Role};
pub use survey::{NatReport, Survey};
