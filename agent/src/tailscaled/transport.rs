//! HTTP/1.1 to tailscaled over its unix socket, each call with a deadline.

use std::path::PathBuf;
use std::time::Duration;

use hyper::body::Bytes;
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;

use super::error::LocalApiError;
use super::redact::redact_with;
use crate::core::reason::printable;

/// The only host that tailscaled answers to on its socket; any other is 403 (`apitype.LocalAPIHost`).
const BASE: &str = "http://local-tailscaled.sock/localapi/v0/";

/// The longest document read: a status without peers has a few KiB, most of it capabilities.
const BODY_MAX: usize = 4 << 20;

/// How much of a refusal is read before it is redacted and cut.
const REFUSAL_MAX: usize = 64 << 10;

/// How much of a refusal is told, in characters.
const WORDS_MAX: usize = 256;

/// One request.
pub(super) struct Call<'a> {
    /// What it does, to follow "failed to".
    pub verb: &'static str,
    /// GET, POST or PATCH.
    pub method: Method,
    /// Path and query below `/localapi/v0/`.
    pub endpoint: &'static str,
    /// The body, if it has one.
    pub body: Option<Bytes>,
    /// How long the whole answer may take; tailscaled itself would block until its backend exists.
    pub deadline: Duration,
    /// What must not appear in an error.
    pub secret: Option<&'a str>,
}

/// The connection to tailscaled: kept open between calls, opened anew after tailscaled restarts.
#[derive(Debug)]
pub(super) struct Transport {
    http: reqwest::Client,
    socket: PathBuf,
}

impl Transport {
    /// No proxy, no redirects, no `Referer` (tailscaled refuses it), and no certificates read for a socket that has no TLS.
    pub fn new(socket: PathBuf) -> Result<Self, LocalApiError> {
        let built = reqwest::Client::builder()
            .unix_socket(socket.clone())
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .tls_certs_only([])
            .pool_idle_timeout(None)
            .pool_max_idle_per_host(2)
            .build();
        match built {
            Ok(http) => Ok(Self { http, socket }),
            Err(source) => Err(LocalApiError::Setup { socket, source }),
        }
    }

    /// Sends a request and reads its whole answer, both within the deadline.
    pub async fn call(&self, call: Call<'_>) -> Result<Vec<u8>, LocalApiError> {
        self.call_up_to(BODY_MAX, call).await
    }

    /// The same with another bound than that of most answers, in bytes.
    pub async fn call_up_to(&self, max: usize, call: Call<'_>) -> Result<Vec<u8>, LocalApiError> {
        let (verb, deadline) = (call.verb, call.deadline);
        let answer = async {
            let response = self.send(call).await?;
            read(verb, response, max).await
        };
        tokio::time::timeout(deadline, answer).await.map_err(|_| LocalApiError::TimedOut { verb, deadline })?
    }

    /// Sends a request and gives the answer once its headers are there, within the deadline; the body has none.
    pub async fn open(&self, call: Call<'_>) -> Result<Response, LocalApiError> {
        let (verb, deadline) = (call.verb, call.deadline);
        let answer = tokio::time::timeout(deadline, self.send(call)).await;
        answer.map_err(|_| LocalApiError::TimedOut { verb, deadline })?
    }

    async fn send(&self, call: Call<'_>) -> Result<Response, LocalApiError> {
        let verb = call.verb;
        let mut request = self.http.request(call.method, format!("{BASE}{}", call.endpoint));
        if let Some(body) = call.body {
            request = request.header("Content-Type", "application/json").body(body);
        }
        let response = request.send().await.map_err(|source| LocalApiError::sending(verb, &self.socket, source))?;
        if response.status().is_success() { Ok(response) } else { Err(refusal(verb, response, call.secret).await) }
    }
}

async fn read(verb: &'static str, mut response: Response, max: usize) -> Result<Vec<u8>, LocalApiError> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > max => return Err(LocalApiError::TooLong { verb, max }),
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Ok(body),
            Err(source) => return Err(LocalApiError::Broken { verb, source: source.without_url() }),
        }
    }
}

async fn refusal(verb: &'static str, response: Response, secret: Option<&str>) -> LocalApiError {
    let status = response.status();
    let body = match read(verb, response, REFUSAL_MAX).await {
        Ok(body) => body,
        Err(error) => return error,
    };
    let words = printable(&redact_with(&words(&body), secret), WORDS_MAX);
    match status {
        StatusCode::FORBIDDEN => LocalApiError::Denied { verb, words },
        _ => LocalApiError::Refused { verb, status: status.as_u16(), words },
    }
}

/// tailscaled writes refusals as plain text, as `{"error":…}` or as `{"Error":…}`, depending on the endpoint.
fn words(body: &[u8]) -> String {
    let object: Option<Value> = serde_json::from_slice(body).ok();
    let member = object.as_ref().and_then(|object| object.get("error").or_else(|| object.get("Error"))?.as_str());
    match member {
        Some(words) => words.trim().to_owned(),
        None => String::from_utf8_lossy(body).trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_in_every_form_that_tailscaled_uses() {
        for body in ["too bad\n", r#"{"error":"too bad"}"#, r#"{"Error":"too bad"}"#] {
            assert_eq!(words(body.as_bytes()), "too bad");
        }
        assert_eq!(words(br#"{"Error":7}"#), r#"{"Error":7}"#);
    }
}
