//! Where a credential is. Somebody may have put the credential itself there, so that no value is repeated.

use std::os::fd::RawFd;

use toml::Value;

use super::place::absolute;
use super::{Checked, digits, text, words};
use crate::config::settings::{SecretFile, TokenSource};
use crate::sys::descriptor::FIRST;

/// `NAME_MAX` of Linux: a credential's name is that of a file (`CREDENTIALS` in systemd.exec(5)).
const CREDENTIAL_NAME_MAX: usize = 255;

/// A program's absolute path and its arguments.
pub fn command(value: &Value) -> Checked<TokenSource> {
    let argv: Vec<String> = words(value)?.into_iter().map(str::to_owned).collect();
    absolute(argv.first().ok_or("it is empty")?)?;
    if argv.iter().any(|word| word.contains('\0')) {
        return Err("an argument contains a NUL".into());
    }
    Ok(TokenSource::Command(argv))
}

/// A path, `credential:NAME`, `env:NAME` or `fd:N`. Somebody may have put the token itself here, so the value is not repeated.
pub fn token(value: &Value) -> Checked<TokenSource> {
    match text(value)?.split_once(':') {
        Some(("env", name)) if is_variable(name) => Ok(TokenSource::Environment(name.to_owned())),
        Some(("env", _)) => Err("the part after env: is not the name of a variable".into()),
        Some(("fd", number)) => descriptor(number).map(TokenSource::Descriptor),
        _ => secret_file(value).map(TokenSource::File),
    }
}

/// A number that is not standard input, output or error, which are for other things.
fn descriptor(number: &str) -> Checked<RawFd> {
    let number = digits(number).and_then(|number| RawFd::try_from(number).ok());
    number
        .filter(|number| *number >= FIRST)
        .ok_or_else(|| format!("the part after fd: is not a number from {FIRST} on"))
}

/// A path or `credential:NAME`. Somebody may have put the secret itself here, so the value is not repeated.
pub fn secret_file(value: &Value) -> Checked<SecretFile> {
    let written = text(value)?;
    match written.strip_prefix("credential:") {
        Some(name) if is_credential(name) => Ok(SecretFile::Credential(name.to_owned())),
        Some(_) => Err("the part after credential: is not the name of one".into()),
        None => absolute(written).map(SecretFile::Path).map_err(|_| "it is none of these".into()),
    }
}

/// What can neither leave the directory of credentials nor is refused by systemd, which allows no colon.
fn is_credential(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=CREDENTIAL_NAME_MAX).contains(&name.len()) && name.chars().all(plain) && !matches!(name, "." | "..")
}

/// POSIX, Base Definitions §8.1, with lower case as well.
fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
