//! One endpoint of `devbox/v1`: the flavor header, the session, the limits and what the status codes mean.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH};
use reqwest::{Method, StatusCode, Url};
use tokio::sync::Mutex;

use crate::clock::Clock;
use crate::config::settings::{Endpoint, SecretFile};
use crate::core::reason::{Code, Reasoned, printable};
use crate::http::{self, Answer, BODY_MAX, HttpError, Limits, Redactor, Transport};
use crate::metadata::meaning;
use crate::metadata::secret_file::{self, Environment, SecretFileError};
use crate::secret::Secret;

const FLAVOR: HeaderName = HeaderName::from_static("metadata-flavor");
const FLAVOR_VALUE: HeaderValue = HeaderValue::from_static("Devbox");
const SESSION: HeaderName = HeaderName::from_static("metadata-session");
const SESSION_TTL: HeaderName = HeaderName::from_static("metadata-session-ttl");

/// The longest session that the protocol grants, in seconds: a box that stays up asks four times a day.
const SESSION_SECONDS: HeaderValue = HeaderValue::from_static("21600");
/// The longest session token, in bytes (`devbox/v1`).
const SESSION_MAX: usize = 4096;
/// How many new sessions one request is worth (`devbox/v1`: one after a 401, once more when it is 401 again).
const SESSIONS: u32 = 2;

/// How long the parts of a request may take; `devbox/v1` by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// To connect.
    pub connect: Duration,
    /// From the start to the headers of the answer, besides the time that the request asked to be held.
    pub head: Duration,
    /// From the headers to the end of the body.
    pub body: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let [connect, head, body] = [3, 5, 10].map(Duration::from_secs);
        Self { connect, head, body }
    }
}

/// A request of the protocol.
#[derive(Clone, Debug)]
pub struct Call {
    method: Method,
    path: &'static str,
    query: Vec<(&'static str, String)>,
    headers: HeaderMap,
    body: Option<Vec<u8>>,
    held: Duration,
    sessions: u32,
}

impl Call {
    fn new(method: Method, path: &'static str) -> Self {
        let headers = HeaderMap::from_iter([(FLAVOR, FLAVOR_VALUE)]);
        Self { method, path, query: Vec::new(), headers, body: None, held: Duration::ZERO, sessions: SESSIONS }
    }

    /// `GET instance`; with a tag it is conditional and may be held for `wait`. A tag that no header can carry is as good as none.
    pub fn instance(etag: Option<&str>, wait: Duration) -> Self {
        let mut call = Self::new(Method::GET, "/devbox/v1/instance");
        if let Some(Ok(etag)) = etag.map(HeaderValue::from_str) {
            call.headers.insert(IF_NONE_MATCH, etag);
            if wait.as_secs() > 0 {
                call.query.push(("wait_s", wait.as_secs().to_string()));
                call.held = wait;
            }
        }
        call
    }

    /// `GET token`.
    pub fn token(audience: &str) -> Self {
        let mut call = Self::new(Method::GET, "/devbox/v1/token");
        call.query.push(("audience", audience.to_owned()));
        call
    }

    /// `PUT report`; a refused session is renewed only once.
    pub fn report(body: Vec<u8>) -> Self {
        let mut call = Self::new(Method::PUT, "/devbox/v1/report");
        call.headers.insert(reqwest::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Self { body: Some(body), sessions: 1, ..call }
    }

    fn session() -> Self {
        let mut call = Self::new(Method::PUT, "/devbox/v1/session");
        call.headers.insert(SESSION_TTL, SESSION_SECONDS);
        call
    }

    fn conditional(&self) -> bool {
        self.headers.contains_key(IF_NONE_MATCH)
    }
}

/// The session, and how many there were before it: two requests that are refused together ask for one new session.
#[derive(Clone, Default)]
struct Session {
    serial: u64,
    token: Option<Secret<String>>,
}

/// The secret that an endpoint wants to see, besides a session.
#[derive(Clone)]
pub struct Bearer {
    /// Where it is; read anew for every call.
    pub place: SecretFile,
    /// Where systemd puts credentials.
    pub environment: Environment,
}

/// What one call shows of this machine.
#[derive(Clone, Default)]
struct Shown {
    bearer: Option<Secret<String>>,
    session: Session,
}

impl Shown {
    fn headers(&self) -> HeaderMap {
        let bearer = self.bearer.as_ref().and_then(http::bearer);
        let session = self.session.token.as_ref().and_then(|token| http::sensitive(token.expose()));
        let named = [(AUTHORIZATION, bearer), (SESSION, session)];
        named.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    fn redactor(&self) -> Redactor {
        Redactor::new(self.bearer.iter().chain(&self.session.token))
    }
}

/// An endpoint. Its session lives in memory only.
///
/// Connections are not kept: after a pause they are dead without saying so, and to a link-local address a new one costs less than finding
/// that out.
pub struct Channel {
    client: reqwest::Client,
    base: Url,
    deadlines: Deadlines,
    bearer: Option<Bearer>,
    session: Mutex<Session>,
    clock: Arc<dyn Clock>,
}

impl Channel {
    /// Prepares requests to `endpoint`; nothing is sent yet. The clock is what a `Retry-After` date is compared with.
    ///
    /// # Errors
    /// When the HTTP client cannot be made, which for `https` includes loading the system's certificates.
    pub fn new(endpoint: &Endpoint, deadlines: Deadlines, clock: Arc<dyn Clock>) -> Result<Self, HttpError> {
        let (base, socket) = endpoint.parts();
        let tls = base.scheme() == "https";
        let transport = Transport { connect: deadlines.connect, proxy: None, socket, tls, keep_alive: false };
        Ok(Self { client: http::client(&transport)?, base, deadlines, bearer: None, session: Mutex::default(), clock })
    }

    /// Shows a secret with every request; the endpoint must be `https` or a socket, to which [`crate::config`] holds it.
    #[must_use]
    pub fn showing(mut self, bearer: Option<Bearer>) -> Self {
        self.bearer = bearer;
        self
    }

    /// Sends a request, with a session if the server wants one. The answer is a 200, a 204, or a 304 to a conditional request.
    ///
    /// # Errors
    /// See [`ChannelError`].
    pub async fn call(&self, call: &Call) -> Result<Answer, ChannelError> {
        let session = self.session.lock().await.clone();
        let mut shown = Shown { bearer: self.read_bearer(call).await?, session };
        for _ in 0..call.sessions {
            let answer = self.once(call, &shown).await?;
            if answer.status != StatusCode::UNAUTHORIZED {
                return self.accept(call, &shown, answer);
            }
            shown.session = self.renew(&shown).await?;
        }
        let answer = self.once(call, &shown).await?;
        self.accept(call, &shown, answer)
    }

    async fn read_bearer(&self, call: &Call) -> Result<Option<Secret<String>>, ChannelError> {
        let Some(Bearer { place, environment }) = &self.bearer else { return Ok(None) };
        let secret = secret_file::read(place, environment).await;
        let secret = secret.map_err(|source| ChannelError::Bearer { place: self.place(call), source })?;
        if !secret.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ChannelError::Shape { place: self.place(call) });
        }
        Ok(Some(secret))
    }

    async fn renew(&self, shown: &Shown) -> Result<Session, ChannelError> {
        let refused = shown.session.serial;
        let mut session = self.session.lock().await;
        if session.serial == refused {
            let call = Call::session();
            let shown = Shown { session: Session::default(), ..shown.clone() };
            let answer = self.once(&call, &shown).await?;
            let answer = self.accept(&call, &shown, answer)?;
            let token = std::str::from_utf8(&answer.body).unwrap_or_default().trim();
            if token.is_empty() || token.len() > SESSION_MAX || HeaderValue::from_str(token).is_err() {
                return Err(ChannelError::Session { place: self.place(&call) });
            }
            *session = Session { serial: refused + 1, token: Some(Secret::new(token.to_owned())) };
        }
        Ok(session.clone())
    }

    async fn once(&self, call: &Call, shown: &Shown) -> Result<Answer, ChannelError> {
        let mut url = self.base.clone();
        url.set_path(call.path);
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&call.query);
        }
        let mut request = self.client.request(call.method.clone(), url);
        request = request.headers(call.headers.clone()).headers(shown.headers());
        if let Some(body) = &call.body {
            request = request.body(body.clone());
        }
        let Deadlines { connect: _, head, body } = self.deadlines;
        let head = head + call.held;
        let limits = Limits { head, body, total: head + body, cap: BODY_MAX };
        http::send(request, limits).await.map_err(|source| ChannelError::Http { place: self.place(call), source })
    }

    fn accept(&self, call: &Call, shown: &Shown, answer: Answer) -> Result<Answer, ChannelError> {
        let place = self.place(call);
        let (status, unchanged) = (answer.status, answer.status == StatusCode::NOT_MODIFIED);
        let words = || answer.words(&shown.redactor());
        if status.is_redirection() && !unchanged {
            return Err(ChannelError::Redirect { place, words: words() });
        }
        if answer.headers.get(FLAVOR) != Some(&FLAVOR_VALUE) {
            let found = answer.headers.get(FLAVOR).map(|value| String::from_utf8_lossy(value.as_bytes()));
            return Err(ChannelError::Flavor { place, found: printable(found.as_deref().unwrap_or("none"), 40) });
        }
        if status.is_success() || unchanged && call.conditional() {
            return Ok(answer);
        }
        let retry_after = answer.retry_after(self.clock.now().real);
        Err(ChannelError::Refused { place, status, words: words(), retry_after })
    }

    /// The place as errors name it: without the query.
    fn place(&self, call: &Call) -> String {
        format!("{} {}{}", call.method, self.base.as_str().trim_end_matches('/'), call.path)
    }
}

/// A request that did not bring what the protocol promises.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// Nothing to show, so nothing was asked.
    #[error("failed to {place} with the secret of [metadata] bearer")]
    Bearer {
        /// Method and address.
        place: String,
        /// Why.
        #[source]
        source: SecretFileError,
    },
    /// A secret that no header can carry. It is not repeated.
    #[error("failed to {place} with the secret of [metadata] bearer: it is not one word of printable ASCII")]
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
    /// A redirect, which is never followed: it would leave the machine's own platform.
    #[error("failed to {place}: refusing the redirect {words}")]
    Redirect {
        /// Method and address.
        place: String,
        /// Status and target.
        words: String,
    },
    /// Not the platform: the header that only it sends is missing or another.
    #[error("failed to {place}: the answer's Metadata-Flavor is {found}, not Devbox")]
    Flavor {
        /// Method and address.
        place: String,
        /// What the header said.
        found: String,
    },
    /// A session token that cannot be sent.
    #[error("failed to {place}: the answer is no session token")]
    Session {
        /// Method and address.
        place: String,
    },
    /// The platform's refusal.
    #[error("failed to {place}: answered {words}")]
    Refused {
        /// Method and address.
        place: String,
        /// The status.
        status: StatusCode,
        /// The status and the server's words, redacted and bounded.
        words: String,
        /// How long to stay away.
        retry_after: Option<Duration>,
    },
}

impl Reasoned for ChannelError {
    fn code(&self) -> Code {
        match self {
            Self::Bearer { .. } | Self::Shape { .. } => Code::MetadataSecret,
            Self::Http { source, .. } => meaning::of_failure(source),
            Self::Redirect { .. } => Code::MetadataRedirect,
            Self::Flavor { .. } => Code::MetadataUntrusted,
            Self::Session { .. } => Code::MetadataInvalid,
            Self::Refused { status, .. } => meaning::of_refusal(*status),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    fn unsent(&self) -> bool {
        matches!(self, Self::Http { source, .. } if source.unsent())
    }
}
