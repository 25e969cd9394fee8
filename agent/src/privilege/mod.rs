//! What needs root: a fixed list of verbs, the helper that carries them out, and the client that asks.

pub mod client;
mod error;
pub mod fields;
pub mod helper;
pub mod request;
pub mod wire;

pub use self::client::HelperClient;
pub use self::error::HelperError;
pub use self::fields::{AuthKey, Label, NodePreferences};
pub use self::request::{Admission, Inspected, Request, UnitState};

/// Where the helper is asked; `devbox-agent-helper.socket` makes it, for the daemon's user alone.
pub const SOCKET: &str = "/run/devbox-agent/helper.sock";
