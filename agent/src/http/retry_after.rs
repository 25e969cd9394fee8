//! `Retry-After` (RFC 9110 §10.2.3).

use std::time::{Duration, SystemTime};

use crate::retry::RETRY_AFTER_MAX;

/// Reads a `Retry-After`, seconds or an HTTP-date compared with `now`; never more than [`RETRY_AFTER_MAX`].
///
/// What is neither, a negative number for one, says nothing. A date that has passed says "now".
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let delay = if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // Digits alone that do not fit are a very long time, not an error.
        value.parse().map_or(Duration::MAX, Duration::from_secs)
    } else {
        httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default()
    };
    Some(delay.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOON: Duration = Duration::from_secs(1_700_000_000);

    fn at_noon(value: &str) -> Option<Duration> {
        retry_after(value, SystemTime::UNIX_EPOCH + NOON)
    }

    #[test]
    fn seconds_and_dates_are_understood() {
        assert_eq!(at_noon("30"), Some(Duration::from_secs(30)));
        let later = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + NOON + Duration::from_secs(90));
        assert_eq!(at_noon(&later), Some(Duration::from_secs(90)));
        let earlier = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + NOON - Duration::from_secs(90));
        assert_eq!(at_noon(&earlier), Some(Duration::ZERO));
    }

    #[test]
    fn an_absurd_wait_is_cut_to_an_hour() {
        assert_eq!(at_noon("1000000000"), Some(RETRY_AFTER_MAX));
        assert_eq!(at_noon("99999999999999999999999999"), Some(RETRY_AFTER_MAX));
        assert_eq!(at_noon("Fri, 31 Dec 2100 23:59:59 GMT"), Some(RETRY_AFTER_MAX));
    }

    #[test]
    fn what_is_no_wait_says_nothing() {
        for value in ["-1", "", "soon", "1.5", "+3", "0x10"] {
            assert_eq!(at_noon(value), None, "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn any_header_gives_at_most_an_hour(value in "\\PC*", now in 0u64..10_000_000_000) {
            let delay = retry_after(&value, SystemTime::UNIX_EPOCH + Duration::from_secs(now));
            prop_assert!(delay.is_none_or(|delay| delay <= RETRY_AFTER_MAX));
        }

        #[test]
        fn any_number_of_seconds_is_kept_up_to_an_hour(seconds in any::<u64>()) {
            let expected = Duration::from_secs(seconds).min(RETRY_AFTER_MAX);
            prop_assert_eq!(at_noon(&seconds.to_string()), Some(expected));
        }
    }
}
