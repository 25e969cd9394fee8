//! lab lib.

pub mod platform;
