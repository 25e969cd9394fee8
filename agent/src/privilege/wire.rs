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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::privilege::fields::{AuthKey, Label, NodePreferences};
    use crate::privilege::request::Admission;
    use crate::secret::Secret;

    fn label() -> impl Strategy<Value = Label> {
        "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?".prop_map(|name| Label::try_from(name).expect("a label"))
    }

    fn preferences() -> impl Strategy<Value = NodePreferences> {
        (label(), any::<[bool; 3]>()).prop_map(|(hostname, [accept_dns, accept_routes, ssh])| NodePreferences {
            hostname,
            accept_dns,
            accept_routes,
            ssh,
        })
    }

    /// A request as bytes: it has no `Debug`, on purpose.
    fn request() -> impl Strategy<Value = Vec<u8>> {
        let written = |request: Request| encode(&request).expect("a request can be written").to_vec();
        let admission = prop_oneof![Just(Admission::Admitted), Just(Admission::LeftAlone)];
        prop_oneof![
            Just(()).prop_map(move |()| written(Request::Inspect {})),
            Just(()).prop_map(move |()| written(Request::Up {})),
            Just(()).prop_map(move |()| written(Request::Prove {})),
            Just(()).prop_map(move |()| written(Request::Withdraw {})),
            Just(()).prop_map(move |()| written(Request::Logout {})),
            admission.prop_map(move |admission| written(Request::Admit { admission })),
            Just(()).prop_map(move |()| written(Request::Stop {})),
            label().prop_map(move |name| written(Request::Hostname { name })),
            preferences().prop_map(move |preferences| written(Request::Apply { preferences })),
            (preferences(), r"[!#-\[\]-~]{1,512}").prop_map(move |(preferences, key)| {
                let key = AuthKey::try_from(Secret::new(key)).expect("a key");
                written(Request::Login { preferences, key })
            }),
        ]
    }

    /// What decodes is written again as something that decodes to the same.
    fn survives(bytes: &[u8]) -> Result<bool, TestCaseError> {
        let Ok(request) = decode(bytes) else { return Ok(false) };
        let written = encode(&request).expect("a request can be written");
        let again = decode(&written);
        prop_assert!(again.is_ok());
        prop_assert_eq!(
            again.map(|again| encode(&again).expect("a request can be written").to_vec()),
            Ok(written.to_vec())
        );
        Ok(true)
    }

    proptest! {
        #[test]
        fn every_request_survives_the_wire(bytes in request()) {
            prop_assert!(bytes.len() <= MESSAGE_MAX);
            prop_assert!(survives(&bytes)?);
        }

        #[test]
        fn a_request_with_a_byte_changed_is_another_valid_one_or_none(bytes in request(), at in any::<prop::sample::Index>(), byte: u8) {
            let mut bytes = bytes;
            let at = at.index(bytes.len());
            bytes[at] = byte;
            survives(&bytes)?;
        }

        #[test]
        fn arbitrary_bytes_break_nothing(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            survives(&bytes)?;
        }

        #[test]
        fn a_cut_request_is_none(bytes in request(), at in any::<prop::sample::Index>()) {
            prop_assert!(decode(&bytes[..at.index(bytes.len())]).is_err());
        }
    }

    #[test]
    fn the_length_decides_before_anything_else() {
        let request = br#"{"verb":"up"}"#;
        let padded = |length: usize| [&request[..], &vec![b' '; length - request.len()]].concat();
        assert!(decode(&padded(MESSAGE_MAX)).is_ok());
        assert_eq!(decode(&padded(MESSAGE_MAX + 1)).err(), Some(WireError::TooLong));
    }
}
