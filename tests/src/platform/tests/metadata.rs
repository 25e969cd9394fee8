use serde_json::Value;

use super::super::instance::{InstanceSpec, TailnetWish};
use super::{Front, LIMIT, answer, client, machine};

const INSTANCE: &str = "/devbox/v1/instance";

#[tokio::test]
async fn what_did_not_come_straight_is_refused_on_every_path() {
    let front = Front::start();
    let refused = [
        ("metadata-flavor", "Google"),
        ("x-forwarded-for", "10.0.0.1"),
        ("forwarded", "for=10.0.0.1"),
        ("via", "1.1 proxy"),
        ("host", "metadata.attacker.test"),
        ("host", "localhost"),
    ];
    for path in [INSTANCE, "/devbox/v1/token", "/devbox/v1/session", "/devbox/v1/report", "/", "/nowhere"] {
        for (name, value) in refused {
            for method in [reqwest::Method::GET, reqwest::Method::PUT, reqwest::Method::DELETE] {
                let request = client(machine(2)).request(method.clone(), front.url(path));
                let request =
                    if name == "metadata-flavor" { request } else { request.header("metadata-flavor", "Devbox") };
                let response = request.header(name, value).send().await.expect("an answer");
                assert_eq!(response.status(), 403, "{method} {path} with {name}: {value}");
                assert_eq!(response.headers()["metadata-flavor"], "Devbox");
            }
        }
    }
    let bare = client(machine(2)).get(front.url(INSTANCE)).send().await.expect("an answer");
    assert_eq!(bare.status(), 403);
}

#[tokio::test]
async fn a_machine_is_known_by_its_address_through_the_relay() {
    let front = Front::start();
    front.instances.add(InstanceSpec::new("i-2", "runner", "acme", machine(3)));
    for (from, id) in [(machine(2), "i-1"), (machine(3), "i-2")] {
        let (status, spec) = answer(front.get(from, INSTANCE)).await;
        assert_eq!((status, &spec["instance"]["id"]), (200, &Value::from(id)));
    }
    let stranger = front.get(machine(4), INSTANCE).send().await.expect("an answer");
    assert_eq!(stranger.status(), 404);
    assert_eq!(front.metadata.server.log.of("GET /devbox/v1/instance")[2].peer, machine(4));
}

#[tokio::test]
async fn every_answer_has_the_protocols_headers() {
    let front = Front::start();
    let response = front.get(machine(2), INSTANCE).send().await.expect("an answer");
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    assert_eq!(header("content-type"), Some("application/json"));
    assert_eq!(header("metadata-flavor"), Some("Devbox"));
    assert_eq!(header("cache-control"), Some("no-store"));
    assert!(header("date").is_some());
    assert!(header("etag").is_some());
}

#[tokio::test]
async fn an_instance_still_being_made_is_asked_to_come_again() {
    let front = Front::start();
    front.instances.change("i-1", |spec| spec.provisioned = false).expect("the instance");
    for path in [INSTANCE, "/devbox/v1/token?audience=a"] {
        let response = front.get(machine(2), path).send().await.expect("an answer");
        assert_eq!(
            (response.status().as_u16(), &response.headers()["retry-after"]),
            (404, &"1".parse().expect("a header"))
        );
    }
}

#[tokio::test]
async fn absent_and_null_tailnet_are_told_apart() {
    let front = Front::start();
    front.instances.change("i-1", |spec| spec.tailnet = TailnetWish::Unsaid).expect("the instance");
    let (_, unsaid) = answer(front.get(machine(2), INSTANCE)).await;
    front.instances.change("i-1", |spec| spec.tailnet = TailnetWish::Leave).expect("the instance");
    let (_, leave) = answer(front.get(machine(2), INSTANCE)).await;
    assert_eq!((unsaid.get("tailnet"), leave.get("tailnet")), (None, Some(&Value::Null)));
}

#[tokio::test]
async fn a_held_request_is_answered_when_the_document_changes() {
    let front = Front::start();
    let first = front.get(machine(2), INSTANCE).send().await.expect("an answer");
    let etag = first.headers()["etag"].to_str().expect("text").to_owned();

    let unchanged = front.get(machine(2), INSTANCE).header("if-none-match", &etag).send().await.expect("an answer");
    assert_eq!(unchanged.status(), 304);

    let held = front.get(machine(2), &format!("{INSTANCE}?wait_s=55")).header("if-none-match", &etag);
    let held = tokio::spawn(held.send());
    front.metadata.server.log.wait_for("GET /devbox/v1/instance", 3, LIMIT).await.expect("the held request");
    front.instances.change("i-1", |spec| spec.generation = Some(2)).expect("the instance");
    let response = tokio::time::timeout(LIMIT, held).await.expect("in time").expect("no panic").expect("an answer");
    assert_eq!(response.status(), 200);
    assert_ne!(response.headers()["etag"], etag.as_str());
    let spec: Value = response.json().await.expect("JSON");
    assert_eq!(spec["instance"]["generation"], "2");
}

#[tokio::test]
async fn a_held_request_ends_unchanged_when_its_time_is_over() {
    let front = Front::start();
    let etag = front.instances.get("i-1").expect("the instance").etag;
    let started = tokio::time::Instant::now();
    let held = front.get(machine(2), &format!("{INSTANCE}?wait_s=1")).header("if-none-match", &etag);
    assert_eq!(held.send().await.expect("an answer").status(), 304);
    assert!(started.elapsed() >= std::time::Duration::from_secs(1));
}

#[tokio::test]
async fn sessions_are_for_the_machine_that_opened_them() {
    let front = Front::start();
    front.instances.add(InstanceSpec::new("i-2", "runner", "acme", machine(3)));
    front.metadata.sessions.require(true);
    assert_eq!(front.get(machine(2), INSTANCE).send().await.expect("an answer").status(), 401);
    for ttl in ["0", "21601", "soon"] {
        let request = front.put(machine(2), "/devbox/v1/session").header("metadata-session-ttl", ttl);
        assert_eq!(request.send().await.expect("an answer").status(), 400, "{ttl}");
    }
    let open = front.put(machine(2), "/devbox/v1/session").header("metadata-session-ttl", "60");
    let session = open.send().await.expect("an answer").text().await.expect("text");
    let with = |from| front.get(from, INSTANCE).header("metadata-session", &session);
    assert_eq!(with(machine(2)).send().await.expect("an answer").status(), 200);
    assert_eq!(with(machine(3)).send().await.expect("an answer").status(), 401);
    front.metadata.sessions.revoke_all();
    assert_eq!(with(machine(2)).send().await.expect("an answer").status(), 401);
}

#[tokio::test]
async fn each_token_is_new_and_names_the_instance() {
    let front = Front::start();
    assert_eq!(front.get(machine(2), "/devbox/v1/token").send().await.expect("an answer").status(), 400);
    let mut ids = Vec::new();
    for _ in 0..2 {
        let (_, body) = answer(front.get(machine(2), "/devbox/v1/token?audience=them")).await;
        let jwt = body["token"].as_str().expect("a token");
        let claims: Value = jsonwebtoken::dangerous::insecure_decode_claims(jwt).expect("claims");
        assert_eq!((&claims["sub"], &claims["aud"]), (&Value::from("acme/i-1"), &Value::from("them")));
        assert_eq!(claims["iss"], Value::from(front.issuer.url()));
        let expires = humantime::parse_rfc3339(body["expires_at"].as_str().expect("a time")).expect("RFC 3339");
        let expires = expires.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
        assert_eq!(claims["exp"], Value::from(expires));
        ids.push(claims["jti"].clone());
    }
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn a_report_is_taken_from_the_machine_it_speaks_for() {
    let front = Front::start();
    let body = super::report::report("i-1", "boot-a", 1);
    let sent = front.put(machine(2), "/devbox/v1/report").body(body.clone()).send().await.expect("an answer");
    assert_eq!(sent.status(), 204);
    front.instances.add(InstanceSpec::new("i-2", "runner", "acme", machine(3)));
    let forged = front.put(machine(3), "/devbox/v1/report").body(body).send().await.expect("an answer");
    assert_eq!(forged.status(), 403);
    assert_eq!((front.reports.all("i-1").len(), front.reports.violations().len()), (1, 1));
}
