//! The status document, version 1: one for `status --json`, the socket, `status.json` and the report. Additive changes only.

use serde::{Deserialize, Serialize};

use crate::clock::BootTime;
use crate::core::phase::Phase;
use crate::core::reason::{Class, Code};

/// Everything the agent says of itself and of the node; no secrets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// Always 1.
    pub version: u32,
    /// This machine as the platform knows it; absent before the first spec.
    pub instance: Option<InstanceStatus>,
    /// Where the agent is.
    pub phase: Phase,
    /// Why it is not online, if it is not.
    pub reason: Option<Reason>,
    /// What is true besides.
    pub notices: Vec<Reason>,
    /// When the phase began, RFC 3339.
    pub since: String,
    /// The same on CLOCK_BOOTTIME, in milliseconds.
    pub since_ms: BootTime,
    /// The node as the tailnet knows it; absent before tailscaled has one.
    pub node: Option<NodeStatus>,
    /// tailscaled.
    pub daemon: DaemonStatus,
    /// This agent.
    pub agent: AgentStatus,
    /// How this boot went.
    pub boot: Boot,
    /// Whose node tailscaled has.
    pub identity: Identity,
    /// Where the spec came from.
    pub metadata: MetadataStatus,
}

/// `instance`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// The platform's id.
    pub id: String,
    /// `devbox`, `runner` or free text.
    pub kind: String,
    /// The name people gave it.
    pub name: Option<String>,
    /// Whose it is.
    pub workspace: Option<String>,
    /// Which run of the machine.
    pub generation: Option<String>,
}

/// A row of the reason table with this case's detail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reason {
    /// The fixed code.
    pub code: Code,
    /// How it stands between the node and `online`.
    pub class: Class,
    /// The row's sentence.
    pub sentence: String,
    /// What a person does about it.
    pub remedy: String,
    /// This case: the chain of causes.
    pub detail: String,
    /// When the agent tries again, RFC 3339.
    pub next_try: Option<String>,
}

/// `node`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The stable node id.
    pub id: String,
    /// The name, the first label of `dns_name`.
    pub name: String,
    /// The FQDN, without trailing dot.
    pub dns_name: String,
    /// The tailnet addresses.
    pub addresses: Vec<String>,
    /// The tags granted.
    pub tags: Vec<String>,
    /// Whether control holds it as connected, as far as is proven.
    pub online: bool,
    /// When that was last proven after a resume, RFC 3339.
    pub proven_at: Option<String>,
    /// When the node key expires, RFC 3339; absent when it does not.
    pub key_expiry: Option<String>,
    /// The home relay (DERP region).
    pub relay: String,
}

/// `daemon`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// tailscaled's version; empty while unknown.
    pub version: String,
    /// Its state's name; empty while unknown.
    pub backend_state: String,
    /// What it thinks is wrong.
    pub health: Vec<String>,
    /// How often it was started again in this run of the agent.
    pub restarts: u32,
}

/// `agent`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// The agent's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// When it started, RFC 3339.
    pub started_at: String,
}

/// `boot`: the timeline from the agent's start, in CLOCK_BOOTTIME.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// The stages, in order of their start; they overlap.
    pub stages: Vec<Stage>,
    /// When the node was first online.
    pub online_ms: Option<BootTime>,
}

/// One stage of the boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// `spec`, `daemon`, `connect`, `token`, `exchange`, `mint`, `login`, `join`.
    pub name: String,
    /// When it started.
    pub start_ms: BootTime,
    /// How long it took, milliseconds.
    pub duration_ms: u64,
}

/// `identity`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// `unknown`, `fresh`, `ours`, `foreign` or `other_instance`.
    pub verdict: String,
    /// What the verdict rests on, as sentences.
    pub evidence: Vec<String>,
}

/// `metadata`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataStatus {
    /// The provider's name.
    pub provider: String,
    /// The tag of the document in force.
    pub etag: Option<String>,
    /// When it was last read or confirmed, RFC 3339.
    pub fetched_at: Option<String>,
}

/// Writes the document on one line, as the socket and `status.json` carry it.
pub fn json(document: &Document) -> Vec<u8> {
    // Strings, numbers and lists of them: there is nothing that JSON cannot say.
    serde_json::to_vec(document).expect("a document of plain values is JSON")
}
