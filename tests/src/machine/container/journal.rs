//! A booted machine's journal, as `journalctl -o json` gives it (systemd.journal-fields(7)).

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

/// One entry. Times are of CLOCK_MONOTONIC, which the machine shares with its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    fields: BTreeMap<String, String>,
}

impl Entry {
    /// Reads one line of `journalctl -o json`; none when it is not an object.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let fields: BTreeMap<String, Value> = serde_json::from_str(line).ok()?;
        Some(Self { fields: fields.into_iter().map(|(name, value)| (name, text(&value))).collect() })
    }

    /// A field's value, by its name in the journal; the first when it is there more than once.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// What was said.
    pub fn message(&self) -> &str {
        self.field("MESSAGE").unwrap_or_default()
    }

    /// The unit that said it; for what PID 1 says of a unit, see the field `UNIT`.
    pub fn unit(&self) -> Option<&str> {
        self.field("_SYSTEMD_UNIT")
    }

    /// How grave it is (syslog(3)): 3 an error, 4 a warning, 6 information.
    pub fn priority(&self) -> Option<u8> {
        self.field("PRIORITY")?.parse().ok()
    }

    /// When it was said.
    pub fn at(&self) -> Option<Duration> {
        Some(Duration::from_micros(self.field("__MONOTONIC_TIMESTAMP")?.parse().ok()?))
    }
}

/// journalctl writes text as text, other bytes as numbers, and a field with several values as a list of these.
fn text(value: &Value) -> String {
    let byte = |value: &Value| value.as_u64().and_then(|number| u8::try_from(number).ok());
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => match values.iter().map(byte).collect::<Option<Vec<u8>>>() {
            Some(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            None => values.first().map(text).unwrap_or_default(),
        },
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_says_who_what_and_when() {
        let line = r#"{"MESSAGE":"Started.","PRIORITY":"6","_SYSTEMD_UNIT":"init.scope","UNIT":"a.service","__MONOTONIC_TIMESTAMP":"1500000"}"#;
        let entry = Entry::parse(line).expect("an object");
        assert_eq!((entry.message(), entry.unit(), entry.priority()), ("Started.", Some("init.scope"), Some(6)));
        assert_eq!((entry.field("UNIT"), entry.at()), (Some("a.service"), Some(Duration::from_millis(1500))));
    }

    #[test]
    fn bytes_and_lists_are_read_as_text() {
        let entry = Entry::parse(r#"{"MESSAGE":[104,255,105],"TAG":["one","two"],"LONG":null}"#).expect("an object");
        assert_eq!(entry.message(), "h\u{fffd}i");
        assert_eq!((entry.field("TAG"), entry.field("LONG")), (Some("one"), Some("")));
        assert_eq!(Entry::parse("-- No entries --"), None);
    }
}
