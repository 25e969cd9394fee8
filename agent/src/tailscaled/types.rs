//! LocalAPI's documents, as far as the agent reads them; unknown fields are tolerated, missing ones have defaults.

use serde::{Deserialize, Deserializer};

use super::redact::redact;
use crate::core::reason::printable;

/// Reads null as absent: Go writes null for what is not set.
fn lenient<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// `ipnstate.Status` (`GET status?peers=false`).
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Status {
    /// tailscaled's long version.
    #[serde(deserialize_with = "lenient")]
    pub version: String,
    /// The name of the state, e.g. `NeedsLogin`.
    #[serde(deserialize_with = "lenient")]
    pub backend_state: String,
    /// Whether there is a node key.
    #[serde(deserialize_with = "lenient")]
    pub have_node_key: bool,
    /// Where any local user could log this machine in; empty when none stands.
    #[serde(rename = "AuthURL", deserialize_with = "lenient")]
    pub auth_url: String,
    /// The node's addresses.
    #[serde(rename = "TailscaleIPs")]
    pub tailscale_ips: Option<Vec<String>>,
    /// This node.
    #[serde(rename = "Self", deserialize_with = "lenient")]
    pub node: Node,
    /// What tailscaled thinks is wrong, in sentences.
    #[serde(deserialize_with = "lenient")]
    pub health: Vec<String>,
}

/// The most of health's sentences, and of the characters of each, that are kept: they are shown, and reported within 16 KiB.
const HEALTH_MAX: (usize, usize) = (16, 256);

impl Status {
    /// The status as it may be shown to everybody: health quotes the last login error, and that may quote a key or a login URL.
    pub(super) fn presentable(mut self) -> Self {
        let (sentences, characters) = HEALTH_MAX;
        self.health.truncate(sentences);
        for sentence in &mut self.health {
            *sentence = printable(&redact(sentence), characters);
        }
        self
    }
}

/// The node itself (`Self`, an `ipnstate.PeerStatus`).
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Node {
    /// The stable node id; empty before the first netmap.
    #[serde(rename = "ID", deserialize_with = "lenient")]
    pub id: String,
    /// `nodekey:…`.
    #[serde(deserialize_with = "lenient")]
    pub public_key: String,
    /// The name asked for.
    #[serde(deserialize_with = "lenient")]
    pub host_name: String,
    /// The name granted: an FQDN with a trailing dot; empty before the first netmap.
    #[serde(rename = "DNSName", deserialize_with = "lenient")]
    pub dns_name: String,
    /// The tags granted.
    #[serde(deserialize_with = "lenient")]
    pub tags: Vec<String>,
    /// Whether a map poll with control is live.
    #[serde(deserialize_with = "lenient")]
    pub online: bool,
    /// When the node key expires, RFC 3339; none when it does not (tagged nodes).
    pub key_expiry: Option<String>,
    /// Whether the key has expired.
    #[serde(deserialize_with = "lenient")]
    pub expired: bool,
    /// The home DERP region's code.
    #[serde(deserialize_with = "lenient")]
    pub relay: String,
}

/// The preferences that the agent owns (design §5); everything else belongs to the user and survives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Preferences {
    /// Where the node is registered, without a slash at the end.
    pub control_url: String,
    /// The name to ask for.
    pub hostname: String,
    /// Use the tailnet's DNS (`CorpDNS`).
    pub accept_dns: bool,
    /// Use routes that other nodes advertise (`RouteAll`).
    pub accept_routes: bool,
    /// Run Tailscale SSH (`RunSSH`).
    pub ssh: bool,
}

/// What tailscaled's preferences are now, as far as the agent cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentPreferences {
    /// The rows that the agent keeps.
    pub owned: Preferences,
    /// `AutoUpdate.Apply`, which the agent keeps false; also true while unset, because then the tailnet's default decides.
    pub auto_update: bool,
    /// `WantRunning`.
    pub want_running: bool,
    /// `LoggedOut`.
    pub logged_out: bool,
}

/// A message of the bus (`ipn.Notify`); an unset field means unchanged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Notify {
    /// The first message of a session: a snapshot, not a change.
    pub initial: bool,
    /// The state, by the name that `status` uses.
    pub state: Option<&'static str>,
    /// The preferences.
    pub prefs: Option<CurrentPreferences>,
    /// A rejection by the control server, in its own words (the "fell behind" text never gets here).
    pub error: Option<String>,
    /// An AuthURL stands (`BrowseToURL`).
    pub browse: bool,
    /// The words of health's `login-state` warning: `Some(None)` when health says that there is none.
    pub login_state: Option<Option<String>>,
    /// This node changed (`SelfChange`): read the status again.
    pub self_changed: bool,
}
