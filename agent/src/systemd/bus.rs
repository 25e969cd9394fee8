//! The system bus: one connection, made when it is first needed and again when it broke.

use std::io;
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
        let connection = greeted(Builder::system(), DEADLINE).await.map_err(BusError::Connect)?;
        *current = Some(connection.clone());
        Ok(connection)
    }
}

/// Makes a connection on which every call is answered within `deadline`, and so is its greeting: the kernel accepts for a bus that hangs, and
/// zbus bounds its calls alone.
///
/// # Errors
/// What zbus says, or `TimedOut`.
pub async fn greeted(builder: Builder<'_>, deadline: Duration) -> zbus::Result<Connection> {
    let made = tokio::time::timeout(deadline, builder.method_timeout(deadline).build()).await;
    made.unwrap_or_else(|_| Err(silent(deadline).into()))
}

fn silent(deadline: Duration) -> io::Error {
    let said = format!("it accepted the connection and said nothing for {} s", deadline.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, said)
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;
    use crate::core::reason::chain;

    #[tokio::test(start_paused = true)]
    async fn a_bus_that_accepts_and_says_nothing_is_given_up() {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("bus");
        let _listener = UnixListener::bind(&socket).expect("bound");
        let begun = tokio::time::Instant::now();
        let error = greeted(Builder::address(format!("unix:path={}", socket.display()).as_str()), DEADLINE).await;
        let told = chain(&BusError::Connect(error.expect_err("nobody greets")));
        assert!(told.ends_with("said nothing for 3 s"), "{told}");
        assert_eq!(begun.elapsed(), DEADLINE);
    }
}
