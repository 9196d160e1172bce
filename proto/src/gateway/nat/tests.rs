//! The NAT between smoltcp's TCP and a host that is played.

mod wholesome;
mod world;
