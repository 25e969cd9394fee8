//! `PUT /devbox/v1/report`, over the devbox provider's own endpoint or one of the same protocol.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::Sink;
use crate::core::reason::{Code, Fault, Reasoned};
use crate::metadata::devbox::{Call, Channel, ChannelError};

/// A sink at an endpoint of `devbox/v1`.
pub struct HttpSink {
    channel: Arc<Channel>,
}

impl HttpSink {
    /// Sends over `channel`; the provider's own shares its session.
    pub fn new(channel: Arc<Channel>) -> Self {
        Self { channel }
    }
}

#[async_trait]
impl Sink for HttpSink {
    async fn put(&self, report: Vec<u8>) -> Result<(), Fault> {
        match self.channel.call(&Call::report(report)).await {
            Ok(_) => Ok(()),
            Err(source) => Err(Fault::from(&ReportError { source })),
        }
    }
}

/// A report that was not taken.
#[derive(Debug, thiserror::Error)]
#[error("failed to send a report")]
pub struct ReportError {
    /// Why.
    #[source]
    pub source: ChannelError,
}

impl Reasoned for ReportError {
    /// A refusal by the platform itself is one; what may pass, "not provisioned yet" among it, is not.
    fn code(&self) -> Code {
        match (&self.source, self.source.code()) {
            (_, Code::MetadataUnavailable | Code::NotProvisioned) => Code::ReportUnreachable,
            (ChannelError::Refused { .. } | ChannelError::Redirect { .. }, _) => Code::ReportDenied,
            _ => Code::ReportUnreachable,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        self.source.retry_after()
    }

    fn unsent(&self) -> bool {
        self.source.unsent()
    }
}

#[cfg(test)]
mod tests;
