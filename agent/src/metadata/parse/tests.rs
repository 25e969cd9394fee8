use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::core::reason::Fault;

fn full() -> Value {
    json!({
        "version": 1,
        "instance": {"id": "i-4f2c", "kind": "runner", "name": "web-api", "workspace": "acme", "generation": "7"},
        "tailnet": {"client_id": "kAbC123", "tags": ["tag:devbox", "tag:a"], "hostname": "Web API", "lifecycle": "ephemeral",
                    "accept_dns": false, "accept_routes": true, "ssh": true, "epoch": 3},
        "report": {"interval_s": 90},
        "unknown": {"anything": [1, 2]}
    })
}

/// The full document with the value at a JSON pointer replaced.
fn with(pointer: &str, value: Value) -> Vec<u8> {
    let mut document = full();
    *document.pointer_mut(pointer).expect("the field is in the full document") = value;
    document.to_string().into_bytes()
}

fn fault(bytes: &[u8]) -> Fault {
    Fault::from(&parse(bytes).expect_err("the document is wrong"))
}

#[test]
fn every_field_of_the_protocol_is_read() {
    let document = parse(full().to_string().as_bytes()).unwrap();
    assert_eq!(
        document,
        Document {
            instance: Instance {
                id: "i-4f2c".into(),
                kind: "runner".into(),
                name: Some("web-api".into()),
                workspace: Some("acme".into()),
                generation: Some("7".into()),
            },
            tailnet: Section::Node(Node {
                client_id: Some("kAbC123".into()),
                tags: Some(vec!["tag:devbox".into(), "tag:a".into()]),
                hostname: Some("web-api".into()),
                lifecycle: Some(Lifecycle::Ephemeral),
                accept_dns: Some(false),
                accept_routes: Some(true),
                ssh: Some(true),
                epoch: 3,
            }),
            report_interval: Duration::from_secs(90),
        }
    );
}

#[test]
fn the_least_document_has_an_id_and_says_nothing_of_a_tailnet() {
    let document = parse(br#"{"version":1,"instance":{"id":"i-1"}}"#).unwrap();
    assert_eq!(document.tailnet, Section::Absent);
    assert_eq!((document.instance.kind.as_str(), document.report_interval), ("devbox", REPORT_INTERVAL));
}

#[test]
fn a_null_tailnet_is_not_an_absent_one_but_other_nulls_are() {
    assert_eq!(parse(&with("/tailnet", Value::Null)).unwrap().tailnet, Section::Null);
    assert_eq!(parse(&with("/instance/name", Value::Null)).unwrap().instance.name, None);
    assert_eq!(parse(&with("/report", Value::Null)).unwrap().report_interval, REPORT_INTERVAL);
}

#[test]
fn a_wrong_value_is_refused_by_the_name_of_its_field() {
    let many: Vec<String> = (0..17).map(|i| format!("tag:t{i}")).collect();
    for (pointer, value, field) in [
        ("/instance", json!("i-1"), "instance"),
        ("/instance/id", json!("../etc"), "instance.id"),
        ("/instance/id", json!(""), "instance.id"),
        ("/instance/id", json!("x".repeat(129)), "instance.id"),
        ("/instance/id", json!(7), "instance.id"),
        ("/instance/kind", json!(true), "instance.kind"),
        ("/instance/name", json!("a\nb"), "instance.name"),
        ("/instance/name", json!("x".repeat(257)), "instance.name"),
        ("/instance/workspace", json!([]), "instance.workspace"),
        ("/instance/generation", json!(7), "instance.generation"),
        ("/tailnet", json!([]), "tailnet"),
        ("/tailnet", json!(false), "tailnet"),
        ("/tailnet/client_id", json!(""), "tailnet.client_id"),
        ("/tailnet/client_id", json!("k?ephemeral=false"), "tailnet.client_id"),
        ("/tailnet/client_id", json!("a b"), "tailnet.client_id"),
        ("/tailnet/tags", json!([]), "tailnet.tags"),
        ("/tailnet/tags", json!("tag:a"), "tailnet.tags"),
        ("/tailnet/tags", json!(many), "tailnet.tags"),
        ("/tailnet/tags", json!(["tag:a", "b"]), "tailnet.tags[1]"),
        ("/tailnet/tags", json!(["tag:a", 1]), "tailnet.tags[1]"),
        ("/tailnet/tags", json!(["tag:A"]), "tailnet.tags[0]"),
        ("/tailnet/tags", json!(["tag:1a"]), "tailnet.tags[0]"),
        ("/tailnet/tags", json!(["tag:"]), "tailnet.tags[0]"),
        ("/tailnet/tags", json!(["tag:a,tag:b"]), "tailnet.tags[0]"),
        ("/tailnet/tags", json!(["tag:a", "tag:b", "tag:a"]), "tailnet.tags[2]"),
        ("/tailnet/hostname", json!("---"), "tailnet.hostname"),
        ("/tailnet/hostname", json!(""), "tailnet.hostname"),
        ("/tailnet/hostname", json!({}), "tailnet.hostname"),
        ("/tailnet/lifecycle", json!("forever"), "tailnet.lifecycle"),
        ("/tailnet/accept_dns", json!("true"), "tailnet.accept_dns"),
        ("/tailnet/accept_routes", json!(1), "tailnet.accept_routes"),
        ("/tailnet/ssh", json!("no"), "tailnet.ssh"),
        ("/tailnet/epoch", json!(-1), "tailnet.epoch"),
        ("/tailnet/epoch", json!(1.5), "tailnet.epoch"),
        ("/report", json!(60), "report"),
        ("/report/interval_s", json!(9), "report.interval_s"),
        ("/report/interval_s", json!(3601), "report.interval_s"),
        ("/report/interval_s", json!("60"), "report.interval_s"),
        ("/version", json!("1"), "version"),
        ("/version", Value::Null, "version"),
    ] {
        let fault = fault(&with(pointer, value.clone()));
        assert_eq!(fault.code, Code::MetadataValue, "{pointer} = {value}");
        assert!(fault.detail.starts_with(&format!("{field}: expected ")), "{pointer} = {value}: {}", fault.detail);
    }
}

#[test]
fn what_is_required_is_missed_by_name() {
    let missing = fault(br#"{"version":1,"instance":{}}"#);
    assert_eq!(missing.detail, "instance.id: expected a string, found nothing");
    assert_eq!(fault(br#"{"version":1}"#).detail, "instance: expected an object, found nothing");
}

#[test]
fn another_version_is_not_guessed_at() {
    let fault = fault(&with("/version", json!(2)));
    assert_eq!((fault.code, fault.detail.contains("version 2")), (Code::MetadataVersion, true));
}

#[test]
fn what_is_no_document_is_invalid() {
    let deep = "[".repeat(10_000);
    for garbage in
        [&b""[..], b"\0\0", b"<html>portal</html>", b"\xff\xfe", b"[1]", b"null", b"{\"version\":1", deep.as_bytes()]
    {
        assert_eq!(fault(garbage).code, Code::MetadataInvalid);
    }
}

#[test]
fn a_hostile_value_is_quoted_short_and_harmless() {
    let fault = fault(&with("/tailnet/hostname", json!(format!("\u{9b}{}", "-".repeat(100_000)))));
    assert!(fault.detail.len() < 200 && !fault.detail.contains(char::is_control), "{}", fault.detail);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        drop(parse(&bytes));
    }

    #[test]
    fn no_value_anywhere_makes_it_panic_or_pass_a_bad_hostname(name in any::<String>(), epoch in any::<i64>()) {
        let mut document = full();
        document["tailnet"]["hostname"] = json!(name);
        document["tailnet"]["epoch"] = json!(epoch);
        if let Ok(Document { tailnet: Section::Node(node), .. }) = parse(document.to_string().as_bytes()) {
            let label = node.hostname.unwrap();
            prop_assert_eq!(hostname::sanitise(&label), Some(label));
        }
    }
}
