//! What a JWT (RFC 7519) says of itself, read without verifying it: enough to refuse early what the exchange would refuse.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::{Claims, audience};
use crate::clock::rfc3339;
use crate::core::reason::{Code, Reasoned, printable};
use crate::secret::Secret;

/// The longest token that is read, in bytes; real ones have one or two thousand.
const TOKEN_MAX: usize = 16 * 1024;
/// How far two clocks may be apart before a token counts as not valid yet: what servers commonly grant.
pub const SKEW_MAX: Duration = Duration::from_secs(300);
/// How much of a claim is quoted, in characters.
const QUOTE_MAX: usize = 120;

/// A token that is not sent.
#[derive(Debug, thiserror::Error)]
pub enum ClaimsError {
    /// It has not the form of a signed JWT. What is wrong is said without the token's own text.
    #[error("failed to read the workload token: {0}")]
    Shape(&'static str),
    /// A claim is missing or has the wrong type.
    #[error("{claim}: expected {expected}")]
    Claim {
        /// Its name.
        claim: &'static str,
        /// What RFC 7519 asks for.
        expected: &'static str,
    },
    /// It is for somebody else.
    #[error("aud: expected {expected}, found {found}")]
    Audience {
        /// What Tailscale asks for.
        expected: String,
        /// What the token says.
        found: String,
    },
    /// It is over.
    #[error("exp: the token expired at {exp}, and it is {now}")]
    Expired {
        /// Its end.
        exp: String,
        /// This machine's clock.
        now: String,
    },
    /// It is not valid yet, or is over only by a clock that is wrong.
    #[error("{claim}: the token says {at}, this machine's clock {now}{server}")]
    Skew {
        /// The claim that the clock contradicts.
        claim: &'static str,
        /// What it says.
        at: String,
        /// This machine's clock.
        now: String,
        /// The API's clock, when known, as the end of the sentence.
        server: String,
    },
}

impl Reasoned for ClaimsError {
    fn code(&self) -> Code {
        match self {
            Self::Shape(_) | Self::Claim { .. } | Self::Audience { .. } => Code::TokenClaims,
            Self::Expired { .. } => Code::TokenExpired,
            Self::Skew { .. } => Code::ClockSkew,
        }
    }
}

/// Reads a token's claims.
///
/// # Errors
/// When it is no signed JWT, or one of the claims that the exchange needs is missing.
pub fn read(jwt: &Secret<String>) -> Result<Claims, ClaimsError> {
    let [header, payload] = parts(jwt.expose().trim())?;
    let alg = header.get("alg").and_then(Value::as_str).ok_or(claim("alg", "a string in the header"))?;
    if alg.eq_ignore_ascii_case("none") {
        return Err(claim("alg", "a signature algorithm, not none"));
    }
    let started = if payload.contains_key("nbf") { "nbf" } else { "iat" };
    Ok(Claims {
        issuer: string(&payload, "iss")?,
        subject: string(&payload, "sub")?,
        audience: audiences(&payload)?,
        expires: date(&payload, "exp")?.ok_or(claim("exp", "a date in seconds"))?,
        not_before: date(&payload, started)?,
    })
}

/// Judges claims for `client_id` at `now`; `server` is what the API's clock says at the same moment, if that is known.
///
/// # Errors
/// The claim that the exchange would refuse.
pub fn judge(claims: &Claims, client_id: &str, now: SystemTime, server: Option<SystemTime>) -> Result<(), ClaimsError> {
    let expected = audience(client_id);
    if !claims.audience.contains(&expected) {
        let found = printable(&claims.audience.join(", "), QUOTE_MAX);
        return Err(ClaimsError::Audience { expected, found });
    }
    if claims.expires <= now {
        let ahead = server.filter(|server| *server + SKEW_MAX < now && *server < claims.expires);
        return Err(match ahead {
            Some(_) => skew("exp", claims.expires, now, server),
            None => ClaimsError::Expired { exp: rfc3339(claims.expires), now: rfc3339(now) },
        });
    }
    match claims.not_before {
        Some(start) if start > now + SKEW_MAX => Err(skew("nbf", start, now, server)),
        _ => Ok(()),
    }
}

fn skew(claim: &'static str, at: SystemTime, now: SystemTime, server: Option<SystemTime>) -> ClaimsError {
    let server = server.map(|server| format!(", the API's clock {}", rfc3339(server))).unwrap_or_default();
    ClaimsError::Skew { claim, at: rfc3339(at), now: rfc3339(now), server }
}

fn claim(claim: &'static str, expected: &'static str) -> ClaimsError {
    ClaimsError::Claim { claim, expected }
}

/// The header and the payload.
fn parts(jwt: &str) -> Result<[Map<String, Value>; 2], ClaimsError> {
    if jwt.len() > TOKEN_MAX {
        return Err(ClaimsError::Shape("it is longer than 16 KiB"));
    }
    let mut parts = jwt.split('.');
    let (Some(header), Some(payload), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(ClaimsError::Shape("it is not a JWT of three parts"));
    };
    if signature.is_empty() {
        return Err(ClaimsError::Shape("its signature is empty"));
    }
    Ok([
        object(header).ok_or(ClaimsError::Shape("its header is not base64url of a JSON object"))?,
        object(payload).ok_or(ClaimsError::Shape("its payload is not base64url of a JSON object"))?,
    ])
}

/// The decoders' own errors are left out: they can quote the token.
fn object(part: &str) -> Option<Map<String, Value>> {
    let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn string(payload: &Map<String, Value>, name: &'static str) -> Result<String, ClaimsError> {
    let text = payload.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    text.map(str::to_owned).ok_or(claim(name, "a string"))
}

fn audiences(payload: &Map<String, Value>) -> Result<Vec<String>, ClaimsError> {
    let wrong = || claim("aud", "a string or a list of strings");
    match payload.get("aud") {
        Some(Value::String(one)) => Ok(vec![one.clone()]),
        Some(Value::Array(list)) => list.iter().map(|one| one.as_str().map(str::to_owned).ok_or_else(wrong)).collect(),
        _ => Err(wrong()),
    }
}

/// A NumericDate, which may have a fraction. What lies outside the years that RFC 3339 can write is no date.
fn date(payload: &Map<String, Value>, name: &'static str) -> Result<Option<SystemTime>, ClaimsError> {
    /// The first second of the year 10000.
    const END: f64 = 253_402_300_800.0;
    let Some(value) = payload.get(name) else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| (0.0..END).contains(seconds));
    let seconds = seconds.ok_or(claim(name, "a date in seconds"))?;
    Ok(Some(SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds)))
}

#[cfg(test)]
mod tests;
