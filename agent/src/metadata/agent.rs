//! The agent that runs on this machine, for `exec`: its spec, and tokens by its own credential.

use std::time::Duration;

use async_trait::async_trait;

use super::{Document, Metadata, Read, Rules, Spec, resolve};
use crate::core::reason::{Code, Fault, Reasoned};
use crate::federation::audience;
use crate::secret::Secret;
use crate::socket::client::{Client, Error};

/// The tag of what was read: it does not change while a command runs.
const ETAG: &str = "lent";

/// The provider.
pub struct Agent {
    client: Client,
    rules: Rules,
}

impl Agent {
    /// Asks the agent by `client`, and lets the caller's configuration have its say by `rules`.
    pub fn new(client: Client, rules: Rules) -> Self {
        Self { client, rules }
    }

    fn judge(&self, spec: Spec) -> Read {
        let etag = Some(ETAG.to_owned());
        match resolve(Document::from(spec), &self.rules) {
            Ok(spec) => Read::Document { spec: Box::new(spec), etag },
            Err(error) => Read::Refused { fault: Fault::from(&error), etag },
        }
    }
}

#[async_trait]
impl Metadata for Agent {
    fn provider(&self) -> &'static str {
        "agent"
    }

    async fn read(&self, etag: Option<&str>, wait: Duration) -> Result<Read, Fault> {
        if etag == Some(ETAG) {
            tokio::time::sleep(wait).await;
            return Ok(Read::Unchanged);
        }
        let spec = self.client.spec().await;
        spec.map(|spec| self.judge(spec)).map_err(|source| Fault::from(&AgentError { what: "spec", source }))
    }

    async fn token(&self, wanted: &str) -> Result<Secret<String>, Fault> {
        // The agent adds what every audience of Tailscale's begins with.
        let client_id = wanted.strip_prefix(&audience("")).unwrap_or(wanted);
        let token = self.client.token(client_id).await;
        token.map_err(|source| Fault::from(&AgentError { what: "token", source }))
    }
}

/// The agent lends nothing.
#[derive(Debug, thiserror::Error)]
#[error("failed to borrow the agent's {what}")]
pub struct AgentError {
    what: &'static str,
    source: Error,
}

impl Reasoned for AgentError {
    fn code(&self) -> Code {
        match self.source {
            Error::NotPermitted(_) | Error::Closed { .. } => Code::TokenDenied,
            Error::Metadata { code, .. } => code,
            _ => Code::TokenUnavailable,
        }
    }
}

#[cfg(test)]
mod tests;
