//! What can go wrong at the API, by step.

use std::time::Duration;

use reqwest::StatusCode;

use crate::core::reason::{Code, Reasoned};
use crate::http::{Failure, HttpError};

/// A request to the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Opening the connection.
    Connect,
    /// Trading the JWT for an access token.
    Exchange,
    /// Making an auth key.
    Mint,
}

impl Step {
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Connect => "/",
            Self::Exchange => "/api/v2/oauth/token-exchange",
            Self::Mint => "/api/v2/tailnet/-/keys",
        }
    }

    fn unreachable(self) -> Code {
        if self == Self::Mint { Code::MintUnreachable } else { Code::ExchangeUnreachable }
    }

    fn unavailable(self) -> Code {
        if self == Self::Mint { Code::MintUnavailable } else { Code::ExchangeUnavailable }
    }

    fn denied(self) -> Code {
        if self == Self::Mint { Code::MintDenied } else { Code::ExchangeDenied }
    }

    fn invalid(self) -> Code {
        if self == Self::Mint { Code::MintInvalid } else { Code::ExchangeInvalid }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect to",
            Self::Exchange => "exchange the workload token at",
            Self::Mint => "make an auth key at",
        })
    }
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No answer.
    #[error("failed to {step} {url}")]
    Http {
        /// Which step.
        step: Step,
        /// Where.
        url: String,
        /// Why.
        #[source]
        source: HttpError,
    },
    /// The API said no.
    #[error("failed to {step} {url}: answered {words}")]
    Refused {
        /// Which step.
        step: Step,
        /// Where.
        url: String,
        /// The status.
        status: StatusCode,
        /// The status and the API's words, redacted and bounded.
        words: String,
        /// How long to stay away.
        retry_after: Option<Duration>,
    },
    /// A denial that the clocks explain.
    #[error("this machine's clock says {now}, the API's {server}")]
    Skew {
        /// Our clock.
        now: String,
        /// The API's.
        server: String,
        /// The denial.
        #[source]
        source: Box<ApiError>,
    },
    /// The credential may not give these tags.
    #[error("failed to make an auth key with {tags}: answered {words}")]
    Tags {
        /// The tags that were asked for.
        tags: String,
        /// The API's words.
        words: String,
    },
    /// Success by its status, but of no use.
    #[error("failed to {step} {url}: {why}")]
    Invalid {
        /// Which step.
        step: Step,
        /// Where.
        url: String,
        /// What is missing.
        why: String,
    },
}

impl ApiError {
    /// Whether the API refuses this workload, rather than being unable to answer.
    pub fn denied(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if matches!(status.as_u16(), 400 | 401 | 403))
    }
}

impl Reasoned for ApiError {
    fn code(&self) -> Code {
        match self {
            Self::Http { step, source, .. } => match source.failure() {
                Failure::Dns => Code::Dns,
                Failure::Untrusted => Code::TlsUntrusted,
                Failure::Unreachable { .. } | Failure::Timeout | Failure::Broken => step.unreachable(),
                Failure::Malformed => step.invalid(),
            },
            Self::Refused { step, status, .. } => match status.as_u16() {
                400 | 401 | 403 => step.denied(),
                408 | 429 | 500..=599 => step.unavailable(),
                _ => step.invalid(),
            },
            Self::Skew { .. } => Code::ClockSkew,
            Self::Tags { .. } => Code::TagsForbidden,
            Self::Invalid { step, .. } => step.invalid(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Skew { source, .. } => source.retry_after(),
            _ => None,
        }
    }

    fn unsent(&self) -> bool {
        matches!(self, Self::Http { source, .. } if source.unsent())
    }
}
