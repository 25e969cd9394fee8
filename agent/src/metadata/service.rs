//! An HTTP service of a cloud or a CI system: one request at a time, within the bounds that every provider keeps, and what a refusal means.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde::de::DeserializeOwned;

use super::devbox::Deadlines;
use super::meaning;
use crate::clock::Clock;
use crate::config::settings::Endpoint;
use crate::config::values::literal;
use crate::core::reason::{Code, printable};
use crate::http::{self, Answer, BODY_MAX, HttpError, Limits, Redactor, Transport};
use crate::secret::Secret;

/// For a service on the internet; what is on the machine's own link has the shorter ones of [`Deadlines::default`].
const REMOTE: Deadlines =
    Deadlines { connect: Duration::from_secs(10), head: Duration::from_secs(10), body: Duration::from_secs(10) };

/// How much of an address is shown, in characters: GitHub's has two ids in its path.
const PLACE_MAX: usize = 160;

/// One request.
pub struct Ask {
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Option<Vec<u8>>,
    bearer: Option<Secret<String>>,
    flavor: Option<HeaderName>,
    held: Duration,
    near: bool,
}

impl Ask {
    /// A `GET`.
    pub fn get(url: Url) -> Self {
        let (headers, held) = (HeaderMap::new(), Duration::ZERO);
        Self { method: Method::GET, url, headers, body: None, bearer: None, flavor: None, held, near: false }
    }

    /// A `POST` of JSON.
    pub fn post(url: Url, body: &serde_json::Value) -> Self {
        let ask = Self::get(url).header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Self { method: Method::POST, body: Some(body.to_string().into_bytes()), ..ask }
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// With a header that every answer of the real server has too.
    #[must_use]
    pub fn flavor(self, name: HeaderName, value: HeaderValue) -> Self {
        Self { flavor: Some(name.clone()), ..self.header(name, value) }
    }

    /// With `Authorization: Bearer`.
    #[must_use]
    pub fn bearer(self, secret: &Secret<String>) -> Self {
        Self { bearer: Some(secret.clone()), ..self }
    }

    /// The server was asked to hold the answer for this long.
    #[must_use]
    pub fn held(self, held: Duration) -> Self {
        Self { held, ..self }
    }

    /// To a service on the machine's own link, which answers sooner than one on the internet or not at all.
    #[must_use]
    pub fn near(self) -> Self {
        Self { near: true, ..self }
    }

    /// The place as errors name it: without the query, which holds ids and audiences.
    fn place(&self) -> String {
        let mut url = self.url.clone();
        url.set_query(None);
        format!("{} {}", self.method, printable(url.as_str().trim_end_matches('/'), PLACE_MAX))
    }

    /// The header that shows the bearer; `None` when no header can carry it.
    fn authorization(&self) -> Option<HeaderMap> {
        let Some(secret) = &self.bearer else { return Some(HeaderMap::new()) };
        Some(HeaderMap::from_iter([(AUTHORIZATION, http::bearer(secret)?)]))
    }
}

/// What the body of a refusal says in the provider's own form: a code, and words.
pub type Reader = fn(&[u8]) -> Option<(String, String)>;

/// A service. Connections are not kept: after a pause they are dead without saying so.
pub struct Service {
    client: reqwest::Client,
    deadlines: Deadlines,
    reader: Option<Reader>,
    clock: Arc<dyn Clock>,
}

impl Service {
    /// Prepares requests to services on the internet; nothing is sent yet. Refusals that `reader` does not understand are quoted as they are.
    ///
    /// # Errors
    /// When the HTTP client cannot be made, which includes loading the system's certificates.
    pub fn remote(reader: Option<Reader>, clock: Arc<dyn Clock>) -> Result<Self, HttpError> {
        let transport = Transport { connect: REMOTE.connect, proxy: None, socket: None, tls: true, keep_alive: false };
        Ok(Self { client: http::client(&transport)?, deadlines: REMOTE, reader, clock })
    }

    /// The same to a machine's own metadata endpoint; with it the URL that requests begin with.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn local(endpoint: &Endpoint, reader: Option<Reader>, clock: Arc<dyn Clock>) -> Result<(Self, Url), HttpError> {
        let (base, socket) = endpoint.parts();
        let (deadlines, tls) = (Deadlines::default(), base.scheme() == "https");
        let transport = Transport { connect: deadlines.connect, proxy: None, socket, tls, keep_alive: false };
        Ok((Self { client: http::client(&transport)?, deadlines, reader, clock }, base))
    }

    /// Sends a request; the answer is a success.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn call(&self, ask: Ask) -> Result<Answer, ServiceError> {
        let place = ask.place();
        let Some(authorization) = ask.authorization() else { return Err(ServiceError::Shape { place }) };
        let mut request = self.client.request(ask.method.clone(), ask.url.clone());
        request = request.headers(ask.headers.clone()).headers(authorization);
        if let Some(body) = &ask.body {
            request = request.body(body.clone());
        }
        let Deadlines { connect: _, head, body } = if ask.near { Deadlines::default() } else { self.deadlines };
        let head = head + ask.held;
        let limits = Limits { head, body, total: head + body, cap: BODY_MAX };
        let sent = http::send(request, limits).await;
        let answer = sent.map_err(|source| ServiceError::Http { place: place.clone(), source })?;
        self.accept(&ask, place, answer)
    }

    fn accept(&self, ask: &Ask, place: String, answer: Answer) -> Result<Answer, ServiceError> {
        let redactor = Redactor::new(&ask.bearer);
        if answer.status.is_redirection() {
            return Err(ServiceError::Redirect { place, words: answer.words(&redactor) });
        }
        if let Some(name) = ask.flavor.as_ref().filter(|name| answer.headers.get(*name) != ask.headers.get(*name)) {
            let found = answer.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
            let found = printable(found.as_deref().unwrap_or("missing"), 40);
            return Err(ServiceError::Flavor { place, name: name.clone(), found });
        }
        if answer.status.is_success() { Ok(answer) } else { Err(self.refused(place, &answer, &redactor)) }
    }

    fn refused(&self, place: String, answer: &Answer, redactor: &Redactor) -> ServiceError {
        let status = answer.status;
        let said = self.reader.and_then(|reader| reader(&answer.body));
        let words = match &said {
            Some((code, message)) => format!("{}: {}", status.as_u16(), redactor.quote(&format!("{code}: {message}"))),
            None => answer.words(redactor),
        };
        let retry_after = answer.retry_after(self.clock.now().real);
        ServiceError::Refused { place, status, code: said.map(|(code, _)| code), words, retry_after }
    }
}

/// A request that did not bring a success.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// A credential that no header can carry. It is not repeated.
    #[error("failed to {place}: the credential to show is not one word of printable ASCII")]
    Shape {
        /// Method and address.
        place: String,
    },
    /// No answer.
    #[error("failed to {place}")]
    Http {
        /// Method and address.
        place: String,
        /// Why.
        #[source]
        source: HttpError,
    },
    /// A redirect, which is never followed: it would carry a credential elsewhere.
    #[error("failed to {place}: refusing the redirect {words}")]
    Redirect {
        /// Method and address.
        place: String,
        /// Status and target.
        words: String,
    },
    /// Not the service: the header that only it sends is missing or another.
    #[error("failed to {place}: the answer's {name} is {found}")]
    Flavor {
        /// Method and address.
        place: String,
        /// The header.
        name: HeaderName,
        /// What it said.
        found: String,
    },
    /// The service's refusal.
    #[error("failed to {place}: answered {words}")]
    Refused {
        /// Method and address.
        place: String,
        /// The status.
        status: StatusCode,
        /// The service's own code, if its body is in its usual form.
        code: Option<String>,
        /// The status and the service's words, redacted and bounded.
        words: String,
        /// How long to stay away.
        retry_after: Option<Duration>,
    },
}

impl ServiceError {
    /// What it means when the spec was asked for.
    pub fn about_metadata(&self) -> Code {
        match self {
            Self::Shape { .. } => Code::MetadataSecret,
            Self::Http { source, .. } => meaning::of_failure(source),
            Self::Redirect { .. } => Code::MetadataRedirect,
            Self::Flavor { .. } => Code::MetadataUntrusted,
            Self::Refused { code: Some(code), .. } if denies(code) => Code::MetadataDenied,
            Self::Refused { status, .. } => meaning::of_refusal(*status),
        }
    }

    /// What it means when a token was asked for.
    pub fn about_token(&self) -> Code {
        match self {
            Self::Flavor { .. } => Code::MetadataUntrusted,
            Self::Refused { code: Some(code), .. } if denies(code) => Code::TokenDenied,
            Self::Refused { status, .. } if matches!(status.as_u16(), 400 | 401 | 403) => Code::TokenDenied,
            _ => Code::TokenUnavailable,
        }
    }

    /// The status and the service's own code of a refusal.
    pub fn refusal(&self) -> Option<(u16, Option<&str>)> {
        match self {
            Self::Refused { status, code, .. } => Some((status.as_u16(), code.as_deref())),
            _ => None,
        }
    }

    /// How long to stay away.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether no packet left this machine.
    pub fn unsent(&self) -> bool {
        matches!(self, Self::Http { source, .. } if source.unsent())
    }
}

/// The codes of google.rpc that say so whatever the status is.
fn denies(code: &str) -> bool {
    matches!(code, "unauthenticated" | "permission_denied")
}

/// An answer that came, and is not what the service promises.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// Not the JSON that was expected. The parser's own words are left out: they can quote a token.
    #[error("failed to read the answer of {place}: not the expected JSON at line {line}, column {column}")]
    Json {
        /// Which service.
        place: &'static str,
        /// Where the parser stopped.
        line: usize,
        /// Where the parser stopped.
        column: usize,
    },
    /// Nothing where a value should be, or what is no text.
    #[error("failed to read the answer of {place}: it is empty, or no text")]
    Empty {
        /// Which service.
        place: &'static str,
    },
}

/// Reads an answer as JSON.
///
/// # Errors
/// When it is none, or lacks a field.
pub fn json<T: DeserializeOwned>(place: &'static str, answer: &Answer) -> Result<T, AnswerError> {
    let wrong = |error: serde_json::Error| AnswerError::Json { place, line: error.line(), column: error.column() };
    serde_json::from_slice(&answer.body).map_err(wrong)
}

/// Reads an answer as one word.
///
/// # Errors
/// When there is none.
pub fn word(place: &'static str, answer: &Answer) -> Result<Secret<String>, AnswerError> {
    let text = std::str::from_utf8(&answer.body).unwrap_or_default().trim();
    some(place, text.to_owned())
}

/// Takes a credential that came, unless it is empty.
///
/// # Errors
/// When it is empty.
pub fn some(place: &'static str, secret: String) -> Result<Secret<String>, AnswerError> {
    if secret.is_empty() { Err(AnswerError::Empty { place }) } else { Ok(Secret::new(secret)) }
}

/// An address that something other than configuration gives: https, or plain http to an IP literal, and no password in it. Who answers for a name
/// without TLS decides what the agent believes, and reads what it shows.
pub fn trusted(written: &str) -> Option<Url> {
    let url = Url::parse(written.trim()).ok()?;
    let safe = url.scheme() == "https" || url.scheme() == "http" && literal(&url).is_some();
    (safe && url.username().is_empty() && url.password().is_none()).then_some(url)
}
