//! The NAT between smoltcp's TCP and a host that is played.

mod hostile;
mod wholesome;
mod world;
