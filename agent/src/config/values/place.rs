//! Where something is: URLs, paths and programs.

use std::net::IpAddr;
use std::path::PathBuf;

use reqwest::Url;
use toml::Value;

use super::{Checked, quoted, text};
use crate::config::settings::Endpoint;

/// `sun_path` of `sockaddr_un` has 108 bytes, one of them for the NUL.
const SOCKET_PATH_MAX: usize = 107;

/// What leaves room in a socket's path for the longest name in the runtime directory.
const RUNTIME_PATH_MAX: usize = SOCKET_PATH_MAX - "/tailscaled-notify.sock".len();

/// `https`, or `http` to an IP literal: who answers for a name without TLS decides what the agent believes.
pub fn url(value: &Value) -> Checked<Url> {
    let written = text(value)?;
    let url = any_url(written)?;
    let plain_to_name = url.scheme() == "http" && literal(&url).is_none();
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

/// The address by which a URL names its host, if it does not by a name. An IPv6 address is in brackets there.
pub fn literal(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_matches(['[', ']']).parse().ok()
}

/// An absolute path.
pub fn path(value: &Value) -> Checked<PathBuf> {
    absolute(text(value)?)
}

pub(super) fn absolute(path: &str) -> Checked<PathBuf> {
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
