//! Times, as pages and programs want them.

use std::time::SystemTime;

/// For programs.
pub(crate) fn rfc3339(time: SystemTime) -> Option<String> {
    jiff::Timestamp::try_from(time).ok().map(|time| time.to_string())
}

/// For people.
pub(crate) fn readable(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| "unknown".to_owned(), |time| time.strftime("%F %T UTC").to_string())
}

/// How long ago, in the largest unit of which there is at least one.
pub(crate) fn ago(time: SystemTime, now: SystemTime) -> String {
    let seconds = now.duration_since(time).unwrap_or_default().as_secs();
    let (count, unit) = match seconds {
        0..60 => return "just now".to_owned(),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural} ago")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ago_is_told_in_the_largest_unit() {
        let then = SystemTime::UNIX_EPOCH;
        for (seconds, text) in [
            (0, "just now"),
            (59, "just now"),
            (60, "1 minute ago"),
            (3599, "59 minutes ago"),
            (3600, "1 hour ago"),
            (86_399, "23 hours ago"),
            (200_000, "2 days ago"),
        ] {
            assert_eq!(ago(then, then + Duration::from_secs(seconds)), text);
        }
        assert_eq!(ago(then + Duration::from_secs(5), then), "just now", "clocks differ a little");
    }
}
