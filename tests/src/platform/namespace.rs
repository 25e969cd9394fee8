//! Namespace's half of a workload's identity: the machine's own metadata service, and the IAM that trades sessions, issues ID tokens and has the
//! workspaces' Tailscale integrations.

use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::{Json, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum_server::tls_rustls::RustlsConfig;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::issuer::Issuer;
use super::ledger::{Ledger, SecretKind};
use super::random;
use super::server::Server;

/// The longest that a bearer of a session may live, in seconds.
const LONGEST: u64 = 3600;

/// `google.rpc.Code`, by the numbers that the IAM answers with.
const INVALID_ARGUMENT: u16 = 3;
const UNAVAILABLE: u16 = 14;
const UNAUTHENTICATED: u16 = 16;

/// A workspace's Tailscale integration.
#[derive(Clone, Debug)]
pub struct Integration {
    /// The credential at Tailscale's API.
    pub client_id: String,
    /// The tags of nodes.
    pub tags: Vec<String>,
    /// Whether nodes take the tailnet's DNS.
    pub magic_dns: bool,
}

#[derive(Default)]
struct Book {
    bearers: HashMap<String, String>,
    sessions: HashMap<String, String>,
    integrations: BTreeMap<String, Integration>,
    version: u64,
}

#[derive(Clone)]
struct Shared {
    issuer: Arc<Issuer>,
    ledger: Ledger,
    subject: Arc<str>,
    book: Arc<Mutex<Book>>,
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bearer(&self) -> std::io::Result<String> {
        let token = format!("nsct_{}", random::hex()?);
        self.ledger.note(SecretKind::Bearer, &token);
        self.book().bearers.insert(token.clone(), self.subject.to_string());
        Ok(token)
    }
}

/// Namespace, for one instance of one workspace.
pub struct Namespace {
    /// The IAM.
    pub iam: Server,
    /// The instance's own metadata service.
    pub metadata: Server,
    shared: Shared,
}

impl Namespace {
    /// The route of bearers for a session.
    pub const SESSION: &'static str = "POST /nsl.signin.SigninService/IssueTenantTokenFromSession";
    /// The route of ID tokens.
    pub const TOKEN: &'static str = "POST /nsl.tenants.TenantsService/IssueIdToken";
    /// The route of the workspace's integrations.
    pub const INTEGRATIONS: &'static str = "POST /nsl.tenants.TenantsService/GetTenantIntegrations";
    /// The route of the instance's bearer.
    pub const WORKLOAD: &'static str = "GET /workload_token";
    /// The route of the instance's id.
    pub const ID: &'static str = "GET /id";

    /// Serves the IAM over TLS, and the metadata service of the instance `<workspace>/<id>` in the clear.
    ///
    /// # Errors
    /// When an address cannot be bound.
    pub fn start(
        at: SocketAddr,
        (workspace, id): (&str, &str),
        issuer: Arc<Issuer>,
        ledger: Ledger,
        tls: RustlsConfig,
    ) -> Result<Self> {
        let subject = format!("{workspace}/{id}").into();
        let shared = Shared { issuer, ledger, subject, book: Arc::default() };
        let iam = Router::new()
            .route("/nsl.signin.SigninService/IssueTenantTokenFromSession", post(tenant_token))
            .route("/nsl.tenants.TenantsService/IssueIdToken", post(id_token))
            .route("/nsl.tenants.TenantsService/GetTenantIntegrations", post(integrations))
            .with_state(shared.clone());
        let iam = Server::tls(bind(at)?, iam, &[], tls).context("failed to start Namespace's IAM")?;
        let id = id.to_owned();
        let metadata = Router::new()
            .route("/id", get(move || async move { id }))
            .route("/workload_token", get(workload_token))
            .with_state(shared.clone());
        let metadata =
            Server::plain(bind(at)?, metadata, &[]).context("failed to start Namespace's metadata service")?;
        Ok(Self { iam, metadata, shared })
    }

    /// The variable that leads to this IAM.
    pub fn environment(&self) -> (String, String) {
        ("NSC_IAM_ENDPOINT".to_owned(), format!("https://{}", self.iam.address()))
    }

    /// A token spec that leads to the metadata service, as `/var/run/nsc/token.spec` has it.
    pub fn spec(&self) -> String {
        let url = format!("http://{}", self.metadata.address());
        STANDARD_NO_PAD.encode(json!({ "version": "v1", "metadata_url": url }).to_string())
    }

    /// A token spec with a bearer in it.
    ///
    /// # Errors
    /// When the kernel gives no random bytes.
    pub fn inline_spec(&self) -> Result<String> {
        let spec = STANDARD_NO_PAD.encode(json!({ "inline_token": self.shared.bearer()? }).to_string());
        self.shared.ledger.note(SecretKind::Bearer, &spec);
        Ok(spec)
    }

    /// A token file with a bearer, as `/var/run/nsc/token.json` has it.
    ///
    /// # Errors
    /// When the kernel gives no random bytes.
    pub fn bearer_file(&self) -> Result<String> {
        Ok(json!({ "bearer_token": self.shared.bearer()? }).to_string())
    }

    /// A token file with a session.
    ///
    /// # Errors
    /// When the kernel gives no random bytes.
    pub fn session_file(&self) -> Result<String> {
        let session = format!("st_{}", random::hex()?);
        self.shared.ledger.note(SecretKind::Session, &session);
        self.shared.book().sessions.insert(session.clone(), self.shared.subject.to_string());
        Ok(json!({ "session_token": session }).to_string())
    }

    /// Ends every bearer and every session.
    pub fn revoke(&self) {
        let mut book = self.shared.book();
        book.bearers.clear();
        book.sessions.clear();
    }

    /// Adds an integration to the workspace, or replaces the one of that name.
    pub fn integrate(&self, name: &str, integration: Integration) {
        let mut book = self.shared.book();
        book.version += 1;
        book.integrations.insert(name.to_owned(), integration);
    }
}

fn bind(at: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(at).with_context(|| format!("failed to bind Namespace to {at}"))
}

fn refusal(status: StatusCode, code: u16, message: &str) -> Response {
    (status, Json(json!({ "code": code, "message": message, "details": [] }))).into_response()
}

fn unauthenticated() -> Response {
    refusal(StatusCode::UNAUTHORIZED, UNAUTHENTICATED, "the token is not valid")
}

fn failed(error: impl std::fmt::Display) -> Response {
    refusal(StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE, &error.to_string())
}

/// Whose bearer or session is shown.
fn shown(headers: &HeaderMap, known: &HashMap<String, String>) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    known.get(value.strip_prefix("Bearer ")?).cloned()
}

async fn workload_token(State(shared): State<Shared>) -> Response {
    shared.bearer().map_or_else(failed, |token| token.into_response())
}

#[derive(Deserialize)]
struct Session {
    token_duration_secs: u64,
}

async fn tenant_token(State(shared): State<Shared>, headers: HeaderMap, Json(asked): Json<Session>) -> Response {
    let subject = shown(&headers, &shared.book().sessions);
    if subject.is_none() {
        return unauthenticated();
    }
    if !(1..=LONGEST).contains(&asked.token_duration_secs) {
        return refusal(StatusCode::BAD_REQUEST, INVALID_ARGUMENT, "token_duration_secs must be 1 to 3600");
    }
    shared.bearer().map_or_else(failed, |token| Json(json!({ "tenant_token": token })).into_response())
}

#[derive(Deserialize)]
struct Wanted {
    audience: String,
    version: u64,
}

async fn id_token(State(shared): State<Shared>, headers: HeaderMap, Json(wanted): Json<Wanted>) -> Response {
    let Some(subject) = shown(&headers, &shared.book().bearers) else { return unauthenticated() };
    if wanted.version != 1 || wanted.audience.is_empty() {
        return refusal(StatusCode::BAD_REQUEST, INVALID_ARGUMENT, "version must be 1, and audience is required");
    }
    match shared.issuer.issue(&subject, &wanted.audience) {
        Ok(token) => Json(json!({ "id_token": token.jwt })).into_response(),
        Err(error) => failed(format!("{error:#}")),
    }
}

async fn integrations(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    let book = shared.book();
    if shown(&headers, &book.bearers).is_none() {
        return unauthenticated();
    }
    let named: BTreeMap<&String, Value> = book.integrations.iter().map(|(name, it)| (name, described(it))).collect();
    let mut body = json!({ "metadata_version": book.version.to_string() });
    if !named.is_empty() {
        body["tailscale"] = json!(named);
    }
    Json(body).into_response()
}

/// Without what has no value, as JSON of protocol buffers is.
fn described(integration: &Integration) -> Value {
    let mut body = json!({ "oauth_client_id": integration.client_id, "tags": integration.tags });
    if integration.magic_dns {
        body["enable_magic_dns"] = json!(true);
    }
    body
}
