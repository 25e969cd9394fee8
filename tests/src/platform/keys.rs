//! Key creation at the API: what may be asked for, and who makes the key.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use axum::extract::{Json, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::facade::{Grant, Shared, refusal};
use super::ledger::SecretKind;

/// How long a key lives when the request does not say: Tailscale's own default of 90 days.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);

/// A key to be minted, already allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRequest {
    /// The subject of the token that led here; one instance.
    pub subject: String,
    /// The tags that a node gets which joins with it.
    pub tags: Vec<String>,
    /// Whether that node goes when it disconnects.
    pub ephemeral: bool,
    /// Whether it can be used more than once.
    pub reusable: bool,
    /// How long it can be used.
    pub lifetime: Duration,
}

/// A key that a node can join with.
#[derive(Clone)]
pub struct MintedKey {
    /// Its id, not secret.
    pub id: String,
    /// The key itself.
    pub key: String,
}

/// Whoever makes keys.
pub trait Mint: Send + Sync + 'static {
    /// Makes a key.
    ///
    /// Boxed so that the API can hold any maker.
    ///
    /// # Errors
    /// When the control server does not make one.
    fn mint(&self, request: KeyRequest) -> Pin<Box<dyn Future<Output = Result<MintedKey>> + Send + '_>>;
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreateKey {
    capabilities: Capabilities,
    expiry_seconds: Option<u64>,
    #[serde(default)]
    description: String,
}

#[derive(Clone, Deserialize, Serialize)]
struct Capabilities {
    devices: Devices,
}

#[derive(Clone, Deserialize, Serialize)]
struct Devices {
    create: DeviceCreate,
}

#[derive(Clone, Deserialize, Serialize)]
struct DeviceCreate {
    #[serde(default)]
    reusable: bool,
    #[serde(default)]
    ephemeral: bool,
    #[serde(default)]
    preauthorized: bool,
    #[serde(default)]
    tags: Vec<String>,
}

pub(super) async fn create(
    State(shared): State<Shared>,
    headers: HeaderMap,
    Json(wanted): Json<CreateKey>,
) -> Response {
    let Some(grant) = access_token(&headers).and_then(|token| shared.grant(&token)) else {
        return refusal(401, "API token invalid");
    };
    let request = match allowed(&grant, &wanted) {
        Ok(request) => request,
        Err(message) => return refusal(400, &message),
    };
    let created = SystemTime::now();
    let expires = created + request.lifetime;
    match shared.minter.mint(request).await {
        Ok(minted) => {
            shared.ledger.note(SecretKind::AuthKey, &minted.key);
            let time = |time| humantime::format_rfc3339_seconds(time).to_string();
            axum::Json(json!({
                "id": minted.id,
                "key": minted.key,
                "created": time(created),
                "expires": time(expires),
                "description": wanted.description,
                "capabilities": wanted.capabilities,
            }))
            .into_response()
        }
        Err(error) => refusal(500, &format!("{error:#}")),
    }
}

/// Returns the access token: the user name of HTTP Basic with an empty password, as the API's own clients send it.
fn access_token(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let pair = STANDARD.decode(value.strip_prefix("Basic ")?).ok()?;
    let pair = String::from_utf8(pair).ok()?;
    pair.strip_suffix(':').map(str::to_owned)
}

fn allowed(grant: &Grant, wanted: &CreateKey) -> Result<KeyRequest, String> {
    let device = &wanted.capabilities.devices.create;
    if device.tags.is_empty() {
        return Err("tags are required for keys made with an OAuth credential".to_owned());
    }
    let foreign: Vec<&str> =
        device.tags.iter().filter(|tag| !grant.credential.tags.contains(tag)).map(String::as_str).collect();
    if !foreign.is_empty() {
        return Err(format!("requested tags [{}] are invalid or not permitted", foreign.join(" ")));
    }
    let lifetime = wanted.expiry_seconds.map_or(DEFAULT_LIFETIME, Duration::from_secs);
    if lifetime.is_zero() || lifetime > DEFAULT_LIFETIME {
        return Err("expirySeconds must be 1 to 7776000".to_owned());
    }
    Ok(KeyRequest {
        subject: grant.subject.clone(),
        tags: device.tags.clone(),
        ephemeral: device.ephemeral,
        reusable: device.reusable,
        lifetime,
    })
}
