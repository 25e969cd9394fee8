//! The metadata document, parsed and typed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What this instance should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// This machine as the platform knows it.
    pub instance: Instance,
    /// Whether it should have a node, and which.
    pub tailnet: Wanted,
    /// How often a report is sent when nothing changes.
    pub report_interval: Duration,
}

/// This machine as the platform knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Unique for the life of the instance; at most 128 characters of `[A-Za-z0-9._-]`.
    pub id: String,
    /// Free text; `runner` makes the default lifecycle ephemeral.
    pub kind: String,
    /// The name people gave it, if any.
    pub name: Option<String>,
    /// Whose it is, if the platform says so.
    pub workspace: Option<String>,
    /// Changed by the platform at each resume or restore; opaque.
    pub generation: Option<String>,
}

/// What the spec says of the tailnet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// Nothing is said: what is in force stays, and a machine that never joined is unassigned.
    Unsaid,
    /// Leave the tailnet.
    Nothing,
    /// Be this node.
    Node(Tailnet),
}

/// The node that this instance should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tailnet {
    /// The federated credential's client id.
    pub client_id: String,
    /// 1–16 tags, sorted, without duplicates.
    pub tags: Vec<String>,
    /// An RFC 1123 label, already sanitised.
    pub hostname: String,
    /// Whether the node outlives the machine's run.
    pub lifecycle: Lifecycle,
    /// Use the tailnet's DNS.
    pub accept_dns: bool,
    /// Use routes that other nodes advertise.
    pub accept_routes: bool,
    /// Run Tailscale SSH.
    pub ssh: bool,
    /// When it grows, the node re-authenticates once.
    pub epoch: u64,
}

/// How long a node lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifecycle {
    /// Node and address survive pause and reboot (a devbox).
    Persistent,
    /// The node goes when the machine stops (a runner).
    Ephemeral,
}
