//! A job of GitHub Actions: its environment says what it is, and where GitHub's token service is that says so in a token ("OpenID Connect
//! reference" of docs.github.com). The spec comes from configuration.

use std::time::Duration;

use async_trait::async_trait;
use reqwest::Url;
use reqwest::header::{ACCEPT, HeaderValue};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::secret_file::Environment;
use super::service::{self, AnswerError, Ask, Service, ServiceError};
use super::{Instance, Metadata, Read, Rules, configured, value};
use crate::core::reason::{Code, Fault, Reasoned};
use crate::secret::Secret;

/// Where the token service is; only in jobs with `permissions: id-token: write`.
pub const URL: &str = "ACTIONS_ID_TOKEN_REQUEST_URL";
/// What is shown to it; comes and goes with [`URL`].
pub const TOKEN: &str = "ACTIONS_ID_TOKEN_REQUEST_TOKEN";

/// What tells one job from every other, together: the jobs of a matrix share all but the runner.
const IDENTITY: [&str; 4] = ["GITHUB_RUN_ID", "GITHUB_RUN_ATTEMPT", "GITHUB_JOB", RUNNER];
/// The runner's name, after which the node is named.
const RUNNER: &str = "RUNNER_NAME";
/// Whose job it is.
const REPOSITORY: &str = "GITHUB_REPOSITORY";

/// The longest id made here (`devbox/v1`, `instance.id`).
const ID_MAX: usize = 128;

/// How errors call the token service.
const PLACE: &str = "GitHub's token service";

/// The provider.
pub struct GithubActions {
    service: Service,
    environment: Environment,
    instance: Option<String>,
    rules: Rules,
}

impl GithubActions {
    /// Asks through `service`; the instance is the configured one, or made of what `environment` says of the job.
    pub fn new(service: Service, environment: Environment, instance: Option<String>, rules: Rules) -> Self {
        Self { service, environment, instance, rules }
    }

    fn instance(&self) -> Result<Instance, GithubError> {
        let id = self.instance.clone().or_else(|| self.id()).ok_or(GithubError::NoRun)?;
        let (name, workspace) = (self.plain(RUNNER), self.plain(REPOSITORY));
        Ok(Instance { id, kind: "runner".to_owned(), name, workspace, generation: None })
    }

    fn id(&self) -> Option<String> {
        let (run, rest) = IDENTITY.split_first()?;
        let rest = rest.iter().filter_map(|name| self.variable(name));
        let parts: Vec<String> = std::iter::once(self.variable(run)?).chain(rest).collect();
        let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_') { c } else { '-' };
        Some(parts.join("-").chars().map(plain).take(ID_MAX).collect())
    }

    /// A variable that may stand in the status.
    fn plain(&self, name: &str) -> Option<String> {
        self.variable(name).filter(|text| value::text(text).is_ok())
    }

    fn variable(&self, name: &str) -> Option<String> {
        (self.environment)(name).and_then(|value| value.into_string().ok()).filter(|text| !text.is_empty())
    }

    async fn fetch(&self, audience: &str) -> Result<Secret<String>, GithubError> {
        let (url, token) = match (self.variable(URL), self.variable(TOKEN)) {
            (Some(url), Some(token)) => (url, Zeroizing::new(token)),
            (None, None) => return Err(GithubError::Permission),
            (url, _) => return Err(GithubError::Unset { name: if url.is_some() { TOKEN } else { URL } }),
        };
        let mut url: Url = service::trusted(&url).ok_or(GithubError::Url)?;
        url.query_pairs_mut().append_pair("audience", audience);
        let ask = Ask::get(url).header(ACCEPT, HeaderValue::from_static("application/json"));
        let answer = self.service.call(ask.bearer(&Secret::new(token.trim().to_owned()))).await?;
        let body: Body = service::json(PLACE, &answer)?;
        Ok(service::some(PLACE, body.value)?)
    }
}

#[async_trait]
impl Metadata for GithubActions {
    fn provider(&self) -> &'static str {
        "github-actions"
    }

    async fn read(&self, etag: Option<&str>, wait: Duration) -> Result<Read, Fault> {
        let instance = self.instance().map_err(|e| Fault::from(&e))?;
        Ok(configured::read(instance, &self.rules, etag, wait).await)
    }

    async fn token(&self, audience: &str) -> Result<Secret<String>, Fault> {
        self.fetch(audience).await.map_err(|e| Fault::from(&e))
    }
}

/// The token service's answer.
#[derive(Deserialize)]
struct Body {
    value: String,
}

/// What a job does not give.
#[derive(Debug, thiserror::Error)]
pub enum GithubError {
    /// GitHub gives the job no way to ask.
    #[error(
        "failed to ask GitHub for a token: the job lacks `permissions: id-token: write` (neither {URL} nor {TOKEN} is set)"
    )]
    Permission,
    /// One without the other: something has cleared the environment.
    #[error("failed to ask GitHub for a token: the variable {name} is not set")]
    Unset {
        /// The one that is missing.
        name: &'static str,
    },
    /// A token service that could be anybody. The URL is not repeated: it names the job.
    #[error("failed to ask GitHub for a token: {URL} is neither https nor plain http to an IP address")]
    Url,
    /// The token service did not give one.
    #[error("failed to ask GitHub for a token")]
    Service(#[from] ServiceError),
    /// It gave something else.
    #[error("failed to ask GitHub for a token")]
    Answer(#[from] AnswerError),
    /// No job at all.
    #[error(
        "failed to tell which job this is: GITHUB_RUN_ID is not set; set [metadata] instance outside GitHub Actions"
    )]
    NoRun,
}

impl Reasoned for GithubError {
    fn code(&self) -> Code {
        match self {
            Self::Permission => Code::TokenPermission,
            Self::Unset { .. } | Self::Url | Self::NoRun => Code::EnvironmentInvalid,
            Self::Answer(_) => Code::TokenUnavailable,
            Self::Service(error) => error.about_token(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Service(error) => error.retry_after(),
            _ => None,
        }
    }

    fn unsent(&self) -> bool {
        matches!(self, Self::Service(error) if error.unsent())
    }
}

#[cfg(test)]
mod tests;
