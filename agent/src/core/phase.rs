//! Where the agent is.

use serde::{Deserialize, Serialize};

/// Where the agent is; when several conditions are unmet, the first of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The spec has not been read yet, and none is kept from before.
    WaitingForMetadata,
    /// The spec wants no tailnet, or never named one: not an error.
    Unassigned,
    /// Whether tailscaled's node is this instance's own is being found out.
    CheckingIdentity,
    /// tailscaled is being started, or does not answer yet.
    StartingDaemon,
    /// A token, its exchange and a key are being fetched.
    Authenticating,
    /// tailscaled has the key; the control server has not admitted the node yet.
    Joining,
    /// Running, logged in, and held as connected by the control server.
    Online,
    /// Was online; a fault is being healed.
    Degraded,
    /// A person must act; probed slowly.
    Blocked,
    /// An admin took the node down, or the agent is stopping and tailscaled with it.
    Stopped,
    /// The node is being logged out.
    Leaving,
    /// The node is logged out and stays so.
    Left,
}

impl Phase {
    /// Every phase, in the order of the list above.
    pub const ALL: &[Self] = &[
        Self::WaitingForMetadata,
        Self::Unassigned,
        Self::CheckingIdentity,
        Self::StartingDaemon,
        Self::Authenticating,
        Self::Joining,
        Self::Online,
        Self::Degraded,
        Self::Blocked,
        Self::Stopped,
        Self::Leaving,
        Self::Left,
    ];

    /// The phase as status and reports spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WaitingForMetadata => "waiting_for_metadata",
            Self::Unassigned => "unassigned",
            Self::CheckingIdentity => "checking_identity",
            Self::StartingDaemon => "starting_daemon",
            Self::Authenticating => "authenticating",
            Self::Joining => "joining",
            Self::Online => "online",
            Self::Degraded => "degraded",
            Self::Blocked => "blocked",
            Self::Stopped => "stopped",
            Self::Leaving => "leaving",
            Self::Left => "left",
        }
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
