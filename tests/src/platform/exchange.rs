//! Workload identity federation: who may have an access token for which credential.

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;

/// A credential at the API: whose tokens are taken, and what they may ask for.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Its id; the audience of its tokens is `api.tailscale.com/<client_id>`.
    pub client_id: String,
    /// The issuer's URL; discovery starts there.
    pub issuer: String,
    /// Which subjects it is for; `*` stands for any text.
    pub subject: String,
    /// The tags that keys minted with it may carry.
    pub tags: Vec<String>,
}

impl Credential {
    /// Returns the audience that a token for this credential must have.
    pub fn audience(&self) -> String {
        format!("api.tailscale.com/{}", self.client_id)
    }
}

/// Why a token is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The header is none of a JWT, or names no signature that counts; `alg: none` ends here.
    #[error("failed to read the token's header: {0}")]
    Header(#[source] jsonwebtoken::errors::Error),
    /// The issuer's documents cannot be had.
    #[error("failed to fetch {url}: {source}")]
    Issuer {
        /// What was asked for.
        url: String,
        /// What went wrong.
        source: reqwest::Error,
    },
    /// Discovery speaks for another issuer than the one asked (OpenID Connect Discovery 1.0 §4.3).
    #[error("the discovery document is of {found}, not of {expected}")]
    OtherIssuer {
        /// Whom the document names.
        found: String,
        /// Who was asked.
        expected: String,
    },
    /// The key set lacks the key that the token names.
    #[error("no key {0:?} in the issuer's key set")]
    UnknownKey(Option<String>),
    /// Signature or a claim is wrong.
    #[error("failed to verify the token: {0}")]
    Invalid(#[source] jsonwebtoken::errors::Error),
    /// The token is good, but about somebody whom the credential does not cover.
    #[error("subject {0:?} is not covered by the credential")]
    Subject(String),
}

impl ExchangeError {
    /// Returns the status to answer: 403 for a good token of the wrong subject, 503 when we could not tell, else 401.
    pub fn status(&self) -> u16 {
        match self {
            Self::Subject(_) => 403,
            Self::Issuer { .. } => 503,
            _ => 401,
        }
    }

    /// Returns whether the token was refused only for its time of validity.
    pub fn is_about_time(&self) -> bool {
        let Self::Invalid(error) = self else {
            return false;
        };
        matches!(error.kind(), ErrorKind::ExpiredSignature | ErrorKind::ImmatureSignature)
    }
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct Subject {
    sub: String,
}

/// Checks a token as the API would, and returns its subject.
///
/// # Errors
/// When the token is not to be taken, or the issuer cannot be asked.
pub async fn verify(http: &reqwest::Client, credential: &Credential, jwt: &str) -> Result<String, ExchangeError> {
    let header = decode_header(jwt).map_err(ExchangeError::Header)?;
    let keys = key_set(http, &credential.issuer).await?;
    let key = header.kid.as_deref().and_then(|kid| keys.find(kid));
    let key = key.ok_or_else(|| ExchangeError::UnknownKey(header.kid.clone()))?;
    let key = DecodingKey::from_jwk(key).map_err(ExchangeError::Invalid)?;
    // The algorithm is ours to choose, never the token's (RFC 8725 §3.1).
    let mut rules = Validation::new(Algorithm::ES256);
    rules.validate_nbf = true;
    rules.set_audience(&[credential.audience()]);
    rules.set_issuer(&[&credential.issuer]);
    rules.set_required_spec_claims(&["exp", "nbf", "aud", "iss", "sub"]);
    let claims = decode::<Subject>(jwt, &key, &rules).map_err(ExchangeError::Invalid)?.claims;
    if matches(&credential.subject, &claims.sub) { Ok(claims.sub) } else { Err(ExchangeError::Subject(claims.sub)) }
}

async fn key_set(http: &reqwest::Client, issuer: &str) -> Result<JwkSet, ExchangeError> {
    let url = format!("{issuer}/.well-known/openid-configuration");
    let discovery: Discovery = fetch(http, &url).await?;
    if discovery.issuer != issuer {
        return Err(ExchangeError::OtherIssuer { found: discovery.issuer, expected: issuer.to_owned() });
    }
    fetch(http, &discovery.jwks_uri).await
}

async fn fetch<T: serde::de::DeserializeOwned>(http: &reqwest::Client, url: &str) -> Result<T, ExchangeError> {
    let answer = async { http.get(url).send().await?.error_for_status()?.json().await };
    answer.await.map_err(|source| ExchangeError::Issuer { url: url.to_owned(), source })
}

/// Returns whether a text is as a pattern says, in which `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => {
            let Some(left) = text.strip_prefix(start) else {
                return false;
            };
            left.char_indices().map(|(at, _)| at).chain([left.len()]).any(|at| matches(rest, &left[at..]))
        }
    }
}
