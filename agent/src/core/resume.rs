//! How a pause is noticed by the clocks alone.

use std::time::Duration;

use crate::clock::Now;

/// Differences of the clocks that move by more than this mean a pause or a step (design §4).
const TOLERANCE: Duration = Duration::from_secs(2);

/// The clocks' differences, kept from one look to the next.
#[derive(Default)]
pub(super) struct Watch {
    last: Option<Now>,
}

impl Watch {
    /// Says why the machine must have been paused, or its clock set, since the last look.
    pub fn look(&mut self, now: Now) -> Option<&'static str> {
        let last = self.last.replace(now)?;
        let boot = now.boot.since(last.boot);
        let monotonic = now.monotonic.saturating_sub(last.monotonic);
        if boot.abs_diff(monotonic) > TOLERANCE {
            return Some("the machine was suspended");
        }
        let stepped = match now.real.duration_since(last.real) {
            Ok(real) => real.abs_diff(boot) > TOLERANCE,
            Err(back) => back.duration() + boot > TOLERANCE,
        };
        stepped.then_some("the clock was set")
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::clock::BootTime;

    fn at(boot: u64, monotonic: u64, real: u64) -> Now {
        let real = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + real);
        Now { boot: BootTime(boot * 1000), monotonic: Duration::from_secs(monotonic), real }
    }

    #[test]
    fn an_ordinary_hour_is_no_pause() {
        let mut watch = Watch::default();
        assert_eq!(watch.look(at(0, 0, 0)), None);
        assert_eq!(watch.look(at(3600, 3600, 3601)), None);
    }

    #[test]
    fn suspend_and_clock_steps_in_both_directions_are_noticed_once() {
        let mut watch = Watch::default();
        watch.look(at(10, 10, 10));
        assert_eq!(watch.look(at(40, 15, 40)), Some("the machine was suspended"));
        assert_eq!(watch.look(at(41, 16, 86_441)), Some("the clock was set"));
        assert_eq!(watch.look(at(42, 17, 0)), Some("the clock was set"));
        assert_eq!(watch.look(at(43, 18, 1)), None);
    }
}
