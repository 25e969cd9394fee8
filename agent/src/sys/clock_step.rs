//! Noticing that the wall clock was set.

use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;

use super::async_fd::register;

/// Wakes whenever CLOCK_REALTIME is set discontinuously: by a person, by NTP, or by a hypervisor after a pause.
///
/// A timer that never expires is cancelled by the kernel at each step (`TFD_TIMER_CANCEL_ON_SET`, timerfd_create(2)); nothing polls.
#[derive(Debug)]
pub struct ClockSteps(AsyncFd<OwnedFd>);

impl ClockSteps {
    /// Starts to watch; steps before this call are not seen.
    pub fn watch() -> io::Result<Self> {
        let timer = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        let never = Expiration::OneShot(TimeSpec::new(i64::MAX, 0));
        timer.set(never, TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET)?;
        Ok(Self(register(timer.into())?))
    }

    /// Waits for the next step; several in quick succession may count as one. Safe to cancel.
    pub async fn next(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            match nix::unistd::read(self.0.get_ref(), &mut [0; 8]) {
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(Errno::EINTR) => {}
                // ECANCELED is the step; an expiry in the year 292 billion is as good as one.
                Err(Errno::ECANCELED) | Ok(_) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    // Setting the clock would touch the host; that a step wakes is shown in a virtual machine.
    #[tokio::test(start_paused = true)]
    async fn nothing_is_reported_while_the_clock_only_runs() {
        let steps = ClockSteps::watch().expect("timerfd");
        assert!(tokio::time::timeout(Duration::from_secs(3600), steps.next()).await.is_err());
    }
}
