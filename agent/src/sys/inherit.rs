//! Handing a descriptor to a child process.
#![expect(unsafe_code, reason = "between fork and exec only a pre_exec hook can act, and setting one is unsafe")]

use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use tokio::process::Command;

/// Lets the child of `command` inherit `fd` under the number it has here.
///
/// The close-on-exec flag is cleared in the child, after the fork: cleared here, any other program started at the same moment would
/// inherit the descriptor too. `command` owns the descriptor from now on and closes it when dropped.
pub fn inherit(command: &mut Command, fd: OwnedFd) {
    let hook = move || {
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(())
    };
    // SAFETY: the hook makes one fcntl(2) call, which is async-signal-safe, on a descriptor that it owns; it neither allocates nor locks
    // (an errno converts into an io::Error without allocation).
    unsafe { command.pre_exec(hook) };
}
