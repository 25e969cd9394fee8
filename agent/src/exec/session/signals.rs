//! The signals that this process gets for the command, with where each came from.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tokio::io::unix::AsyncFd;

use crate::sys::async_fd::register;

/// Passed on to the command. Of these the terminal sends only the first three by itself.
const PASSED_ON: [Signal; 6] =
    [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGUSR2];

/// Passed on as well to a command with a process group of its own; in the caller's group, stopping and continuing need no help.
const JOB_CONTROL: [Signal; 2] = [Signal::SIGTSTP, Signal::SIGCONT];

/// A signal that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrived {
    pub signal: Signal,
    /// The kernel sent it, for the terminal: every process of the foreground group has got it.
    pub from_terminal: bool,
}

impl Arrived {
    /// Whether it ends a run of which the command has not begun.
    pub fn ends(&self) -> bool {
        matches!(self.signal, Signal::SIGINT | Signal::SIGQUIT | Signal::SIGTERM | Signal::SIGHUP)
    }
}

/// What [`block`] did.
pub(in crate::exec) struct Blocked {
    /// The signals that are blocked for this process to read.
    pub set: SigSet,
    /// The mask before, which is the caller's and so the command's.
    pub before: SigSet,
}

/// Blocks the signals before the sandbox is forked, whose processes inherit that; each resets its mask before it executes a program.
///
/// Not those that the caller ignores, as nohup(1) has it: a blocked signal arrives also when it is ignored.
pub(in crate::exec) fn block(shared_group: bool) -> io::Result<Blocked> {
    let job_control = JOB_CONTROL.into_iter().filter(|_| !shared_group);
    let ignored = ignored(&fs::read_to_string("/proc/self/status")?);
    let set: SigSet = PASSED_ON.into_iter().chain(job_control).filter(|signal| !ignored.contains(signal)).collect();
    let before = set.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    Ok(Blocked { set, before })
}

/// Of the signals above, those that are ignored, by what `/proc/PID/status` says: a mask in hexadecimal, signal 1 its lowest bit.
fn ignored(status: &str) -> Vec<Signal> {
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    let mask = mask.unwrap_or_default();
    PASSED_ON.into_iter().chain(JOB_CONTROL).filter(|signal| mask >> (*signal as u32 - 1) & 1 == 1).collect()
}

/// Where blocked signals arrive (signalfd(2)).
pub(super) struct Signals {
    source: SignalFd,
    ready: AsyncFd<OwnedFd>,
}

impl Signals {
    pub fn of(set: &SigSet) -> io::Result<Self> {
        let source = SignalFd::with_flags(set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let ready = register(source.as_fd().try_clone_to_owned()?)?;
        Ok(Self { source, ready })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) -> io::Result<Arrived> {
        loop {
            if let Some(info) = self.source.read_signal()? {
                let signal = Signal::try_from(info.ssi_signo as i32)?;
                return Ok(Arrived { signal, from_terminal: info.ssi_code > 0 });
            }
            self.ready.readable().await?.clear_ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_caller_ignores_is_read_as_the_kernel_writes_it() {
        assert_eq!(ignored("SigBlk:\t0000000000000002\nSigIgn:\t0000000000001001\n"), [Signal::SIGHUP]);
        assert_eq!(ignored("SigIgn:\t0000000000004002\n"), [Signal::SIGINT, Signal::SIGTERM]);
        assert!(ignored("Name:\tsh\n").is_empty());
    }
}
