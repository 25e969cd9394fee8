//! The machine under systemd, and one without.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::bus::SystemBus;
use super::error::BusError;
use super::hostname::says;
use super::proxies::{LoginProxy, ManagerProxy};
use super::unit::{Units, subscribe};
use super::{Host, HostEvent};
use crate::core::fold::Ending;
use crate::core::reason::{Fault, chain};
use crate::privilege::HelperClient;

/// How long PID 1 may take to say what it is about to do; it takes a millisecond.
const ASK_FOR: Duration = Duration::from_millis(500);

/// A machine under systemd.
pub struct SystemdHost {
    bus: Arc<SystemBus>,
    units: Units,
    helper: Arc<HelperClient>,
    hostname_file: PathBuf,
}

impl SystemdHost {
    /// The machine that `bus` tells of; what has to be written goes through `helper`. `hostname_file` is `/etc/hostname`, hostname(5).
    pub fn new(bus: Arc<SystemBus>, helper: Arc<HelperClient>, hostname_file: PathBuf) -> Self {
        Self { units: Units::new(bus.clone()), bus, helper, hostname_file }
    }

    async fn listen(&self, to: mpsc::Sender<HostEvent>) -> Result<(), BusError> {
        let connection = self.bus.connection().await?;
        let failed = BusError::call("watch logind and systemd");
        let login = LoginProxy::new(&connection).await.map_err(&failed)?;
        let manager = ManagerProxy::new(&connection).await.map_err(&failed)?;
        subscribe(&manager).await.map_err(&failed)?;
        let mut shutdown = login.receive_prepare_for_shutdown().await.map_err(&failed)?;
        let mut sleep = login.receive_prepare_for_sleep().await.map_err(&failed)?;
        let mut files = manager.receive_unit_files_changed().await.map_err(&failed)?;
        let mut reloading = manager.receive_reloading().await.map_err(&failed)?;
        if to.send(HostEvent::Listening).await.is_err() {
            return Ok(());
        }
        loop {
            let event = tokio::select! {
                Some(signal) = shutdown.next() => Some(HostEvent::GoesDown(signal.args().map_err(&failed)?.start)),
                Some(signal) = sleep.next() => (!signal.args().map_err(&failed)?.start).then_some(HostEvent::Woke),
                Some(_) = files.next() => Some(HostEvent::UnitsChanged),
                Some(signal) = reloading.next() => (!signal.args().map_err(&failed)?.active).then_some(HostEvent::UnitsChanged),
                () = connection.closed() => return Err(BusError::Ended),
            };
            if let Some(event) = event
                && to.send(event).await.is_err()
            {
                return Ok(());
            }
        }
    }

    /// At a shutdown the agent's unit has the job `stop` too; for a `restart`, an upgrade and a plain signal it has another or none.
    async fn announced(&self) -> Result<Ending, BusError> {
        if self.units.system_stops().await? {
            return Ok(Ending::WithMachine);
        }
        let job = self.units.job_of(std::process::id()).await?;
        Ok(if job.as_deref() == Some("stop") { Ending::ForGood } else { Ending::ForNow })
    }
}

#[async_trait]
impl Host for SystemdHost {
    async fn watch(&self, to: mpsc::Sender<HostEvent>) -> Fault {
        match self.listen(to).await {
            Ok(()) => std::future::pending().await,
            Err(error) => Fault::from(&error),
        }
    }

    async fn set_hostname(&self, name: &str) -> Result<(), Fault> {
        if says(&self.hostname_file, name) { Ok(()) } else { self.helper.hostname(name).await }
    }

    /// In doubt another agent follows: a node that stays is found again, one that was removed is gone.
    async fn ending(&self) -> Ending {
        match tokio::time::timeout(ASK_FOR, self.announced()).await {
            Ok(Ok(ending)) => ending,
            Ok(Err(error)) => {
                tracing::warn!("systemd does not say why the agent ends; an ephemeral node is kept: {}", chain(&error));
                Ending::ForNow
            }
            Err(_) => {
                tracing::warn!("systemd does not say in time why the agent ends; an ephemeral node is kept");
                Ending::ForNow
            }
        }
    }
}

/// A machine that tells nothing: a container, or another init.
pub struct Alone;

#[async_trait]
impl Host for Alone {
    async fn watch(&self, _to: mpsc::Sender<HostEvent>) -> Fault {
        std::future::pending().await
    }

    async fn set_hostname(&self, _name: &str) -> Result<(), Fault> {
        Ok(())
    }

    /// Whoever ends the agent ends its tailscaled too.
    async fn ending(&self) -> Ending {
        Ending::ForGood
    }
}
