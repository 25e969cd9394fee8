//! The API's JSON.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::federation::{AccessToken, KEY_LIFE, KeyRequest};
use crate::http::Redactor;
use crate::metadata::spec::Lifecycle;
use crate::secret::Secret;

/// The longest credential that is taken, in bytes.
const CREDENTIAL_MAX: usize = 8 * 1024;
/// How long an access token counts as good when the answer does not say (RFC 6749 §5.1 only recommends `expires_in`).
const EXPIRES_IN: u64 = 300;
/// The longest that one counts as good.
const EXPIRES_IN_MAX: u64 = 24 * 3600;
/// The longest description of a key that Tailscale takes, in characters; letters, digits, hyphens and spaces.
const DESCRIPTION_MAX: usize = 50;

/// The answer to an exchange.
#[derive(Deserialize)]
pub(super) struct Exchanged {
    access_token: Option<String>,
    expires_in: Option<f64>,
    error: Option<Value>,
    error_description: Option<String>,
}

impl Exchanged {
    /// Reads a successful answer; a parser's words are left out of the error, since they can quote a credential.
    pub(super) fn read(body: &[u8], redactor: &Redactor) -> Result<AccessToken, String> {
        let answer: Self = serde_json::from_slice(body).map_err(|error| shape(&error))?;
        if let Some(error) = answer.error {
            let text = error.as_str().map_or_else(|| error.to_string(), str::to_owned);
            let description = answer.error_description.unwrap_or_default();
            return Err(format!("the answer says {}", redactor.quote(format!("{text} {description}").trim())));
        }
        let token = credential(answer.access_token).ok_or("the answer has no usable access_token")?;
        // A conversion that saturates: negative is over, and no number is too large.
        let seconds = answer.expires_in.map_or(EXPIRES_IN, |seconds| seconds as u64).min(EXPIRES_IN_MAX);
        Ok(AccessToken { token, expires_in: Duration::from_secs(seconds) })
    }
}

/// The answer to a mint.
#[derive(Deserialize)]
pub(super) struct Minted {
    key: Option<String>,
}

impl Minted {
    pub(super) fn read(body: &[u8]) -> Result<Secret<String>, String> {
        let answer: Self = serde_json::from_slice(body).map_err(|error| shape(&error))?;
        Ok(credential(answer.key).ok_or("the answer has no usable key")?)
    }
}

fn shape(error: &serde_json::Error) -> String {
    format!("the answer is not the expected JSON at line {}, column {}", error.line(), error.column())
}

/// Takes a credential that can stand in a header; a colon would end the user of Basic authentication (RFC 7617 §2).
fn credential(text: Option<String>) -> Option<Secret<String>> {
    let secret = Secret::new(text?);
    let text = secret.expose();
    let usable = (1..=CREDENTIAL_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b':');
    usable.then_some(secret)
}

/// What a key is asked for: one use, no approval, exactly these tags. Both attributes are always stated, as their defaults differ by way of
/// asking.
pub(super) fn key_request(request: &KeyRequest) -> Value {
    let create = json!({
        "reusable": false,
        "ephemeral": request.lifecycle == Lifecycle::Ephemeral,
        "preauthorized": true,
        "tags": request.tags,
    });
    json!({
        "capabilities": {"devices": {"create": create}},
        "expirySeconds": KEY_LIFE.as_secs(),
        "description": description(&request.instance_id),
    })
}

fn description(instance_id: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let id: String = instance_id.chars().map(allowed).collect();
    format!("devbox-agent {id}").chars().take(DESCRIPTION_MAX).collect()
}

/// Whether a refusal's message is about tags, as in "requested tags [tag:x] are invalid or not permitted".
pub(super) fn about_tags(body: &[u8]) -> bool {
    let text = serde_json::from_slice::<Value>(body)
        .ok()
        .and_then(|json| Some(json.get("message")?.as_str()?.to_owned()))
        .unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    text.to_ascii_lowercase().split(|c: char| !c.is_ascii_alphabetic()).any(|word| word == "tag" || word == "tags")
}
