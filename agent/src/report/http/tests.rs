use super::*;
use crate::clock::SystemClock;
use crate::config::settings::Endpoint;
use crate::http::testing::{Nobody, Server, Step, reply};
use crate::metadata::devbox::Deadlines;

const FLAVOR: (&str, &str) = ("Metadata-Flavor", "Devbox");

fn sink(endpoint: Endpoint) -> HttpSink {
    let [connect, head, body] = [3000, 500, 500].map(Duration::from_millis);
    HttpSink::new(Arc::new(Channel::new(&endpoint, Deadlines { connect, head, body }, Arc::new(SystemClock)).unwrap()))
}

async fn put(server: &Server) -> Result<(), Fault> {
    sink(Endpoint::Url(server.url())).put(b"{}".to_vec()).await
}

#[tokio::test]
async fn a_report_is_put_once() {
    let server =
        Server::start(|_, _| vec![Step::Send(b"HTTP/1.1 204 X\r\nMetadata-Flavor: Devbox\r\n\r\n".to_vec())]).await;
    put(&server).await.unwrap();
    let request = &server.requests()[0];
    assert_eq!((request.line.as_str(), request.body.as_str()), ("PUT /devbox/v1/report", "{}"));
    assert_eq!(request.header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn a_401_is_answered_with_one_new_session() {
    let server = Server::start(|_, request| match request.line.contains("session") {
        true => reply(200, &[FLAVOR], "s1"),
        false => reply(401, &[FLAVOR], ""),
    })
    .await;
    assert_eq!(put(&server).await.unwrap_err().code, Code::ReportDenied);
    assert_eq!(server.lines(), ["PUT /devbox/v1/report", "PUT /devbox/v1/session", "PUT /devbox/v1/report"]);
}

#[tokio::test]
async fn refusals_are_told_from_what_may_pass() {
    for (status, code) in [
        (400, Code::ReportDenied),
        (403, Code::ReportDenied),
        (409, Code::ReportDenied),
        (413, Code::ReportDenied),
        (302, Code::ReportDenied),
        (404, Code::ReportUnreachable),
        (429, Code::ReportUnreachable),
        (503, Code::ReportUnreachable),
    ] {
        let second = Server::start(|_, _| reply(204, &[FLAVOR], "")).await;
        let target = second.url().to_string();
        let server = Server::start(move |_, _| {
            reply(status, &[FLAVOR, ("Location", &target), ("Retry-After", "9")], "\u{1b}[2Jno")
        })
        .await;
        let fault = put(&server).await.unwrap_err();
        assert_eq!((fault.code, server.requests().len(), second.requests().len()), (code, 1, 0), "{status}");
        assert!(!fault.detail.contains('\u{1b}') && fault.detail.contains(&status.to_string()), "{}", fault.detail);
        assert_eq!(fault.retry_after, (status != 302).then_some(Duration::from_secs(9)), "{status}");
    }
}

#[tokio::test]
async fn a_sink_that_is_absent_or_hostile_is_unreachable() {
    let hostile = [
        vec![Step::Hang],
        vec![Step::Close],
        vec![
            Step::Send(b"HTTP/1.1 200 X\r\nMetadata-Flavor: Devbox\r\nContent-Length: 1073741824\r\n\r\n".to_vec()),
            Step::Endless(vec![b'x'; 4096]),
        ],
        vec![Step::Drip(b"HTTP/1.1 200 X\r\nMetadata-Flavor: Devbox\r\n\r\n".to_vec(), Duration::from_millis(100))],
        reply(204, &[], ""),
    ];
    for steps in hostile {
        let server = Server::start(move |_, _| steps.clone()).await;
        assert_eq!(put(&server).await.unwrap_err().code, Code::ReportUnreachable);
        assert!(server.sent() < 16 << 20);
    }
    let nobody = Nobody::new();
    let nobody = sink(Endpoint::Url(nobody.url())).put(Vec::new()).await;
    assert_eq!(nobody.unwrap_err().code, Code::ReportUnreachable);
}
