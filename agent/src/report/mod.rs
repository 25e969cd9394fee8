//! Reports to the platform: the document in an envelope, and its publisher.

pub mod envelope;
pub mod http;
pub mod publisher;
#[cfg(test)]
pub(crate) mod testing;

use async_trait::async_trait;

pub use self::http::HttpSink;
pub use self::publisher::{Pace, Publisher, PublisherSettings};
use crate::core::reason::Fault;

/// Where reports go.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Delivers one report. `report_denied` is a refusal that another try will not change soon; every other fault is worth trying again.
    async fn put(&self, report: Vec<u8>) -> Result<(), Fault>;
}
