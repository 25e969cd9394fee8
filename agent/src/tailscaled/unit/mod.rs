//! tailscaled as a unit of systemd: the helper starts and stops it, PID 1 tells how it is.

mod error;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::net::UnixStream;

pub use self::error::UnitError;
use super::Supervisor;
use crate::core::reason::{Fault, chain};
use crate::privilege::HelperClient;
use crate::privilege::request::{Admission, UnitState};
use crate::sys::pidfd::PidFd;
use crate::systemd::Units;

/// Runs tailscaled as a unit, which outlives this process.
pub struct UnitSupervisor {
    unit: String,
    socket: PathBuf,
    helper: Arc<HelperClient>,
    units: Units,
}

impl UnitSupervisor {
    /// A supervisor of `unit`, whose tailscaled serves `socket`.
    pub fn new(unit: String, socket: PathBuf, helper: Arc<HelperClient>, units: Units) -> Self {
        Self { unit, socket, helper, units }
    }

    /// Waits for the end of the process that serves LocalAPI: needs no bus, and tells nothing of how it ended.
    async fn server_ended(&self) -> Result<(), UnitError> {
        let refused = |source| UnitError::Watch { socket: self.socket.clone(), source };
        let Ok(peer) = UnixStream::connect(&self.socket).await else { return Ok(()) };
        let pid = peer.peer_cred().map_err(refused)?.pid().unwrap_or_default().cast_unsigned();
        drop(peer);
        match PidFd::open(pid).map_err(refused)? {
            Some(process) => process.ended().await.map_err(refused),
            None => Ok(()),
        }
    }
}

/// Whether the unit is as it should be after a start.
fn judge(unit: &str, state: UnitState) -> Result<(), UnitError> {
    match (state.load_state.as_str(), state.active_state.as_str()) {
        ("loaded", "active" | "reloading" | "refreshing") => Ok(()),
        _ => Err(UnitError::NotActive { unit: unit.to_owned(), state: Box::new(state) }),
    }
}

/// Whether the unit is as it should be after a stop: a tailscaled that takes its time uses its key meanwhile.
fn judge_stop(unit: &str, state: UnitState) -> Result<(), UnitError> {
    match state.active_state.as_str() {
        "inactive" | "failed" => Ok(()),
        _ => Err(UnitError::StillRuns { unit: unit.to_owned(), active_state: state.active_state }),
    }
}

#[async_trait]
impl Supervisor for UnitSupervisor {
    async fn stored_node(&self) -> Result<bool, Fault> {
        self.helper.inspect().await.map(|found| found.stored_node)
    }

    async fn start(&self) -> Result<(), Fault> {
        let state = self.helper.admit(Admission::Admitted).await?;
        judge(&self.unit, state).map_err(|error| Fault::from(&error))
    }

    async fn leave_alone(&self) -> Result<(), Fault> {
        self.helper.admit(Admission::LeftAlone).await.map(drop)
    }

    async fn stop(&self) -> Result<(), Fault> {
        let state = self.helper.stop().await?;
        judge_stop(&self.unit, state).map_err(|error| Fault::from(&error))
    }

    async fn exited(&self) -> Fault {
        let ended = match self.units.main_ended(&self.unit).await {
            Ok(ended) if ended.stopped => UnitError::Stopped { unit: self.unit.clone() },
            Ok(ended) => UnitError::Ended { unit: self.unit.clone(), ended },
            Err(error) => {
                tracing::debug!("tailscaled is watched without the system bus: {}", chain(&error));
                match self.server_ended().await {
                    Ok(()) => UnitError::Gone { socket: self.socket.clone() },
                    Err(error) => error,
                }
            }
        };
        Fault::from(&ended)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::core::reason::{Code, Reasoned};

    fn state(load: &str, active: &str, result: &str, status: i32) -> UnitState {
        UnitState {
            load_state: load.into(),
            active_state: active.into(),
            sub_state: "dead".into(),
            result: result.into(),
            exit_status: status,
            condition_result: true,
            last_words: String::new(),
        }
    }

    #[test]
    fn a_unit_that_is_not_active_after_its_start_says_why() {
        let code = |state| judge("tailscaled.service", state).expect_err("not active").code();
        assert!(judge("tailscaled.service", state("loaded", "active", "success", 0)).is_ok());
        assert_eq!(code(state("loaded", "failed", "exit-code", 203)), Code::TailscaledMissing);
        assert_eq!(code(state("loaded", "failed", "exit-code", 1)), Code::TailscaledCrashloop);
        assert_eq!(code(state("loaded", "activating", "success", 0)), Code::TailscaledStarting);
        assert_eq!(code(state("loaded", "inactive", "success", 0)), Code::TailscaledStarting);
    }

    #[test]
    fn a_unit_that_still_stops_has_not_stopped() {
        for over in ["inactive", "failed"] {
            assert!(judge_stop("tailscaled.service", state("loaded", over, "success", 0)).is_ok());
        }
        let error =
            judge_stop("tailscaled.service", state("loaded", "deactivating", "success", 0)).expect_err("not over");
        assert_eq!(error.code(), Code::TailscaledHung);
        assert!(
            error.to_string().starts_with("failed to stop tailscaled.service: it is still deactivating; "),
            "{error}"
        );
    }

    #[test]
    fn the_last_words_of_a_unit_that_failed_are_told_and_tell_of_a_missing_tun_device() {
        let failed = |words: &str| UnitState { last_words: words.into(), ..state("loaded", "failed", "exit-code", 1) };
        let error = judge("tailscaled.service", failed("bad state")).expect_err("not active");
        assert_eq!(error.code(), Code::TailscaledCrashloop);
        assert!(error.to_string().ends_with("status 1: bad state"), "{error}");
        let error = judge("tailscaled.service", failed("CreateTUN(\"tailscale0\") failed")).expect_err("not active");
        assert_eq!(error.code(), Code::NoTun);
    }

    #[test]
    fn a_unit_that_somebody_stopped_is_left_to_them_for_a_while() {
        let fault = Fault::from(&UnitError::Stopped { unit: "tailscaled.service".into() });
        assert_eq!((fault.code, fault.retry_after), (Code::TailscaledStarting, Some(Duration::from_secs(5))));
    }

    #[test]
    fn a_unit_that_was_skipped_names_its_condition() {
        let skipped = UnitState { condition_result: false, ..state("loaded", "inactive", "success", 0) };
        let error = judge("tailscaled.service", skipped).expect_err("not active");
        assert!(error.to_string().contains("a condition of its unit file does not hold"), "{error}");
    }
}
