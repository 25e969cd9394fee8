//! The command line: one file a verb.

mod args;
pub mod config;
mod exec;
pub mod exit;
mod helper;
mod level;
mod logging;
pub mod output;
pub mod render;
pub mod run;
pub mod status;
pub mod timeline;
pub mod token;
pub mod verb;
pub mod wait_online;
pub mod words;

pub use self::args::{Cli, dispatch};
pub use self::level::Level;
