//! LocalAPI of a tailscaled that belongs to root: read directly, written through the helper.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::types::{Notify, Preferences, Status};
use super::{LocalApi, LocalApiClient};
use crate::core::reason::Fault;
use crate::privilege::HelperClient;
use crate::secret::Secret;

/// tailscaled lets every user read; who may write is root, and so is the helper.
#[derive(Debug)]
pub struct HelpedApi {
    reads: LocalApiClient,
    helper: Arc<HelperClient>,
}

impl HelpedApi {
    /// Reads by `reads`, writes by `helper`.
    pub fn new(reads: LocalApiClient, helper: Arc<HelperClient>) -> Self {
        Self { reads, helper }
    }
}

#[async_trait]
impl LocalApi for HelpedApi {
    async fn status(&self) -> Result<Status, Fault> {
        self.reads.status().await
    }

    async fn login(&self, wanted: &Preferences, key: &Secret<String>) -> Result<(), Fault> {
        self.helper.login(wanted, key).await
    }

    async fn apply(&self, wanted: &Preferences) -> Result<(), Fault> {
        self.helper.apply(wanted).await
    }

    async fn up(&self) -> Result<(), Fault> {
        self.helper.up().await
    }

    async fn prove(&self) -> Result<(), Fault> {
        self.helper.prove().await
    }

    async fn withdraw(&self) -> Result<(), Fault> {
        self.helper.withdraw().await
    }

    async fn logout(&self) -> Result<(), Fault> {
        self.helper.logout().await
    }

    async fn watch(&self, to: mpsc::Sender<Notify>) -> Fault {
        self.reads.watch(to).await
    }
}
