//! An Internet in memory: hosts, links, NATs and firewalls under a virtual clock; and the same models for real programs
//! in network namespaces. It knows nothing of Kuguri's protocol.
//!
//! ```text
//!   scenario files that say all of this, a timeline and what is expected      matrix   all pairs of NATs
//!   oracle   which pairs of NATs can meet at all          toy   the lightest programs that try
//!   run      Simulation: virtual time jumps from deadline to deadline
//!   lab      the same by the machine's clock, between real programs in namespaces
//!   network  hosts · segments · routers · the core      log, capture → pcap
//!              │            │
//!   link     one way of a wire: delay, loss, rate, MTU
//!   nat      mapping × filtering × ports × hairpin × timers × limits × …   (also for real packets)
//!   rules    a packet filter: UDP blocked, only port 443, only a proxy
//!   packet   what travels: values ↔ IPv4 and IPv6 bytes
//! ```
//!
//! One seed gives one event log: time is an argument, every random choice comes from the seed, and everything that is
//! iterated is ordered.

pub mod duration;
#[cfg(target_os = "linux")]
pub mod lab;
pub mod link;
pub mod matrix;
pub mod nat;
pub mod network;
pub mod oracle;
pub mod packet;
pub mod pcap;
pub mod rules;
pub mod run;
pub mod scenario;
pub mod toy;
