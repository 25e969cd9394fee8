//! Time, passed in like every other edge.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// A point on CLOCK_BOOTTIME, in milliseconds since the kernel started.
///
/// Every age in the agent is the difference of two of these: the clock goes on during suspend and never steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootTime(pub u64);

impl BootTime {
    /// The time from `earlier` to this one, zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for BootTime {
    type Output = Self;

    fn add(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// A time as people and documents write it: RFC 3339, UTC, to the second.
pub fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// The three clocks read together, so that their differences mean something.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// CLOCK_BOOTTIME: goes on during suspend.
    pub boot: BootTime,
    /// CLOCK_MONOTONIC: stands still during suspend.
    pub monotonic: Duration,
    /// CLOCK_REALTIME: what tokens and people speak of; may step.
    pub real: SystemTime,
}

/// Where the time comes from; tests pass one they control.
#[async_trait]
pub trait Clock: Send + Sync {
    /// Reads all clocks.
    fn now(&self) -> Now;

    /// Waits; safe to cancel. A clock of a test that says nothing else waits by tokio's time, which may be paused.
    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// The finest slots of tokio's timer wheel together: a shorter wait wakes once anyway.
const SHORT: Duration = Duration::from_millis(64);

/// The kernel's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the real clocks")]
    fn now(&self) -> Now {
        Now {
            boot: BootTime(read(nix::time::ClockId::CLOCK_BOOTTIME).as_millis() as u64),
            monotonic: read(nix::time::ClockId::CLOCK_MONOTONIC),
            real: SystemTime::now(),
        }
    }

    async fn sleep(&self, duration: Duration) {
        if duration < SHORT || crate::sys::timer::sleep(duration).await.is_err() {
            tokio::time::sleep(duration).await;
        }
    }
}

fn read(clock: nix::time::ClockId) -> Duration {
    // clock_gettime of a clock that every supported kernel has cannot fail.
    clock.now().map_or(Duration::ZERO, Duration::from)
}
