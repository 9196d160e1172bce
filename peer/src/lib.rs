//! A running peer: TAP, sockets and clock around `kuguri_proto::node`; and the command line.
//!
//! ```text
//!   cli ─▶ config · known ─▶ driver ◀─▶ udp     sockets
//!                             │  ▲ ◀──▶ tap     frames        (route: its settings)
//!                             │  └────── local   own addresses
//!                             ├─▶ output         lines for people or programs
//!                             └◀▶ admin          status and ping from other processes
//!   demo  all of it on one machine, in namespaces; bench  the same, to measure
//!   simulate  nodes on a pretended Internet
//! ```
//!
//! Here is only doing. What to do is decided in `kuguri_proto`.

pub mod admin;
mod again;
pub mod bench;
mod cast;
pub mod cli;
pub mod config;
pub mod dataplane;
pub mod demo;
pub mod driver;
pub mod known;
pub mod local;
pub mod output;
pub mod outside;
pub mod punch_sockets;
pub mod qr;
pub mod route;
pub mod simulate;
pub mod stdout;
pub mod tap;
pub mod udp;
mod watch;
pub mod ways;
pub mod whereabouts;
