//! What can go wrong with tailscaled's unit.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::core::reason::{Code, Reasoned};
use crate::privilege::request::UnitState;
use crate::systemd::MainEnded;
use crate::tailscaled::child::tail::without_tun;

/// Who stops a unit is about to replace its program, to mask it, or to start it again; the agent's own start would cross that.
const HANDS_OFF: Duration = Duration::from_secs(5);

/// The exit status of a main process whose program could not be run (`EXIT_EXEC`, systemd.exec(5)).
const EXIT_EXEC: i32 = 203;

/// Why tailscaled's unit does not run, or no longer, or still.
#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    /// It was started, or left to start, and is not active.
    #[error("failed to start {unit}: {}", in_words(unit, state))]
    NotActive {
        /// The unit.
        unit: String,
        /// How it is.
        state: Box<UnitState>,
    },
    /// It was told to stop, and its processes are still there.
    #[error("failed to stop {unit}: it is still {active_state}; systemd kills what is left after its TimeoutStopSec=")]
    StillRuns {
        /// The unit.
        unit: String,
        /// Its `ActiveState`.
        active_state: String,
    },
    /// Its main process ended.
    #[error("{unit} ended: {} {}", ended.result, ended.status)]
    Ended {
        /// The unit.
        unit: String,
        /// How.
        ended: MainEnded,
    },
    /// Somebody stopped it.
    #[error("{unit} was stopped; it is started again in {} s", HANDS_OFF.as_secs())]
    Stopped {
        /// The unit.
        unit: String,
    },
    /// The process behind the socket ended, and no bus says how.
    #[error("tailscaled no longer serves {}", socket.display())]
    Gone {
        /// The socket.
        socket: PathBuf,
    },
    /// The kernel does not let the process behind the socket be watched.
    #[error("failed to watch the process that serves {}", socket.display())]
    Watch {
        /// The socket.
        socket: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
}

fn in_words(unit: &str, state: &UnitState) -> String {
    if !state.condition_result {
        return format!("a condition of its unit file does not hold; see systemctl status {unit}");
    }
    if state.load_state != "loaded" {
        return format!("its unit file is {}", state.load_state);
    }
    let UnitState { active_state, sub_state, result, exit_status, last_words, .. } = state;
    let how = format!("it is {active_state} ({sub_state}), with the result {result}, status {exit_status}");
    if last_words.is_empty() { format!("{how}; see journalctl -u {unit}") } else { format!("{how}: {last_words}") }
}

impl Reasoned for UnitError {
    fn code(&self) -> Code {
        match self {
            Self::StillRuns { .. } => Code::TailscaledHung,
            Self::NotActive { state, .. } if state.exit_status == EXIT_EXEC => Code::TailscaledMissing,
            Self::NotActive { state, .. } if without_tun(&state.last_words) => Code::NoTun,
            // systemd starts it again by itself until it gives up.
            Self::NotActive { state, .. } if state.active_state == "failed" => Code::TailscaledCrashloop,
            Self::NotActive { .. }
            | Self::Ended { .. }
            | Self::Stopped { .. }
            | Self::Gone { .. }
            | Self::Watch { .. } => Code::TailscaledStarting,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        matches!(self, Self::Stopped { .. }).then_some(HANDS_OFF)
    }
}
