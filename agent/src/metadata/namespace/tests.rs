use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use reqwest::Url;

use super::*;
use crate::clock::SystemClock;
use crate::http::testing::{Nobody, Request, Server, Step, reply};
use crate::metadata::spec::Wanted;
use crate::metadata::testing::{configured_rules, rules};

const INTEGRATIONS: &str = r#"{"metadata_version":"7","tailscale":{
    "default":{"oauth_client_id":"kDefault","tags":["tag:web","tag:ci"],"enable_magic_dns":true},
    "quiet":{"oauth_client_id":"kQuiet","tags":["tag:ci"]},
    "wrong":{"oauth_client_id":"kWrong","tags":["ci"]}}}"#;

/// Metadata service and IAM in one, which admit `bearer`.
fn answer(request: &Request, bearer: &str, integrations: &str) -> Vec<Step> {
    let authorization = request.header("authorization");
    let admitted = authorization == Some(&format!("Bearer {bearer}"));
    match request.line.rsplit('/').next().unwrap_or_default() {
        "id" => reply(200, &[], "k9m2\n"),
        "workload_token" => reply(200, &[], &format!("{bearer}\n")),
        "IssueTenantTokenFromSession" if authorization == Some("Bearer the-session-token") => {
            reply(200, &[], &format!(r#"{{"tenant_token":"{bearer}"}}"#))
        }
        "GetTenantIntegrations" if admitted => reply(200, &[], integrations),
        "IssueIdToken" if admitted => reply(200, &[], r#"{"id_token":"the.jwt.here"}"#),
        _ => reply(401, &[], &format!(r#"{{"code":16,"message":"not {bearer}"}}"#)),
    }
}

fn provider(server: &Url, spec: &str, rules: Rules) -> Namespace {
    let spec = STANDARD_NO_PAD.encode(spec);
    let variables = HashMap::from([(SPEC, spec), ("NSC_IAM_ENDPOINT", format!("{server}iam/"))]);
    let settings = NamespaceSettings {
        integration: None,
        instance: None,
        machine_id: "/nonexistent/machine-id".into(),
        files: Files::default(),
        rules,
        environment: Arc::new(move |name| variables.get(name).map(Into::into)),
    };
    Namespace::new(settings, Service::remote(Some(refusal), Arc::new(SystemClock)).expect("a client"))
}

fn by_metadata(server: &Url, rules: Rules) -> Namespace {
    provider(server, &format!(r#"{{"version":"v1","metadata_url":"{server}"}}"#), rules)
}

async fn serving(integrations: &'static str) -> Server {
    Server::start(move |_, request| answer(request, "the-bearer-token", integrations)).await
}

#[tokio::test]
async fn an_integration_is_the_spec_of_the_metadata_services_instance() {
    let server = serving(INTEGRATIONS).await;
    let provider = by_metadata(&server.url(), rules());
    let Read::Document { spec, etag } = provider.read(None, Duration::ZERO).await.unwrap() else { panic!() };
    let Wanted::Node(node) = spec.tailnet else { panic!("an integration names a node") };
    assert_eq!((spec.instance.id.as_str(), node.hostname.as_str()), ("k9m2", "k9m2"));
    assert_eq!((node.client_id.as_str(), node.accept_dns), ("kDefault", true));
    assert_eq!((node.tags.join(" ").as_str(), etag), ("tag:ci tag:web", None));
}

#[tokio::test]
async fn an_integration_is_chosen_by_name_and_a_false_is_left_out() {
    let server = serving(INTEGRATIONS).await;
    let mut provider = by_metadata(&server.url(), rules());
    provider.settings.integration = Some("quiet".into());
    let Read::Document { spec, .. } = provider.read(None, Duration::ZERO).await.unwrap() else { panic!() };
    let Wanted::Node(node) = spec.tailnet else { panic!("an integration names a node") };
    assert_eq!((node.client_id.as_str(), node.accept_dns), ("kQuiet", false));
    for (name, part) in [("absent", "it has: default, quiet, wrong"), ("wrong", "tags[0]")] {
        provider.settings.integration = Some(name.into());
        let Read::Refused { fault, .. } = provider.read(None, Duration::ZERO).await.unwrap() else { panic!("{name}") };
        assert_eq!(fault.code, Code::MetadataValue);
        assert!(fault.detail.contains(part), "{}", fault.detail);
    }
}

#[tokio::test]
async fn a_workspace_without_integrations_wants_nothing_unless_one_is_named() {
    let server = serving("{}").await;
    let mut provider = by_metadata(&server.url(), rules());
    let Read::Document { spec, .. } = provider.read(None, Duration::ZERO).await.unwrap() else { panic!() };
    assert_eq!(spec.tailnet, Wanted::Unsaid);
    provider.settings.integration = Some("staging".into());
    let Read::Refused { fault, .. } = provider.read(None, Duration::ZERO).await.unwrap() else { panic!() };
    assert!(fault.detail.contains("it has: none"), "{}", fault.detail);
}

#[tokio::test(start_paused = true)]
async fn a_node_of_configuration_needs_no_integration() {
    let server = serving("{}").await;
    let provider = by_metadata(&server.url(), configured_rules());
    let Read::Document { .. } = provider.read(None, Duration::ZERO).await.unwrap() else { panic!() };
    assert_eq!(server.lines(), ["GET /id"]);
}

#[tokio::test]
async fn each_form_of_the_credential_ends_in_a_token() {
    let server = serving(INTEGRATIONS).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token.json");
    std::fs::write(&file, r#"{"session_token":"the-session-token"}"#).unwrap();
    let mut by_session = provider(&server.url(), "", rules());
    let iam = format!("{}iam", server.url());
    by_session.settings.environment = Arc::new(move |name| (name == "NSC_GLOBAL_ENDPOINT").then(|| iam.clone().into()));
    by_session.settings.files = Files { spec: folder.path().join("none"), token: file };
    let inline = provider(&server.url(), r#"{"inline_token":"the-bearer-token"}"#, rules());
    for (provider, first) in [
        (by_metadata(&server.url(), rules()), Some("GET /workload_token")),
        (by_session, Some("POST /iam/nsl.signin.SigninService/IssueTenantTokenFromSession")),
        (inline, None),
    ] {
        let before = server.lines().len();
        assert_eq!(provider.token("api.tailscale.com/k1").await.unwrap().expose(), "the.jwt.here");
        let issue = "POST /iam/nsl.tenants.TenantsService/IssueIdToken";
        let expected: Vec<&str> = first.into_iter().chain([issue]).collect();
        assert_eq!(&server.lines()[before..], expected);
    }
    let asked: serde_json::Value = serde_json::from_str(&server.requests().last().unwrap().body).unwrap();
    assert_eq!(asked, serde_json::json!({ "audience": "api.tailscale.com/k1", "version": 1, "duration_secs": 300 }));
}

#[tokio::test]
async fn a_refusal_is_told_by_its_code_and_never_quotes_the_bearer() {
    for (status, body, metadata, token) in [
        (401, r#"{"code":16,"message":"no canary-canary"}"#, Code::MetadataDenied, Code::TokenDenied),
        (403, r#"{"code":"permission_denied"}"#, Code::MetadataDenied, Code::TokenDenied),
        (500, r#"{"code":"unauthenticated"}"#, Code::MetadataDenied, Code::TokenDenied),
        (503, r#"{"code":14,"message":"later"}"#, Code::MetadataUnavailable, Code::TokenUnavailable),
        (502, "<html>", Code::MetadataUnavailable, Code::TokenUnavailable),
    ] {
        let server = Server::start(move |_, _| reply(status, &[], body)).await;
        let mut provider = provider(&server.url(), r#"{"inline_token":"canary-canary"}"#, rules());
        provider.settings.instance = Some("box".into());
        let said = [
            (provider.read(None, Duration::ZERO).await.unwrap_err(), metadata),
            (provider.token("aud").await.map(drop).unwrap_err(), token),
        ];
        for (fault, code) in said {
            assert_eq!(fault.code, code, "{body}: {}", fault.detail);
            assert!(fault.detail.contains(&status.to_string()) && !fault.detail.contains("canary"), "{}", fault.detail);
        }
    }
}

#[tokio::test]
async fn nobody_there_is_another_reason() {
    let provider = by_metadata(&Nobody::new().url(), rules());
    assert_eq!(provider.read(None, Duration::ZERO).await.unwrap_err().code, Code::MetadataUnreachable);
    assert_eq!(provider.token("aud").await.map(drop).unwrap_err().code, Code::TokenUnavailable);
}

#[tokio::test]
async fn an_iam_that_anybody_could_be_is_not_asked() {
    let mut provider = provider(&Nobody::new().url(), r#"{"inline_token":"t"}"#, rules());
    let spec = STANDARD_NO_PAD.encode(r#"{"inline_token":"t"}"#);
    provider.settings.environment = Arc::new(move |name| match name {
        SPEC => Some(spec.clone().into()),
        "NSC_IAM_ENDPOINT" => Some("http://iam.example".into()),
        _ => None,
    });
    let fault = provider.token("aud").await.map(drop).unwrap_err();
    assert_eq!(fault.code, Code::EnvironmentInvalid);
    assert!(fault.detail.contains("NSC_IAM_ENDPOINT"), "{}", fault.detail);
    provider.settings.instance = Some("box".into());
    let fault = provider.read(None, Duration::ZERO).await.unwrap_err();
    assert_eq!(fault.code, Code::EnvironmentInvalid, "{}", fault.detail);
}
