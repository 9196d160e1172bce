//! Claims about two or more nodes, or real processes; here is what the claims share.

pub mod reach;
#[cfg(target_os = "linux")]
pub mod real;

pub use kuguri::simulate::{frames, world};
