//! The only place that knows the order of things: facts in `world`, rules in `decide`, effects run by `drive`.

pub mod phase;
pub mod reason;
