//! The sandbox's tailscaled, as the core drives it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{OnceCell, watch};
use tokio_util::task::AbortOnDropHandle;

use super::link::Sender;
use crate::core::reason::{Code, Fault};
use crate::exec::control::{Ended, Order};
use crate::tailscaled::Supervisor;
use crate::tailscaled::child::notify_socket::NotifySocket;

/// How long tailscaled may take to listen, from the moment that it is asked for: the way to the network has to be there first.
const READY: Duration = Duration::from_secs(20);

/// Starts tailscaled once; when it ends, so does the run.
pub(super) struct SandboxSupervisor {
    notify: PathBuf,
    orders: Sender,
    ended: watch::Receiver<Option<Ended>>,
    listening: OnceCell<AbortOnDropHandle<()>>,
}

impl SandboxSupervisor {
    /// A supervisor that has the sandbox start tailscaled, and waits for its word on the socket `notify`.
    pub fn new(notify: PathBuf, orders: Sender, ended: watch::Receiver<Option<Ended>>) -> Arc<Self> {
        Arc::new(Self { notify, orders, ended, listening: OnceCell::new() })
    }

    async fn lost(&self) -> Fault {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await.ok().and_then(|ended| *ended) {
            Some(ended) => Fault::new(Code::TailscaledCrashloop, format!("tailscaled {ended}")),
            // The session itself is ending, and nobody waits for the answer.
            None => std::future::pending().await,
        }
    }
}

#[async_trait]
impl Supervisor for SandboxSupervisor {
    /// Its state is in memory and new.
    async fn stored_node(&self) -> Result<bool, Fault> {
        Ok(false)
    }

    async fn start(&self) -> Result<(), Fault> {
        let failed =
            |error: std::io::Error| Fault::new(Code::TailscaledMissing, format!("failed to start tailscaled: {error}"));
        let (ready, listening) = NotifySocket::bind(self.notify.clone()).map_err(failed)?.listen();
        if self.listening.set(listening).is_err() {
            return Err(Fault::new(Code::TailscaledCrashloop, "tailscaled is started once in a run"));
        }
        self.orders.send(Order::Start).map_err(failed)?;
        tokio::select! {
            biased;
            fault = self.lost() => Err(fault),
            Ok(()) = ready => Ok(()),
            () = tokio::time::sleep(READY) => Err(Fault::new(Code::TailscaledStarting, format!("tailscaled did not listen within {READY:?}"))),
        }
    }

    async fn leave_alone(&self) -> Result<(), Fault> {
        Ok(())
    }

    /// It ends with the sandbox.
    async fn stop(&self) -> Result<(), Fault> {
        Ok(())
    }

    async fn exited(&self) -> Fault {
        self.lost().await
    }
}
