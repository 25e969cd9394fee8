//! Units as PID 1 tells of them: watched, never touched.

use std::sync::Arc;

use futures_util::StreamExt;
use zbus::fdo::PropertiesProxy;
use zbus::proxy::CacheProperties;
use zbus::{Connection, OwnedObjectPath};

use super::bus::SystemBus;
use super::error::BusError;
use super::proxies::{JobProxy, ManagerProxy, ServiceProxy, UnitProxy};

/// How a unit's main process ended (org.freedesktop.systemd1(5), `Result` and `ExecMainStatus`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MainEnded {
    /// `success`, `exit-code`, `signal`, …; of a unit that was started again at once, that of its last run.
    pub result: String,
    /// Its exit status, or the signal's number.
    pub status: i32,
    /// Somebody stopped the unit, and not to start it again.
    pub stopped: bool,
}

/// The units of this machine.
#[derive(Clone, Debug)]
pub struct Units {
    bus: Arc<SystemBus>,
}

impl Units {
    /// Units as `bus` tells of them.
    pub fn new(bus: Arc<SystemBus>) -> Self {
        Self { bus }
    }

    /// Waits until the main process that `unit` has now is gone; at once when it has none.
    ///
    /// # Errors
    /// When there is no bus, or it goes away meanwhile.
    pub async fn main_ended(&self, unit: &str) -> Result<MainEnded, BusError> {
        let connection = self.bus.connection().await?;
        let failed = BusError::call("watch tailscaled's unit");
        let manager = ManagerProxy::new(&connection).await.map_err(&failed)?;
        subscribe(&manager).await.map_err(&failed)?;
        let path = manager.load_unit(unit).await.map_err(&failed)?;
        let properties = PropertiesProxy::new(&connection, "org.freedesktop.systemd1", &path).await.map_err(&failed)?;
        let mut changes = properties.receive_properties_changed().await.map_err(&failed)?;
        let service = service(&connection, &path).await.map_err(&failed)?;
        let first = service.main_pid().await.map_err(&failed)?;
        while service.main_pid().await.map_err(&failed)? == first && first != 0 {
            tokio::select! {
                Some(_) = changes.next() => {}
                () = connection.closed() => return Err(BusError::Ended),
            }
        }
        let result = service.result().await.map_err(&failed)?;
        let status = service.exec_main_status().await.map_err(&failed)?;
        let job = job_at(&connection, path.clone()).await.map_err(&failed)?;
        let idle = service.main_pid().await.map_err(&failed)? == 0 && job.is_none_or(|job| job == "stop");
        Ok(MainEnded { stopped: idle && result == "success", result, status })
    }

    /// Whether the whole system is going down.
    ///
    /// # Errors
    /// When there is no bus.
    pub async fn system_stops(&self) -> Result<bool, BusError> {
        let connection = self.bus.connection().await?;
        let failed = BusError::call("ask systemd for its state");
        let manager = ManagerProxy::new(&connection).await.map_err(&failed)?;
        Ok(manager.system_state().await.map_err(&failed)? == "stopping")
    }

    /// What systemd is about to do with the unit of process `pid`: the type of its job, such as `stop` or `restart`, if it has one.
    ///
    /// # Errors
    /// When there is no bus, or the process is no unit's.
    pub async fn job_of(&self, pid: u32) -> Result<Option<String>, BusError> {
        let connection = self.bus.connection().await?;
        let failed = BusError::call("ask systemd for this unit's job");
        let manager = ManagerProxy::new(&connection).await.map_err(&failed)?;
        let path = manager.get_unit_by_pid(pid).await.map_err(&failed)?;
        job_at(&connection, path).await.map_err(&failed)
    }
}

/// Asks PID 1 for its signals, which it does not send unasked; it refuses a connection that has asked before.
pub(super) async fn subscribe(manager: &ManagerProxy<'_>) -> zbus::Result<()> {
    match manager.subscribe().await {
        Err(zbus::Error::MethodError(name, ..)) if name.as_str() == ALREADY_SUBSCRIBED => Ok(()),
        asked => asked,
    }
}

const ALREADY_SUBSCRIBED: &str = "org.freedesktop.systemd1.AlreadySubscribed";

/// The type of the job that a unit has, if it has one.
async fn job_at(connection: &Connection, unit: OwnedObjectPath) -> zbus::Result<Option<String>> {
    let unit = UnitProxy::builder(connection).path(unit).cache_properties(CacheProperties::No);
    let (id, job) = unit.build().await?.job().await?;
    if id == 0 {
        return Ok(None);
    }
    let job = JobProxy::builder(connection).path(job).cache_properties(CacheProperties::No);
    job.build().await?.job_type().await.map(Some)
}

/// A service whose properties are asked for anew each time: PID 1 joins changes that follow each other quickly.
async fn service<'a>(connection: &Connection, path: &'a OwnedObjectPath) -> zbus::Result<ServiceProxy<'a>> {
    ServiceProxy::builder(connection).path(path).cache_properties(CacheProperties::No).build().await
}
