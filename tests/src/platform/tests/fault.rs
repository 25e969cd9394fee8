use std::time::Duration;

use tokio::time::Instant;

use super::super::fault::{EVERY_ROUTE, Fault};
use super::super::wire::Wire;
use super::{Front, LIMIT, machine};

const PATH: &str = "/devbox/v1/instance";
const ROUTE: &str = "GET /devbox/v1/instance";

async fn status(front: &Front) -> u16 {
    front.get(machine(2), PATH).send().await.expect("an answer").status().as_u16()
}

#[tokio::test]
async fn queued_faults_come_first_and_standing_ones_stay() {
    let front = Front::start();
    let faults = &front.metadata.server.faults;
    faults.next(ROUTE, Fault::status(503));
    faults.next(ROUTE, Fault::none());
    faults.always(ROUTE, Fault::status(429));
    faults.always(EVERY_ROUTE, Fault::status(418));
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(status(&front).await);
    }
    assert_eq!(seen, [503, 200, 429, 429]);
    faults.clear(ROUTE);
    assert_eq!(status(&front).await, 418);
    faults.clear_all();
    assert_eq!(status(&front).await, 200);
    let logged: Vec<_> = front.metadata.server.log.of(ROUTE).iter().map(|seen| seen.status).collect();
    assert_eq!(logged, [503, 200, 429, 429, 418, 200].map(Some));
}

#[tokio::test]
async fn headers_and_body_are_replaced_or_missing() {
    let front = Front::start();
    let faults = &front.metadata.server.faults;
    faults.next(ROUTE, Fault::status(429).retry_after("30").body("slow down"));
    let response = front.get(machine(2), PATH).send().await.expect("an answer");
    assert_eq!(response.headers()["retry-after"], "30");
    assert_eq!(response.headers()["metadata-flavor"], "Devbox", "a scripted answer still comes from this server");
    assert_eq!(response.text().await.expect("text"), "slow down");

    faults.next(ROUTE, Fault::none().without_header("metadata-flavor"));
    let response = front.get(machine(2), PATH).send().await.expect("an answer");
    assert!(!response.headers().contains_key("metadata-flavor"));

    faults.next(ROUTE, Fault::redirect(307, "http://192.0.2.1/"));
    let response = front.get(machine(2), PATH).send().await.expect("an answer");
    assert_eq!(
        (response.status().as_u16(), &response.headers()["location"]),
        (307, &"http://192.0.2.1/".parse().expect("a header"))
    );
}

#[tokio::test]
async fn a_dropped_connection_has_no_answer_and_a_truncated_one_half_of_it() {
    let front = Front::start();
    let faults = &front.metadata.server.faults;
    faults.next(ROUTE, Fault::drop_connection());
    assert!(front.get(machine(2), PATH).send().await.is_err());
    faults.next(ROUTE, Fault::wire(Wire::Truncate(10)));
    let mut response = front.get(machine(2), PATH).send().await.expect("a head");
    assert_eq!(response.status(), 200);
    assert_eq!(response.chunk().await.expect("a part").expect("bytes").len(), 10);
    assert!(response.chunk().await.is_err());
}

#[tokio::test]
async fn a_drip_takes_as_long_as_its_rate_says() {
    let front = Front::start();
    let faults = &front.metadata.server.faults;
    let started = Instant::now();
    faults.next(ROUTE, Fault::none().body("x".repeat(100)).on_wire(Wire::DripBody(500)));
    let response = front.get(machine(2), PATH).send().await.expect("a head");
    assert_eq!(response.text().await.expect("a body").len(), 100);
    assert!(started.elapsed() >= Duration::from_millis(180), "{:?}", started.elapsed());

    faults.next(ROUTE, Fault::wire(Wire::Drip(1)));
    let head = tokio::time::timeout(Duration::from_millis(200), front.get(machine(2), PATH).send()).await;
    assert!(head.is_err(), "the head comes a byte a second");
}

#[tokio::test]
async fn an_endless_answer_goes_on_until_the_client_cuts_it() {
    let front = Front::start();
    let faults = &front.metadata.server.faults;
    for wire in [Wire::EndlessChunks, Wire::Announce(1 << 40)] {
        faults.next(ROUTE, Fault::wire(wire));
        let mut response = front.get(machine(2), PATH).send().await.expect("a head");
        assert_eq!(response.headers()["metadata-flavor"], "Devbox");
        let mut read = 0;
        while read < 100_000 {
            read += response.chunk().await.expect("a part").expect("more").len();
        }
        drop(response);
        let seen = front.metadata.server.log.of(ROUTE).pop().expect("the request");
        let cut = async {
            while !seen.connection_closed() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LIMIT, cut).await.expect("the server notices");
        assert!((100_000..1 << 20).contains(&seen.bytes_sent()), "{wire:?}: {}", seen.bytes_sent());
    }
}

#[tokio::test]
async fn a_held_request_waits_for_its_release_even_after_the_server_has_acted() {
    let front = Front::start();
    let (fault, hold) = Fault::hold();
    front.metadata.server.faults.next("PUT /devbox/v1/report", fault.late());
    let body = super::report::report("i-1", "a", 1);
    let held = tokio::spawn(front.put(machine(2), "/devbox/v1/report").body(body).send());
    front.reports.wait_for("i-1", LIMIT, |_| true).await.expect("the report is stored");
    assert!(!held.is_finished());
    hold.release();
    let response = tokio::time::timeout(LIMIT, held).await.expect("in time").expect("no panic").expect("an answer");
    assert_eq!(response.status(), 204);
}

#[tokio::test]
async fn everything_seen_can_be_searched() {
    let front = Front::start();
    let log = &front.metadata.server.log;
    let request = front.put(machine(2), "/devbox/v1/report?where=canary-query");
    let sent = request.header("x-note", "canary-header").body("canary-body").send().await.expect("an answer");
    assert_eq!(sent.status(), 400);
    for canary in ["canary-query", "canary-header", "canary-body"] {
        assert_eq!(log.containing(canary).len(), 1, "{canary}");
    }
    assert_eq!(log.containing("canary-else").len(), 0);
}
