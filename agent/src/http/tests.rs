use super::testing::{Nobody, Server, Step, reply};
use super::*;

fn transport() -> Transport {
    Transport { connect: Duration::from_secs(3), proxy: None, socket: None, tls: false, keep_alive: true }
}

/// Long enough for a loopback server under load, short where a test waits for the deadline itself.
fn limits(head: u64, body: u64) -> Limits {
    Limits {
        head: Duration::from_millis(head),
        body: Duration::from_millis(body),
        total: Duration::from_secs(30),
        cap: 1000,
    }
}

const PATIENT: u64 = 10_000;
const SHORT: u64 = 100;

async fn get(url: Url, limits: Limits) -> Result<Answer, HttpError> {
    send(client(&transport())?.get(url), limits).await
}

async fn failure(url: Url, limits: Limits) -> Failure {
    match get(url, limits).await {
        Ok(answer) => panic!("answered {}", answer.status),
        Err(error) => error.failure(),
    }
}

#[tokio::test]
async fn an_answer_is_read_whole_and_the_agent_names_itself() {
    let server = Server::start(|_, _| reply(200, &[("Date", "Tue, 14 Nov 2023 22:13:20 GMT")], "hello")).await;
    let answer = get(server.url(), limits(PATIENT, PATIENT)).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.body.as_slice()), (200, b"hello".as_slice()));
    assert_eq!(answer.date(), Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)));
    let request = &server.requests()[0];
    assert_eq!(request.header("user-agent"), Some(concat!("devbox-agent/", env!("CARGO_PKG_VERSION"))));
    assert_eq!(request.header("accept-encoding"), None, "no compression is offered");
}

#[tokio::test]
async fn nobody_listening_is_unreachable_but_was_sent() {
    let nobody = Nobody::new();
    assert_eq!(
        failure(nobody.url(), limits(PATIENT, PATIENT)).await,
        Failure::Unreachable { unsent: false },
        "a refusal is an answer to a packet"
    );
}

#[tokio::test]
async fn no_route_is_unreachable_and_unsent() {
    // TCP to the limited broadcast address: the kernel refuses with ENETUNREACH whatever its routes are.
    let url = "http://255.255.255.255:9".parse().unwrap();
    assert_eq!(failure(url, limits(PATIENT, PATIENT)).await, Failure::Unreachable { unsent: true });
}

#[tokio::test]
async fn a_name_that_cannot_resolve_is_dns() {
    // A label of more than 63 characters is no DNS name, so that no resolver is asked.
    let url = format!("http://{}.invalid", "a".repeat(64)).parse().unwrap();
    assert_eq!(failure(url, limits(PATIENT, PATIENT)).await, Failure::Dns);
}

#[tokio::test]
async fn headers_that_drip_are_cut_off_at_the_deadline() {
    let slow =
        |_: usize, _: &_| vec![Step::Drip(b"HTTP/1.1 200 OK\r\n".to_vec(), Duration::from_millis(40)), Step::Hang];
    let server = Server::start(slow).await;
    assert_eq!(failure(server.url(), limits(SHORT, PATIENT)).await, Failure::Timeout);
}

#[tokio::test]
async fn a_body_that_drips_is_cut_off_at_the_deadline() {
    let server = Server::start(|_, _| {
        vec![
            Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n".to_vec()),
            Step::Drip(vec![b'x'; 500], Duration::from_millis(40)),
        ]
    })
    .await;
    assert_eq!(failure(server.url(), limits(PATIENT, SHORT)).await, Failure::Timeout);
}

#[tokio::test]
async fn the_total_deadline_cuts_the_others_short() {
    let server = Server::start(|_, _| vec![Step::Hang]).await;
    let short = Limits { total: Duration::from_millis(SHORT), ..limits(PATIENT, PATIENT) };
    assert_eq!(failure(server.url(), short).await, Failure::Timeout);
}

#[tokio::test]
async fn a_terabyte_that_is_announced_is_refused_before_it_is_read() {
    let server = Server::start(|_, _| {
        vec![Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n".to_vec()), Step::Hang]
    })
    .await;
    assert_eq!(failure(server.url(), limits(PATIENT, PATIENT)).await, Failure::Malformed);
}

#[tokio::test]
async fn a_body_without_end_is_cut_at_the_cap() {
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(4096)).into_bytes();
    let server = Server::start(move |_, _| {
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        vec![Step::Send(head), Step::Endless(chunk.clone())]
    })
    .await;
    let wide = Limits { cap: BODY_MAX, ..limits(PATIENT, PATIENT) };
    assert_eq!(failure(server.url(), wide).await, Failure::Malformed);
    // What the socket buffers took besides is the kernel's choice, bounded by tcp_wmem and tcp_rmem.
    assert!(server.sent() < 16 << 20, "{} bytes", server.sent());
}

#[tokio::test]
async fn a_body_of_exactly_the_cap_is_read() {
    let server = Server::start(|_, _| reply(200, &[], &"x".repeat(1000))).await;
    assert_eq!(get(server.url(), limits(PATIENT, PATIENT)).await.unwrap().body.len(), 1000);
    let server = Server::start(|_, _| reply(200, &[], &"x".repeat(1001))).await;
    assert_eq!(failure(server.url(), limits(PATIENT, PATIENT)).await, Failure::Malformed);
}

#[tokio::test]
async fn a_connection_that_breaks_in_the_body_is_broken() {
    let server = Server::start(|_, _| {
        vec![Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nhalf".to_vec()), Step::Close]
    })
    .await;
    assert_eq!(failure(server.url(), limits(PATIENT, PATIENT)).await, Failure::Broken);
    let server = Server::start(|_, _| vec![Step::Close]).await;
    assert_eq!(failure(server.url(), limits(PATIENT, PATIENT)).await, Failure::Broken);
}

#[tokio::test]
async fn what_is_not_http_is_malformed() {
    let server = Server::start(|_, _| vec![Step::Send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec()), Step::Close]).await;
    assert_eq!(failure(server.url(), limits(PATIENT, PATIENT)).await, Failure::Malformed);
}

#[tokio::test]
async fn a_refusal_is_known_by_its_status_whatever_its_body_does() {
    for tail in [Step::Close, Step::Hang, Step::Endless(vec![b'x'; 1024])] {
        let server = Server::start(move |_, _| {
            vec![Step::Send(b"HTTP/1.1 503 X\r\nContent-Length: 9999999\r\n\r\nbusy".to_vec()), tail.clone()]
        })
        .await;
        let answer = get(server.url(), limits(PATIENT, 300)).await.unwrap();
        assert!(answer.words(&Redactor::default()).starts_with("503: busy"));
        assert!(answer.body.len() <= REFUSAL_MAX);
    }
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let second = Server::start(|_, _| reply(200, &[], "")).await;
    let target = second.url().to_string();
    let first = Server::start(move |_, _| reply(307, &[("Location", &target)], "")).await;
    let answer = get(first.url(), limits(PATIENT, PATIENT)).await.unwrap();
    assert_eq!(answer.words(&Redactor::default()), format!("307 to {}", second.url()));
    assert!(second.requests().is_empty());
}

#[tokio::test]
async fn a_given_proxy_is_used() {
    let proxy = Server::start(|_, _| reply(200, &[], "from the proxy")).await;
    let through = Transport { proxy: Some(proxy.url()), ..transport() };
    let answer = send(client(&through).unwrap().get("http://192.0.2.1/x"), limits(PATIENT, PATIENT)).await.unwrap();
    assert_eq!(answer.body.as_slice(), b"from the proxy");
    assert_eq!(proxy.lines(), ["GET http://192.0.2.1/x"]);
}

#[tokio::test]
async fn a_connection_is_kept_only_when_asked() {
    for (keep_alive, connections) in [(true, 1), (false, 2)] {
        let server = Server::start(|_, _| reply(200, &[], "")).await;
        let client = client(&Transport { keep_alive, ..transport() }).unwrap();
        send(client.get(server.url()), limits(PATIENT, PATIENT)).await.unwrap();
        tokio::task::yield_now().await;
        send(client.get(server.url()), limits(PATIENT, PATIENT)).await.unwrap();
        assert_eq!(server.connections(), connections);
    }
}
