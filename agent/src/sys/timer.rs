//! One timer of the kernel a wait.

use std::io;
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::async_fd::register;

/// Waits on CLOCK_BOOTTIME, by a timer of the kernel (timerfd_create(2)). Safe to cancel.
///
/// tokio's own timers wake the process three times on a wait of seconds, as its wheel goes from coarse slots to fine ones, and stand still
/// during suspend; this wakes once, and at once after a suspend that it did not outlast.
///
/// # Errors
/// When there is no descriptor left.
pub async fn sleep(duration: Duration) -> io::Result<()> {
    let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
    // Zero would mean never.
    let time = TimeSpec::from(duration.max(Duration::from_nanos(1)));
    timer.set(Expiration::OneShot(time), TimerSetTimeFlags::empty())?;
    register(timer.into())?.readable().await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_ends_and_not_before_its_time() {
        for duration in [Duration::ZERO, Duration::from_millis(20)] {
            let before = nix::time::ClockId::CLOCK_BOOTTIME.now().expect("every kernel has it");
            sleep(duration).await.expect("timerfd");
            let after = nix::time::ClockId::CLOCK_BOOTTIME.now().expect("every kernel has it");
            assert!(Duration::from(after - before) >= duration);
        }
    }
}
