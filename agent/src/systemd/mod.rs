//! systemd and its companions over D-Bus: units and jobs (PID 1), sleep and shutdown (logind), the host name (hostnamed).
//!
//! The agent itself only reads and listens; what it wants written it asks the root helper for. The proxies are shared with the helper, which is
//! the only one that calls what writes.

mod bus;
mod error;
mod host;
mod hostname;
pub mod proxies;
mod unit;

use async_trait::async_trait;
use tokio::sync::mpsc;

pub use self::bus::{SystemBus, greeted};
pub use self::error::BusError;
pub use self::host::{Alone, SystemdHost};
pub use self::hostname::{HOSTNAME_FILE, says};
pub use self::unit::{MainEnded, Units};
use crate::core::fold::Ending;
use crate::core::reason::Fault;

/// What the machine tells by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostEvent {
    /// What follows is heard from now on: the bus is there.
    Listening,
    /// logind announces a shutdown or reboot, or takes it back.
    GoesDown(bool),
    /// The machine was woken from sleep.
    Woke,
    /// Unit files were installed, removed, enabled, masked or read again.
    UnitsChanged,
}

/// The machine that the agent is on, beyond tailscaled.
#[async_trait]
pub trait Host: Send + Sync {
    /// Watches what the machine tells and sends it; returns why the watch ended.
    async fn watch(&self, to: mpsc::Sender<HostEvent>) -> Fault;

    /// Makes `name`, an RFC 1123 label, the machine's static name (hostname1); nothing is asked of anyone when it has it already.
    async fn set_hostname(&self, name: &str) -> Result<(), Fault>;

    /// What follows the end of this agent, which was just asked to end. Answered within half a second.
    async fn ending(&self) -> Ending;
}
