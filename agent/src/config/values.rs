//! What values must look like: each function takes a TOML value and returns it typed, or says what is wrong with it as a clause.
//!
//! The clause is shown to people together with the key's own `expected`. What may hold a credential by mistake is not repeated in it.

use std::net::IpAddr;
use std::os::fd::RawFd;
use std::path::PathBuf;

use reqwest::Url;
use toml::Value;
use tracing_subscriber::filter::Targets;

use super::fragment::with_article;
use super::settings::{Endpoint, SecretFile, SpecField, TokenSource};
use crate::core::reason::printable;
use crate::sys::descriptor::FIRST;

/// A typed value, or what is wrong with it.
pub type Checked<T> = Result<T, String>;

/// `sun_path` of `sockaddr_un` has 108 bytes, one of them for the NUL.
const SOCKET_PATH_MAX: usize = 107;

/// What leaves room in a socket's path for `/tailscaled.sock`, the longest name in the runtime directory.
const RUNTIME_PATH_MAX: usize = SOCKET_PATH_MAX - "/tailscaled.sock".len();

/// `IFNAMSIZ` of Linux is 16, one of them for the NUL.
const INTERFACE_NAME_MAX: usize = 15;

/// RFC 1123 (and RFC 1035 §2.3.4): a label has at most 63 octets.
const LABEL_MAX: usize = 63;

/// `UNIT_NAME_MAX` of systemd is 256, one of them for the NUL.
const UNIT_NAME_MAX: usize = 255;

/// `NAME_MAX` of Linux: a credential's name is that of a file (`CREDENTIALS` in systemd.exec(5)).
const CREDENTIAL_NAME_MAX: usize = 255;

/// The most tags that a spec may have.
const TAGS_MAX: usize = 16;

/// The longest instance id and client id, in characters.
const ID_MAX: usize = 128;

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

/// `https`, or `http` to an IP literal: who answers for a name without TLS decides what the agent believes.
pub fn url(value: &Value) -> Checked<Url> {
    let written = text(value)?;
    let url = any_url(written)?;
    let plain_to_name = url.scheme() == "http" && !is_literal(&url);
    if plain_to_name { Err(format!("{} is plain http to a name", quoted(written))) } else { Ok(url) }
}

/// The same, or `unix:/path`.
pub fn endpoint(value: &Value) -> Checked<Endpoint> {
    match text(value)?.strip_prefix("unix:") {
        Some(path) => socket_path(path).map(Endpoint::Unix),
        None => url(value).map(Endpoint::Url),
    }
}

/// A proxy: also plain `http` to a name, because what goes through it is TLS of its own.
pub fn proxy(value: &Value) -> Checked<Url> {
    any_url(text(value)?)
}

fn any_url(written: &str) -> Checked<Url> {
    if written.contains('@') {
        return Err("it has a user or password in it".into());
    }
    let url: Url = written.parse().map_err(|error| format!("{} is not a URL ({error})", quoted(written)))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("{} has the scheme \"{}\"", quoted(written), url.scheme()));
    }
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    if bare { Ok(url) } else { Err(format!("{} has more than scheme, host and port", quoted(written))) }
}

/// Whether a URL names its host by address.
pub fn is_literal(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}

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

/// An absolute path.
pub fn path(value: &Value) -> Checked<PathBuf> {
    absolute(text(value)?)
}

fn absolute(path: &str) -> Checked<PathBuf> {
    let plain = path.starts_with('/') && !path.contains('\0');
    if plain { Ok(path.into()) } else { Err(format!("{} is not an absolute path", quoted(path))) }
}

fn short(path: &str, max: usize) -> Checked<PathBuf> {
    if path.len() > max { Err(format!("it is {} bytes long", path.len())) } else { absolute(path) }
}

/// The path of a unix socket.
pub fn socket(value: &Value) -> Checked<PathBuf> {
    socket_path(text(value)?)
}

fn socket_path(path: &str) -> Checked<PathBuf> {
    short(path, SOCKET_PATH_MAX)
}

/// A directory for sockets.
pub fn runtime(value: &Value) -> Checked<PathBuf> {
    short(text(value)?, RUNTIME_PATH_MAX)
}

/// A program: an absolute path or a bare name.
pub fn program(value: &Value) -> Checked<PathBuf> {
    let name = text(value)?;
    let bare = !name.is_empty() && !name.contains(['/', '\0']);
    if bare { Ok(name.into()) } else { absolute(name) }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted<T>(check: impl Fn(&Value) -> Checked<T>, values: &[&str]) {
        for value in values {
            assert!(check(&Value::from(*value)).is_ok(), "{value}");
        }
    }

    fn refused<T>(check: impl Fn(&Value) -> Checked<T>, cases: &[(&str, &str)]) {
        for (value, words) in cases {
            let found = check(&Value::from(*value)).err().unwrap_or_else(|| panic!("{value} was accepted"));
            assert!(found.contains(words), "{value}: {found}");
        }
    }

    #[test]
    fn a_url_is_https_or_plain_to_an_address() {
        accepted(
            url,
            &[
                "https://api.example.com",
                "https://api.example.com:8443/",
                "https://xn--bcher-kva.example",
                "http://127.0.0.1:80",
                "http://[::1]",
            ],
        );
        refused(
            url,
            &[
                ("http://metadata.internal", "plain http to a name"),
                ("http://localhost:1", "plain http to a name"),
                ("ftp://127.0.0.1", "scheme \"ftp\""),
                ("example.com", "not a URL"),
                // In ASCII it is xn--bcher-kva.example, which is accepted.
                ("https://bücher.example", "not a URL"),
                ("https://example.com/path", "more than scheme, host and port"),
                ("https://example.com?q", "more than scheme, host and port"),
            ],
        );
    }

    #[test]
    fn a_password_in_a_url_is_refused_and_not_repeated() {
        let found = proxy(&Value::from("http://user:hunter2@proxy:3128")).unwrap_err();
        assert!(found.contains("user or password") && !found.contains("hunter2"), "{found}");
    }

    #[test]
    fn a_token_in_place_of_its_path_is_refused_and_not_repeated() {
        accepted(token, &["/run/token", "env:ID_TOKEN", "env:_x", "fd:3", "credential:devbox-agent.token"]);
        refused(
            token,
            &[("fd:2", "from 3 on"), ("fd:-3", "from 3 on"), ("fd:", "from 3 on"), ("fd:3000000000", "from 3 on")],
        );
        for jwt in ["eyJhbGciOi.e30.c2ln", "env:eyJhbGciOi.e30.c2ln", "credential:eyJhbGciOi/e30"] {
            let found = token(&Value::from(jwt)).err().unwrap();
            assert!(!found.contains("eyJ"), "{found}");
        }
    }

    #[test]
    fn a_credential_is_a_file_name_and_a_variable_is_no_place_for_a_bearer_secret() {
        let credential = |name: &str| Ok(SecretFile::Credential(name.to_owned()));
        assert_eq!(secret_file(&Value::from("credential:devbox-agent.metadata")), credential("devbox-agent.metadata"));
        for name in ["", ".", "..", "a/b", "../shadow", "a b", "a:b", &"x".repeat(256)] {
            refused(secret_file, &[(&format!("credential:{name}"), "not the name of one")]);
        }
        refused(secret_file, &[("env:SECRET", "none of these"), ("secret", "none of these")]);
    }

    #[test]
    fn an_endpoint_is_also_a_short_socket_path() {
        assert_eq!(endpoint(&Value::from("unix:/run/md.sock")), Ok(Endpoint::Unix("/run/md.sock".into())));
        accepted(endpoint, &["http://169.254.169.254"]);
        let long = format!("unix:/{}", "x".repeat(107));
        refused(endpoint, &[("unix:md.sock", "not an absolute path"), (&long, "108 bytes")]);
    }

    #[test]
    fn tags_are_tags_and_come_out_sorted() {
        let list = |tags: &[&str]| Value::from(tags.to_vec());
        assert_eq!(tags(&list(&["tag:web", "tag:ci"])), Ok(vec!["tag:ci".to_owned(), "tag:web".to_owned()]));
        for (bad, words) in [
            (vec!["tag:Dev"], "\"tag:Dev\" is not a tag"),
            (vec!["dev"], "is not a tag"),
            (vec!["tag:"], "is not a tag"),
            (vec!["tag:1"], "is not a tag"),
            (vec!["tag:a_b"], "is not a tag"),
            (vec!["tag:a", "tag:a"], "twice"),
            (vec![], "it has 0"),
        ] {
            let found = tags(&list(&bad)).unwrap_err();
            assert!(found.contains(words), "{bad:?}: {found}");
        }
        let many: Vec<String> = (0..17).map(|n| format!("tag:t{n}")).collect();
        assert_eq!(tags(&Value::from(many)), Err("it has 17".into()));
    }

    #[test]
    fn a_host_name_is_one_label() {
        accepted(hostname, &["a", "web-api", "7", &"x".repeat(63)]);
        for bad in ["", "Web", "a.b", "-a", "a-", "a b", "ä", &"x".repeat(64)] {
            assert!(hostname(&Value::from(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn programs_paths_and_commands_cannot_depend_on_the_working_directory() {
        accepted(program, &["tailscaled", "/usr/sbin/tailscaled"]);
        refused(program, &[("./tailscaled", "absolute"), ("", "absolute")]);
        refused(path, &[("var/lib", "absolute"), ("", "absolute"), ("/a\0b", "absolute")]);
        assert!(command(&Value::from(vec!["/bin/token", "-v"])).is_ok());
        assert_eq!(command(&Value::Array(vec![])), Err("it is empty".into()));
        assert!(command(&Value::from(vec!["token"])).unwrap_err().contains("absolute"));
    }

    #[test]
    fn numbers_keep_their_range() {
        assert_eq!(port(&Value::from(0)), Ok(0));
        assert_eq!(port(&Value::from(65536)), Err("65536 is out of range".into()));
        assert_eq!(version(&Value::from("1.80")), Ok((1, 80)));
        refused(version, &[("1", "no such version"), ("1.80.2", "no such"), ("+1.80", "no such"), ("1.", "no such")]);
        assert_eq!(version(&Value::from(1.8)), Err("it is a float".into()));
    }

    #[test]
    fn a_misspelt_level_is_not_a_module() {
        accepted(log_level, &["info", "off", "info,devbox_agent::metadata=debug", "warn,hyper=info"]);
        refused(log_level, &[("inof", "\"inof\" is not a level"), ("a=loud", "not a filter"), ("", "not a level")]);
    }

    #[test]
    fn identifiers_and_interfaces_have_their_letters() {
        accepted(instance, &["i-4f2c", "A.b_c"]);
        refused(instance, &[("", "not an instance id"), ("a/b", "not"), (&"x".repeat(129), "not")]);
        accepted(client_id, &["kAbC123CNTRL-x"]);
        refused(client_id, &[("", "not a client id"), ("a b", "not"), ("a/b", "not")]);
        accepted(interface, &["tailscale0", "userspace-networking"]);
        refused(interface, &[("sixteen-letters-", "neither"), ("a/b", "neither"), ("..", "neither")]);
    }
}
