//! The one observer of every series: when a node is online is read from tailscaled itself, the same way whoever started it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use devbox_agent::tailscaled::{LocalApi, LocalApiClient};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// Between two looks for a socket that is not there yet.
const SOCKET_GLANCE: Duration = Duration::from_millis(1);
/// Between two reads of the status once the node runs: that it is online then has no bus message.
const RUNNING_GLANCE: Duration = Duration::from_millis(5);
/// Between two reads before that, besides those that a bus message causes.
const GLANCE: Duration = Duration::from_millis(100);
/// tailscaled's own queue for a slow reader of its bus.
const BUS_QUEUE: usize = 128;

/// Watches a machine's tailscaled from before it is started.
#[derive(Debug)]
pub struct Observer {
    online: AbortOnDropHandle<Result<Instant>>,
}

impl Observer {
    /// Starts to look at `socket`, which need not be there yet.
    pub fn start(socket: PathBuf) -> Self {
        Self { online: AbortOnDropHandle::new(tokio::spawn(watch(socket))) }
    }

    /// Waits until the node is Running and control holds it as online (`Self.Online`), and returns when that was.
    ///
    /// # Errors
    /// When that is not so within `limit`.
    pub async fn online(self, limit: Duration) -> Result<Instant> {
        let seen = tokio::time::timeout(limit, self.online).await;
        seen.with_context(|| format!("the node was not online within {}", humantime::format_duration(limit)))??
    }
}

async fn watch(socket: PathBuf) -> Result<Instant> {
    accepting(&socket).await;
    let client = LocalApiClient::new(&socket, Duration::ZERO).context("failed to prepare the observer")?;
    let (to_bus, mut bus) = mpsc::channel(BUS_QUEUE);
    let watch = async {
        loop {
            // tailscaled has just begun to listen: a watch that breaks is made anew.
            client.watch(to_bus.clone()).await;
            tokio::time::sleep(SOCKET_GLANCE).await;
        }
    };
    let read = async {
        loop {
            let status = client.status().await.unwrap_or_default();
            let running = status.backend_state == "Running";
            if running && status.node.online {
                return Instant::now();
            }
            // Either wakes the next read.
            let pause = if running { RUNNING_GLANCE } else { GLANCE };
            let _message = tokio::time::timeout(pause, bus.recv()).await;
        }
    };
    tokio::select! {
        online = read => Ok(online),
        () = watch => anyhow::bail!("the observer's watch ended"),
    }
}

/// Waits until somebody listens at `socket`.
pub async fn accepting(socket: &std::path::Path) {
    while UnixStream::connect(socket).await.is_err() {
        tokio::time::sleep(SOCKET_GLANCE).await;
    }
}
