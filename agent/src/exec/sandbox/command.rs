//! The command itself.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::unistd::{Pid, setpgid};

use super::Plan;
use super::identity::Caller;
use crate::exec::FAILED;
use crate::exec::control::{News, tell};
use crate::sys::{children, dumpable};

/// As a shell has it: no such program.
const NOT_FOUND: u8 = 127;
/// As a shell has it: a program that cannot be executed.
const NOT_EXECUTABLE: u8 = 126;

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
    // Only who is open to tracing may write its own uid map.
    dumpable::allow()?;
    caller.return_to()?;
    plan.inherited.mask.thread_set_mask()?;
    if plan.inherited.forgets_children {
        children::forget()?;
    }
    tell(control, &News::Running, None)
}
