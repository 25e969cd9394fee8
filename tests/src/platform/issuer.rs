//! The platform's OIDC issuer: says who an instance is, in tokens that anybody can check.
//!
//! Discovery document and key set are served over HTTP as OpenID Connect Discovery 1.0 §4 and RFC 7517 say, so that whoever trusts
//! the issuer validates for real.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::routing::get;
use axum::{Json, Router};
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header, get_current_timestamp};
use serde::Serialize;
use serde_json::json;

use super::ledger::{Ledger, SecretKind};
use super::random;
use super::server::Server;
use super::tamper::{self, Tamper};

/// How long a token lives unless told otherwise: as short as AWS makes them.
const LIFETIME: Duration = Duration::from_secs(300);

const KEY_ID: &str = "lab-1";

/// The claims of a token (RFC 7519 §4.1).
#[derive(Clone, Debug, Serialize)]
pub struct Claims {
    /// The issuer's URL.
    pub iss: String,
    /// `<workspace>/<instance id>`.
    pub sub: String,
    /// Whom the token is for.
    pub aud: String,
    /// End of validity, seconds since the epoch.
    pub exp: u64,
    /// Start of validity.
    pub nbf: u64,
    /// When it was issued.
    pub iat: u64,
    /// Different in each token.
    pub jti: String,
}

/// A token as the metadata endpoint hands it out.
#[derive(Clone, Debug)]
pub struct IssuedToken {
    /// The signed JWT, or what a fault made of it.
    pub jwt: String,
    /// Its `exp`, seconds since the epoch.
    pub expires_at: u64,
}

#[derive(Default)]
struct Knobs {
    tamper: Option<Tamper>,
    lifetime: Option<Duration>,
}

/// A running issuer.
pub struct Issuer {
    /// The server of the discovery document and the key set.
    pub server: Server,
    key: EncodingKey,
    stranger: EncodingKey,
    knobs: Mutex<Knobs>,
    ledger: Ledger,
}

impl Issuer {
    /// Generates a key and serves its public half at `at`.
    ///
    /// # Errors
    /// When no key can be generated or the address cannot be bound.
    pub fn start(at: SocketAddr, ledger: Ledger) -> Result<Self> {
        let key = generate_key()?;
        let mut public = Jwk::from_encoding_key(&key, Algorithm::ES256).context("failed to derive the public key")?;
        public.common.key_id = Some(KEY_ID.to_owned());
        let keys = Arc::new(JwkSet { keys: vec![public] });
        let listener = TcpListener::bind(at).with_context(|| format!("failed to bind the issuer to {at}"))?;
        let at = listener.local_addr().context("failed to read the issuer's address")?;
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(move || discovery(at)))
            .route("/jwks.json", get(move || key_set(keys)));
        let server =
            Server::plain(listener, router, &[]).with_context(|| format!("failed to start the issuer on {at}"))?;
        Ok(Self { server, key, stranger: generate_key()?, knobs: Mutex::default(), ledger })
    }

    /// Returns the issuer's URL, the `iss` of its tokens.
    pub fn url(&self) -> String {
        issuer_url(self.server.address())
    }

    /// Issues a token for a subject and an audience, with a fresh `jti`.
    ///
    /// # Errors
    /// When signing fails.
    pub fn issue(&self, subject: &str, audience: &str) -> Result<IssuedToken> {
        let (tamper, lifetime) = {
            let knobs = self.knobs();
            (knobs.tamper.clone(), knobs.lifetime.unwrap_or(LIFETIME))
        };
        let now = get_current_timestamp();
        let mut claims = Claims {
            iss: self.url(),
            sub: subject.to_owned(),
            aud: audience.to_owned(),
            exp: now + lifetime.as_secs(),
            nbf: now,
            iat: now,
            jti: random::hex().context("failed to make a token id")?,
        };
        let jwt = self.sign(tamper, &mut claims)?;
        self.ledger.note(SecretKind::Jwt, &jwt);
        Ok(IssuedToken { jwt, expires_at: claims.exp })
    }

    /// Spoils every token from now on, or none.
    pub fn tamper(&self, tamper: Option<Tamper>) {
        self.knobs().tamper = tamper;
    }

    /// Sets how long tokens live from now on.
    pub fn set_lifetime(&self, lifetime: Duration) {
        self.knobs().lifetime = Some(lifetime);
    }

    fn sign(&self, tamper: Option<Tamper>, claims: &mut Claims) -> Result<String> {
        let key = if tamper == Some(Tamper::ForeignKey) { &self.stranger } else { &self.key };
        if let Some(tamper) = &tamper {
            tamper::spoil_claims(tamper, claims);
            if let Some(text) = tamper::replace_token(tamper, claims)? {
                return Ok(text);
            }
        }
        let header = Header { kid: Some(KEY_ID.to_owned()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, claims, key).context("failed to sign a token")
    }

    fn knobs(&self) -> std::sync::MutexGuard<'_, Knobs> {
        self.knobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn generate_key() -> Result<EncodingKey> {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).context("failed to generate a key")?;
    EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).context("failed to read the generated key")
}

fn issuer_url(address: SocketAddr) -> String {
    format!("http://{address}")
}

async fn discovery(at: SocketAddr) -> Json<serde_json::Value> {
    let issuer = issuer_url(at);
    Json(json!({
        "issuer": issuer,
        "jwks_uri": format!("{issuer}/jwks.json"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    }))
}

async fn key_set(keys: Arc<JwkSet>) -> Json<JwkSet> {
    Json((*keys).clone())
}
