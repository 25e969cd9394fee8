//! The command line: one file a verb.

pub mod config;
pub mod exit;
mod level;
pub mod output;
pub mod render;
pub mod status;
mod timeline;
pub mod verb;
pub mod wait_online;
mod words;

pub use self::level::Level;
