//! Times as people say them.

use std::time::{Duration, SystemTime};

/// Says how long something took: `31 ms`, `4.2 s`, `3 min`.
pub fn took(duration: Duration) -> String {
    match duration.as_millis() {
        ms @ 0..1000 => format!("{ms} ms"),
        ms @ 1000..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => span(duration),
    }
}

/// Says a length of time in its largest unit: `12 s`, `3 min`, `2 h`, `5 days`.
pub fn span(duration: Duration) -> String {
    match duration.as_secs() {
        s @ 0..60 => format!("{s} s"),
        s @ 60..3600 => format!("{} min", s / 60),
        s @ 3600..172_800 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}

/// Says how long ago something was.
pub fn ago(age: Duration) -> String {
    if age < Duration::from_secs(1) { "just now".into() } else { format!("{} ago", span(age)) }
}

/// Says when `time` is, seen from `now`: `3 min ago`, `in 12 s`.
pub fn relative(time: SystemTime, now: SystemTime) -> String {
    match now.duration_since(time) {
        Ok(age) => ago(age),
        Err(ahead) => format!("in {}", span(ahead.duration())),
    }
}

/// Says when an RFC 3339 time is, seen from `now`; what is no such time is given as it stands.
pub fn relative_text(time: &str, now: SystemTime) -> String {
    humantime::parse_rfc3339(time).map_or_else(|_| time.to_owned(), |time| relative(time, now))
}

/// Writes an RFC 3339 time as people read it, to the second: `2026-01-02 14:02:11 UTC`.
pub fn calendar(time: &str) -> String {
    humantime::parse_rfc3339(time).map_or_else(|_| time.to_owned(), moment)
}

/// Writes a time as [`calendar`] does.
pub fn moment(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string().replace('T', " ").replace('Z', " UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_in_the_largest_unit_that_tells() {
        let said: Vec<String> = [0, 59, 60, 3599, 3600, 172_799, 172_800].map(|s| span(Duration::from_secs(s))).into();
        assert_eq!(said, ["0 s", "59 s", "1 min", "59 min", "1 h", "47 h", "2 days"]);
        let took: Vec<String> = [7, 999, 1_000, 59_999, 61_000].map(|ms| super::took(Duration::from_millis(ms))).into();
        assert_eq!(took, ["7 ms", "999 ms", "1.0 s", "59.9 s", "1 min"]);
    }

    #[test]
    fn the_past_and_the_future_are_told_apart() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        assert_eq!(relative(now, now), "just now");
        assert_eq!(relative(now - Duration::from_secs(90), now), "1 min ago");
        assert_eq!(relative_text("1970-01-01T00:17:00Z", now), "in 20 s");
    }

    #[test]
    fn what_is_no_time_is_given_as_it_stands() {
        assert_eq!(calendar("2026-01-02T14:02:11.5Z"), "2026-01-02 14:02:11 UTC");
        assert_eq!(calendar("yesterday"), "yesterday");
        assert_eq!(relative_text("soon", SystemTime::UNIX_EPOCH), "soon");
    }
}
