//! A running peer: TAP, sockets and clock around `kuguri_proto::node`; and the command line.

#[cfg(target_os = "linux")]
pub mod demo;
