//! Requests and answers as bytes: one JSON document each way, ended by the end of the stream.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::request::Request;
use crate::core::reason::{Code, Fault, Reasoned};

/// The longest message, in bytes: a key of 512, a name of 63 and a few words are less than a quarter of it.
pub const MESSAGE_MAX: usize = 4096;

/// Why bytes are no request. What they are is not repeated: they may hold a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Longer than any request.
    #[error("the request is longer than {MESSAGE_MAX} bytes")]
    TooLong,
    /// A backslash, which no field needs; unescaping would copy a key into memory that is not wiped.
    #[error("the request has an escaped character in it")]
    Escaped,
    /// Not JSON, no such verb, a field too many or too few, or a value that its field cannot have.
    #[error(
        "the request is none of this helper's, from line {line} column {column} on; restart devbox-agent so that both are of one version"
    )]
    Malformed {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
    },
}

impl Reasoned for WireError {
    fn code(&self) -> Code {
        Code::HelperDenied
    }
}

/// Reads a request; every field rule of [`super::fields`] holds in what comes out.
pub fn decode(bytes: &[u8]) -> Result<Request, WireError> {
    if bytes.len() > MESSAGE_MAX {
        return Err(WireError::TooLong);
    }
    if bytes.contains(&b'\\') {
        return Err(WireError::Escaped);
    }
    serde_json::from_slice(bytes).map_err(|error| WireError::Malformed { line: error.line(), column: error.column() })
}

/// Writes a request into memory that is wiped; it has room for any, because growing would leave a copy behind.
pub fn encode(request: &Request) -> serde_json::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MESSAGE_MAX));
    serde_json::to_writer(&mut *bytes, request)?;
    Ok(bytes)
}

/// An answer, with what the verb brings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply<T> {
    /// It is done.
    Ok(T),
    /// It is not.
    Error(Refusal),
}

/// What most verbs bring: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

/// Why a verb was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The row of the table of reasons.
    pub code: Code,
    /// The words for people, redacted and bounded.
    pub detail: String,
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self { code: fault.code, detail: fault.detail }
    }
}
