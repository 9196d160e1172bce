//! One remote peer: the authenticated association that outlives the paths which carry its datagrams.

pub mod pack;
pub mod rekey;
pub mod seal;
pub mod tls;
