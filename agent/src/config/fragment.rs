//! The first stage: what one file, or one `--set`, says.

use std::path::Path;

use serde::Deserialize;
use toml::de::{DeTable, DeValue, ValueDeserializer};
use toml::{Spanned, Value};

use super::keys::{self, Key, SECTIONS};
use super::problem::{Origin, Problem};

/// A value and where it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// As TOML has it: of any type, not yet checked.
    pub value: Value,
    /// Where it was written.
    pub origin: Origin,
}

/// What one file says: each key at most once, all optional.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fragment(pub Vec<(Key, Input)>);

/// Reads a file's text. Goes on after a problem, so that all of them are reported at once.
///
/// A derived `Deserialize` would stop at its first error; here the table of keys decides what a file may say.
pub fn parse(path: &Path, text: &str, problems: &mut Vec<Problem>) -> Fragment {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        // What was recovered from broken text is a guess, and its problems would be too.
        problems.extend(errors.iter().map(|error| syntax(path, text, error)));
        return Fragment::default();
    }
    let mut reader = FileReader { path, text, fragment: Fragment::default(), problems };
    for (name, value) in table.into_inner() {
        reader.section(&name, value);
    }
    reader.fragment
}

fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> Problem {
    let offset = error.span().map_or(0, |span| span.start);
    Problem::Syntax { origin: Origin::at(path, text, offset), message: error.message().to_owned() }
}

struct FileReader<'a> {
    path: &'a Path,
    text: &'a str,
    fragment: Fragment,
    problems: &'a mut Vec<Problem>,
}

impl FileReader<'_> {
    fn section(&mut self, name: &Spanned<std::borrow::Cow<'_, str>>, value: Spanned<DeValue<'_>>) {
        let section = name.get_ref().as_ref();
        let origin = Origin::at(self.path, self.text, name.span().start);
        if Key::of(section).next().is_none() {
            return self.problems.push(unknown_section(origin, section));
        }
        match value.into_inner() {
            DeValue::Table(table) => table.into_iter().for_each(|(name, value)| self.key(section, &name, value)),
            other => self.problems.push(Problem::Syntax {
                origin,
                message: format!("{section} is a section, not {}; write [{section}]", with_article(other.type_str())),
            }),
        }
    }

    fn key(&mut self, section: &str, name: &Spanned<std::borrow::Cow<'_, str>>, value: Spanned<DeValue<'_>>) {
        let origin = Origin::at(self.path, self.text, name.span().start);
        let Some(key) = Key::find(&format!("{section}.{}", name.get_ref())) else {
            return self.problems.push(unknown_key(origin, section, name.get_ref()));
        };
        match Value::deserialize(ValueDeserializer::from(value)) {
            Ok(value) => self.fragment.0.push((key, Input { value, origin })),
            // A number that does not fit.
            Err(error) => self.problems.push(Problem::Syntax {
                origin,
                message: format!("{}: {}; expected {}", key.name(), error.message(), key.expected()),
            }),
        }
    }
}

/// Reads a `--set section.key=value`: the value is TOML, and a bare word is a string.
pub fn parse_override(argument: &str, problems: &mut Vec<Problem>) -> Fragment {
    let origin = Origin::CommandLine;
    let (name, text) = argument.split_once('=').map_or((argument, None), |(name, text)| (name.trim(), Some(text)));
    let (Some(text), Some((section, leaf))) = (text, name.split_once('.')) else {
        problems.push(Problem::Override { argument: name.to_owned() });
        return Fragment::default();
    };
    let Some(key) = Key::find(name) else {
        let known = Key::of(section).next().is_some();
        problems.push(if known { unknown_key(origin, section, leaf) } else { unknown_section(origin, section) });
        return Fragment::default();
    };
    match value(text.trim()) {
        Ok(value) => Fragment(vec![(key, Input { value, origin })]),
        Err(error) => {
            problems.push(Problem::Syntax { origin, message: format!("{name}: {}", error.message()) });
            Fragment::default()
        }
    }
}

fn value(text: &str) -> Result<Value, toml::de::Error> {
    // What starts like a list, table or quoted string was meant as one.
    text.parse().or_else(|error| if text.starts_with(['[', '{', '"', '\'']) { Err(error) } else { Ok(text.into()) })
}

fn unknown_section(origin: Origin, section: &str) -> Problem {
    let near = keys::nearest(section, SECTIONS.iter().map(|(name, _)| *name)).map(|name| format!("[{name}]"));
    Problem::Unknown { origin, what: "section", name: format!("[{section}]"), near }
}

fn unknown_key(origin: Origin, section: &str, name: &str) -> Problem {
    let near = keys::nearest_key(section, name).map(|key| key.name().to_owned());
    Problem::Unknown { origin, what: "key", name: format!("{section}.{name}"), near }
}

/// The TOML type's name as a sentence has it.
pub fn with_article(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {kind}")
}
