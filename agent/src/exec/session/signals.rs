//! The signals that this process gets for the command, with where each came from.

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

/// What [`block`] did.
pub(in crate::exec) struct Blocked {
    /// The signals that are blocked for this process to read.
    pub set: SigSet,
    /// The mask before, which is the caller's and so the command's.
    pub before: SigSet,
}

/// Blocks the signals before the sandbox is made, whose processes get them blocked too; what they execute would inherit that, if nobody undid it.
pub(in crate::exec) fn block(shared_group: bool) -> io::Result<Blocked> {
    let mut set: SigSet = PASSED_ON.into_iter().collect();
    if !shared_group {
        JOB_CONTROL.into_iter().for_each(|signal| set.add(signal));
    }
    let before = set.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    Ok(Blocked { set, before })
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
