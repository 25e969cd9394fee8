//! Ways to spoil a token, for what a client must notice before it sends one.

use std::time::Duration;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::issuer::Claims;

/// How long ago an expired token ended; beyond any leeway for clock skew.
const LONG_AGO: u64 = 3600;

/// What is wrong with a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tamper {
    /// It ended an hour ago.
    Expired,
    /// It starts that much later than now.
    NotYetValid(Duration),
    /// It is for somebody else.
    Audience(String),
    /// Somebody else claims to have issued it.
    Issuer(String),
    /// It is about somebody else.
    Subject(String),
    /// It says `"alg":"none"` and has no signature (RFC 8725 §2.1).
    AlgNone,
    /// It is signed with a key that is not in the key set.
    ForeignKey,
    /// It is this text instead.
    NotAJwt(String),
    /// It is a well-formed token of at least that many bytes.
    Oversized(usize),
}

pub(super) fn spoil_claims(tamper: &Tamper, claims: &mut Claims) {
    match tamper {
        Tamper::Expired => {
            claims.iat -= 2 * LONG_AGO;
            claims.nbf = claims.iat;
            claims.exp = claims.nbf + LONG_AGO;
        }
        Tamper::NotYetValid(later) => {
            claims.iat += later.as_secs();
            claims.nbf += later.as_secs();
            claims.exp += later.as_secs();
        }
        Tamper::Audience(audience) => claims.aud.clone_from(audience),
        Tamper::Issuer(issuer) => claims.iss.clone_from(issuer),
        Tamper::Subject(subject) => claims.sub.clone_from(subject),
        // `jti` may be any text, so a token stays well-formed however long it is.
        Tamper::Oversized(size) => claims.jti = "x".repeat(*size),
        Tamper::AlgNone | Tamper::ForeignKey | Tamper::NotAJwt(_) => {}
    }
}

/// Returns what stands in for the signed token, if anything does.
pub(super) fn replace_token(tamper: &Tamper, claims: &Claims) -> Result<Option<String>> {
    match tamper {
        Tamper::AlgNone => {
            let body = serde_json::to_vec(claims).context("failed to encode claims")?;
            let header = URL_SAFE_NO_PAD.encode(br#"{"alg":"none","typ":"JWT"}"#);
            Ok(Some(format!("{header}.{}.", URL_SAFE_NO_PAD.encode(body))))
        }
        Tamper::NotAJwt(text) => Ok(Some(text.clone())),
        _ => Ok(None),
    }
}
