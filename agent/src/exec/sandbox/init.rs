//! PID 1 of the command's own pid namespace: when the command ends, whatever it left behind ends with it.

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::identity::Caller;
use super::{Plan, command, mounts};
use crate::exec::control::{Ended, News, Step, tell};
use crate::exec::streams;
use crate::sys::fork;

/// Runs the command and tells how it ended.
pub(super) fn live(plan: &Plan, caller: Caller, control: &OwnedFd) -> u8 {
    if let Err(error) = mounts::show_to_command() {
        return failed(control, Step::Mounts, &error);
    }
    match run(plan, caller, control) {
        Ok(()) => 0,
        Err(error) => failed(control, Step::Processes, &error),
    }
}

fn failed(control: &OwnedFd, step: Step, error: &io::Error) -> u8 {
    // A session that has gone needs no word.
    let _ = tell(control, &News::failed(step, error), None);
    1
}

fn run(plan: &Plan, caller: Caller, control: &OwnedFd) -> io::Result<()> {
    if let Some(target) = &plan.wait_for {
        target.wait(|why| tell(control, &News::Unanswered(why), None))?;
    }
    let command = fork::run(|| command::run(plan, caller, control))?;
    streams::give_back()?;
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
