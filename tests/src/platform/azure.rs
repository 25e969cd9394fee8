//! The instance metadata service of a VM of Azure: what the VM is, and tokens of its managed identities.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::{Json, Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use serde::Deserialize;
use serde_json::json;

use super::issuer::Issuer;
use super::server::Server;

/// The versions that are served here, of the many that the real one has.
const INSTANCE_VERSION: &str = "2021-02-01";
const TOKEN_VERSION: &str = "2018-02-01";

#[derive(Default)]
struct Directory {
    // Managed identities by client id, and the subjects of their tokens.
    identities: BTreeMap<String, String>,
    // What app registrations have as identifier URIs.
    audiences: BTreeSet<String>,
}

#[derive(Clone)]
struct Shared {
    issuer: Arc<Issuer>,
    name: Arc<str>,
    directory: Arc<Mutex<Directory>>,
}

impl Shared {
    fn directory(&self) -> MutexGuard<'_, Directory> {
        self.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running instance metadata service.
pub struct Azure {
    /// Its server, for faults and the log of requests.
    pub server: Server,
    shared: Shared,
}

impl Azure {
    /// The route of what the VM is.
    pub const COMPUTE: &'static str = "GET /metadata/instance/compute";
    /// The route of tokens.
    pub const TOKEN: &'static str = "GET /metadata/identity/oauth2/token";
    /// The id of the VM.
    pub const ID: &'static str = "02aab8a4-74ef-476e-8182-f6d2ba4166a6";

    /// Serves a VM of this name without an identity, in a directory without app registrations.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn start(at: SocketAddr, name: &str, issuer: Arc<Issuer>) -> Result<Self> {
        let shared = Shared { issuer, name: name.into(), directory: Arc::default() };
        let router = Router::new()
            .route("/metadata/instance/compute", get(compute))
            .route("/metadata/identity/oauth2/token", get(token))
            .layer(from_fn(admit))
            .with_state(shared.clone());
        let listener = TcpListener::bind(at).with_context(|| format!("failed to bind the metadata service to {at}"))?;
        let server = Server::plain(listener, router, &[])
            .with_context(|| format!("failed to start the metadata service on {at}"))?;
        Ok(Self { server, shared })
    }

    /// The URL that leads to it.
    pub fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// Gives the VM a managed identity; its tokens are about `subject`.
    pub fn assign(&self, client_id: &str, subject: &str) {
        self.shared.directory().identities.insert(client_id.to_owned(), subject.to_owned());
    }

    /// Registers an app that tokens can be for.
    pub fn register(&self, audience: &str) {
        self.shared.directory().audiences.insert(audience.to_owned());
    }
}

fn refusal(error: &str, description: &str) -> Response {
    (StatusCode::BAD_REQUEST, Json(json!({ "error": error, "error_description": description }))).into_response()
}

/// Refuses what a proxy or a page in a browser might have sent.
async fn admit(request: Request, next: Next) -> Response {
    let headers = request.headers();
    if headers.get("metadata").is_none_or(|value| value != "true") || headers.contains_key("x-forwarded-for") {
        return refusal("invalid_request", "Required metadata header not specified");
    }
    next.run(request).await
}

#[derive(Deserialize)]
struct Wanted {
    #[serde(rename = "api-version")]
    version: Option<String>,
    resource: Option<String>,
    client_id: Option<String>,
}

async fn compute(State(shared): State<Shared>, Query(wanted): Query<Wanted>) -> Response {
    if wanted.version.as_deref() != Some(INSTANCE_VERSION) {
        return (StatusCode::BAD_REQUEST, Json(json!({ "error": "Bad request. api-version is invalid" })))
            .into_response();
    }
    let vm = json!({ "vmId": Azure::ID, "name": &*shared.name, "location": "westeurope", "osType": "Linux" });
    Json(vm).into_response()
}

async fn token(State(shared): State<Shared>, Query(wanted): Query<Wanted>) -> Response {
    if wanted.version.as_deref() != Some(TOKEN_VERSION) {
        return refusal("bad_request_102", "The api-version is not supported");
    }
    let (client_id, subject) = match shared.directory().choose(wanted.client_id.as_deref()) {
        Ok(identity) => identity,
        Err(description) => return refusal("invalid_request", description),
    };
    let resource = wanted.resource.unwrap_or_default();
    if !shared.directory().audiences.contains(&resource) {
        let said = format!("AADSTS500011: The resource principal named {resource} was not found in the tenant");
        return refusal("invalid_resource", &said);
    }
    match shared.issuer.issue(&subject, &resource) {
        Ok(token) => Json(json!({
            "access_token": token.jwt,
            "client_id": client_id,
            "expires_on": token.expires_at.to_string(),
            "resource": resource,
            "token_type": "Bearer",
        }))
        .into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}")).into_response(),
    }
}

impl Directory {
    /// The identity that is meant, with the subject of its tokens.
    fn choose(&self, client_id: Option<&str>) -> Result<(String, String), &'static str> {
        let mut meant = self.identities.iter().filter(|(id, _)| client_id.is_none_or(|wanted| wanted == *id));
        match (meant.next(), meant.next()) {
            (None, _) => Err("Identity not found"),
            (Some(_), Some(_)) => Err("Multiple user assigned identities exist, please specify the clientId"),
            (Some((id, subject)), None) => Ok((id.clone(), subject.clone())),
        }
    }
}
