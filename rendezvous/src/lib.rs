//! The rendezvous process: sockets and clock around `kuguri_proto::rendezvous`.
