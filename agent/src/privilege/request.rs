//! What the helper can be asked for, and what it answers: nothing in a request is a path, a URL, a unit's name or a command.

use serde::{Deserialize, Serialize};

use super::fields::{AuthKey, Label, NodePreferences};

/// One request; a connection carries no more than one.
///
/// It has no `Debug`: one of them holds a key.
#[derive(Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Whose state tailscaled has, read without tailscaled.
    Inspect {},
    /// Open the gate, and have the unit as the verdict says.
    Admit {
        /// The verdict.
        admission: Admission,
    },
    /// Log the node in with a key.
    Login {
        /// The preferences that are ours.
        preferences: NodePreferences,
        /// The one-time key.
        key: AuthKey,
    },
    /// Correct the preferences that are ours.
    Apply {
        /// What they should be.
        preferences: NodePreferences,
    },
    /// Bring a node up that is down or half logged out.
    Up {},
    /// Make control prove that the node is online.
    Prove {},
    /// Take back a standing AuthURL.
    Withdraw {},
    /// Log the node out.
    Logout {},
    /// Stop tailscaled's unit.
    Stop {},
    /// Name the machine.
    Hostname {
        /// The name.
        name: Label,
    },
}

impl Request {
    /// The verb, as requests spell it.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Inspect {} => "inspect",
            Self::Admit { .. } => "admit",
            Self::Login { .. } => "login",
            Self::Apply { .. } => "apply",
            Self::Up {} => "up",
            Self::Prove {} => "prove",
            Self::Withdraw {} => "withdraw",
            Self::Logout {} => "logout",
            Self::Stop {} => "stop",
            Self::Hostname { .. } => "hostname",
        }
    }
}

/// Why the gate is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Admission {
    /// tailscaled's node is this instance's, or it has none: the unit is started.
    Admitted,
    /// The node is somebody else's and none of our business: the unit runs if it is enabled, as without the agent.
    LeftAlone,
}

/// tailscaled's unit, as PID 1 has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitState {
    /// `loaded`, `not-found`, `masked`, `bad-setting` or `error`.
    pub load_state: String,
    /// `active`, `reloading`, `inactive`, `failed`, `activating` or `deactivating`.
    pub active_state: String,
    /// The state in the words of a service, such as `auto-restart`.
    pub sub_state: String,
    /// `success`, or how it failed: `exit-code`, `signal`, `timeout`, `start-limit-hit`, …
    pub result: String,
    /// The exit status or signal of the last main process; 203 when the program could not be run (systemd.exec(5)).
    pub exit_status: i32,
    /// Whether the conditions of its unit file held at the last start.
    pub condition_result: bool,
    /// The last lines of a main process that is gone, as part of a sentence; without secrets, some 300 characters at most.
    #[serde(default)]
    pub last_words: String,
}

/// What tailscaled's state directory says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspected {
    /// Whether it holds a node key.
    pub stored_node: bool,
}
