//! Tokens for tests; nobody verifies their signature.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::secret::Secret;

/// When the tests' tokens start: 2023-11-14T22:13:20Z.
pub(crate) const NOON: Duration = Duration::from_secs(1_700_000_000);

/// The usual claims: for `k1`, from [`NOON`], ten minutes.
pub(crate) fn payload() -> Value {
    json!({"iss": "https://issuer.example", "sub": "box", "aud": "api.tailscale.com/k1",
           "exp": NOON.as_secs() + 600, "nbf": NOON.as_secs()})
}

/// A token of a header and claims.
pub(crate) fn signed(header: &Value, payload: &Value) -> Secret<String> {
    let [header, payload] = [header, payload].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    Secret::new(format!("{header}.{payload}.c2lnbmF0dXJlLWNhbmFyeQ"))
}

/// The usual token with its claims changed.
pub(crate) fn jwt(change: impl FnOnce(&mut Value)) -> Secret<String> {
    let mut payload = payload();
    change(&mut payload);
    signed(&json!({"alg": "RS256"}), &payload)
}
