use std::path::Path;
use std::time::SystemTime;

use super::*;
use crate::clock::SystemClock;
use crate::config::settings::{Endpoint, SecretFile};
use crate::core::reason::Code;
use crate::http::testing::{Nobody, Request, Server, Step, reply};
use crate::metadata::testing::rules;

const FLAVOR: (&str, &str) = ("Metadata-Flavor", "Devbox");
const SPEC: &str = r#"{"version":1,"instance":{"id":"i-1"},"tailnet":{"client_id":"k1","tags":["tag:a"]}}"#;

/// As short as a deadline can be that a test waits for.
fn short() -> Deadlines {
    let [connect, head, body] = [3000, 300, 300].map(Duration::from_millis);
    Deadlines { connect, head, body }
}

fn at(endpoint: Endpoint, deadlines: Deadlines) -> Devbox {
    let channel = Channel::new(&endpoint, deadlines, Arc::new(SystemClock)).unwrap();
    Devbox::new(Arc::new(channel), rules())
}

fn devbox(server: &Server) -> Devbox {
    at(Endpoint::Url(server.url()), Deadlines::default())
}

async fn serving(status: u16, headers: &'static [(&'static str, &'static str)], body: &'static str) -> Server {
    Server::start(move |_, _| reply(status, headers, body)).await
}

async fn read(devbox: &Devbox) -> Result<Read, Fault> {
    devbox.read(None, Duration::ZERO).await
}

async fn code(server: &Server) -> Code {
    read(&devbox(server)).await.unwrap_err().code
}

#[tokio::test]
async fn the_spec_is_read_and_its_tag_kept() {
    let server = serving(200, &[FLAVOR, ("ETag", "\"v1\"")], SPEC).await;
    let Read::Document { spec, etag } = read(&devbox(&server)).await.unwrap() else {
        panic!("nothing to be unchanged")
    };
    assert_eq!((spec.instance.id.as_str(), etag.as_deref()), ("i-1", Some("\"v1\"")));
    let request = &server.requests()[0];
    assert_eq!(request.line, "GET /devbox/v1/instance");
    assert_eq!(request.header("metadata-flavor"), Some("Devbox"));
    assert_eq!((request.header("metadata-session"), request.header("if-none-match")), (None, None));
}

#[tokio::test]
async fn a_conditional_read_asks_to_be_held_and_may_be_unchanged() {
    let server = serving(304, &[FLAVOR], "").await;
    let read = devbox(&server).read(Some("\"v1\""), Duration::from_secs(300)).await.unwrap();
    assert_eq!(read, Read::Unchanged);
    let request = &server.requests()[0];
    assert_eq!(request.line, "GET /devbox/v1/instance?wait_s=55", "55 is the most that the protocol holds");
    assert_eq!(request.header("if-none-match"), Some("\"v1\""));
}

#[tokio::test]
async fn a_held_read_has_its_wait_besides_the_deadline() {
    let server = Server::start(|_, _| {
        let late = Step::Drip(b"HTTP/1.1 304 X\r\n".to_vec(), Duration::from_millis(40));
        vec![late, Step::Send(b"Metadata-Flavor: Devbox\r\n\r\n".to_vec())]
    })
    .await;
    let devbox = at(Endpoint::Url(server.url()), short());
    assert_eq!(devbox.read(Some("\"v1\""), Duration::from_secs(20)).await.unwrap(), Read::Unchanged);
    assert_eq!(devbox.read(Some("\"v1\""), Duration::ZERO).await.unwrap_err().code, Code::MetadataTimeout);
}

#[tokio::test]
async fn unchanged_without_having_asked_is_no_answer() {
    assert_eq!(code(&serving(304, &[FLAVOR], "").await).await, Code::MetadataInvalid);
}

#[tokio::test]
async fn a_unix_socket_serves_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("metadata.sock");
    let server = Server::unix(&path, |_, _| reply(200, &[FLAVOR], SPEC));
    assert!(read(&at(Endpoint::Unix(path), Deadlines::default())).await.is_ok());
    assert_eq!(server.requests()[0].header("host"), Some("localhost"));
}

#[tokio::test]
async fn a_refused_connection_is_unreachable() {
    let nobody = Nobody::new();
    let devbox = at(Endpoint::Url(nobody.url()), Deadlines::default());
    let fault = read(&devbox).await.unwrap_err();
    assert_eq!((fault.code, fault.unsent), (Code::MetadataUnreachable, false));
}

#[tokio::test]
async fn no_route_is_unreachable_and_costs_nobody_anything() {
    let endpoint = Endpoint::Url("http://255.255.255.255".parse().unwrap());
    let fault = read(&at(endpoint, Deadlines::default())).await.unwrap_err();
    assert_eq!((fault.code, fault.unsent), (Code::MetadataUnreachable, true));
}

#[tokio::test]
async fn an_endpoint_that_drips_is_given_up_on() {
    for bytes in ["HTTP/1.1 200 OK\r\nMetadata-", "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nxxxxxxxxxxxxxxxxx"] {
        let server = Server::start(move |_, _| {
            let (head, tail) = bytes.split_at(bytes.len() - 12);
            vec![Step::Send(head.into()), Step::Drip(tail.into(), Duration::from_millis(60))]
        })
        .await;
        let fault = read(&at(Endpoint::Url(server.url()), short())).await.unwrap_err();
        assert_eq!(fault.code, Code::MetadataTimeout, "{}", fault.detail);
    }
}

#[tokio::test]
async fn an_endless_body_is_cut_off() {
    let server = Server::start(|_, _| {
        let head = b"HTTP/1.1 200 OK\r\nMetadata-Flavor: Devbox\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        vec![Step::Send(head), Step::Endless(format!("1000\r\n{}\r\n", "[".repeat(4096)).into_bytes())]
    })
    .await;
    assert_eq!(code(&server).await, Code::MetadataInvalid);
}

#[tokio::test]
async fn garbage_is_invalid_and_a_compressed_body_is_garbage() {
    for body in ["<html>welcome to the portal</html>", "", "\0\0\0", "{", "\u{1f}\u{8b}"] {
        assert_eq!(
            code(&serving(200, &[FLAVOR, ("Content-Encoding", "gzip")], body).await).await,
            Code::MetadataInvalid
        );
    }
}

#[tokio::test]
async fn a_document_that_cannot_be_used_keeps_its_tag_to_wait_for_a_better_one() {
    for (body, code) in [
        (r#"{"version":2}"#, Code::MetadataVersion),
        (r#"{"version":1,"instance":{"id":"../x"}}"#, Code::MetadataValue),
        (r#"{"version":1,"instance":{"id":"i-1"},"tailnet":{"client_id":"k1"}}"#, Code::MetadataValue),
    ] {
        let server = serving(200, &[FLAVOR, ("ETag", "\"v2\"")], body).await;
        let Read::Refused { fault, etag } = read(&devbox(&server)).await.unwrap() else {
            panic!("{body} is of no use")
        };
        assert_eq!((fault.code, etag.as_deref()), (code, Some("\"v2\"")), "{}", fault.detail);
    }
}

#[tokio::test]
async fn a_redirect_is_named_and_never_followed() {
    let second = serving(200, &[FLAVOR], SPEC).await;
    for status in [301, 307] {
        let target = second.url().to_string();
        let first = Server::start(move |_, _| reply(status, &[FLAVOR, ("Location", &target)], "")).await;
        let fault = read(&devbox(&first)).await.unwrap_err();
        assert_eq!(fault.code, Code::MetadataRedirect);
        assert!(fault.detail.contains(second.url().as_str()), "{}", fault.detail);
    }
    assert!(second.requests().is_empty());
}

#[tokio::test]
async fn an_answer_without_the_flavor_is_not_the_platform_s() {
    assert_eq!(code(&serving(200, &[], SPEC).await).await, Code::MetadataUntrusted);
    assert_eq!(code(&serving(200, &[("Metadata-Flavor", "Google")], SPEC).await).await, Code::MetadataUntrusted);
    assert_eq!(code(&serving(403, &[], "").await).await, Code::MetadataUntrusted);
    let server = serving(200, &[], r#"{"token":"a.b.c"}"#).await;
    assert_eq!(devbox(&server).token("aud").await.err().map(|fault| fault.code), Some(Code::MetadataUntrusted));
}

#[tokio::test]
async fn each_refusal_has_its_own_reason() {
    for (status, expected) in [
        (400, Code::MetadataDenied),
        (403, Code::MetadataDenied),
        (404, Code::NotProvisioned),
        (429, Code::MetadataUnavailable),
        (500, Code::MetadataUnavailable),
        (503, Code::MetadataUnavailable),
        (418, Code::MetadataInvalid),
    ] {
        let server = serving(status, &[FLAVOR], "why not").await;
        let fault = read(&devbox(&server)).await.unwrap_err();
        assert_eq!((fault.code, server.requests().len()), (expected, 1), "{status}");
        assert!(fault.detail.ends_with(&format!("{status}: why not")), "{}", fault.detail);
    }
}

#[tokio::test]
async fn a_wait_that_the_endpoint_asks_for_is_passed_on() {
    for (value, expected) in [("30", Some(30)), ("-1", None), ("1000000000", Some(3600))] {
        let server = Server::start(move |_, _| reply(429, &[FLAVOR, ("Retry-After", value)], "")).await;
        let fault = read(&devbox(&server)).await.unwrap_err();
        assert_eq!(fault.retry_after, expected.map(Duration::from_secs), "{value}");
    }
    let hour = Duration::from_secs(3600);
    let date = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000));
    let server = Server::start(move |_, _| reply(503, &[FLAVOR, ("Retry-After", &date)], "")).await;
    assert_eq!(read(&devbox(&server)).await.unwrap_err().retry_after, Some(hour));
}

/// A server that wants a session; it refuses the first `stale` sessions it gave.
async fn guarded(stale: usize) -> Server {
    let given = std::sync::atomic::AtomicUsize::new(0);
    Server::start(move |_, request| guard(request, stale, &given)).await
}

fn guard(request: &Request, stale: usize, given: &std::sync::atomic::AtomicUsize) -> Vec<Step> {
    use std::sync::atomic::Ordering::SeqCst;
    if request.line.starts_with("PUT /devbox/v1/session") {
        let number = given.fetch_add(1, SeqCst) + 1;
        return reply(200, &[FLAVOR], &format!("canary-session-{number}"));
    }
    let session = request.header("metadata-session").and_then(|token| token.strip_prefix("canary-session-"));
    match session.map(|number| number.parse::<usize>().unwrap()) {
        Some(number) if number > stale && request.line.contains("/token") => {
            reply(200, &[FLAVOR], r#"{"token":"a.b.c"}"#)
        }
        Some(number) if number > stale => reply(200, &[FLAVOR], SPEC),
        Some(number) => reply(401, &[FLAVOR], &format!("no canary-session-{number}")),
        None => reply(401, &[FLAVOR], "session, please"),
    }
}

#[tokio::test]
async fn a_session_is_asked_for_after_a_401_and_kept() {
    let server = guarded(0).await;
    let devbox = devbox(&server);
    read(&devbox).await.unwrap();
    devbox.token("a/b c").await.map(drop).unwrap();
    assert_eq!(
        server.lines(),
        [
            "GET /devbox/v1/instance",
            "PUT /devbox/v1/session",
            "GET /devbox/v1/instance",
            "GET /devbox/v1/token?audience=a%2Fb+c",
        ]
    );
    assert_eq!(server.requests()[1].header("metadata-session-ttl"), Some("21600"));
}

#[tokio::test]
async fn a_session_that_is_refused_is_replaced_once_more() {
    let server = guarded(1).await;
    read(&devbox(&server)).await.unwrap();
    let sessions = server.lines().iter().filter(|line| line.contains("session")).count();
    assert_eq!((sessions, server.lines().len()), (2, 5));
}

#[tokio::test]
async fn a_server_that_refuses_every_session_denies_this_machine() {
    let server = guarded(99).await;
    let fault = read(&devbox(&server)).await.unwrap_err();
    assert_eq!((fault.code, server.lines().len()), (Code::MetadataDenied, 5));
    assert!(fault.detail.contains("[redacted]") && !fault.detail.contains("canary"), "{}", fault.detail);
}

#[tokio::test]
async fn two_requests_that_are_refused_together_share_one_new_session() {
    let server = guarded(0).await;
    let devbox = devbox(&server);
    let (spec, token) = tokio::join!(read(&devbox), devbox.token("aud"));
    assert!(spec.is_ok() && token.is_ok());
    assert_eq!(server.lines().iter().filter(|line| line.contains("session")).count(), 1);
}

#[tokio::test]
async fn a_session_that_no_header_can_carry_is_invalid() {
    for body in ["", "a\nb", &"x".repeat(5000)] {
        let body = body.to_owned();
        let server = Server::start(move |_, request| match request.line.starts_with("PUT") {
            true => reply(200, &[FLAVOR], &body),
            false => reply(401, &[FLAVOR], ""),
        })
        .await;
        assert_eq!(code(&server).await, Code::MetadataInvalid);
    }
}

#[tokio::test]
async fn no_token_is_one_reason_with_many_details_and_a_refusal_is_another() {
    for (status, body, part) in [
        (403, "not yours", "403: not yours"),
        (503, "", "503"),
        (200, "\"canary.canary.canary\"", "line 1"),
        (200, r#"{"token":7}"#, "line 1"),
        (200, r#"{"token":""}"#, "empty"),
        (200, "{}", "line 1"),
    ] {
        let server = Server::start(move |_, _| reply(status, &[FLAVOR, ("Retry-After", "7")], body)).await;
        let fault = devbox(&server).token("aud").await.map(drop).unwrap_err();
        let code = if status == 403 { Code::TokenDenied } else { Code::TokenUnavailable };
        assert_eq!(fault.code, code, "{body}");
        assert_eq!(fault.retry_after, (status != 200).then_some(Duration::from_secs(7)));
        assert!(fault.detail.contains(part) && !fault.detail.contains("canary"), "{}", fault.detail);
    }
    let endpoint = Endpoint::Url("http://255.255.255.255".parse().unwrap());
    let fault = at(endpoint, Deadlines::default()).token("aud").await.map(drop).unwrap_err();
    assert_eq!((fault.code, fault.unsent), (Code::TokenUnavailable, true));
}

/// A provider at a unix socket in `directory`, which shows the secret in its file `secret`.
fn showing(directory: &Path) -> Devbox {
    let channel =
        Channel::new(&Endpoint::Unix(directory.join("metadata.sock")), Deadlines::default(), Arc::new(SystemClock));
    let bearer = Bearer { place: SecretFile::Path(directory.join("secret")), environment: Arc::new(|_| None) };
    Devbox::new(Arc::new(channel.unwrap().showing(Some(bearer))), rules())
}

#[tokio::test]
async fn a_secret_is_read_for_every_request_and_shown_with_its_session_too() {
    let directory = tempfile::tempdir().unwrap();
    let given = std::sync::atomic::AtomicUsize::new(0);
    let server = Server::unix(&directory.path().join("metadata.sock"), move |_, request| guard(request, 0, &given));
    let devbox = showing(directory.path());
    for (secret, seen) in [("canary-one\n", "Bearer canary-one"), ("canary-two", "Bearer canary-two")] {
        std::fs::write(directory.path().join("secret"), secret).unwrap();
        let before = server.requests().len();
        read(&devbox).await.unwrap();
        let shown = server.requests();
        assert!(shown[before..].iter().all(|request| request.header("authorization") == Some(seen)), "{shown:?}");
    }
    assert_eq!(server.lines().iter().filter(|line| line.contains("session")).count(), 1);
}

#[tokio::test]
async fn without_its_secret_the_endpoint_is_not_asked_and_a_refusal_does_not_repeat_it() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::unix(&directory.path().join("metadata.sock"), |_, request| {
        reply(403, &[FLAVOR], request.header("authorization").unwrap_or_default())
    });
    let devbox = showing(directory.path());
    for content in [None, Some(""), Some("two words"), Some("canary\u{e9}")] {
        if let Some(content) = content {
            std::fs::write(directory.path().join("secret"), content).unwrap();
        }
        let fault = read(&devbox).await.unwrap_err();
        assert_eq!((fault.code, server.requests().len()), (Code::MetadataSecret, 0), "{}", fault.detail);
        assert!(fault.detail.contains("[metadata] bearer") && !fault.detail.contains("canary"), "{}", fault.detail);
    }
    std::fs::write(directory.path().join("secret"), "canary-canary-canary").unwrap();
    let fault = read(&devbox).await.unwrap_err();
    assert_eq!(fault.code, Code::MetadataDenied);
    assert!(fault.detail.contains("[redacted]") && !fault.detail.contains("canary"), "{}", fault.detail);
}
