//! The service manager, by sd_notify(3).

use sd_notify::NotifyState;

use crate::core::edges::ServiceManager;

/// systemd, or whatever set `NOTIFY_SOCKET`; without one, nothing is sent.
pub(super) struct SdNotify;

impl SdNotify {
    fn send(state: &[NotifyState<'_>]) {
        // A manager that does not listen is no reason to do anything else.
        if let Err(error) = sd_notify::notify(state) {
            tracing::debug!("the service manager was not told: {error}");
        }
    }
}

impl ServiceManager for SdNotify {
    fn ready(&self) {
        Self::send(&[NotifyState::Ready]);
    }

    fn status(&self, line: &str) {
        Self::send(&[NotifyState::Status(line)]);
    }

    fn alive(&self) {
        Self::send(&[NotifyState::Watchdog]);
    }

    fn stopping(&self) {
        Self::send(&[NotifyState::Stopping]);
    }
}
