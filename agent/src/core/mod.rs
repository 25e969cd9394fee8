//! The only place that knows the order of things: facts in `world`, rules in `decide`, effects run by `drive`.

pub mod decide;
pub mod drive;
pub mod edges;
pub mod effect;
pub mod fold;
mod launch;
pub mod milestone;
pub mod phase;
pub mod reason;
mod resume;
pub mod rules;
pub mod scribe;
pub mod view;
pub mod world;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tour;
