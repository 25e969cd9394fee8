//! What this machine is, and a token to prove it: one file a provider behind one trait.

pub mod agent;
pub mod azure;
pub mod command;
pub mod configured;
pub mod descriptor;
pub mod detect;
pub mod devbox;
pub mod document;
pub mod file;
pub mod gce;
pub mod github;
pub mod hostname;
mod meaning;
pub mod namespace;
pub mod parse;
pub mod resolve;
pub mod secret_file;
pub mod service;
pub mod spec;
#[cfg(test)]
pub(crate) mod testing;
pub mod value;

use std::time::Duration;

use async_trait::async_trait;

pub use self::document::Document;
pub use self::parse::parse;
pub use self::resolve::{Rules, resolve};
pub use self::spec::{Instance, Spec, Tailnet};
use crate::core::reason::Fault;
use crate::secret::Secret;

/// The answer to one read of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum Read {
    /// The document, and the tag to ask with next time (none: the server cannot say whether it changed).
    Document {
        /// What this instance should be.
        spec: Box<Spec>,
        /// The server's `ETag`.
        etag: Option<String>,
    },
    /// A document that cannot be used; its tag still serves to wait for a better one.
    Refused {
        /// Which field, and why.
        fault: Fault,
        /// The server's `ETag`.
        etag: Option<String>,
    },
    /// The document is still the one that the tag stands for.
    Unchanged,
}

/// A source of the spec and of workload tokens.
///
/// Implementations are cheap to call again: retry and pace belong to the core.
#[async_trait]
pub trait Metadata: Send + Sync {
    /// The provider's name as configuration spells it.
    fn provider(&self) -> &'static str;

    /// Reads the spec; with an `etag` and a `wait`, the answer may be held until the document changes or `wait` is over.
    async fn read(&self, etag: Option<&str>, wait: Duration) -> Result<Read, Fault>;

    /// Fetches a fresh workload token for `audience` (a JWT; never cached here).
    async fn token(&self, audience: &str) -> Result<Secret<String>, Fault>;
}
