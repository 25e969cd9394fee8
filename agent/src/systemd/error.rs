//! What can go wrong between the agent and the system bus.

use crate::core::reason::{Code, Reasoned};

/// Why the bus gave nothing usable.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// No connection, or the bus refused it.
    #[error("failed to connect to the system bus")]
    Connect(#[source] zbus::Error),
    /// A request was refused, or the connection broke in it.
    #[error("failed to {verb}")]
    Call {
        /// What was asked, e.g. `watch logind`.
        verb: &'static str,
        /// What the bus or the service says.
        source: zbus::Error,
    },
    /// The bus ended the connection: dbus was restarted.
    #[error("failed to go on listening: the system bus ended the connection")]
    Ended,
}

impl BusError {
    pub(super) fn call(verb: &'static str) -> impl Fn(zbus::Error) -> Self {
        move |source| Self::Call { verb, source }
    }
}

impl Reasoned for BusError {
    fn code(&self) -> Code {
        Code::DbusUnavailable
    }
}
