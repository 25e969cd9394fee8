use std::sync::Arc;

use super::*;
use crate::clock::SystemClock;
use crate::config::settings::Endpoint;
use crate::http::testing::{Nobody, Request, Server, Step, reply};
use crate::metadata::spec::Wanted;
use crate::metadata::testing::configured_rules;

const VM: &str =
    r#"{"vmId":"02aab8a4-74ef-476e-8182-f6d2ba4166a6","name":"Web API","location":"westeurope","tags":""}"#;

fn at(url: Url) -> Azure {
    let service = Service::local(&Endpoint::Url(url), Some(refusal), Arc::new(SystemClock)).expect("a client");
    Azure::new(service, None, None, configured_rules())
}

fn answer(request: &Request) -> Vec<Step> {
    if request.header("metadata") != Some("true") {
        return reply(400, &[], r#"{"error":"Bad request. Required metadata header not specified"}"#);
    }
    if request.line.starts_with("GET /metadata/instance/compute?") {
        return reply(200, &[], VM);
    }
    reply(200, &[], r#"{"access_token":"the.jwt.here","expires_on":"1790000000"}"#)
}

#[tokio::test]
async fn a_vm_is_the_instance_and_configuration_the_spec() {
    let server = Server::start(|_, request| answer(request)).await;
    let Read::Document { spec, etag } = at(server.url()).read(None, Duration::ZERO).await.unwrap() else { panic!() };
    let Wanted::Node(node) = spec.tailnet else { panic!("configuration names a node") };
    assert_eq!(spec.instance.id, "02aab8a4-74ef-476e-8182-f6d2ba4166a6");
    assert_eq!((node.client_id.as_str(), node.hostname.as_str(), etag.is_some()), ("kConfig", "web-api", true));
    assert_eq!(server.lines(), ["GET /metadata/instance/compute?api-version=2021-02-01"]);
}

#[tokio::test]
async fn an_instance_of_configuration_is_asked_of_nobody() {
    let mut provider = at(Nobody::new().url());
    provider.instance = Some("mine".into());
    let Read::Document { spec, .. } = provider.read(None, Duration::ZERO).await.unwrap() else { panic!() };
    assert_eq!(spec.instance.id, "mine");
}

#[tokio::test]
async fn a_token_is_asked_for_with_the_audience_and_the_identity() {
    let server = Server::start(|_, request| answer(request)).await;
    let mut provider = at(server.url());
    assert_eq!(provider.token("api.tailscale.com/k1").await.unwrap().expose(), "the.jwt.here");
    provider.identity = Some("5e29".into());
    provider.token("aud").await.unwrap();
    let path = "GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=";
    let expected = [format!("{path}api.tailscale.com%2Fk1"), format!("{path}aud&client_id=5e29")];
    assert_eq!(server.lines(), expected);
}

#[tokio::test]
async fn a_refusal_is_told_by_its_own_code() {
    for (status, body, code, part) in [
        (
            400,
            r#"{"error":"invalid_resource","error_description":"AADSTS500011: no such app"}"#,
            Code::TokenDenied,
            "400: invalid_resource: AADSTS500011",
        ),
        (
            400,
            r#"{"error":"invalid_request","error_description":"Identity not found"}"#,
            Code::TokenDenied,
            "Identity not found",
        ),
        (401, r#"{"error":"unauthorized_client"}"#, Code::TokenDenied, "unauthorized_client"),
        (404, "", Code::TokenUnavailable, "404"),
        (410, "", Code::TokenUnavailable, "410"),
        (429, r#"{"error":"too_many_requests"}"#, Code::TokenUnavailable, "too_many_requests"),
        (500, "<html>", Code::TokenUnavailable, "500"),
    ] {
        let server = Server::start(move |_, _| reply(status, &[], body)).await;
        let fault = at(server.url()).token("aud").await.map(drop).unwrap_err();
        assert_eq!(fault.code, code, "{body}");
        assert!(fault.detail.contains(part), "{}", fault.detail);
    }
}

#[tokio::test]
async fn metadata_that_is_none_and_nobody_are_named() {
    let server = Server::start(|_, _| reply(200, &[], "{}")).await;
    assert_eq!(at(server.url()).read(None, Duration::ZERO).await.unwrap_err().code, Code::MetadataInvalid);
    assert_eq!(at(server.url()).token("aud").await.map(drop).unwrap_err().code, Code::TokenUnavailable);
    let nobody = at(Nobody::new().url());
    assert_eq!(nobody.read(None, Duration::ZERO).await.unwrap_err().code, Code::MetadataUnreachable);
    assert_eq!(nobody.token("aud").await.map(drop).unwrap_err().code, Code::TokenUnavailable);
}
