//! The API's half of federation: `POST /api/v2/oauth/token-exchange` and `POST /api/v2/tailnet/-/keys`.

mod error;
mod wire;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use reqwest::{RequestBuilder, StatusCode, Url};
use tokio::sync::Mutex;

pub use self::error::{ApiError, Step};
use self::wire::{Exchanged, Minted};
use super::{AccessToken, Claims, Federation, KeyRequest, claims};
use crate::clock::{BootTime, Clock, rfc3339};
use crate::core::reason::Fault;
use crate::http::{self, Answer, BODY_MAX, Failure, HttpError, Limits, Redactor, Transport};
use crate::secret::Secret;

/// How long each request may take, connecting included.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Where the API is, and how it is reached.
#[derive(Clone)]
pub struct ApiSettings {
    /// `[tailnet] api_url`; a slash at its end makes no difference.
    pub url: Url,
    /// `[tailnet] proxy`; the environment's is never used.
    pub proxy: Option<Url>,
    /// For one request: [`DEADLINE`].
    pub deadline: Duration,
    /// What tokens and the server's `Date` are compared with.
    pub clock: Arc<dyn Clock>,
}

/// What the API's clock said, and when we heard it.
#[derive(Clone, Copy)]
struct Heard {
    date: SystemTime,
    at: BootTime,
}

/// The client. It is made with its first connection, so that the system's certificates are loaded off the main thread and while other things
/// are waited for; and made anew by [`Federation::connect`], which so never meets a connection that died in a pause, and sees
/// certificates that were installed since.
pub struct Api {
    settings: ApiSettings,
    client: Mutex<Option<reqwest::Client>>,
    heard: std::sync::Mutex<Option<Heard>>,
}

impl Api {
    /// Prepares a client; nothing is loaded or sent yet.
    pub fn new(settings: ApiSettings) -> Self {
        Self { settings, client: Mutex::default(), heard: std::sync::Mutex::default() }
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.settings.url.clone();
        url.set_path(&format!("{}{path}", self.settings.url.path().trim_end_matches('/')));
        url
    }

    /// Makes a new client in the place of the one there is.
    async fn renew(&self) -> Result<reqwest::Client, HttpError> {
        let mut slot = self.client.lock().await;
        let client = build(&self.settings).await?;
        *slot = Some(client.clone());
        Ok(client)
    }

    async fn client(&self) -> Result<reqwest::Client, HttpError> {
        let mut slot = self.client.lock().await;
        if let Some(client) = &*slot {
            return Ok(client.clone());
        }
        let client = build(&self.settings).await?;
        *slot = Some(client.clone());
        Ok(client)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Answer, HttpError> {
        let total = self.settings.deadline;
        let limits = Limits { head: total, body: total, total, cap: BODY_MAX };
        let answer = match http::send(request, limits).await {
            Ok(answer) => answer,
            Err(error) => return Err(self.forget(error).await),
        };
        if let Some(date) = answer.date() {
            let heard = Heard { date, at: self.settings.clock.now().boot };
            *self.heard.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(heard);
        }
        Ok(answer)
    }

    /// After a failure that a dead connection or old certificates may explain, the next request begins with a new client.
    async fn forget(&self, error: HttpError) -> HttpError {
        if matches!(error.failure(), Failure::Timeout | Failure::Broken | Failure::Untrusted) {
            *self.client.lock().await = None;
        }
        error
    }

    /// The API's clock now, carried on from what it last said.
    fn server_now(&self) -> Option<SystemTime> {
        let heard = *self.heard.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        heard.map(|heard| heard.date + self.settings.clock.now().boot.since(heard.at))
    }

    fn refused(&self, step: Step, answer: &Answer, redactor: &Redactor) -> ApiError {
        let now = self.settings.clock.now().real;
        ApiError::Refused {
            step,
            url: self.url(step.path()).to_string(),
            status: answer.status,
            words: answer.words(redactor),
            retry_after: answer.retry_after(now),
        }
    }

    fn failed(&self, step: Step, source: HttpError) -> ApiError {
        ApiError::Http { step, url: self.url(step.path()).to_string(), source }
    }

    fn invalid(&self, step: Step, why: String) -> ApiError {
        ApiError::Invalid { step, url: self.url(step.path()).to_string(), why }
    }

    async fn try_connect(&self) -> Result<(), ApiError> {
        let step = Step::Connect;
        let client = self.renew().await.map_err(|source| self.failed(step, source))?;
        self.send(client.head(self.url(step.path()))).await.map_err(|source| self.failed(step, source))?;
        Ok(())
    }

    async fn try_exchange(&self, client_id: &str, jwt: &Secret<String>) -> Result<AccessToken, ApiError> {
        let step = Step::Exchange;
        let redactor = Redactor::new([jwt]);
        let client = self.client().await.map_err(|source| self.failed(step, source))?;
        // What Tailscale's own client sends, less its second try with other authentication.
        let form = [("grant_type", "authorization_code"), ("client_id", client_id), ("jwt", jwt.expose().trim())];
        let request = client.post(self.url(step.path())).form(&form);
        let answer = self.send(request).await.map_err(|source| self.failed(step, source))?;
        if !answer.status.is_success() {
            let refused = self.refused(step, &answer, &redactor);
            return Err(self.or_skew(refused, &answer));
        }
        Exchanged::read(&answer.body, &redactor).map_err(|why| self.invalid(step, why))
    }

    /// A denial by a server whose clock is far from ours is more likely about the clock than about the credential.
    fn or_skew(&self, refused: ApiError, answer: &Answer) -> ApiError {
        let now = self.settings.clock.now().real;
        match answer.date() {
            Some(server) if refused.denied() && apart(now, server) > claims::SKEW_MAX => {
                ApiError::Skew { now: rfc3339(now), server: rfc3339(server), source: Box::new(refused) }
            }
            _ => refused,
        }
    }

    async fn try_mint(&self, access: &Secret<String>, request: &KeyRequest) -> Result<Secret<String>, ApiError> {
        let step = Step::Mint;
        let client = self.client().await.map_err(|source| self.failed(step, source))?;
        let body = wire::key_request(request);
        let sent = client.post(self.url(step.path())).basic_auth(access.expose(), Some("")).json(&body);
        let answer = self.send(sent).await.map_err(|source| self.failed(step, source))?;
        let redactor = Redactor::basic(access);
        if answer.status == StatusCode::OK {
            return Minted::read(&answer.body).map_err(|why| self.invalid(step, why));
        }
        if answer.status.is_success() {
            // Only 200 is Tailscale's; the body of another success may hold a key, and is not quoted.
            return Err(self.invalid(step, format!("the answer has status {}, not 200", answer.status.as_u16())));
        }
        if matches!(answer.status.as_u16(), 400 | 403) && wire::about_tags(&answer.body) {
            let tags = request.tags.join(", ");
            return Err(ApiError::Tags { tags, words: answer.words(&redactor) });
        }
        Err(self.refused(step, &answer, &redactor))
    }
}

#[async_trait]
impl Federation for Api {
    /// Sends `HEAD /`: the one request that any HTTP server takes without meaning anything by it, and whose answer has no body that would
    /// keep the connection busy. Its status does not matter; its `Date` does, for judging tokens.
    async fn connect(&self) -> Result<(), Fault> {
        self.try_connect().await.map_err(|e| Fault::from(&e))
    }

    fn judge(&self, jwt: &Secret<String>, client_id: &str, now: SystemTime) -> Result<Claims, Fault> {
        let claims = claims::read(jwt).map_err(|e| Fault::from(&e))?;
        claims::judge(&claims, client_id, now, self.server_now()).map_err(|e| Fault::from(&e))?;
        Ok(claims)
    }

    async fn exchange(&self, client_id: &str, jwt: &Secret<String>) -> Result<AccessToken, Fault> {
        self.try_exchange(client_id, jwt).await.map_err(|e| Fault::from(&e))
    }

    async fn mint(&self, access: &Secret<String>, request: &KeyRequest) -> Result<Secret<String>, Fault> {
        self.try_mint(access, request).await.map_err(|e| Fault::from(&e))
    }
}

async fn build(settings: &ApiSettings) -> Result<reqwest::Client, HttpError> {
    let transport = Transport {
        connect: settings.deadline,
        proxy: settings.proxy.clone(),
        socket: None,
        // A proxy may itself be spoken to by TLS.
        tls: [Some(&settings.url), settings.proxy.as_ref()].into_iter().flatten().any(|url| url.scheme() == "https"),
        keep_alive: true,
    };
    // Loading certificates reads and parses files; the loop goes on meanwhile.
    match tokio::task::spawn_blocking(move || http::client(&transport)).await {
        Ok(client) => client,
        Err(stopped) => std::panic::resume_unwind(stopped.into_panic()),
    }
}

fn apart(one: SystemTime, other: SystemTime) -> Duration {
    one.duration_since(other).unwrap_or_else(|later| later.duration())
}

#[cfg(test)]
mod tests;
