//! The metadata server of a VM of Google Compute Engine: its id, its attributes, which can be waited at, and tokens of its service account.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use serde::Deserialize;
use tokio::sync::watch;

use super::issuer::Issuer;
use super::server::Server;

const FLAVOR: HeaderName = HeaderName::from_static("metadata-flavor");
const FLAVOR_VALUE: HeaderValue = HeaderValue::from_static("Google");

/// Attributes by name, each with the revision that set it.
type Attributes = BTreeMap<String, (String, u64)>;

#[derive(Clone)]
struct Shared {
    issuer: Arc<Issuer>,
    // Service accounts by the name in the path, and the subjects of their tokens.
    accounts: Arc<Mutex<BTreeMap<String, String>>>,
    attributes: watch::Sender<Attributes>,
}

impl Shared {
    fn accounts(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running metadata server.
pub struct Gce {
    /// Its server, for faults and the log of requests.
    pub server: Server,
    shared: Shared,
}

impl Gce {
    /// The route of the agent's attribute.
    pub const ATTRIBUTE: &'static str = "GET /computeMetadata/v1/instance/attributes/devbox-agent";
    /// The route of tokens of the default service account.
    pub const TOKEN: &'static str = "GET /computeMetadata/v1/instance/service-accounts/default/identity";
    /// The id of the VM.
    pub const ID: &'static str = "5278901234567890123";

    /// Serves a VM of this name without attributes and without a service account.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn start(at: SocketAddr, name: &str, issuer: Arc<Issuer>) -> Result<Self> {
        let shared = Shared { issuer, accounts: Arc::default(), attributes: watch::Sender::new(Attributes::new()) };
        let name = name.to_owned();
        let instance = Router::new()
            .route("/id", get(async || Self::ID))
            .route("/name", get(move || async move { name }))
            .route("/attributes/{key}", get(attribute))
            .route("/service-accounts/{account}/identity", get(identity));
        let router = Router::new().nest("/computeMetadata/v1/instance", instance).layer(from_fn(admit));
        let listener = TcpListener::bind(at).with_context(|| format!("failed to bind the metadata server to {at}"))?;
        let server = Server::plain(listener, router.with_state(shared.clone()), &[(FLAVOR, FLAVOR_VALUE)])
            .with_context(|| format!("failed to start the metadata server on {at}"))?;
        Ok(Self { server, shared })
    }

    /// The URL that leads to it.
    pub fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// Sets an attribute of the VM; held requests for it are answered at once.
    pub fn set(&self, key: &str, value: &str) {
        self.shared.attributes.send_modify(|attributes| {
            let revision = attributes.values().map(|(_, revision)| revision).max().map_or(1, |latest| latest + 1);
            attributes.insert(key.to_owned(), (value.to_owned(), revision));
        });
    }

    /// Attaches a service account under the name that the VM knows it by; its tokens are about `subject`.
    pub fn attach(&self, account: &str, subject: &str) {
        self.shared.accounts().insert(account.to_owned(), subject.to_owned());
    }
}

/// Refuses what a proxy or a page in a browser might have sent.
async fn admit(request: Request, next: Next) -> Response {
    let headers = request.headers();
    if headers.get(FLAVOR) != Some(&FLAVOR_VALUE) || headers.contains_key("x-forwarded-for") {
        return (StatusCode::FORBIDDEN, "Missing required header \"Metadata-Flavor\": \"Google\"").into_response();
    }
    next.run(request).await
}

#[derive(Deserialize)]
struct Waiting {
    #[serde(default)]
    wait_for_change: bool,
    last_etag: Option<String>,
    timeout_sec: Option<u64>,
}

fn tag(revision: u64) -> String {
    format!("{revision:016x}")
}

async fn attribute(State(shared): State<Shared>, Path(key): Path<String>, Query(query): Query<Waiting>) -> Response {
    let mut attributes = shared.attributes.subscribe();
    let current = |all: &Attributes| all.get(&key).map(|(_, revision)| tag(*revision));
    if query.wait_for_change {
        // Without a tag to compare with it waits for a change of what is there on arrival.
        let known = query.last_etag.or_else(|| current(&attributes.borrow()));
        let changed = attributes.wait_for(|all| current(all) != known);
        let limit = query.timeout_sec.map_or(Duration::MAX, Duration::from_secs);
        // When the time is over, the value is answered as it is.
        let waited = tokio::time::timeout(limit, changed).await;
        tracing::trace!(timed_out = waited.is_err(), "metadata request ends");
    }
    let found = attributes.borrow().get(&key).cloned();
    match found {
        Some((value, revision)) => ([(header::ETAG, tag(revision))], value).into_response(),
        None => (StatusCode::NOT_FOUND, "<!DOCTYPE html><title>Error 404 (Not Found)!!1</title>").into_response(),
    }
}

#[derive(Deserialize)]
struct Wanted {
    #[serde(default)]
    audience: String,
}

async fn identity(State(shared): State<Shared>, Path(account): Path<String>, Query(wanted): Query<Wanted>) -> Response {
    let Some(subject) = shared.accounts().get(&account).cloned() else {
        return (StatusCode::NOT_FOUND, "<!DOCTYPE html><title>Error 404 (Not Found)!!1</title>").into_response();
    };
    if wanted.audience.is_empty() {
        return (StatusCode::BAD_REQUEST, "non-empty audience parameter required").into_response();
    }
    match shared.issuer.issue(&subject, &wanted.audience) {
        Ok(token) => token.jwt.into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}")).into_response(),
    }
}
