//! What values must look like: each function takes a TOML value and returns it typed, or says what is wrong with it as a clause.
//!
//! The clause is shown to people together with the key's own `expected`. What may hold a credential by mistake is not repeated in it.

mod credential;
mod name;
mod place;
#[cfg(test)]
mod tests;

use toml::Value;
use tracing_subscriber::filter::Targets;

pub use self::credential::{command, secret_file, token};
pub use self::name::{client_id, hostname, identity, instance, integration, interface, is_label, service_unit, tags};
pub use self::place::{endpoint, literal, path, program, proxy, runtime, socket, url};
use super::fragment::with_article;
use super::settings::SpecField;
use crate::core::reason::printable;

/// A typed value, or what is wrong with it.
pub type Checked<T> = Result<T, String>;

fn quoted(text: &str) -> String {
    // As much as says which value is meant.
    format!("\"{}\"", printable(text, 80))
}

fn mismatch(value: &Value) -> String {
    format!("it is {}", with_article(value.type_str()))
}

/// A string.
pub fn text(value: &Value) -> Checked<&str> {
    value.as_str().ok_or_else(|| mismatch(value))
}

/// A truth value.
pub fn flag(value: &Value) -> Checked<bool> {
    value.as_bool().ok_or_else(|| mismatch(value))
}

/// A list of strings.
pub fn words(value: &Value) -> Checked<Vec<&str>> {
    let list = value.as_array().ok_or_else(|| mismatch(value))?;
    list.iter().map(|item| item.as_str().ok_or_else(|| format!("in the list, {}", mismatch(item)))).collect()
}

/// One of a fixed set of words.
pub fn one_of<T: Copy>(value: &Value, choices: &[(&str, T)]) -> Checked<T> {
    choice(text(value)?, choices)
}

fn choice<T: Copy>(word: &str, choices: &[(&str, T)]) -> Checked<T> {
    let found = choices.iter().find(|(name, _)| *name == word).map(|(_, choice)| *choice);
    found.ok_or_else(|| format!("{} is none of these", quoted(word)))
}

/// The words of `metadata.may_set`.
pub const SPEC_FIELDS: &[(&str, SpecField)] = &[
    ("client_id", SpecField::ClientId),
    ("tags", SpecField::Tags),
    ("hostname", SpecField::Hostname),
    ("lifecycle", SpecField::Lifecycle),
    ("accept_dns", SpecField::AcceptDns),
    ("accept_routes", SpecField::AcceptRoutes),
    ("ssh", SpecField::Ssh),
];

/// Fields of the spec, sorted, each once.
pub fn spec_fields(value: &Value) -> Checked<Vec<SpecField>> {
    let mut fields: Vec<SpecField> =
        words(value)?.into_iter().map(|word| choice(word, SPEC_FIELDS)).collect::<Result<_, _>>()?;
    fields.sort();
    fields.dedup();
    Ok(fields)
}

/// A UDP port, or 0.
pub fn port(value: &Value) -> Checked<u16> {
    let number = value.as_integer().ok_or_else(|| mismatch(value))?;
    u16::try_from(number).map_err(|_| format!("{number} is out of range"))
}

/// A version's first two numbers.
pub fn version(value: &Value) -> Checked<(u32, u32)> {
    let written = text(value)?;
    let numbers = written.split_once('.').and_then(|(major, minor)| Some((digits(major)?, digits(minor)?)));
    numbers.ok_or_else(|| format!("{} is no such version", quoted(written)))
}

fn digits(text: &str) -> Option<u32> {
    // `parse` alone would take a sign.
    text.chars().all(|c| c.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// A filter for `tracing`. A word alone must be a level: the filter would take a misspelt one as the name of a module.
pub fn log_level(value: &Value) -> Checked<Targets> {
    let filter = text(value)?;
    if let Some(bad) = filter.split(',').find(|word| !word.contains('=') && !is_level(word)) {
        return Err(format!("{} is not a level", quoted(bad)));
    }
    filter.parse().map_err(|error| format!("{} is not a filter ({error})", quoted(filter)))
}

fn is_level(word: &str) -> bool {
    ["error", "warn", "info", "debug", "trace", "off"].contains(&word)
}
