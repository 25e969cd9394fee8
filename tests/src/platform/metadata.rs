//! The metadata endpoint: the server's half of devbox/v1.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Extension, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, put};
use axum_server::tls_rustls::RustlsConfig;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;

use super::instance::{Document, Instances};
use super::issuer::Issuer;
use super::ledger::{Ledger, SecretKind};
use super::random;
use super::relay::Relay;
use super::report::ReportSink;
use super::server::{Peer, Server};
use super::session::{MAX_TTL, Sessions};

/// The longest a request is held.
const MAX_WAIT: Duration = Duration::from_secs(55);

/// What a server answers that has nothing for an instance yet; it is asked again soon.
const RETRY_AFTER: &str = "1";

const FLAVOR: HeaderName = HeaderName::from_static("metadata-flavor");

/// The running metadata endpoint.
pub struct Metadata {
    /// Its server, for faults and the log of requests.
    pub server: Server,
    /// Which sessions are open, and whether they are required.
    pub sessions: Sessions,
}

/// What the metadata endpoint draws on.
#[derive(Clone)]
pub struct Sources {
    /// The instances and their specs.
    pub instances: Instances,
    /// Issues their tokens.
    pub issuer: Arc<Issuer>,
    /// Takes their reports.
    pub reports: ReportSink,
    /// Notes the sessions given out.
    pub ledger: Ledger,
}

#[derive(Clone)]
struct Shared {
    sources: Sources,
    sessions: Sessions,
    hosts: Arc<[String]>,
}

impl Metadata {
    /// Serves at `at`; `public` is the address that clients use, which may be a relay's.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn start(at: SocketAddr, public: SocketAddr, sources: Sources) -> Result<Self> {
        let (listener, router, sessions) = prepare(at, public, sources)?;
        let server = Server::plain(listener, router, &answer_headers())
            .with_context(|| format!("failed to start the metadata endpoint on {at}"))?;
        Ok(Self { server, sessions })
    }

    /// The same over TLS, as a platform serves machines that are not its own; without a relay in front.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn start_tls(at: SocketAddr, sources: Sources, tls: RustlsConfig) -> Result<Self> {
        let (listener, router, sessions) = prepare(at, at, sources)?;
        let server = Server::tls(listener, router, &answer_headers(), tls)
            .with_context(|| format!("failed to start the metadata endpoint on {at}"))?;
        Ok(Self { server, sessions })
    }
}

fn prepare(at: SocketAddr, public: SocketAddr, sources: Sources) -> Result<(TcpListener, Router, Sessions)> {
    let sessions = Sessions::default();
    let shared = Shared { sources, sessions: sessions.clone(), hosts: literal_hosts(public).into() };
    let router = Router::new()
        .route("/devbox/v1/session", put(session))
        .route("/devbox/v1/instance", get(instance))
        .route("/devbox/v1/token", get(token))
        .route("/devbox/v1/report", put(report))
        .layer(from_fn_with_state(shared.clone(), admit))
        .with_state(shared);
    let listener = TcpListener::bind(at).with_context(|| format!("failed to bind the metadata endpoint to {at}"))?;
    Ok((listener, router, sessions))
}

/// Starts the metadata endpoint on loopback with a relay at the address that clients use.
///
/// # Errors
/// When the address cannot be bound.
pub fn start_behind_relay(at: SocketAddr, sources: Sources) -> Result<(Metadata, Relay)> {
    let listener = TcpListener::bind(at).with_context(|| format!("failed to bind the metadata relay to {at}"))?;
    // One hop is all that an answer may travel: past a router it would serve somebody else's VM.
    listener.set_ttl(1).context("failed to limit how far metadata travels")?;
    let public = listener.local_addr().context("failed to read the metadata relay's address")?;
    let metadata = Metadata::start(SocketAddr::from(([127, 0, 0, 1], 0)), public, sources)?;
    let target = metadata.server.address();
    let relay = Relay::on(listener, target, Some(metadata.server.peers.clone()))?;
    Ok((metadata, relay))
}

fn answer_headers() -> [(HeaderName, HeaderValue); 2] {
    [(FLAVOR, HeaderValue::from_static("Devbox")), (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))]
}

/// What may stand in `Host`: the literal address, with its port unless that is HTTP's own (RFC 9110 §7.2).
fn literal_hosts(public: SocketAddr) -> Vec<String> {
    let mut hosts = vec![public.to_string()];
    if public.port() == 80 {
        hosts.push(match public {
            SocketAddr::V4(v4) => v4.ip().to_string(),
            SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
        });
    }
    hosts
}

/// Refuses what a proxy, a browser or a rebound name might have sent, on every path, and what has no session when one is needed.
async fn admit(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    if let Err(why) = direct(request.headers(), &shared.hosts) {
        return refusal(StatusCode::FORBIDDEN, why);
    }
    let asks_for_session = request.uri().path() == "/devbox/v1/session";
    let peer = request.extensions().get::<Peer>().copied();
    let given = request.headers().get("metadata-session").and_then(|value| value.to_str().ok());
    match peer {
        Some(Peer(peer)) if asks_for_session || shared.sessions.admits(peer, given) => next.run(request).await,
        _ => refusal(StatusCode::UNAUTHORIZED, "no metadata session, or one that has ended"),
    }
}

fn direct(headers: &HeaderMap, hosts: &[String]) -> Result<(), &'static str> {
    if headers.get(FLAVOR).is_none_or(|flavor| flavor != "Devbox") {
        return Err("the request lacks Metadata-Flavor: Devbox");
    }
    if ["x-forwarded-for", "forwarded", "via"].iter().any(|name| headers.contains_key(*name)) {
        return Err("the request came through a proxy");
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if hosts.iter().any(|known| known == host) { Ok(()) } else { Err("Host is not the address of this endpoint") }
}

fn refusal(code: StatusCode, why: &str) -> Response {
    (code, Json(json!({ "error": why }))).into_response()
}

fn not_provisioned() -> Response {
    let mut response = refusal(StatusCode::NOT_FOUND, "this instance is not provisioned yet");
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
    response
}

/// Returns the documents of the asking instance if the platform has finished making it.
fn provisioned(shared: &Shared, Peer(peer): Peer) -> Result<watch::Receiver<Document>, Box<Response>> {
    let documents = shared.sources.instances.from_source(peer);
    documents.filter(|documents| documents.borrow().spec.provisioned).ok_or_else(|| Box::new(not_provisioned()))
}

async fn session(State(shared): State<Shared>, Extension(Peer(peer)): Extension<Peer>, headers: HeaderMap) -> Response {
    let ttl = headers.get("metadata-session-ttl").and_then(|ttl| ttl.to_str().ok()).and_then(|ttl| ttl.parse().ok());
    let Some(ttl) = ttl.filter(|ttl| (1..=MAX_TTL).contains(ttl)) else {
        return refusal(StatusCode::BAD_REQUEST, "Metadata-Session-TTL must be 1 to 21600 seconds");
    };
    match random::hex() {
        Ok(token) => {
            shared.sources.ledger.note(SecretKind::Session, &token);
            shared.sessions.open(token.clone(), peer, Duration::from_secs(ttl));
            ([(header::CONTENT_TYPE, "text/plain")], token).into_response()
        }
        Err(error) => refusal(StatusCode::SERVICE_UNAVAILABLE, &format!("failed to make a session: {error}")),
    }
}

#[derive(Deserialize)]
struct InstanceQuery {
    wait_s: Option<u64>,
}

async fn instance(
    State(shared): State<Shared>,
    Extension(peer): Extension<Peer>,
    Query(query): Query<InstanceQuery>,
    headers: HeaderMap,
) -> Response {
    let mut documents = match provisioned(&shared, peer) {
        Ok(documents) => documents,
        Err(response) => return *response,
    };
    let known = headers.get(header::IF_NONE_MATCH).and_then(|etag| etag.to_str().ok());
    let wait = Duration::from_secs(query.wait_s.unwrap_or(0)).min(MAX_WAIT);
    let changed = documents.wait_for(|document| Some(document.etag.as_str()) != known);
    // Both ways this can end without a change, time over and instance gone, are answered from what is known now.
    let waited = tokio::time::timeout(wait, changed).await;
    tracing::trace!(timed_out = waited.is_err(), "metadata request ends");
    drop(waited);
    let document = documents.borrow().clone();
    let etag = [(header::ETAG, document.etag.clone())];
    if Some(document.etag.as_str()) == known {
        return (StatusCode::NOT_MODIFIED, etag).into_response();
    }
    (etag, Json(&*document.body)).into_response()
}

#[derive(Deserialize)]
struct TokenQuery {
    audience: Option<String>,
}

async fn token(
    State(shared): State<Shared>,
    Extension(peer): Extension<Peer>,
    Query(query): Query<TokenQuery>,
) -> Response {
    let subject = match provisioned(&shared, peer) {
        Ok(documents) => documents.borrow().spec.subject(),
        Err(response) => return *response,
    };
    let Some(audience) = query.audience.filter(|audience| !audience.is_empty()) else {
        return refusal(StatusCode::BAD_REQUEST, "audience is missing");
    };
    match shared.sources.issuer.issue(&subject, &audience) {
        Ok(token) => {
            let expires = Duration::from_secs(token.expires_at);
            let expires = humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + expires);
            Json(json!({ "token": token.jwt, "expires_at": expires.to_string() })).into_response()
        }
        Err(error) => refusal(StatusCode::SERVICE_UNAVAILABLE, &format!("{error:#}")),
    }
}

async fn report(State(shared): State<Shared>, Extension(Peer(peer)): Extension<Peer>, body: Bytes) -> Response {
    let Some(documents) = shared.sources.instances.from_source(peer) else {
        return not_provisioned();
    };
    let id = documents.borrow().spec.id.clone();
    match shared.sources.reports.take(&id, &body) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(violation) => refusal(violation.code(), &violation.to_string()),
    }
}
