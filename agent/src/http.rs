//! HTTP as every client of the agent speaks it: no redirects, no compression, no proxy but a given one, and every wait and size bounded.

mod error;
mod retry_after;
#[cfg(test)]
pub(crate) mod testing;
mod words;

use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use reqwest::header::{DATE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{StatusCode, Url};
use tokio::time::Instant;
use zeroize::Zeroizing;

pub use self::error::{Failure, HttpError};
pub use self::retry_after::retry_after;
pub use self::words::Redactor;
use crate::secret::Secret;

/// The largest answer read from the metadata endpoint or the API, in bytes: both protocols stay far below it.
pub const BODY_MAX: usize = 256 * 1024;

/// How much of a refusal's body is read, in bytes: it is only quoted, and 256 characters of it at that.
const REFUSAL_MAX: usize = 4 * 1024;

/// How the agent names itself.
const USER_AGENT: &str = concat!("devbox-agent/", env!("CARGO_PKG_VERSION"));

/// How a connection is made.
#[derive(Clone, Debug, PartialEq)]
pub struct Transport {
    /// Name resolution, TCP and TLS together; longer counts as unreachable.
    pub connect: Duration,
    /// The only proxy that is ever used; the environment's never is.
    pub proxy: Option<Url>,
    /// A unix socket that every request goes to, whatever its URL says.
    pub socket: Option<PathBuf>,
    /// Load the system's certificates; without them no `https` server is trusted. Loading takes milliseconds and memory that plain HTTP
    /// need not pay.
    pub tls: bool,
    /// Keep idle connections for the next request.
    pub keep_alive: bool,
}

/// How long one request may take, and how much it may bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From the start, connecting included, to the end of the answer's headers.
    pub head: Duration,
    /// From the headers to the end of the body.
    pub body: Duration,
    /// For everything; it cuts the other two short.
    pub total: Duration,
    /// The largest body, in bytes.
    pub cap: usize,
}

/// An answer, read to its end.
pub struct Answer {
    /// The status line's code.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, wiped when dropped since it may hold a credential; of a refusal only the beginning.
    pub body: Zeroizing<Vec<u8>>,
}

impl Answer {
    /// How long the server asks to be left alone, `now` being the clock that an HTTP-date is compared with.
    pub fn retry_after(&self, now: SystemTime) -> Option<Duration> {
        retry_after(self.headers.get(RETRY_AFTER)?.to_str().ok()?, now)
    }

    /// The server's clock, to the second, as its `Date` says.
    pub fn date(&self) -> Option<SystemTime> {
        httpdate::parse_http_date(self.headers.get(DATE)?.to_str().ok()?).ok()
    }

    /// What a refusal says for people: the status, where a redirect points, and the beginning of the body without what we sent.
    pub fn words(&self, redactor: &Redactor) -> String {
        let target = self.headers.get(LOCATION).filter(|_| self.status.is_redirection());
        let location = target.map(|to| format!(" to {}", redactor.quote(&String::from_utf8_lossy(to.as_bytes()))));
        let body = redactor.quote(String::from_utf8_lossy(&self.body).trim());
        let body = if body.is_empty() { String::new() } else { format!(": {body}") };
        format!("{}{}{body}", self.status.as_u16(), location.unwrap_or_default())
    }
}

/// Makes a client for `transport`.
///
/// # Errors
/// When the system's certificates cannot be loaded, or the proxy's URL is of no use.
pub fn client(transport: &Transport) -> Result<reqwest::Client, HttpError> {
    let mut builder = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy()
        .http1_only()
        .connect_timeout(transport.connect);
    if !transport.keep_alive {
        builder = builder.pool_max_idle_per_host(0);
    }
    if !transport.tls {
        builder = builder.tls_certs_only([]);
    }
    if let Some(socket) = &transport.socket {
        builder = builder.unix_socket(socket.as_path());
    }
    if let Some(proxy) = &transport.proxy {
        builder = builder.proxy(reqwest::Proxy::all(proxy.clone()).map_err(HttpError::setup)?);
    }
    builder.build().map_err(HttpError::setup)
}

/// A header that is kept out of what the HTTP library logs; `None` of what no header can carry.
pub fn sensitive(secret: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(secret).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The value of `Authorization` that shows a bearer token (RFC 6750 §2.1).
pub fn bearer(secret: &Secret<String>) -> Option<HeaderValue> {
    sensitive(&Zeroizing::new(format!("Bearer {}", secret.expose())))
}

/// Sends one request and reads its answer within `limits`.
///
/// A successful answer is read whole or is an error. Of any other only the beginning is read, and a body that breaks off does not hide
/// the status.
///
/// # Errors
/// See [`Failure`].
pub async fn send(request: reqwest::RequestBuilder, limits: Limits) -> Result<Answer, HttpError> {
    let end = Instant::now() + limits.total;
    let response = within(end, limits.head, "the headers of the answer", async {
        request.send().await.map_err(HttpError::from_send)
    })
    .await?;
    let (status, headers) = (response.status(), response.headers().clone());
    let mut body = Body::default();
    let read = within(end, limits.body, "the body of the answer", body.fill(response, status, limits.cap)).await;
    match read {
        Err(error) if status.is_success() => Err(error),
        _ => Ok(Answer { status, headers, body: body.0 }),
    }
}

async fn within<T>(
    end: Instant,
    limit: Duration,
    what: &'static str,
    work: impl Future<Output = Result<T, HttpError>>,
) -> Result<T, HttpError> {
    let allowed = limit.min(end.saturating_duration_since(Instant::now()));
    tokio::time::timeout(allowed, work).await.unwrap_or(Err(HttpError::timeout(what, allowed)))
}

/// A body as far as it has come, so that a refusal can be quoted even when its body breaks off.
#[derive(Default)]
struct Body(Zeroizing<Vec<u8>>);

impl Body {
    async fn fill(&mut self, mut response: reqwest::Response, status: StatusCode, cap: usize) -> Result<(), HttpError> {
        let cap = if status.is_success() { cap } else { REFUSAL_MAX };
        let announced = response.content_length().unwrap_or(0);
        if status.is_success() && announced > cap as u64 {
            return Err(HttpError::too_large(cap));
        }
        // The whole capacity at once: a buffer that grows would leave unwiped copies of its start behind.
        self.0.reserve_exact(if announced == 0 { cap } else { cap.min(announced as usize) });
        while let Some(chunk) = response.chunk().await.map_err(HttpError::from_body)? {
            let room = cap - self.0.len();
            self.0.extend_from_slice(&chunk[..room.min(chunk.len())]);
            if chunk.len() > room {
                return Err(HttpError::too_large(cap));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
