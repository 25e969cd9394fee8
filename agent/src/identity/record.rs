//! What the agent remembers over restarts; never a secret.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock::BootTime;
use crate::core::reason::Code;
use crate::metadata::spec::{Lifecycle, Spec};

/// The persisted state, version 1 of `state.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// The instance that tailscaled's node was made for; written before the first login.
    pub instance_id: Option<String>,
    /// Joined or left; a `leave` holds over restarts.
    pub desired: Desired,
    /// The inputs of the last successful login.
    pub applied: Option<LoginInputs>,
    /// The inputs of a login that was sent and not yet seen to succeed.
    pub attempted: Option<LoginInputs>,
    /// The last valid spec, so that a machine keeps its name when metadata is late.
    pub spec: Option<Spec>,
    /// The kernel's boot id that the times below belong to.
    pub boot_id: String,
    /// No earlier than this may an effect run again, by its name: a restart loop cannot hammer.
    pub not_before: BTreeMap<String, RememberedPace>,
    /// The boot in which an admin's `down` was seen.
    pub down_in_boot: Option<String>,
    /// We took the node down ourselves, so that an AuthURL would not stand.
    pub withdrawn: bool,
}

/// How often an effect had failed, and how long it has to wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RememberedPace {
    /// No earlier than this.
    pub at: BootTime,
    /// Failures in a row.
    pub attempts: u32,
    /// The other side asked for the time.
    pub asked: bool,
    /// Why, already without secrets: a restart does not make what is blocked look as if it would pass.
    #[serde(default)]
    pub fault: Option<(Code, String)>,
}

/// Whether the node should be on the tailnet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// It should.
    #[default]
    Joined,
    /// A person said `leave`: logged out until `rejoin`.
    Left,
}

/// What a login was made with; when the spec differs from these, and only then, the node re-authenticates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginInputs {
    /// The credential.
    pub client_id: String,
    /// The tags asked for.
    pub tags: Vec<String>,
    /// Ephemeral or not.
    pub lifecycle: Lifecycle,
    /// The spec's epoch.
    pub epoch: u64,
    /// The control server.
    pub control_url: String,
}
