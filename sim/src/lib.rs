//! An Internet in memory: hosts, links, NATs and firewalls under a virtual clock; and the same models for real programs
//! in network namespaces. It knows nothing of Kuguri's protocol.
//!
//! ```text
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
pub mod nat;
pub mod network;
pub mod packet;
pub mod pcap;
pub mod rules;
pub mod run;
