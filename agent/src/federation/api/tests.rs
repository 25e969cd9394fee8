use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::*;
use crate::clock::Now;
use crate::core::reason::Code;
use crate::federation::testing::{NOON, jwt};
use crate::http::testing::{Nobody, Server, Step as Play, reply};
use crate::metadata::spec::Lifecycle;

/// A clock that stands at [`NOON`].
struct Noon;

impl Clock for Noon {
    fn now(&self) -> Now {
        Now { boot: BootTime(5_000), monotonic: Duration::from_secs(5), real: SystemTime::UNIX_EPOCH + NOON }
    }
}

fn at(url: Url, deadline: Duration) -> Api {
    Api::new(ApiSettings { url, proxy: None, deadline, clock: Arc::new(Noon) })
}

fn api(server: &Server) -> Api {
    at(server.url(), DEADLINE)
}

fn access() -> Secret<String> {
    Secret::new("canary-access-token".to_owned())
}

fn key() -> KeyRequest {
    KeyRequest {
        client_id: "k1".into(),
        tags: vec!["tag:a".into(), "tag:b".into()],
        lifecycle: Lifecycle::Ephemeral,
        instance_id: "i-4f2c".into(),
    }
}

async fn serving(status: u16, body: &'static str) -> Server {
    Server::start(move |_, _| reply(status, &[("Retry-After", "7")], body)).await
}

async fn exchange_fault(api: &Api) -> Fault {
    api.exchange("k1", &jwt(|_| ())).await.map(drop).unwrap_err()
}

async fn mint_fault(api: &Api) -> Fault {
    api.mint(&access(), &key()).await.map(drop).unwrap_err()
}

#[tokio::test]
async fn a_token_is_traded_in_one_request() {
    let server = serving(200, r#"{"access_token":"canary-access","token_type":"Bearer","expires_in":3600}"#).await;
    let token = jwt(|_| ());
    let access = api(&server).exchange("k1", &token).await.unwrap();
    assert_eq!((access.token.expose().as_str(), access.expires_in), ("canary-access", Duration::from_secs(3600)));
    assert_eq!(server.lines(), ["POST /api/v2/oauth/token-exchange"]);
    let request = &server.requests()[0];
    assert_eq!(request.header("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(request.body, format!("grant_type=authorization_code&client_id=k1&jwt={}", token.expose()));
}

#[tokio::test]
async fn a_life_that_is_not_said_is_short_and_an_absurd_one_is_cut() {
    for (expires_in, seconds) in [("", 300), (",\"expires_in\":-5", 0), (",\"expires_in\":1e300", 86_400)] {
        let body = format!("{{\"access_token\":\"a\"{expires_in}}}");
        let server = Server::start(move |_, _| reply(201, &[], &body)).await;
        let access = api(&server).exchange("k1", &jwt(|_| ())).await.unwrap();
        assert_eq!(access.expires_in, Duration::from_secs(seconds));
    }
}

#[tokio::test]
async fn a_key_is_asked_for_as_the_spec_says() {
    let server = serving(200, r#"{"id":"k","key":"tskey-auth-canary"}"#).await;
    let minted = api(&server).mint(&access(), &key()).await.unwrap();
    assert_eq!(minted.expose(), "tskey-auth-canary");
    assert_eq!(server.lines(), ["POST /api/v2/tailnet/-/keys"]);
    let request = &server.requests()[0];
    let basic = format!("Basic {}", STANDARD.encode("canary-access-token:"));
    assert_eq!(request.header("authorization"), Some(basic.as_str()));
    let create = json!({"reusable": false, "ephemeral": true, "preauthorized": true, "tags": ["tag:a", "tag:b"]});
    assert_eq!(
        serde_json::from_str::<Value>(&request.body).unwrap(),
        json!({"capabilities": {"devices": {"create": create}}, "expirySeconds": 300, "description": "devbox-agent i-4f2c"})
    );
}

#[tokio::test]
async fn a_key_s_description_stays_within_what_the_api_takes() {
    let server = serving(200, r#"{"key":"k"}"#).await;
    let instance_id = format!("i_{}.x", "9".repeat(120));
    api(&server).mint(&access(), &KeyRequest { instance_id, ..key() }).await.map(drop).unwrap();
    let body: Value = serde_json::from_str(&server.requests()[0].body).unwrap();
    assert_eq!(body["description"], format!("devbox-agent i-{}", "9".repeat(35)));
}

#[tokio::test]
async fn connecting_early_leaves_a_connection_that_exchange_and_mint_share() {
    let server = Server::start(|_, request| {
        let body = r#"{"access_token":"a","key":"k"}"#;
        reply(200, &[], if request.line.starts_with("HEAD") { "" } else { body })
    })
    .await;
    let api = api(&server);
    api.connect().await.unwrap();
    api.exchange("k1", &jwt(|_| ())).await.map(drop).unwrap();
    api.mint(&access(), &key()).await.map(drop).unwrap();
    assert_eq!(server.lines()[0], "HEAD /");
    assert_eq!((server.lines().len(), server.connections()), (3, 1));
}

#[tokio::test]
async fn connecting_again_opens_a_new_connection() {
    let server = serving(404, "").await;
    let api = api(&server);
    api.connect().await.unwrap();
    api.connect().await.unwrap();
    assert_eq!(server.connections(), 2, "after a pause, the old one may be dead without saying so");
}

#[tokio::test]
async fn a_slash_at_the_end_of_the_url_and_a_path_before_it_are_kept_in_order() {
    let server = serving(500, "").await;
    for (path, line) in [("/", "POST /api/v2/oauth/token-exchange"), ("/ts/", "POST /ts/api/v2/oauth/token-exchange")] {
        let mut url = server.url();
        url.set_path(path);
        exchange_fault(&at(url, DEADLINE)).await;
        assert_eq!(server.lines().last().unwrap(), line);
    }
}

#[tokio::test]
async fn each_refusal_of_an_exchange_has_its_reason() {
    for (status, code) in [
        (400, Code::ExchangeDenied),
        (401, Code::ExchangeDenied),
        (403, Code::ExchangeDenied),
        (429, Code::ExchangeUnavailable),
        (503, Code::ExchangeUnavailable),
        (404, Code::ExchangeInvalid),
        (302, Code::ExchangeInvalid),
    ] {
        let server = serving(status, r#"{"error":"invalid_grant"}"#).await;
        let fault = exchange_fault(&api(&server)).await;
        assert_eq!((fault.code, fault.retry_after), (code, Some(Duration::from_secs(7))), "{status}");
        assert!(
            fault.detail.contains(&status.to_string()) && fault.detail.contains("invalid_grant"),
            "{}",
            fault.detail
        );
        assert_eq!(server.requests().len(), 1, "one request, whatever the answer");
    }
}

#[tokio::test]
async fn each_refusal_of_a_mint_has_its_reason() {
    for (status, code) in [
        (400, Code::MintDenied),
        (401, Code::MintDenied),
        (403, Code::MintDenied),
        (429, Code::MintUnavailable),
        (500, Code::MintUnavailable),
        (404, Code::MintInvalid),
    ] {
        let server = serving(status, r#"{"message":"calling actor does not have enough permissions"}"#).await;
        let fault = mint_fault(&api(&server)).await;
        assert_eq!((fault.code, fault.retry_after), (code, Some(Duration::from_secs(7))), "{status}");
        assert!(fault.detail.contains("enough permissions"), "{}", fault.detail);
    }
}

#[tokio::test]
async fn a_key_in_an_answer_that_is_not_quite_right_is_never_quoted() {
    for status in [201, 400, 500] {
        let server = serving(status, r#"{"key":"tskey-auth-CANARY"}"#).await;
        let fault = mint_fault(&api(&server)).await;
        assert!(!fault.detail.contains("CANARY"), "{status}: {}", fault.detail);
    }
}

#[tokio::test]
async fn tags_that_the_credential_does_not_own_are_listed() {
    for status in [400, 403] {
        let server = serving(status, r#"{"message":"requested tags [tag:b] are invalid or not permitted"}"#).await;
        let fault = mint_fault(&api(&server)).await;
        assert_eq!(fault.code, Code::TagsForbidden);
        assert!(fault.detail.contains("tag:a, tag:b") && fault.detail.contains("not permitted"), "{}", fault.detail);
    }
    let server = serving(403, r#"{"message":"the stage is not vintage"}"#).await;
    assert_eq!(
        mint_fault(&api(&server)).await.code,
        Code::MintDenied,
        "a word that only contains tag is not about tags"
    );
}

#[tokio::test]
async fn success_without_a_credential_is_invalid() {
    for body in [
        "",
        "null",
        "<html>",
        "{}",
        r#"{"access_token":"","key":""}"#,
        r#"{"access_token":7,"key":7}"#,
        r#"{"access_token":"a b","key":"a b"}"#,
        r#"{"access_token":"a:b","key":"a\u0000b"}"#,
    ] {
        let server = serving(200, body).await;
        let api = api(&server);
        assert_eq!(exchange_fault(&api).await.code, Code::ExchangeInvalid, "{body}");
        assert_eq!(mint_fault(&api).await.code, Code::MintInvalid, "{body}");
    }
    let server = serving(200, r#"{"access_token":"a","error":"invalid_client","error_description":"who?"}"#).await;
    let fault = exchange_fault(&api(&server)).await;
    assert_eq!(fault.code, Code::ExchangeInvalid);
    assert!(fault.detail.ends_with("the answer says invalid_client who?"), "{}", fault.detail);
}

#[tokio::test]
async fn a_server_that_echoes_credentials_is_quoted_without_them() {
    let server = Server::start(|_, request| {
        let echo = format!("{} {}", request.header("authorization").unwrap_or_default(), request.body);
        reply(401, &[], &echo)
    })
    .await;
    let api = api(&server);
    for fault in [exchange_fault(&api).await, mint_fault(&api).await] {
        assert!(fault.detail.contains("[redacted]"), "{}", fault.detail);
        assert!(
            !fault.detail.contains("canary") && !fault.detail.contains(&STANDARD.encode("canary")),
            "{}",
            fault.detail
        );
        for part in jwt(|_| ()).expose().split('.') {
            assert!(!fault.detail.contains(part), "{}", fault.detail);
        }
    }
    let server = serving(200, "\"canary-canary-canary\"").await;
    assert!(!mint_fault(&self::api(&server)).await.detail.contains("canary"));
}

#[tokio::test]
async fn a_denial_by_a_server_with_another_clock_is_about_the_clocks() {
    for (ahead, code) in [(299, Code::ExchangeDenied), (601, Code::ClockSkew)] {
        let server = Server::start(move |_, _| {
            let date = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + NOON + Duration::from_secs(ahead));
            reply(401, &[("Date", &date)], "no")
        })
        .await;
        let fault = exchange_fault(&api(&server)).await;
        assert_eq!(fault.code, code);
        assert_eq!(fault.detail.contains("2023-11-14T22:13:20Z"), code == Code::ClockSkew, "{}", fault.detail);
        assert_eq!(fault.detail.contains("2023-11-14T22:23:21Z"), code == Code::ClockSkew, "{}", fault.detail);
        assert!(fault.detail.contains("401: no"), "{}", fault.detail);
    }
}

#[tokio::test]
async fn a_token_is_judged_by_the_api_s_clock_as_well_once_it_was_heard() {
    let server = Server::start(|_, _| {
        let date = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + NOON + Duration::from_secs(3600));
        reply(200, &[("Date", &date)], "")
    })
    .await;
    let api = api(&server);
    let early = jwt(|payload| payload["nbf"] = json!(NOON.as_secs() + 3600));
    let now = SystemTime::UNIX_EPOCH + NOON;
    assert!(api.judge(&jwt(|_| ()), "k1", now).is_ok());
    assert!(!api.judge(&early, "k1", now).unwrap_err().detail.contains("the API's clock"));
    api.connect().await.unwrap();
    let fault = api.judge(&early, "k1", now).unwrap_err();
    assert_eq!(fault.code, Code::ClockSkew);
    assert!(fault.detail.contains("the API's clock 2023-11-14T23:13:20Z"), "{}", fault.detail);
}

#[tokio::test]
async fn nobody_there_silence_and_a_broken_answer_are_unreachable() {
    let short = Duration::from_millis(300);
    let silent = Server::start(|_, _| vec![Play::Hang]).await;
    let half = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"access_tok".to_vec();
    let broken = Server::start(move |_, _| vec![Play::Send(half.clone()), Play::Close]).await;
    let nobody = Nobody::new();
    for url in [nobody.url(), silent.url(), broken.url()] {
        let api = at(url, short);
        let (exchange, mint) = (exchange_fault(&api).await, mint_fault(&api).await);
        assert_eq!((exchange.code, exchange.unsent), (Code::ExchangeUnreachable, false), "{}", exchange.detail);
        assert_eq!((mint.code, mint.unsent), (Code::MintUnreachable, false), "{}", mint.detail);
    }
}

#[tokio::test]
async fn no_route_is_unsent_and_a_name_that_cannot_resolve_is_dns() {
    let api = at("http://255.255.255.255".parse().unwrap(), DEADLINE);
    assert!(exchange_fault(&api).await.unsent);
    assert_eq!(api.connect().await.unwrap_err().code, Code::ExchangeUnreachable);
    // A label of more than 63 characters is no DNS name, so that no resolver is asked.
    let nowhere = at(format!("http://{}.invalid", "a".repeat(64)).parse().unwrap(), DEADLINE);
    assert_eq!(exchange_fault(&nowhere).await.code, Code::Dns);
    assert_eq!(mint_fault(&nowhere).await.code, Code::Dns);
}

#[tokio::test]
async fn a_huge_answer_is_cut_off() {
    let server = Server::start(|_, _| {
        vec![Play::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n".to_vec()), Play::Hang]
    })
    .await;
    assert_eq!(exchange_fault(&api(&server)).await.code, Code::ExchangeInvalid);
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_not_trusted() {
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap()).parse().unwrap();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(stream).await.map(drop)
    });
    let fault = exchange_fault(&at(url, DEADLINE)).await;
    assert_eq!(fault.code, Code::TlsUntrusted);
    assert!(fault.detail.contains("UnknownIssuer"), "{}", fault.detail);
    assert!(server.await.unwrap().is_err(), "the handshake is not completed, so no request follows it");
}

#[tokio::test]
async fn a_server_without_tls_is_not_trusted_and_told_nothing() {
    let heard = Arc::new(std::sync::Mutex::new(Vec::new()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap()).parse().unwrap();
    let (ear, count) = (heard.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = count.clone();
    let server = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let mut bytes = vec![0; 4096];
            let read = stream.read(&mut bytes).await.unwrap_or_default();
            ear.lock().unwrap().extend_from_slice(&bytes[..read]);
            let answer = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            drop((answer, stream));
        }
    });
    let fault = exchange_fault(&at(url, DEADLINE)).await;
    server.abort();
    assert_eq!((fault.code, count.load(Ordering::SeqCst)), (Code::TlsUntrusted, 1), "{}", fault.detail);
    let heard = String::from_utf8_lossy(&heard.lock().unwrap()).into_owned();
    assert!(!heard.contains("POST") && !heard.contains("jwt"), "only a handshake was sent");
}
