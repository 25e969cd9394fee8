//! A platform in a box: everything devbox-agent talks to, made of real parts, and machines to run it on.

pub mod bench;
pub mod canary;
/// A real database.
pub mod database;
pub mod demo;
pub mod devbox;
pub mod fuzz;
pub mod machine;
pub mod package;
pub mod platform;
#[cfg(test)]
mod reached;
pub mod runner;
pub mod scene;
pub mod staging;
pub mod stand_in;
pub mod tools;
pub mod web;
pub mod witness;
