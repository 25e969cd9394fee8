//! Whether tailscaled's state holds a node, read without tailscaled.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use crate::core::reason::{Code, Reasoned};

/// tailscaled's state within its `--statedir`.
const FILE: &str = "tailscaled.state";

/// What a key's text begins with; all zeroes after it mean that there is none.
const KEY: &str = "privkey:";

/// Why it is not known whether the state holds a node.
#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    /// The file cannot be read.
    #[error("failed to read tailscaled's state {}", path.display())]
    Read {
        /// The state file.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The file is not a state.
    #[error("failed to read tailscaled's state {}: {what}", path.display())]
    State {
        /// The state file.
        path: PathBuf,
        /// What of it.
        what: String,
    },
}

impl Reasoned for StoredError {
    fn code(&self) -> Code {
        match self {
            Self::Read { .. } => Code::TailscaledStarting,
            Self::State { .. } => Code::TailscaledState,
        }
    }
}

/// Whether the state in `directory` holds a profile with a node key.
///
/// The file is one JSON object of base64 values. No file and an empty one are a fresh node to tailscaled. A sealed one can be read only
/// by the TPM that sealed it, and counts as a node: what cannot be ruled out has to be protected.
pub fn stored_node(directory: &Path) -> Result<bool, StoredError> {
    let path = directory.join(FILE);
    let content = match std::fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(StoredError::Read { path, source }),
        Ok(content) => content,
    };
    judge(&content).map_err(|what| StoredError::State { path, what })
}

/// `profile-<id>` and the older `_daemon`: `ipn.Prefs`, with the keys in `Config`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Profile {
    #[serde(default)]
    config: Option<Persist>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Persist {
    #[serde(default)]
    private_node_key: Option<String>,
}

fn judge(content: &[u8]) -> Result<bool, String> {
    if content.is_empty() {
        return Ok(false);
    }
    let state: HashMap<String, Value> = serde_json::from_slice(content).map_err(|error| place(&error))?;
    if ["key", "nonce", "data"].iter().all(|member| state.contains_key(*member)) {
        return Ok(true);
    }
    for (name, value) in state.iter().filter(|(name, _)| name.starts_with("profile-") || *name == "_daemon") {
        if has_key(value).map_err(|what| format!("{name}: {what}"))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The texts of the decoders may quote what they read, which holds private keys: only where it is wrong is told.
fn place(error: &serde_json::Error) -> String {
    format!("not a JSON object at line {} column {}", error.line(), error.column())
}

fn has_key(value: &Value) -> Result<bool, &'static str> {
    let Some(text) = value.as_str() else { return if value.is_null() { Ok(false) } else { Err("not a text") } };
    let bytes = zeroize::Zeroizing::new(STANDARD.decode(text).map_err(|_| "not base64")?);
    let profile: Option<Profile> = serde_json::from_slice(&bytes).map_err(|_| "not a profile")?;
    let key = profile.and_then(|profile| profile.config?.private_node_key).map(zeroize::Zeroizing::new);
    Ok(key.is_some_and(|key| key.trim_start_matches(KEY).bytes().any(|digit| digit != b'0')))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn state(profile: Value) -> Vec<u8> {
        let encoded = STANDARD.encode(profile.to_string());
        json!({ "_machinekey": "cHJpdmtleTo=", "_profiles": "e30=", "profile-1a2b": encoded }).to_string().into_bytes()
    }

    fn with_key(key: &str) -> Vec<u8> {
        state(json!({ "Hostname": "a", "Config": { "PrivateNodeKey": key, "NodeID": "n1" } }))
    }

    #[test]
    fn a_profile_with_a_key_is_a_node() {
        assert_eq!(judge(&with_key(&format!("privkey:{}1", "0".repeat(63)))), Ok(true));
    }

    #[test]
    fn a_fresh_or_logged_out_state_is_none() {
        for content in [b"".to_vec(), b"{}".to_vec(), with_key(&format!("privkey:{}", "0".repeat(64)))] {
            assert_eq!(judge(&content), Ok(false), "{}", String::from_utf8_lossy(&content));
        }
        for profile in
            [json!({ "Config": null }), json!({}), json!(null), json!({ "Config": { "PrivateNodeKey": null } })]
        {
            assert_eq!(judge(&state(profile.clone())), Ok(false), "{profile}");
        }
    }

    #[test]
    fn a_sealed_state_counts_as_a_node() {
        assert_eq!(judge(br#"{"key":{"Private":"AA==","Public":"AA=="},"nonce":"AA==","data":"AA=="}"#), Ok(true));
    }

    #[test]
    fn a_state_that_is_none_is_a_fault_that_quotes_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(!stored_node(directory.path()).expect("no file, no node"));
        for content in [
            b"bad json".to_vec(),
            b"\"privkey:12\"".to_vec(),
            br#"{"profile-1":"privkey!"}"#.to_vec(),
            state(json!("privkey:12")),
        ] {
            std::fs::write(directory.path().join(FILE), content).expect("written");
            let error = stored_node(directory.path()).expect_err("not a state");
            assert_eq!(error.code(), Code::TailscaledState);
            assert!(!error.to_string().contains("privkey"), "{error}");
        }
    }
}
