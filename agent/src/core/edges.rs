//! Everything outside, passed in: tests run the whole program with any of it replaced.

use std::sync::Arc;

use crate::clock::Clock;
use crate::federation::Federation;
use crate::identity::Store;
use crate::metadata::Metadata;
use crate::systemd::Host;
use crate::tailscaled::{LocalApi, Supervisor};

/// The outside, as the core is given it.
#[derive(Clone)]
pub struct Edges {
    /// What this machine is.
    pub metadata: Arc<dyn Metadata>,
    /// Tokens traded for keys.
    pub federation: Arc<dyn Federation>,
    /// tailscaled's API.
    pub tailscaled: Arc<dyn LocalApi>,
    /// tailscaled's process.
    pub supervisor: Arc<dyn Supervisor>,
    /// The machine: sleep, shutdown, its name.
    pub host: Arc<dyn Host>,
    /// The record.
    pub store: Arc<dyn Store>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The service manager.
    pub service: Arc<dyn ServiceManager>,
}

/// What started the agent, and wants to know how it is (sd_notify(3)).
pub trait ServiceManager: Send + Sync {
    /// The loop runs: `READY=1`.
    fn ready(&self);
    /// A line for people: `STATUS=`.
    fn status(&self, line: &str);
    /// The loop is alive: `WATCHDOG=1`.
    fn alive(&self);
    /// The agent is ending: `STOPPING=1`.
    fn stopping(&self);
}
