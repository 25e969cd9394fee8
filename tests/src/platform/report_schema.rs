//! What a report must look like: the published schema, and what no schema can say.

use std::sync::LazyLock;

use jsonschema::{Registry, Validator};
use serde::Deserialize;
use serde_json::Value;

const REPORT: &str = include_str!("../../../agent/schema/report.schema.json");
const STATUS: &str = include_str!("../../../agent/schema/status.schema.json");

/// The published schemas are part of the source tree: a wrong one is a mistake of this program.
static SCHEMA: LazyLock<Validator> = LazyLock::new(|| {
    let [report, status] = [REPORT, STATUS].map(|text| serde_json::from_str::<Value>(text).expect("a schema is JSON"));
    let registry = Registry::new()
        .add("json-schema:///status.schema.json", &status)
        .and_then(|registry| registry.prepare())
        .expect("a registry of one schema");
    jsonschema::options().with_registry(&registry).build(&report).expect("the report's schema is valid")
});

/// What surrounds the status document in a report; unknown members are later versions' additions.
#[derive(Deserialize)]
pub(super) struct Envelope {
    pub(super) instance_id: String,
    pub(super) boot_id: String,
    pub(super) boottime_ms: u64,
    pub(super) generation: Option<String>,
    sent_at: String,
    pub(super) status: Value,
}

/// Reads a report, or says what is wrong with it.
pub(super) fn parse(body: &[u8]) -> Result<Envelope, String> {
    let report: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let wrong: Vec<_> =
        SCHEMA.iter_errors(&report).map(|error| format!("{}: {error}", error.instance_path())).collect();
    if !wrong.is_empty() {
        return Err(wrong.join("; "));
    }
    let envelope: Envelope = serde_json::from_value(report).map_err(|error| error.to_string())?;
    humantime::parse_rfc3339(&envelope.sent_at).map_err(|error| format!("sent_at: {error}"))?;
    Ok(envelope)
}
