//! GitHub's token service: tells whoever shows a job's own request token which job that is, in a token of the platform's issuer.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Json, Response};
use axum::routing::get;
use axum::{Router, extract::Path};
use axum_server::tls_rustls::RustlsConfig;
use serde::Deserialize;
use serde_json::json;

use super::issuer::Issuer;
use super::random;
use super::server::Server;

/// A job that runs now, as its own environment tells of it.
#[derive(Clone, Debug)]
pub struct Job {
    /// `owner/name` of the repository.
    pub repository: String,
    /// The ref that it runs for, such as `refs/heads/main`.
    pub reference: String,
    /// Its id in the workflow's file.
    pub name: String,
    /// The name of its runner.
    pub runner: String,
    /// The number of its workflow's run.
    pub run: u64,
    /// Whether it has `permissions: id-token: write`.
    pub permitted: bool,
}

impl Job {
    /// A permitted job `test` of the repository's main branch.
    pub fn new(repository: &str, runner: &str) -> Self {
        Self {
            repository: repository.to_owned(),
            reference: "refs/heads/main".to_owned(),
            name: "test".to_owned(),
            runner: runner.to_owned(),
            run: 4711,
            permitted: true,
        }
    }

    /// The subject of its tokens, in GitHub's default form.
    pub fn subject(&self) -> String {
        format!("repo:{}:ref:{}", self.repository, self.reference)
    }
}

/// The running token service.
pub struct TokenService {
    /// Its server, for faults and the log of requests.
    pub server: Server,
    shared: Shared,
}

#[derive(Clone)]
struct Shared {
    issuer: Arc<Issuer>,
    // By request token.
    jobs: Arc<Mutex<HashMap<String, Job>>>,
}

impl Shared {
    fn jobs(&self) -> std::sync::MutexGuard<'_, HashMap<String, Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TokenService {
    /// The route of a job's tokens, by the number of its run.
    pub fn route(job: &Job) -> String {
        format!("GET /idtoken/{}", job.run)
    }

    /// Serves over TLS, as GitHub does.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn start(at: SocketAddr, issuer: Arc<Issuer>, tls: RustlsConfig) -> Result<Self> {
        let shared = Shared { issuer, jobs: Arc::default() };
        let router = Router::new().route("/idtoken/{run}", get(token)).with_state(shared.clone());
        let listener = TcpListener::bind(at).with_context(|| format!("failed to bind the token service to {at}"))?;
        let server = Server::tls(listener, router, &[], tls)
            .with_context(|| format!("failed to start the token service on {at}"))?;
        Ok(Self { server, shared })
    }

    /// Starts a job, and returns what GitHub puts into its environment.
    ///
    /// # Errors
    /// When the kernel gives no random bytes.
    pub fn begin(&self, job: &Job) -> Result<Vec<(String, String)>> {
        let mut environment = vec![
            ("GITHUB_ACTIONS", "true".to_owned()),
            ("GITHUB_REPOSITORY", job.repository.clone()),
            ("GITHUB_RUN_ID", job.run.to_string()),
            ("GITHUB_RUN_ATTEMPT", "1".to_owned()),
            ("GITHUB_JOB", job.name.clone()),
            ("RUNNER_NAME", job.runner.clone()),
        ];
        if job.permitted {
            let token = random::hex().context("failed to make a request token")?;
            let url = format!("https://{}/idtoken/{}?api-version=2.0", self.server.address(), job.run);
            environment.push(("ACTIONS_ID_TOKEN_REQUEST_URL", url));
            environment.push(("ACTIONS_ID_TOKEN_REQUEST_TOKEN", token.clone()));
            self.shared.jobs().insert(token, job.clone());
        }
        Ok(environment.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// Ends all jobs: their request tokens are worth nothing any more.
    pub fn end(&self) {
        self.shared.jobs().clear();
    }
}

#[derive(Deserialize)]
struct Asked {
    audience: Option<String>,
}

async fn token(
    State(shared): State<Shared>,
    Path(run): Path<u64>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Response {
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let job = shown.and_then(|value| value.strip_prefix("Bearer ")).and_then(|token| shared.jobs().get(token).cloned());
    let Some(job) = job.filter(|job| job.run == run) else {
        return (StatusCode::UNAUTHORIZED, Json(json!({ "message": "Unauthorized" }))).into_response();
    };
    // Without an audience GitHub names the repository's owner.
    let owner = || format!("https://github.com/{}", job.repository.split('/').next().unwrap_or_default());
    match shared.issuer.issue(&job.subject(), &asked.audience.unwrap_or_else(owner)) {
        Ok(token) => Json(json!({ "count": token.jwt.len(), "value": token.jwt })).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}")).into_response(),
    }
}
