//! The fields of requests: what a value may be is checked where it is read, so that no verb sees another.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::config::values::is_label;
use crate::secret::Secret;
use crate::tailscaled::Preferences;

/// The longest key; Tailscale's have about 60 characters.
const KEY_MAX: usize = 512;

/// Why a value cannot stand in a request. The value itself is not repeated: it may be a key in the wrong place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// It is no host name.
    #[error("the host name is not a label of RFC 1123 in lower case")]
    Hostname,
    /// It is no auth key.
    #[error("the auth key is not printable ASCII of 1 to {KEY_MAX} characters without spaces, quotes and backslashes")]
    Key,
}

/// A host name of one label (RFC 1123 §2.1), in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

impl Label {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Label {
    type Error = FieldError;

    fn try_from(name: String) -> Result<Self, FieldError> {
        if is_label(&name) { Ok(Self(name)) } else { Err(FieldError::Hostname) }
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0
    }
}

/// A one-time auth key.
///
/// Serialising it is how it gets to the helper, and nothing else may: so it is no part of any type that is printed or stored.
#[derive(Clone)]
pub struct AuthKey(Secret<String>);

impl AuthKey {
    /// Lends the key to the one place that hands it to tailscaled.
    pub fn secret(&self) -> &Secret<String> {
        &self.0
    }
}

impl TryFrom<Secret<String>> for AuthKey {
    type Error = FieldError;

    fn try_from(key: Secret<String>) -> Result<Self, FieldError> {
        if is_key(key.expose()) { Ok(Self(key)) } else { Err(FieldError::Key) }
    }
}

fn is_key(text: &str) -> bool {
    // A quote or a backslash would have to be escaped in JSON, and the decoder would copy the key into memory that nobody wipes.
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\\');
    (1..=KEY_MAX).contains(&text.len()) && text.chars().all(plain)
}

impl Serialize for AuthKey {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.0.expose())
    }
}

impl<'de> Deserialize<'de> for AuthKey {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        // Borrowed from the message, which is wiped: the only copy is the one made here.
        let text = <&str>::deserialize(from)?;
        Self::try_from(Secret::new(text.to_owned())).map_err(de::Error::custom)
    }
}

/// The preferences that the daemon decides. Not the control URL: the helper has that from root's own configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodePreferences {
    /// The name to ask for.
    pub hostname: Label,
    /// Use the tailnet's DNS.
    pub accept_dns: bool,
    /// Use routes that other nodes advertise.
    pub accept_routes: bool,
    /// Run Tailscale SSH.
    pub ssh: bool,
}

impl NodePreferences {
    /// The preferences as tailscaled is told them.
    pub fn with_control_url(&self, control_url: &str) -> Preferences {
        Preferences {
            control_url: control_url.to_owned(),
            hostname: self.hostname.as_str().to_owned(),
            accept_dns: self.accept_dns,
            accept_routes: self.accept_routes,
            ssh: self.ssh,
        }
    }
}

impl TryFrom<&Preferences> for NodePreferences {
    type Error = FieldError;

    fn try_from(wanted: &Preferences) -> Result<Self, FieldError> {
        Ok(Self {
            hostname: Label::try_from(wanted.hostname.clone())?,
            accept_dns: wanted.accept_dns,
            accept_routes: wanted.accept_routes,
            ssh: wanted.ssh,
        })
    }
}
