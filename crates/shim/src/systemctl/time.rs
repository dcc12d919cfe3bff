//! Times as systemctl prints them, in UTC.

use u7s_plan::calendar::civil;

/// `Sun 2026-11-22 07:26:01 UTC`.
///
/// `seconds` since the epoch. Source: systemd, `format_timestamp`.
pub(super) fn absolute(seconds: u64) -> String {
    const NAMES: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    let (days, clock) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    // The remainder is below 7.
    let name = NAMES.into_iter().nth(usize::try_from(days % 7).unwrap_or(0)).unwrap_or("Thu");
    let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
    format!("{name} {year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// `3min 2s ago`.
///
/// Source: systemd, `format_timestamp_relative_full`: the same borders and units.
pub(super) fn relative(seconds: u64, now: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    const WEEK: u64 = 7 * DAY;
    // systemd's month and year are mean ones.
    const MONTH: u64 = 2_629_800;
    const YEAR: u64 = 31_557_600;
    let (past, word) = if now >= seconds { (now - seconds, "ago") } else { (seconds - now, "left") };
    let plural = |count: u64, unit: &str| format!("{count} {unit}{}", if count == 1 { "" } else { "s" });
    match past {
        YEAR.. => format!("{} {} {word}", plural(past / YEAR, "year"), plural(past % YEAR / MONTH, "month")),
        MONTH.. => format!("{} {} {word}", plural(past / MONTH, "month"), plural(past % MONTH / DAY, "day")),
        WEEK.. => format!("{} {} {word}", plural(past / WEEK, "week"), plural(past % WEEK / DAY, "day")),
        172_800.. => format!("{} {word}", plural(past / DAY, "day")),
        90_000.. => format!("1 day {}h {word}", (past - DAY) / HOUR),
        21_600.. => format!("{}h {word}", past / HOUR),
        HOUR.. => format!("{}h {}min {word}", past / HOUR, past % HOUR / MINUTE),
        300.. => format!("{}min {word}", past / MINUTE),
        MINUTE.. => format!("{}min {}s {word}", past / MINUTE, past % MINUTE),
        1.. => format!("{past}s {word}"),
        0 => "now".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_date_and_systemctl() {
        for (seconds, text) in [
            (0, "Thu 1970-01-01 00:00:00 UTC"),
            (951_782_400, "Tue 2000-02-29 00:00:00 UTC"),
            (1_795_332_361, "Sun 2026-11-22 07:26:01 UTC"),
            (4_107_542_399, "Sun 2100-02-28 23:59:59 UTC"),
        ] {
            assert_eq!(absolute(seconds), text);
        }
        for (past, text) in [
            (0, "now"),
            (59, "59s ago"),
            (62, "1min 2s ago"),
            (301, "5min ago"),
            (3_660, "1h 1min ago"),
            (21_600, "6h ago"),
            (86_401, "24h ago"),
            (93_600, "1 day 2h ago"),
            (200_000, "2 days ago"),
            (700_000, "1 week 1 day ago"),
            (2_700_000, "1 month 0 days ago"),
            (31_557_600, "1 year 0 months ago"),
        ] {
            assert_eq!(relative(1_000_000_000, 1_000_000_000 + past), text);
        }
    }
}
