//! The system bus: one connection, made when it is first needed and again when it broke.

use std::time::Duration;

use tokio::sync::Mutex;
use zbus::Connection;
use zbus::connection::Builder;

use super::error::BusError;

/// dbus-daemon answers within milliseconds; one that accepts and says nothing must not hold anything up.
const DEADLINE: Duration = Duration::from_secs(3);

/// The system bus (`DBUS_SYSTEM_BUS_ADDRESS`, else `/run/dbus/system_bus_socket`).
#[derive(Debug, Default)]
pub struct SystemBus {
    current: Mutex<Option<Connection>>,
}

impl SystemBus {
    /// The connection; one that broke is replaced.
    ///
    /// # Errors
    /// [`BusError::Connect`] when there is no bus.
    pub async fn connection(&self) -> Result<Connection, BusError> {
        let mut current = self.current.lock().await;
        if let Some(connection) = current.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        let connection = connect().await.map_err(BusError::Connect)?;
        *current = Some(connection.clone());
        Ok(connection)
    }
}

async fn connect() -> zbus::Result<Connection> {
    Builder::system().method_timeout(DEADLINE).build().await
}
