use std::sync::Arc;

use super::*;
use crate::clock::SystemClock;
use crate::config::settings::Endpoint;
use crate::http::testing::{Nobody, Request, Server, Step, reply};
use crate::metadata::spec::Wanted;
use crate::metadata::testing::{configured_rules, rules};

const SPEC: &str = r#"{"client_id":"kGce","tags":["tag:web"],"lifecycle":"ephemeral"}"#;
const GOOGLE: (&str, &str) = ("Metadata-Flavor", "Google");

fn at(url: Url, rules: Rules) -> Gce {
    let service = Service::local(&Endpoint::Url(url), None, Arc::new(SystemClock)).expect("a client");
    Gce::new(service, None, rules)
}

/// A server whose attribute answers so.
async fn serving(status: u16, attribute: &'static str) -> Server {
    Server::start(move |_, request| answer(request, status, attribute)).await
}

fn answer(request: &Request, status: u16, attribute: &str) -> Vec<Step> {
    if request.header("metadata-flavor") != Some("Google") {
        return reply(403, &[GOOGLE], "Missing Metadata-Flavor:Google header.");
    }
    let path = request.line.trim_start_matches("GET /computeMetadata/v1/instance/");
    match path.split('?').next().unwrap_or_default() {
        "id" => reply(200, &[GOOGLE], "5278901234567890123"),
        "name" => reply(200, &[GOOGLE], "web-api"),
        "attributes/devbox-agent" => reply(status, &[GOOGLE, ("ETag", "ab12")], attribute),
        "service-accounts/default/identity" => reply(200, &[GOOGLE], "the.jwt.here"),
        _ => reply(404, &[GOOGLE], "<!DOCTYPE html>"),
    }
}

#[tokio::test]
async fn an_attribute_is_the_spec_and_its_tag_is_waited_at() {
    let server = serving(200, SPEC).await;
    let provider = at(server.url(), rules());
    let Read::Document { spec, etag } = provider.read(None, Duration::from_secs(55)).await.unwrap() else { panic!() };
    let Wanted::Node(node) = spec.tailnet else { panic!("the attribute names a node") };
    assert_eq!((spec.instance.id.as_str(), node.hostname.as_str()), ("5278901234567890123", "web-api"));
    assert_eq!((node.client_id.as_str(), etag.as_deref()), ("kGce", Some("ab12")));
    let again = provider.read(etag.as_deref(), Duration::from_secs(55)).await.unwrap();
    assert_eq!(again, Read::Unchanged);
    let held = "?wait_for_change=true&last_etag=ab12&timeout_sec=55";
    assert!(server.lines().last().unwrap().ends_with(held), "{:?}", server.lines());
    assert_eq!(server.lines().len(), 4, "an unchanged attribute is all that is read");
}

#[tokio::test]
async fn without_the_attribute_configuration_decides_and_else_nothing_is_wanted() {
    let server = serving(404, "not found").await;
    for (rules, assigned) in [(rules(), false), (configured_rules(), true)] {
        let read = at(server.url(), rules).read(None, Duration::ZERO).await.unwrap();
        let Read::Document { spec, etag: None } = read else { panic!("nothing to wait at") };
        assert_eq!(matches!(spec.tailnet, Wanted::Node(_)), assigned);
    }
}

#[tokio::test]
async fn an_attribute_may_say_to_leave_and_one_that_is_wrong_is_named() {
    let null = serving(200, "null").await;
    let Read::Document { spec, .. } = at(null.url(), rules()).read(None, Duration::ZERO).await.unwrap() else {
        panic!()
    };
    assert_eq!(spec.tailnet, Wanted::Nothing);
    for (attribute, part) in [
        ("tags", "JSON"),
        ("[]", "tailnet"),
        (r#"{"client_id":"k","tags":["web"]}"#, "tailnet.tags[0]"),
        ("{}", "client_id"),
    ] {
        let server = serving(200, attribute).await;
        let Read::Refused { fault, etag } = at(server.url(), rules()).read(None, Duration::ZERO).await.unwrap() else {
            panic!("{attribute} was accepted")
        };
        assert_eq!((fault.code, etag.as_deref()), (Code::MetadataValue, Some("ab12")), "{attribute}");
        assert!(fault.detail.contains(part), "{attribute}: {}", fault.detail);
    }
}

#[tokio::test]
async fn what_is_not_googles_server_is_not_believed() {
    let server = Server::start(|_, _| reply(200, &[], SPEC)).await;
    let provider = at(server.url(), rules());
    assert_eq!(provider.read(None, Duration::ZERO).await.unwrap_err().code, Code::MetadataUntrusted);
    assert_eq!(provider.token("aud").await.map(drop).unwrap_err().code, Code::MetadataUntrusted);
    // Another cloud's server has nothing at this path.
    let other = Server::start(|_, _| reply(404, &[], "")).await;
    assert_eq!(at(other.url(), rules()).read(None, Duration::ZERO).await.unwrap_err().code, Code::MetadataUntrusted);
}

#[tokio::test]
async fn a_token_is_text_for_the_audience() {
    let server = serving(404, "").await;
    let token = at(server.url(), rules()).token("api.tailscale.com/k1").await.unwrap();
    assert_eq!(token.expose(), "the.jwt.here");
    let path = "GET /computeMetadata/v1/instance/service-accounts/default/identity";
    assert_eq!(server.lines(), [format!("{path}?audience=api.tailscale.com%2Fk1&format=full")]);
}

#[tokio::test]
async fn a_vm_without_the_service_account_is_told_so() {
    let server = serving(404, "").await;
    let mut provider = at(server.url(), rules());
    provider.account = "ci@acme.iam.gserviceaccount.com".into();
    let fault = provider.token("aud").await.map(drop).unwrap_err();
    assert_eq!(fault.code, Code::TokenDenied);
    assert!(fault.detail.contains("no service account \"ci@acme") && fault.detail.contains("404"), "{}", fault.detail);
}

#[tokio::test]
async fn a_refusal_a_busy_server_and_nobody_are_different_reasons() {
    for (status, metadata, token) in [
        (403, Code::MetadataDenied, Code::TokenDenied),
        (429, Code::MetadataUnavailable, Code::TokenUnavailable),
        (503, Code::MetadataUnavailable, Code::TokenUnavailable),
    ] {
        let server = Server::start(move |_, _| reply(status, &[GOOGLE], "no")).await;
        let provider = at(server.url(), rules());
        assert_eq!(provider.read(None, Duration::ZERO).await.unwrap_err().code, metadata);
        assert_eq!(provider.token("aud").await.map(drop).unwrap_err().code, token);
    }
    let provider = at(Nobody::new().url(), rules());
    assert_eq!(provider.read(None, Duration::ZERO).await.unwrap_err().code, Code::MetadataUnreachable);
    assert_eq!(provider.token("aud").await.map(drop).unwrap_err().code, Code::TokenUnavailable);
}
