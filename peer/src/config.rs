//! What a peer is told and what it keeps: the state directory, the hub's file, the rendezvous's address.
//!
//! Knows files and their formats; knows nothing of sockets, and decides nothing about the network.

pub mod address;
pub mod file;
pub mod hub;
pub mod leases;
pub mod state;
