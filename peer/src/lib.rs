//! A running peer: TAP, sockets and clock around `kuguri_proto::node`; and the command line.
//!
//! ```text
//!   cli ─▶ config · known ─▶ driver ◀─▶ udp     sockets
//!                             │  ▲ ◀──▶ tap     frames        (route: its settings)
//!                             │  └────── local   own addresses
//!                             ├─▶ output         lines for people or programs
//!                             └◀▶ admin          status and ping from other processes
//!   demo  all of it on one machine, in namespaces
//! ```
//!
//! Here is only doing. What to do is decided in `kuguri_proto`.

pub mod admin;
pub mod cli;
pub mod config;
pub mod demo;
pub mod driver;
pub mod known;
pub mod local;
pub mod output;
pub mod punch_sockets;
pub mod qr;
pub mod route;
pub mod tap;
pub mod udp;
mod watch;
pub mod whereabouts;
