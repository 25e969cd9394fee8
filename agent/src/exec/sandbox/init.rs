//! PID 1 of the command's own pid namespace: when the command ends, whatever it left behind ends with it.

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::identity::Caller;
use super::processes::leave_terminal;
use super::{Plan, command, mounts};
use crate::exec::control::{Ended, News, Step, tell};
use crate::sys::fork::{self, ForkError};

/// Runs the command and tells how it ended.
pub(super) fn live(plan: &Plan, caller: Caller, control: &OwnedFd) -> u8 {
    if let Err(error) = mounts::show_to_command() {
        let errno = error.raw_os_error().unwrap_or_default();
        // A session that has gone needs no word.
        let _ = tell(control, &News::Unbuilt { step: Step::Mounts, errno }, None);
        return 1;
    }
    match run(plan, caller, control) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

fn run(plan: &Plan, caller: Caller, control: &OwnedFd) -> Result<(), ForkError> {
    if let Some(target) = &plan.wait_for {
        target.wait();
        tell(control, &News::Answered, None)?;
    }
    let command = fork::run(|| command::run(plan, caller, control))?;
    leave_terminal()?;
    let ended = wait(command, control)?;
    tell(control, &News::Ended(ended), None)?;
    Ok(())
}

/// Reaps whatever ends, until the command does.
fn wait(command: Pid, control: &OwnedFd) -> io::Result<Ended> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WUNTRACED)) {
            Ok(WaitStatus::Stopped(pid, _)) if pid == command => tell(control, &News::Stopped, None)?,
            Ok(status) => match Ended::of(status) {
                Some((pid, ended)) if pid == command => return Ok(ended),
                _ => {}
            },
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
