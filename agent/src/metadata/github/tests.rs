use std::collections::HashMap;
use std::sync::Arc;

use super::*;
use crate::clock::SystemClock;
use crate::http::testing::{Nobody, Server, reply};
use crate::metadata::spec::{Lifecycle, Wanted};
use crate::metadata::testing::configured_rules;

const JOB: [(&str, &str); 5] = [
    ("GITHUB_RUN_ID", "4711"),
    ("GITHUB_RUN_ATTEMPT", "2"),
    ("GITHUB_JOB", "test"),
    ("RUNNER_NAME", "GitHub Actions 12"),
    ("GITHUB_REPOSITORY", "acme/app"),
];

fn provider(more: &[(&str, &str)]) -> GithubActions {
    let variables = JOB.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).into()));
    let variables: HashMap<String, std::ffi::OsString> = variables.collect();
    let environment: Environment = Arc::new(move |name| variables.get(name).cloned());
    let service = Service::remote(None, Arc::new(SystemClock)).expect("a client");
    GithubActions::new(service, environment, None, configured_rules())
}

/// With a token service whose URL has a query already, as GitHub's has.
fn asking(server: &Url) -> GithubActions {
    provider(&[(URL, &format!("{server}idtoken/1?api-version=2.0")), (TOKEN, "canary-canary-canary")])
}

async fn fault(provider: &GithubActions) -> Fault {
    provider.token("api.tailscale.com/k1").await.map(drop).expect_err("no token can be had")
}

#[tokio::test]
async fn a_job_is_an_ephemeral_runner_named_after_its_runner() {
    let Read::Document { spec, etag } = provider(&[]).read(None, Duration::ZERO).await.unwrap() else { panic!() };
    assert_eq!(spec.instance.id, "4711-2-test-GitHub-Actions-12");
    assert_eq!((spec.instance.workspace.as_deref(), etag.is_some()), (Some("acme/app"), true));
    let Wanted::Node(node) = spec.tailnet else { panic!("configuration names a node") };
    assert_eq!((node.hostname.as_str(), node.lifecycle), ("github-actions-12", Lifecycle::Ephemeral));
}

#[tokio::test]
async fn an_instance_that_is_configured_wins_and_none_at_all_is_said() {
    let mut provider = provider(&[("GITHUB_RUN_ID", "")]);
    let fault = provider.read(None, Duration::ZERO).await.unwrap_err();
    assert_eq!((fault.code, fault.detail.contains("[metadata] instance")), (Code::EnvironmentInvalid, true));
    provider.instance = Some("mine".into());
    let Read::Document { spec, .. } = provider.read(None, Duration::ZERO).await.unwrap() else { panic!() };
    assert_eq!(spec.instance.id, "mine");
}

#[tokio::test]
async fn a_token_is_asked_for_with_the_audience_and_the_jobs_own_token() {
    let server = Server::start(|_, _| reply(200, &[], r#"{"count":1,"value":"the.jwt.here"}"#)).await;
    let token = asking(&server.url()).token("api.tailscale.com/k1").await.expect("a token");
    assert_eq!(token.expose(), "the.jwt.here");
    let request = server.requests().remove(0);
    assert_eq!(request.line, "GET /idtoken/1?api-version=2.0&audience=api.tailscale.com%2Fk1");
    assert_eq!(request.header("authorization"), Some("Bearer canary-canary-canary"));
    assert_eq!(request.header("accept"), Some("application/json"));
}

#[tokio::test]
async fn a_job_without_the_permission_is_told_so() {
    let fault = fault(&provider(&[])).await;
    assert_eq!(fault.code, Code::TokenPermission);
    assert!(fault.detail.contains("the job lacks `permissions: id-token: write`"), "{}", fault.detail);
}

#[tokio::test]
async fn half_an_environment_is_named() {
    for (given, missing) in [(URL, TOKEN), (TOKEN, URL)] {
        let fault = fault(&provider(&[(given, "https://pipelines.example/")])).await;
        assert_eq!(fault.code, Code::EnvironmentInvalid);
        assert!(fault.detail.contains(missing), "{}", fault.detail);
    }
}

#[tokio::test]
async fn a_service_that_anybody_could_be_is_not_asked() {
    for url in ["http://pipelines.example/t", "ftp://127.0.0.1/", "no url", "https://user:secret@pipelines.example/"] {
        let fault = fault(&provider(&[(URL, url), (TOKEN, "t")])).await;
        assert_eq!(fault.code, Code::EnvironmentInvalid);
        assert!(fault.detail.contains("neither https") && !fault.detail.contains("secret"), "{}", fault.detail);
    }
}

#[tokio::test]
async fn a_refusal_and_silence_are_different_reasons() {
    for (status, code) in [
        (401, Code::TokenDenied),
        (403, Code::TokenDenied),
        (400, Code::TokenDenied),
        (404, Code::TokenUnavailable),
        (429, Code::TokenUnavailable),
        (503, Code::TokenUnavailable),
    ] {
        let said = "{\"message\":\"no canary-canary-canary\"}";
        let server = Server::start(move |_, _| reply(status, &[("Retry-After", "7")], said)).await;
        let fault = fault(&asking(&server.url())).await;
        assert_eq!((fault.code, fault.retry_after), (code, Some(Duration::from_secs(7))), "{status}");
        assert!(fault.detail.contains(&status.to_string()), "{}", fault.detail);
        assert!(!fault.detail.contains("canary"), "{}", fault.detail);
    }
    let fault = fault(&asking(&Nobody::new().url())).await;
    assert_eq!((fault.code, fault.detail.contains("refused")), (Code::TokenUnavailable, true), "{}", fault.detail);
}

#[tokio::test]
async fn a_redirect_leads_nowhere() {
    let other = Server::start(|_, _| reply(200, &[], r#"{"value":"stolen"}"#)).await;
    let to = other.url().to_string();
    let server = Server::start(move |_, _| reply(302, &[("Location", &to)], "")).await;
    assert_eq!(fault(&asking(&server.url())).await.code, Code::TokenUnavailable);
    assert_eq!((server.requests().len(), other.requests().len()), (1, 0));
}

#[tokio::test]
async fn an_answer_without_a_token_is_named_and_not_quoted() {
    for body in ["no json canary", "{}", r#"{"value":""}"#, r#"{"value":7}"#] {
        let server = Server::start(move |_, _| reply(200, &[], body)).await;
        let fault = fault(&asking(&server.url())).await;
        assert_eq!(fault.code, Code::TokenUnavailable, "{body}");
        assert!(!fault.detail.contains("canary"), "{}", fault.detail);
    }
}
