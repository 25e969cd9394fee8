//! Names of other people's things: instances, tags, hosts, units.

use toml::Value;

use super::{Checked, quoted, text, words};

/// `IFNAMSIZ` of Linux is 16, one of them for the NUL.
const INTERFACE_NAME_MAX: usize = 15;

/// RFC 1123 (and RFC 1035 §2.3.4): a label has at most 63 octets.
const LABEL_MAX: usize = 63;

/// `UNIT_NAME_MAX` of systemd is 256, one of them for the NUL.
const UNIT_NAME_MAX: usize = 255;

/// The most tags that a spec may have.
const TAGS_MAX: usize = 16;

/// The longest instance id and client id, in characters.
const ID_MAX: usize = 128;

/// The name of a service unit (systemd.unit(5)): at most 255 characters of a fixed set.
pub fn service_unit(value: &Value) -> Checked<&str> {
    let name = text(value)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    let named = name.strip_suffix(".service").is_some_and(|stem| !stem.is_empty());
    if named && name.len() <= UNIT_NAME_MAX && name.chars().all(plain) {
        Ok(name)
    } else {
        Err(format!("{} is no service unit's name", quoted(name)))
    }
}

/// The platform's id of an instance.
pub fn instance(value: &Value) -> Checked<String> {
    let id = text(value)?;
    let plain = (1..=ID_MAX).contains(&id.len());
    let plain = plain && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    if plain { Ok(id.to_owned()) } else { Err(format!("{} is not an instance id", quoted(id))) }
}

/// The name of one of a workspace's integrations, which has no form that is known here.
pub fn integration(value: &Value) -> Checked<String> {
    let name = text(value)?;
    let plain = (1..=ID_MAX).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    if plain { Ok(name.to_owned()) } else { Err(format!("{} is no name", quoted(name))) }
}

/// A service account's name or a managed identity's client id; it becomes a part of a URL's path or query.
pub fn identity(value: &Value) -> Checked<String> {
    let name = text(value)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@' | ':');
    let valid = (1..=ID_MAX).contains(&name.len()) && name.chars().all(plain) && !matches!(name, "." | "..");
    if valid { Ok(name.to_owned()) } else { Err(format!("{} is not an identity", quoted(name))) }
}

/// A federated credential's client id; it becomes part of the audience, a URL without scheme.
pub fn client_id(value: &Value) -> Checked<String> {
    let id = text(value)?;
    let plain = (1..=ID_MAX).contains(&id.len()) && id.chars().all(|c| c.is_ascii_graphic() && c != '/');
    if plain { Ok(id.to_owned()) } else { Err(format!("{} is not a client id", quoted(id))) }
}

/// Tags, sorted.
pub fn tags(value: &Value) -> Checked<Vec<String>> {
    let mut tags: Vec<String> = words(value)?.into_iter().map(str::to_owned).collect();
    if let Some(bad) = tags.iter().find(|tag| !is_tag(tag)) {
        return Err(format!("{} is not a tag", quoted(bad)));
    }
    if tags.is_empty() || tags.len() > TAGS_MAX {
        return Err(format!("it has {}", tags.len()));
    }
    tags.sort();
    match tags.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("{} stands there twice", quoted(&pair[0]))),
        None => Ok(tags),
    }
}

fn is_tag(tag: &str) -> bool {
    let name = tag.strip_prefix("tag:").unwrap_or_default();
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// A host name of one label (RFC 1123 §2.1), in lower case.
pub fn hostname(value: &Value) -> Checked<String> {
    let name = text(value)?;
    if is_label(name) { Ok(name.to_owned()) } else { Err(format!("{} is not a host name", quoted(name))) }
}

/// Whether `name` is a label of RFC 1123 §2.1 in lower case.
pub fn is_label(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=LABEL_MAX).contains(&name.len()) && !name.starts_with('-') && !name.ends_with('-') && name.chars().all(plain)
}

/// A network interface's name, or tailscaled's word for none.
pub fn interface(value: &Value) -> Checked<String> {
    let name = text(value)?;
    let plain = (1..=INTERFACE_NAME_MAX).contains(&name.len());
    let plain = plain && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    // The kernel refuses these two as file names.
    let plain = plain && !matches!(name, "." | "..");
    if plain || name == "userspace-networking" {
        Ok(name.to_owned())
    } else {
        Err(format!("{} is neither", quoted(name)))
    }
}
