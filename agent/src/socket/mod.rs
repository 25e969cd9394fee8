//! The local API on `agent.sock`: its document, server and client, and the copy of the document on disk.

pub mod access;
pub mod client;
pub mod document;
pub mod listen;
pub mod publish;
#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod schema;
pub mod server;
mod slots;
mod watchers;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{oneshot, watch};

use crate::metadata::Metadata;

/// Where the local API listens, in the runtime directory.
pub fn socket_path(runtime: &Path) -> PathBuf {
    runtime.join("agent.sock")
}

/// Where the copy of the status document is, in the runtime directory.
pub fn status_path(runtime: &Path) -> PathBuf {
    runtime.join("status.json")
}

/// The agent's own metadata, for callers with the right to write; none while configuration does not lend it.
pub type Lent = watch::Receiver<Option<Arc<dyn Metadata>>>;

/// What a caller with the right to write may ask of the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Read configuration and metadata now, and forget every `not_before` but a Retry-After.
    Refresh,
    /// Be joined: re-authenticate if logged out, else join; also ends `stopped`.
    Rejoin,
    /// Log out and stay so until `rejoin`.
    Leave,
}

impl Verb {
    /// All verbs.
    pub const ALL: [Self; 3] = [Self::Refresh, Self::Rejoin, Self::Leave];

    /// The verb as the command line and the path of its request spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refresh => "refresh",
            Self::Rejoin => "rejoin",
            Self::Leave => "leave",
        }
    }
}

/// A verb on its way to the core, and where the core says that it took it.
#[derive(Debug)]
pub struct Command {
    /// What is asked.
    pub verb: Verb,
    /// Answered once the core's facts have changed, before the effects that follow are done; the error is a sentence for people.
    pub reply: oneshot::Sender<Result<(), String>>,
}
