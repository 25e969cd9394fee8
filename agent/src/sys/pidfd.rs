//! Signalling a process that cannot be mistaken for another.
#![expect(unsafe_code, reason = "the kernel's pidfd calls have no safe wrapper in the libraries used here")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
use tokio::io::unix::AsyncFd;

use super::async_fd::register;

/// A process, held by a descriptor: its pid may be given to another process, this handle never is (pidfd_open(2), Linux 5.3).
#[derive(Debug)]
pub struct PidFd(AsyncFd<OwnedFd>);

impl PidFd {
    /// Opens the process that has `pid` now; `None` when there is none. Identify it *after* this, then signal.
    pub fn open(pid: u32) -> io::Result<Option<Self>> {
        match open(pid as libc::pid_t) {
            Err(Errno::ESRCH) => Ok(None),
            opened => Ok(Some(Self(register(opened?)?))),
        }
    }

    /// Sends `signal`; a process that has ended meanwhile is no error.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let fd = self.0.get_ref().as_raw_fd();
        let none = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: pidfd_send_signal takes a descriptor that lives as long as `self`, a number, no siginfo and no flags.
        let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal as libc::c_int, none, 0) };
        match Errno::result(sent) {
            Ok(_) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits until the process has ended; it need not be a child.
    pub async fn ended(&self) -> io::Result<()> {
        self.0.readable().await.map(|mut guard| guard.retain_ready())
    }
}

/// A descriptor of the process that has `pid` now, for those without an event loop.
pub(super) fn open(pid: libc::pid_t) -> nix::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and touches no memory of this process.
    let number = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel just returned this descriptor (always close-on-exec) to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(number as i32) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_signalled_process_is_seen_to_end() {
        let mut child = tokio::process::Command::new("sleep").arg("600").spawn().expect("sleep");
        let process = PidFd::open(child.id().expect("a pid")).expect("pidfd").expect("it lives");
        process.signal(Signal::SIGKILL).expect("signal");
        process.ended().await.expect("it ends");
        assert!(!child.wait().await.expect("wait").success());
        process.signal(Signal::SIGKILL).expect("a second signal finds nobody and says nothing");
    }

    #[tokio::test]
    async fn a_pid_that_nobody_has_is_no_process() {
        assert!(PidFd::open(i32::MAX as u32).expect("pidfd").is_none());
    }
}
