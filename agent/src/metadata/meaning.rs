//! What a request to a metadata service means for the spec when it brought no success, whichever service it was.

use reqwest::StatusCode;

use crate::core::reason::Code;
use crate::http::{Failure, HttpError};

/// Of a request without an answer.
pub(super) fn of_failure(error: &HttpError) -> Code {
    match error.failure() {
        Failure::Unreachable { .. } | Failure::Broken => Code::MetadataUnreachable,
        Failure::Dns => Code::Dns,
        Failure::Untrusted => Code::MetadataUntrusted,
        Failure::Timeout => Code::MetadataTimeout,
        Failure::Malformed => Code::MetadataInvalid,
    }
}

/// Of an answer that is no success.
pub(super) fn of_refusal(status: StatusCode) -> Code {
    match status.as_u16() {
        404 => Code::NotProvisioned,
        400 | 401 | 403 => Code::MetadataDenied,
        408 | 429 | 500..=599 => Code::MetadataUnavailable,
        _ => Code::MetadataInvalid,
    }
}
