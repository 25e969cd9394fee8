//! The schemas in `agent/schema` against the types that they describe.

use jsonschema::{Registry, Validator};
use serde_json::{Value, json};

use super::document::Document;
use super::samples::{newborn, reason, sample};
use crate::core::phase::Phase;
use crate::core::reason::Code;

const STATUS: &str = include_str!("../../schema/status.schema.json");
const REPORT: &str = include_str!("../../schema/report.schema.json");
const METADATA: &str = include_str!("../../schema/metadata.schema.json");

fn parsed(schema: &str) -> Value {
    serde_json::from_str(schema).expect("a schema is JSON")
}

fn schema(text: &str) -> Validator {
    let (text, status) = (parsed(text), parsed(STATUS));
    jsonschema::draft202012::meta::validate(&text).expect("a schema of draft 2020-12");
    let registry = Registry::new()
        .add("json-schema:///status.schema.json", &status)
        .and_then(|registry| registry.prepare())
        .expect("a registry");
    jsonschema::options().with_registry(&registry).build(&text).expect("a schema")
}

fn faults(schema: &Validator, instance: &Value) -> Vec<String> {
    schema.iter_errors(instance).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

fn documents() -> Vec<Document> {
    let mut documents: Vec<Document> = Phase::ALL.iter().copied().map(sample).collect();
    documents.push(newborn());
    for code in Code::ALL {
        let mut document = sample(Phase::Blocked);
        document.reason = Some(reason(*code, "", Some("2026-01-02T14:19:11.250Z")));
        document.notices = vec![reason(*code, "detail", None)];
        documents.push(document);
    }
    documents
}

#[test]
fn every_document_that_the_agent_can_make_is_valid() {
    let schema = schema(STATUS);
    for document in documents() {
        assert_eq!(faults(&schema, &json!(document)), [""; 0], "{document:?}");
    }
}

#[test]
fn the_schema_names_every_field_of_the_document() {
    let schema = parsed(STATUS);
    let mut document = sample(Phase::Online);
    document.reason = Some(reason(Code::Unproven, "", None));
    let document = json!(document);
    let parts = ["", "/instance", "/node", "/daemon", "/agent", "/boot", "/identity", "/metadata"];
    for part in parts {
        let described =
            schema.pointer(&format!("{}/properties", part.replace('/', "/properties/"))).expect("a description");
        for field in document.pointer(part).and_then(Value::as_object).expect("an object").keys() {
            assert!(described.get(field).is_some(), "{part}/{field} is not described");
        }
    }
    for field in document["reason"].as_object().expect("a reason").keys() {
        assert!(schema["$defs"]["reason"]["properties"].get(field).is_some(), "reason/{field} is not described");
    }
}

#[test]
fn a_document_that_is_wrong_in_one_place_is_refused_there() {
    let schema = schema(STATUS);
    let wrong = [
        ("/version", json!(2)),
        ("/phase", json!("happy")),
        ("/since", json!("yesterday")),
        ("/since_ms", json!(-1)),
        ("/reason", json!({ "code": "Dns" })),
        ("/node/addresses", json!("100.64.0.7")),
        ("/boot/stages/0/duration_ms", json!("12 ms")),
        ("/instance/id", json!("i 4f2c")),
    ];
    for (place, value) in wrong {
        let mut document = json!(sample(Phase::Online));
        *document.pointer_mut(place).expect("a place") = value;
        let faults = faults(&schema, &document);
        assert!(faults.iter().all(|fault| fault.starts_with(place)) && !faults.is_empty(), "{place}: {faults:?}");
    }
    let mut document = json!(sample(Phase::Online));
    document.as_object_mut().expect("an object").remove("daemon");
    assert_eq!(faults(&schema, &document).len(), 1);
}

#[test]
fn fields_of_a_later_agent_are_let_through() {
    let mut document = json!(sample(Phase::Online));
    document["node"]["seen_from"] = json!("a later version");
    document["weather"] = json!("fine");
    assert_eq!(faults(&schema(STATUS), &document), [""; 0]);
}

#[test]
fn a_report_is_an_envelope_around_a_valid_status() {
    let schema = schema(REPORT);
    let mut report = json!({
        "version": 1,
        "instance_id": "i-4f2c",
        "boot_id": "5c9ef4ea-9b5c-4d0e-8b1c-1c1f6d1e9a33",
        "boottime_ms": 12_345,
        "generation": null,
        "sent_at": "2026-01-02T14:02:11Z",
        "status": sample(Phase::Online),
    });
    assert_eq!(faults(&schema, &report), [""; 0]);
    report["status"]["phase"] = json!("happy");
    assert!(faults(&schema, &report)[0].starts_with("/status/phase: "), "the status within is checked as well");
}

fn spec() -> Value {
    json!({
        "version": 1,
        "instance": { "id": "i-4f2c", "kind": "devbox", "name": "web-api", "workspace": "acme", "generation": "7" },
        "tailnet": { "client_id": "kAbC123", "tags": ["tag:devbox"], "hostname": "web-api", "lifecycle": "persistent",
                     "accept_dns": true, "accept_routes": false, "ssh": false, "epoch": 0 },
        "report": { "interval_s": 60 },
    })
}

#[test]
fn the_spec_may_be_full_short_silent_or_say_leave() {
    let schema = schema(METADATA);
    assert_eq!(faults(&schema, &spec()), [""; 0]);
    for tailnet in [json!(null), json!({ "client_id": "k", "tags": ["tag:ci"] })] {
        let mut spec = spec();
        spec["tailnet"] = tailnet;
        assert_eq!(faults(&schema, &spec), [""; 0]);
    }
    assert_eq!(faults(&schema, &json!({ "version": 1, "instance": { "id": "i" } })), [""; 0]);
}

#[test]
fn a_wrong_value_of_the_spec_is_refused_in_its_place() {
    let schema = schema(METADATA);
    let wrong = [
        ("/version", json!(2)),
        ("/instance/id", json!("")),
        ("/tailnet/tags", json!([])),
        ("/tailnet/tags", json!(["tag:ci", "tag:ci"])),
        ("/tailnet/tags/0", json!("tag:CI")),
        ("/tailnet/lifecycle", json!("eternal")),
        ("/tailnet/ssh", json!("yes")),
        ("/report/interval_s", json!(5)),
    ];
    for (place, value) in wrong {
        let mut spec = spec();
        *spec.pointer_mut(place).expect("a place") = value;
        let faults = faults(&schema, &spec);
        assert!(faults.iter().all(|fault| fault.starts_with(place)) && !faults.is_empty(), "{place}: {faults:?}");
    }
}
