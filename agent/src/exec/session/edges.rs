//! The core's outside, for a node that lives as long as one command.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::directory::Directory;
use super::link::Sender;
use super::supervisor::SandboxSupervisor;
use crate::core::edges::{Edges, ServiceManager};
use crate::core::reason::Fault;
use crate::exec::control::Ended;
use crate::exec::{Request, Services};
use crate::identity::{Loaded, Record, Store};
use crate::systemd::Alone;
use crate::tailscaled::{LocalApiClient, LocalApiError};

/// How long control may take to confirm the logout.
pub(super) const LOGOUT_DEADLINE: Duration = Duration::from_secs(1);

/// LocalAPI of the sandbox's tailscaled.
pub(super) fn local_api(directory: &Directory, request: &Request) -> Result<Arc<LocalApiClient>, LocalApiError> {
    let client = LocalApiClient::new(directory.socket(), LOGOUT_DEADLINE)?;
    Ok(Arc::new(client.with_preferences(preferences(request))))
}

/// Makes every edge; nothing is sent yet.
pub(super) fn edges(
    directory: &Directory,
    local_api: Arc<LocalApiClient>,
    services: Services,
    orders: Sender,
    ended: watch::Receiver<Option<Ended>>,
) -> Edges {
    Edges {
        metadata: services.metadata,
        federation: services.federation,
        tailscaled: local_api,
        supervisor: SandboxSupervisor::new(directory.notify(), orders, ended),
        host: Arc::new(Alone),
        store: Arc::new(Forgetful),
        clock: services.clock,
        service: Arc::new(Nobody),
    }
}

/// Preferences of a node that nobody else uses (`ipn.Prefs`).
fn preferences(request: &Request) -> Map<String, Value> {
    let mut preferences = Map::new();
    // Its rules would only stand in the way of the sandbox's own, and take 40 ms to set and 170 ms to remove.
    preferences.insert("NetfilterMode".to_owned(), json!(0));
    preferences.insert("NoStatefulFiltering".to_owned(), json!(true));
    preferences.insert("ShieldsUp".to_owned(), json!(request.publish.is_empty()));
    preferences.insert("AutoUpdate".to_owned(), json!({ "Check": false, "Apply": false }));
    preferences
}

/// A node of one run leaves no record.
struct Forgetful;

#[async_trait]
impl Store for Forgetful {
    fn load(&self) -> Loaded {
        Loaded::default()
    }

    async fn save(&self, _: &Record) -> Result<(), Fault> {
        Ok(())
    }
}

/// `NOTIFY_SOCKET`, if there is one, is meant for the command.
struct Nobody;

impl ServiceManager for Nobody {
    fn ready(&self) {}
    fn status(&self, _: &str) {}
    fn alive(&self) {}
    fn stopping(&self) {}
}
