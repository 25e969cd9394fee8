//! When to try again: the only place that knows of the `backoff` crate.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;

/// How fast tries may follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The longest first delay.
    pub base: Duration,
    /// The longest delay of all.
    pub cap: Duration,
}

/// Metadata is on this machine's own link and nothing works without it: 0.5 s, 1 s, … 10 s.
pub const METADATA: Pace = Pace { base: Duration::from_millis(500), cap: Duration::from_secs(10) };

/// Everything on the internet: 0.5 s, 1 s, … 60 s.
pub const REMOTE: Pace = Pace { base: Duration::from_millis(500), cap: Duration::from_secs(60) };

/// What is on this machine and costs nobody else anything: 0.25 s, 0.5 s, … 10 s.
pub const LOCAL: Pace = Pace { base: Duration::from_millis(250), cap: Duration::from_secs(10) };

/// A unit that systemd has given up on, after five starts of its own: 5 s, 10 s, … 5 min (faults F36).
pub const UNIT: Pace = Pace { base: Duration::from_secs(5), cap: Duration::from_secs(300) };

/// A refusal that only a person can lift is asked about again at most four times an hour.
pub const REFUSED: Duration = Duration::from_secs(15 * 60);

/// A network error that sent no packet costs nobody anything, so it is tried again this soon…
pub const UNSENT: Duration = Duration::from_millis(200);

/// …for this long after the first of them.
pub const UNSENT_FOR: Duration = Duration::from_secs(60);

/// The longest that another side's `Retry-After` is believed.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

impl Pace {
    /// Draws the delay after the `attempts`-th failure in a row (from 1): full jitter over an interval that doubles up to the cap.
    ///
    /// Full jitter spreads thousands of machines that boot in the same second; a tenth of the interval is the least, so that two tries never
    /// follow each other at once.
    pub fn delay(self, attempts: u32) -> Duration {
        let interval = self.base.saturating_mul(1 << attempts.saturating_sub(1).min(20)).min(self.cap);
        jitter(interval / 2, 1.0).max(interval / 10)
    }
}

/// Draws from `middle` ± `middle × factor`, so that machines drift apart.
pub fn jitter(middle: Duration, factor: f64) -> Duration {
    let mut draw = ExponentialBackoff {
        current_interval: middle,
        initial_interval: middle,
        max_interval: middle,
        randomization_factor: factor,
        max_elapsed_time: None,
        ..ExponentialBackoff::default()
    };
    draw.next_backoff().unwrap_or(middle)
}

/// The report publisher's waits, drawn like everybody else's.
#[derive(Clone, Copy, Debug)]
pub struct Drawn;

impl crate::report::Pace for Drawn {
    fn retry(&self, failures: u32) -> Duration {
        REMOTE.delay(failures + 1)
    }

    fn spread(&self, around: Duration) -> Duration {
        jitter(around, 0.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_to_the_cap_and_never_vanish() {
        for attempts in 1..40 {
            let interval = Duration::from_millis(500 << (attempts - 1).min(10)).min(METADATA.cap);
            for _ in 0..50 {
                let delay = METADATA.delay(attempts);
                assert!(delay >= interval / 10 && delay <= interval, "{delay:?} after {attempts} failures");
            }
        }
    }

    #[test]
    fn jitter_spreads_over_the_whole_interval() {
        let mut buckets = [0_u32; 4];
        for _ in 0..4000 {
            let delay = REMOTE.delay(7);
            buckets[(delay.as_millis() * 4 / 32_001) as usize] += 1;
        }
        assert!(buckets.iter().all(|count| (700..1500).contains(count)), "{buckets:?}");
    }

    #[test]
    fn a_minute_of_polling_drifts_by_a_tenth() {
        let drawn: Vec<_> = (0..200).map(|_| jitter(Duration::from_secs(60), 0.1)).collect();
        assert!(drawn.iter().all(|d| (54.0..=66.0).contains(&d.as_secs_f64())));
        assert!(drawn.windows(2).any(|pair| pair[0] != pair[1]));
    }
}
