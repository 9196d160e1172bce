//! One remote peer: the authenticated association that outlives the paths which carry its datagrams.

pub mod path;
