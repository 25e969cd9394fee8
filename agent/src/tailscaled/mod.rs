//! The real tailscaled: its LocalAPI and bus, and the supervisors that run it.

mod bus;
pub mod child;
mod client;
mod error;
mod exit_node;
mod helped;
mod prefs;
mod redact;
mod stored;
mod transport;
pub mod types;
pub mod unit;
mod version;

use async_trait::async_trait;
use tokio::sync::mpsc;

pub use self::child::ChildSupervisor;
pub use self::client::{LOGOUT_DEADLINE, LocalApiClient};
pub use self::error::LocalApiError;
pub use self::exit_node::ExitNodeError;
pub use self::helped::HelpedApi;
pub use self::redact::redact;
pub use self::stored::{StoredError, stored_node};
pub use self::types::{Notify, Preferences, Status};
pub use self::version::supported;
use crate::core::reason::Fault;
use crate::secret::Secret;

/// LocalAPI as the agent uses it. Every call has its own deadline: tailscaled itself has none (it blocks until its backend exists).
#[async_trait]
pub trait LocalApi: Send + Sync {
    /// `GET status?peers=false`; answered within 3 s or [`Code::TailscaledHung`](crate::core::reason::Code::TailscaledHung).
    async fn status(&self) -> Result<Status, Fault>;

    /// Logs in with a key: `start` with preferences built from `GET prefs` and `wanted` over them, then `login-interactive`.
    async fn login(&self, wanted: &Preferences, key: &Secret<String>) -> Result<(), Fault>;

    /// `PATCH prefs` with `wanted`, live.
    async fn apply(&self, wanted: &Preferences) -> Result<(), Fault>;

    /// `PATCH prefs` so that the node is up and logged in again (WantRunning, not LoggedOut).
    async fn up(&self) -> Result<(), Fault>;

    /// `start` with null preferences and no key: control must answer anew before `Online` is true again.
    async fn prove(&self) -> Result<(), Fault>;

    /// `start` with WantRunning=false, so that a standing AuthURL cannot be opened by anyone.
    async fn withdraw(&self) -> Result<(), Fault>;

    /// `logout`; returns when control has confirmed it, or with [`Code::LogoutFailed`](crate::core::reason::Code::LogoutFailed).
    async fn logout(&self) -> Result<(), Fault>;

    /// Watches the bus (mask 134) and sends each message; returns why the watch ended.
    async fn watch(&self, to: mpsc::Sender<Notify>) -> Fault;
}

/// What runs tailscaled: systemd, as a unit, or the agent itself, as its child.
#[async_trait]
pub trait Supervisor: Send + Sync {
    /// Whether tailscaled has a stored node key, found without starting it.
    async fn stored_node(&self) -> Result<bool, Fault>;

    /// Starts tailscaled; a live orphan of an earlier run is ended first. Returns once it listens, or with why it does not.
    async fn start(&self) -> Result<(), Fault>;

    /// Lets a tailscaled whose node is somebody else's run as it would without the agent.
    async fn leave_alone(&self) -> Result<(), Fault>;

    /// Ends tailscaled (SIGTERM, after a grace SIGKILL) and waits for it.
    async fn stop(&self) -> Result<(), Fault>;

    /// Waits until the running tailscaled ends by itself; never returns while none runs. The fault has exit status and last lines.
    async fn exited(&self) -> Fault;
}
