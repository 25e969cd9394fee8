//! The command itself.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::unistd::{Pid, setpgid};

use super::Plan;
use super::identity::Caller;
use crate::exec::control::{News, tell};
use crate::sys::descriptor;

/// As a shell has it: no such program.
const NOT_FOUND: u8 = 127;
/// As a shell has it: a program that cannot be executed.
const NOT_EXECUTABLE: u8 = 126;
/// As chroot(1) and timeout(1) have it: the failure is exec's own.
const FAILED: u8 = 125;

/// Becomes the command, as the caller; returns only when it could not.
pub(super) fn run(plan: &Plan, caller: Caller, control: &OwnedFd) -> u8 {
    if let Err(error) = prepare(plan, caller, control) {
        eprintln!("devbox-agent exec: failed to become the caller again: {error}");
        return FAILED;
    }
    let Some((program, arguments)) = plan.command.split_first() else { return FAILED };
    // It looks the program up in the PATH that the command gets, and resets SIGPIPE, as for any child.
    let error = Command::new(program).args(arguments).env_clear().envs(plan.environment.iter().cloned()).exec();
    eprintln!("devbox-agent exec: {}: {error}", program.display());
    if error.kind() == ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE }
}

fn prepare(plan: &Plan, caller: Caller, control: &OwnedFd) -> io::Result<()> {
    if !plan.shared_group {
        setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    }
    caller.return_to()?;
    plan.mask.thread_set_mask()?;
    plan.withheld.iter().try_for_each(|number| descriptor::close_on_exec(*number))?;
    tell(control, &News::Running, None)
}
