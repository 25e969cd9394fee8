//! The metadata document: JSON to a [`Document`], refusing what is wrong by the field's name.

use std::time::Duration;

use serde_json::{Map, Value};

use super::document::{Document, Node, REPORT_INTERVAL, Section};
use super::spec::{Instance, Lifecycle};
use super::{hostname, value};
use crate::core::reason::{Code, Reasoned, printable};

/// The version of the document that this agent speaks.
const VERSION: u64 = 1;
/// The shortest and longest `report.interval_s` (`devbox/v1`), in seconds.
const INTERVALS: std::ops::RangeInclusive<u64> = 10..=3600;
/// How much of a refused value is quoted, in characters.
const QUOTE_MAX: usize = 40;

/// A document that is not put in force.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// Not a JSON object.
    #[error("failed to read the metadata document as a JSON object")]
    NotJson(#[source] Option<serde_json::Error>),
    /// Another version.
    #[error("failed to read the metadata document: version {0} is not 1")]
    Version(String),
    /// A field with a value that cannot be used.
    #[error("{field}: {expected}, found {found}")]
    Value {
        /// The field's path, such as `tailnet.tags[1]`.
        field: String,
        /// What the protocol asks for.
        expected: String,
        /// What was there, quoted and bounded.
        found: String,
    },
}

impl Reasoned for ParseError {
    fn code(&self) -> Code {
        match self {
            Self::NotJson(_) => Code::MetadataInvalid,
            Self::Version(_) => Code::MetadataVersion,
            Self::Value { .. } => Code::MetadataValue,
        }
    }
}

/// Reads a document of `devbox/v1`; unknown fields are ignored, and a null counts as absent everywhere but for `tailnet` itself.
///
/// # Errors
/// The first field that is wrong, in the order of the protocol's table.
pub fn parse(bytes: &[u8]) -> Result<Document, ParseError> {
    let json: Value = serde_json::from_slice(bytes).map_err(|error| ParseError::NotJson(Some(error)))?;
    let Value::Object(map) = &json else { return Err(ParseError::NotJson(None)) };
    let root = Fields { path: String::new(), map };
    version(&root)?;
    Ok(Document {
        instance: instance(&root.object("instance")?.ok_or_else(|| root.missing("instance", "an object"))?)?,
        tailnet: tailnet(&root)?,
        report_interval: report_interval(&root)?,
    })
}

/// Reads `tailnet` alone, as a platform has it that keeps the rest elsewhere.
///
/// # Errors
/// The first field that is wrong.
pub fn section(bytes: &[u8]) -> Result<Section, ParseError> {
    let json: Value = serde_json::from_slice(bytes).map_err(|error| ParseError::NotJson(Some(error)))?;
    tailnet(&Fields { path: String::new(), map: &Map::from_iter([("tailnet".to_owned(), json)]) })
}

fn version(root: &Fields<'_>) -> Result<(), ParseError> {
    match root.get("version") {
        Some(Value::Number(number)) if number.as_u64() == Some(VERSION) => Ok(()),
        Some(Value::Number(number)) => Err(ParseError::Version(number.to_string())),
        _ => Err(root.missing("version", "a number")),
    }
}

fn instance(fields: &Fields<'_>) -> Result<Instance, ParseError> {
    Ok(Instance {
        id: fields.text("id", value::instance_id)?.ok_or_else(|| fields.missing("id", "a string"))?,
        kind: fields.text("kind", value::text)?.unwrap_or_else(|| "devbox".to_owned()),
        name: fields.text("name", value::text)?,
        workspace: fields.text("workspace", value::text)?,
        generation: fields.text("generation", value::text)?,
    })
}

fn tailnet(root: &Fields<'_>) -> Result<Section, ParseError> {
    match root.map.get("tailnet") {
        None => Ok(Section::Absent),
        Some(Value::Null) => Ok(Section::Null),
        Some(_) => root.object("tailnet")?.map_or(Ok(Section::Null), |fields| Ok(Section::Node(node(&fields)?))),
    }
}

fn node(fields: &Fields<'_>) -> Result<Node, ParseError> {
    Ok(Node {
        client_id: fields.text("client_id", value::client_id)?,
        tags: tags(fields)?,
        hostname: fields.text("hostname", can_be_label)?.and_then(|name| hostname::sanitise(&name)),
        lifecycle: fields.text("lifecycle", |word| lifecycle(word).map(drop))?.and_then(|word| lifecycle(&word).ok()),
        accept_dns: fields.boolean("accept_dns")?,
        accept_routes: fields.boolean("accept_routes")?,
        ssh: fields.boolean("ssh")?,
        epoch: fields.number("epoch", 0..=u64::MAX)?.unwrap_or_default(),
    })
}

fn can_be_label(name: &str) -> Result<(), String> {
    let expected = "expected a name with at least one of [A-Za-z0-9]";
    hostname::sanitise(name).map(drop).ok_or_else(|| expected.to_owned())
}

fn lifecycle(word: &str) -> Result<Lifecycle, String> {
    match word {
        "persistent" => Ok(Lifecycle::Persistent),
        "ephemeral" => Ok(Lifecycle::Ephemeral),
        _ => Err("expected \"persistent\" or \"ephemeral\"".to_owned()),
    }
}

fn tags(fields: &Fields<'_>) -> Result<Option<Vec<String>>, ParseError> {
    let Some(found) = fields.get("tags") else { return Ok(None) };
    let list = found.as_array().ok_or_else(|| fields.wrong("tags", "expected a list of tags", found))?;
    let strings = list.iter().enumerate().map(|(i, one)| {
        one.as_str().map(str::to_owned).ok_or_else(|| fields.wrong(&format!("tags[{i}]"), "expected a string", one))
    });
    let tags: Vec<String> = strings.collect::<Result<_, _>>()?;
    value::tags(&tags).map_err(|(place, expected)| {
        let at = list.iter().enumerate().find(|(i, _)| place == format!("[{i}]")).map_or(found, |(_, one)| one);
        fields.wrong(&format!("tags{place}"), &expected, at)
    })?;
    Ok(Some(tags))
}

fn report_interval(root: &Fields<'_>) -> Result<Duration, ParseError> {
    let Some(fields) = root.object("report")? else { return Ok(REPORT_INTERVAL) };
    Ok(fields.number("interval_s", INTERVALS)?.map_or(REPORT_INTERVAL, Duration::from_secs))
}

/// An object of the document, and where it stands in it.
struct Fields<'a> {
    path: String,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    fn object(&self, name: &str) -> Result<Option<Fields<'a>>, ParseError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Fields { path: format!("{}{name}.", self.path), map })),
            Some(other) => Err(self.wrong(name, "expected an object", other)),
        }
    }

    fn text(&self, name: &str, rule: impl Fn(&str) -> Result<(), String>) -> Result<Option<String>, ParseError> {
        let Some(found) = self.get(name) else { return Ok(None) };
        let text = found.as_str().ok_or_else(|| self.wrong(name, "expected a string", found))?;
        rule(text).map_err(|expected| self.wrong(name, &expected, found))?;
        Ok(Some(text.to_owned()))
    }

    fn boolean(&self, name: &str) -> Result<Option<bool>, ParseError> {
        let Some(found) = self.get(name) else { return Ok(None) };
        found.as_bool().map(Some).ok_or_else(|| self.wrong(name, "expected true or false", found))
    }

    fn number(&self, name: &str, range: std::ops::RangeInclusive<u64>) -> Result<Option<u64>, ParseError> {
        let Some(found) = self.get(name) else { return Ok(None) };
        let number = found.as_u64().filter(|number| range.contains(number));
        let expected = || format!("expected a whole number from {} to {}", range.start(), range.end());
        number.map(Some).ok_or_else(|| self.wrong(name, &expected(), found))
    }

    fn missing(&self, name: &str, kind: &str) -> ParseError {
        self.wrong(name, &format!("expected {kind}"), self.map.get(name).unwrap_or(&Value::Null))
    }

    fn wrong(&self, name: &str, expected: &str, found: &Value) -> ParseError {
        let found = if found.is_null() { "nothing".to_owned() } else { printable(&found.to_string(), QUOTE_MAX) };
        ParseError::Value { field: format!("{}{name}", self.path), expected: expected.to_owned(), found }
    }
}

#[cfg(test)]
mod tests;
