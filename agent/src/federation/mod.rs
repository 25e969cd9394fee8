//! Workload identity federation: a JWT is traded for an access token, and that for a one-time auth key.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::core::reason::Fault;
use crate::metadata::spec::Lifecycle;
use crate::secret::Secret;

/// What a JWT says of itself, read without verifying it.
///
/// Only to refuse early what the exchange would refuse, and to name the claim; the exchange verifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// `iss`.
    pub issuer: String,
    /// `sub`.
    pub subject: String,
    /// `aud`, always as a list.
    pub audience: Vec<String>,
    /// `exp`.
    pub expires: SystemTime,
    /// `nbf`, else `iat`, else none.
    pub not_before: Option<SystemTime>,
}

/// An access token of the API, and how long it may be used.
#[derive(Clone)]
pub struct AccessToken {
    /// What is sent.
    pub token: Secret<String>,
    /// The server's `expires_in`.
    pub expires_in: Duration,
}

/// What a key is made for; a key serves a login with exactly these.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyRequest {
    /// The credential that mints.
    pub client_id: String,
    /// Exactly the spec's tags.
    pub tags: Vec<String>,
    /// Makes the node ephemeral or not.
    pub lifecycle: Lifecycle,
    /// Named in the key's description, for the admin who reads the key list.
    pub instance_id: String,
}

/// The API's half of federation. One client, one connection: exchange and mint share it.
#[async_trait]
pub trait Federation: Send + Sync {
    /// Opens the connection to the API before it is needed, so that its handshakes cost the join nothing.
    async fn connect(&self) -> Result<(), Fault>;

    /// Judges a JWT before anything is sent: shape, audience, expiry, not-before against `now` (skew up to 5 minutes passes).
    fn judge(&self, jwt: &Secret<String>, client_id: &str, now: SystemTime) -> Result<Claims, Fault>;

    /// Trades the JWT for an access token (`POST /api/v2/oauth/token-exchange`).
    async fn exchange(&self, client_id: &str, jwt: &Secret<String>) -> Result<AccessToken, Fault>;

    /// Makes a one-time, preauthorized auth key (`POST /api/v2/tailnet/-/keys`), valid for [`KEY_LIFE`].
    async fn mint(&self, access: &Secret<String>, request: &KeyRequest) -> Result<Secret<String>, Fault>;
}

/// `expirySeconds` of a key: long enough for a slow join, short enough that a lost key is worthless.
pub const KEY_LIFE: Duration = Duration::from_secs(300);

/// The audience that Tailscale asks of a workload's token.
pub fn audience(client_id: &str) -> String {
    format!("api.tailscale.com/{client_id}")
}
