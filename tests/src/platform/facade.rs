//! The part of the Tailscale API that a workload uses, over TLS: token exchange and key creation.
//!
//! It validates as the real one does and mints through whatever it is given, in the lab Headscale.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::{Form, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::post;
use axum_server::tls_rustls::RustlsConfig;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::exchange::{self, Credential};
use super::headscale::api::plain_client;
use super::keys::{self, Mint};
use super::ledger::{Ledger, SecretKind};
use super::random;
use super::server::Server;
use super::tls::{Authority, Certificate};

/// How long an access token lives unless told otherwise, as the real API's do.
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

/// Whom an access token was given to.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    pub(super) credential: Credential,
    pub(super) subject: String,
    until: Instant,
}

#[derive(Default)]
struct Book {
    credentials: HashMap<String, Credential>,
    grants: HashMap<String, Grant>,
    token_lifetime: Option<Duration>,
}

#[derive(Clone)]
pub(super) struct Shared {
    book: Arc<Mutex<Book>>,
    pub(super) minter: Arc<dyn Mint>,
    pub(super) ledger: Ledger,
    http: reqwest::Client,
}

/// The running API.
pub struct Facade {
    /// Its server, for faults and the log of requests.
    pub server: Server,
    shared: Shared,
    authority: Authority,
    tls: RustlsConfig,
    address: IpAddr,
}

impl Facade {
    /// The route of the token exchange.
    pub const EXCHANGE: &'static str = "POST /api/v2/oauth/token-exchange";
    /// The route of new keys.
    pub const KEYS: &'static str = "POST /api/v2/tailnet/-/keys";

    /// Serves the API at `at` with a certificate for `public`, the address that clients use.
    ///
    /// # Errors
    /// When the address cannot be bound or no certificate be made.
    pub async fn start(at: SocketAddr, public: IpAddr, minter: Arc<dyn Mint>, ledger: Ledger) -> Result<Self> {
        let authority = Authority::generate()?;
        let tls = good(&authority, public).await?;
        let http = plain_client()?;
        let shared = Shared { book: Arc::default(), minter, ledger, http };
        let router = Router::new()
            .route("/api/v2/oauth/token-exchange", post(token_exchange))
            .route("/api/v2/tailnet/-/keys", post(keys::create))
            .with_state(shared.clone());
        let listener = TcpListener::bind(at).with_context(|| format!("failed to bind the API to {at}"))?;
        let server = Server::tls(listener, router, &[], tls.clone()).context("failed to start the API")?;
        Ok(Self { server, shared, authority, tls, address: public })
    }

    /// Returns the certificate that clients must trust, as PEM.
    pub fn ca_pem(&self) -> String {
        self.authority.pem()
    }

    /// Makes a certificate that clients of the API trust, for another server at the same address.
    ///
    /// # Errors
    /// When no certificate can be made.
    pub async fn certify(&self) -> Result<RustlsConfig> {
        good(&self.authority, self.address).await
    }

    /// Adds a credential, or replaces the one with its id.
    pub fn add_credential(&self, credential: Credential) {
        self.shared.lock().credentials.insert(credential.client_id.clone(), credential);
    }

    /// Removes a credential; access tokens given for it end with it.
    pub fn remove_credential(&self, client_id: &str) {
        let mut book = self.shared.lock();
        book.credentials.remove(client_id);
        book.grants.retain(|_, grant| grant.credential.client_id != client_id);
    }

    /// Sets how long access tokens live from now on.
    pub fn set_token_lifetime(&self, lifetime: Duration) {
        self.shared.lock().token_lifetime = Some(lifetime);
    }

    /// Ends every access token.
    pub fn revoke_tokens(&self) {
        self.shared.lock().grants.clear();
    }

    /// Shows another kind of certificate on connections from now on.
    ///
    /// # Errors
    /// When no certificate can be made.
    pub async fn show_certificate(&self, kind: Certificate) -> Result<()> {
        let identity = self.authority.identity(self.address, kind)?;
        let shown = self.tls.reload_from_pem(identity.certificate.into_bytes(), identity.key.into_bytes());
        shown.await.context("failed to exchange the API's certificate")
    }
}

async fn good(authority: &Authority, address: IpAddr) -> Result<RustlsConfig> {
    let identity = authority.identity(address, Certificate::Good)?;
    let tls = RustlsConfig::from_pem(identity.certificate.into_bytes(), identity.key.into_bytes());
    tls.await.context("failed to use a server's certificate")
}

impl Shared {
    /// Returns whom an access token was given to, if it still counts.
    pub(super) fn grant(&self, token: &str) -> Option<Grant> {
        let grant = self.lock().grants.get(token).cloned();
        grant.filter(|grant| Instant::now() < grant.until)
    }

    fn credential(&self, client_id: &str) -> Option<Credential> {
        self.lock().credentials.get(client_id).cloned()
    }

    /// Gives out an access token, and says for how long it counts.
    fn admit(&self, credential: Credential, subject: String) -> std::io::Result<(String, Duration)> {
        let token = format!("tskey-api-{}", random::hex()?);
        self.ledger.note(SecretKind::AccessToken, &token);
        let mut book = self.lock();
        let lifetime = book.token_lifetime.unwrap_or(TOKEN_LIFETIME);
        let until = Instant::now() + lifetime;
        book.grants.insert(token.clone(), Grant { credential, subject, until });
        Ok((token, lifetime))
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns an error as the Tailscale API words them.
pub(super) fn refusal(status: u16, message: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(json!({ "message": message }))).into_response()
}

#[derive(Deserialize)]
struct ExchangeForm {
    client_id: Option<String>,
    jwt: Option<String>,
}

async fn token_exchange(State(shared): State<Shared>, Form(form): Form<ExchangeForm>) -> Response {
    let (Some(client_id), Some(jwt)) = (form.client_id, form.jwt) else {
        return refusal(400, "client_id and jwt are required");
    };
    let Some(credential) = shared.credential(&client_id) else {
        return refusal(401, "unknown client_id");
    };
    let subject = match exchange::verify(&shared.http, &credential, &jwt).await {
        Ok(subject) => subject,
        Err(error) => return refusal(error.status(), &error.to_string()),
    };
    match shared.admit(credential, subject) {
        Ok((token, lifetime)) => {
            let expires_in = lifetime.as_secs();
            Json(json!({ "access_token": token, "token_type": "Bearer", "expires_in": expires_in })).into_response()
        }
        Err(error) => refusal(500, &format!("failed to make an access token: {error}")),
    }
}
