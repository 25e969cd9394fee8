//! Processes made by fork, also in namespaces of their own.
#![expect(
    unsafe_code,
    reason = "fork and clone have no safe wrapper: what may follow in the child depends on the threads of the parent"
)]

use std::io;

use nix::errno::Errno;
use nix::libc;
use nix::sched::CloneFlags;
use nix::unistd::{ForkResult, Pid};

/// Why no process could be made.
#[derive(Debug, thiserror::Error)]
pub enum ForkError {
    /// Another thread could hold a lock, of the allocator for one, that nobody would ever release in the child.
    #[error("the process has {threads} threads, and must have one")]
    Threads {
        /// How many.
        threads: usize,
    },
    /// The kernel refuses.
    #[error(transparent)]
    Kernel(#[from] io::Error),
}

impl From<ForkError> for io::Error {
    fn from(error: ForkError) -> Self {
        match error {
            ForkError::Kernel(error) => error,
            ForkError::Threads { .. } => Self::other(error),
        }
    }
}

/// Makes a child in new `namespaces` that goes on from here: `None` is the answer that the child gets (clone(2)).
///
/// # Errors
/// When this process has other threads, and when the kernel refuses: ENOSPC at a limit of namespaces, EPERM where they are forbidden.
pub fn into(namespaces: CloneFlags) -> Result<Option<Pid>, ForkError> {
    alone()?;
    let flags = libc::c_long::from(namespaces.bits() | libc::SIGCHLD);
    // SAFETY: without CLONE_VM and with no stack this is fork(2) with namespaces; every argument after the flags is null, so that their order,
    // which differs between architectures, does not matter. The process has one thread, so no other can hold a lock that would stay locked in the child.
    let pid = Errno::result(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) }).map_err(io::Error::from)?;
    Ok((pid != 0).then(|| Pid::from_raw(pid as libc::pid_t)))
}

/// Makes a child that runs `then` and nothing else: when that returns, the child ends with its answer.
///
/// # Errors
/// As [`into`].
pub fn run(then: impl FnOnce() -> u8) -> Result<Pid, ForkError> {
    alone()?;
    // SAFETY: the process has one thread, so no other can hold a lock that would stay locked in the child.
    match unsafe { nix::unistd::fork() }.map_err(io::Error::from)? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => end(then()),
    }
}

/// Ends this process at once: nothing that it shares with its parent, such as a buffered line, is written a second time.
pub fn end(status: u8) -> ! {
    // SAFETY: _exit touches no memory of this process.
    unsafe { libc::_exit(status.into()) }
}

fn alone() -> Result<(), ForkError> {
    match std::fs::read_dir("/proc/self/task").map(Iterator::count) {
        Ok(1) | Err(_) => Ok(()),
        Ok(threads) => Err(ForkError::Threads { threads }),
    }
}
