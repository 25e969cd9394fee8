//! What a report must look like, checked field by field.

use serde::Deserialize;
use serde_json::Value;

/// The phases that a status document may name.
const PHASES: &[&str] = &[
    "waiting_for_metadata",
    "unassigned",
    "checking_identity",
    "starting_daemon",
    "authenticating",
    "joining",
    "online",
    "degraded",
    "blocked",
    "stopped",
    "leaving",
    "left",
];

/// Members that are objects, or null or absent while nothing is known.
const SECTIONS: &[&str] = &["instance", "node", "daemon", "agent", "boot", "identity", "metadata"];

/// What surrounds the status document in a report; unknown members are later versions' additions.
#[derive(Deserialize)]
pub(super) struct Envelope {
    version: u64,
    pub(super) instance_id: String,
    pub(super) boot_id: String,
    pub(super) boottime_ms: u64,
    pub(super) generation: Option<String>,
    sent_at: String,
    pub(super) status: Value,
}

/// Reads a report, or says which field is wrong.
pub(super) fn parse(body: &[u8]) -> Result<Envelope, String> {
    let envelope: Envelope = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if envelope.version != 1 {
        return Err(format!("version is {}, not 1", envelope.version));
    }
    if envelope.boot_id.is_empty() {
        return Err("boot_id is empty".to_owned());
    }
    humantime::parse_rfc3339(&envelope.sent_at).map_err(|error| format!("sent_at: {error}"))?;
    check_status(&envelope.status)?;
    Ok(envelope)
}

fn check_status(status: &Value) -> Result<(), String> {
    let members = status.as_object().ok_or("status is no object")?;
    if members.get("version").and_then(Value::as_u64) != Some(1) {
        return Err("status.version is not 1".to_owned());
    }
    let phase = members.get("phase").and_then(Value::as_str).unwrap_or_default();
    if !PHASES.contains(&phase) {
        return Err(format!("status.phase is {phase:?}, which is no phase"));
    }
    let wrong =
        SECTIONS.iter().find(|name| members.get(**name).is_some_and(|value| !value.is_object() && !value.is_null()));
    match wrong {
        Some(name) => Err(format!("status.{name} is neither an object nor null")),
        None => Ok(()),
    }
}
