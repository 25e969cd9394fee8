//! The native protocol, `devbox/v1`: a platform's own metadata endpoint.

mod channel;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::StatusCode;
use reqwest::header::ETAG;
use serde::Deserialize;

pub use self::channel::{Bearer, Call, Channel, ChannelError, Deadlines};
use super::{Metadata, Read, Rules, parse, resolve};
use crate::core::reason::{Code, Fault, Reasoned};
use crate::http::Answer;
use crate::secret::Secret;

/// The longest that a read may be held (`devbox/v1`, `wait_s`).
pub const WAIT_MAX: Duration = Duration::from_secs(55);

/// The longest `ETag` that is kept, in bytes: it is stored and shown, and a server that needs more is not one of ours.
const ETAG_MAX: usize = 256;

/// The provider.
pub struct Devbox {
    channel: Arc<Channel>,
    rules: Rules,
}

impl Devbox {
    /// Reads from `channel`, which reports may share, and lets configuration have its say by `rules`.
    pub fn new(channel: Arc<Channel>, rules: Rules) -> Self {
        Self { channel, rules }
    }
}

#[async_trait]
impl Metadata for Devbox {
    fn provider(&self) -> &'static str {
        "devbox"
    }

    async fn read(&self, etag: Option<&str>, wait: Duration) -> Result<Read, Fault> {
        let answer = self.channel.call(&Call::instance(etag, wait.min(WAIT_MAX))).await.map_err(|e| Fault::from(&e))?;
        if answer.status == StatusCode::NOT_MODIFIED {
            return Ok(Read::Unchanged);
        }
        let etag = tag(&answer);
        match self.judge(&answer.body) {
            Ok(spec) => Ok(Read::Document { spec: Box::new(spec), etag }),
            // Not a document at all: perhaps not our server, so its tag means nothing.
            Err(fault) if fault.code == Code::MetadataInvalid => Err(fault),
            Err(fault) => Ok(Read::Refused { fault, etag }),
        }
    }

    async fn token(&self, audience: &str) -> Result<Secret<String>, Fault> {
        self.fetch_token(audience).await.map_err(|e| Fault::from(&e))
    }
}

impl Devbox {
    fn judge(&self, body: &[u8]) -> Result<super::Spec, Fault> {
        let document = parse(body).map_err(|e| Fault::from(&e))?;
        resolve(document, &self.rules).map_err(|e| Fault::from(&e))
    }

    async fn fetch_token(&self, audience: &str) -> Result<Secret<String>, TokenError> {
        let answer = self.channel.call(&Call::token(audience)).await?;
        let body: TokenBody = serde_json::from_slice(&answer.body).map_err(|error| TokenError::shape(&error))?;
        if body.token.is_empty() {
            return Err(TokenError::Empty);
        }
        Ok(Secret::new(body.token))
    }
}

/// Whether asking again is no use before somebody has changed something.
fn refuses(status: StatusCode) -> bool {
    matches!(status.as_u16(), 400 | 401 | 403)
}

fn tag(answer: &Answer) -> Option<String> {
    let tag = answer.headers.get(ETAG)?.to_str().ok()?;
    (tag.len() <= ETAG_MAX).then(|| tag.to_owned())
}

/// `GET token`. `expires_at` is left alone: the token's own `exp` is what the exchange goes by.
#[derive(Deserialize)]
struct TokenBody {
    token: String,
}

/// No workload token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The endpoint did not give one.
    #[error("failed to fetch a workload token")]
    Channel(#[from] ChannelError),
    /// The answer is not the protocol's. The parser's own words are left out: they can quote the token.
    #[error("failed to read the token's answer: not the expected JSON at line {line}, column {column}")]
    Shape {
        /// Where the parser stopped.
        line: usize,
        /// Where the parser stopped.
        column: usize,
    },
    /// The answer's token is empty.
    #[error("failed to read the token's answer: its token is empty")]
    Empty,
}

impl TokenError {
    fn shape(error: &serde_json::Error) -> Self {
        Self::Shape { line: error.line(), column: error.column() }
    }
}

impl Reasoned for TokenError {
    fn code(&self) -> Code {
        match self {
            Self::Channel(ChannelError::Flavor { .. }) => Code::MetadataUntrusted,
            Self::Channel(ChannelError::Refused { status, .. }) if refuses(*status) => Code::TokenDenied,
            _ => Code::TokenUnavailable,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Channel(error) => error.retry_after(),
            _ => None,
        }
    }

    fn unsent(&self) -> bool {
        matches!(self, Self::Channel(error) if error.unsent())
    }
}

#[cfg(test)]
mod tests;
