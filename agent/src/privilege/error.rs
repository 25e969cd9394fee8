//! What can go wrong between the agent and its helper.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::fields::FieldError;
use super::wire::Refusal;
use crate::core::reason::{Code, Reasoned};

/// Why a request to the helper brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// The agent itself has a value that the protocol cannot carry.
    #[error("failed to ask the helper to {verb}")]
    Unaskable {
        /// The verb.
        verb: &'static str,
        /// What is wrong with the value.
        source: FieldError,
    },
    /// Nobody listens, or this user may not connect.
    #[error("failed to connect to the helper at {}", socket.display())]
    Connect {
        /// The helper's socket.
        socket: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The connection broke before the answer.
    #[error("failed to ask the helper to {verb}: the connection broke")]
    Broken {
        /// The verb.
        verb: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
    /// The helper ended the connection without a word; systemd does that for a service that it will not start now.
    #[error("failed to ask the helper to {verb}: it ended the connection without an answer; see its journal")]
    NoAnswer {
        /// The verb.
        verb: &'static str,
    },
    /// What came back is no answer.
    #[error("failed to ask the helper to {verb}: its answer is none; check what listens at its socket")]
    Garbled {
        /// The verb.
        verb: &'static str,
        /// Where it differs.
        source: serde_json::Error,
    },
    /// No complete answer in time.
    #[error("failed to ask the helper to {verb}: no answer within {} s", deadline.as_secs())]
    TimedOut {
        /// The verb.
        verb: &'static str,
        /// How long it was waited for.
        deadline: Duration,
    },
    /// The helper answered why not.
    #[error("{}", .0.detail)]
    Refused(Refusal),
}

impl Reasoned for HelperError {
    fn code(&self) -> Code {
        match self {
            Self::Unaskable { .. } => Code::HelperDenied,
            Self::Refused(refusal) => refusal.code,
            _ => Code::HelperUnavailable,
        }
    }

    fn unsent(&self) -> bool {
        matches!(self, Self::Connect { .. })
    }
}
