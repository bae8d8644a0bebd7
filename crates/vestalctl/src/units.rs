//! Durations, sizes and times as people write and read them.

use std::time::Duration;

/// A call waits at most this long; longer ones are mistyped.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Reads `30`, `30s`, `500ms`, `2m` or `1h`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let cure = "write seconds like 30, or 500ms, 30s, 2m, 1h";
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is no duration; {cure}"))?;
    let milliseconds = match unit {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => return Err(format!("{text:?} has the unknown unit {unit:?}; {cure}")),
    };
    match milliseconds.map(Duration::from_millis) {
        Some(Duration::ZERO) => Err(format!("{text:?} leaves no time at all; {cure}")),
        Some(duration) if duration <= LONGEST => Ok(duration),
        _ => Err(format!("{text:?} exceeds the limit of 24h; {cure}")),
    }
}

/// Reads `26`, or `0x1a`.
pub(crate) fn parse_number(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| format!("{text:?} is no number of 32 bits: {error}; write 26, or 0x1a"))
}

/// `7s`, `4m10s`, `2h05m`, `3d04h`: the two parts that matter.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if days > 0 => format!("{days}d{:02}h", hours % 24),
        () if hours > 0 => format!("{hours}h{:02}m", minutes % 60),
        () if minutes > 0 => format!("{minutes}m{:02}s", seconds % 60),
        () => format!("{seconds}s"),
    }
}

/// As [`duration`], with hundredths below a minute: `0.05s`.
pub(crate) fn processor_time(time: Duration) -> String {
    if time < Duration::from_secs(60) {
        return format!("{}.{:02}s", time.as_secs(), time.subsec_millis() / 10);
    }
    duration(time)
}

/// `812 B`, `3.4 MiB`: one digit after the point below ten.
pub(crate) fn size(bytes: u64) -> String {
    let mut unit = 0;
    let mut rest = bytes;
    while rest >= 1024 << 10 {
        rest >>= 10;
        unit += 1;
    }
    if rest < 1024 {
        return format!("{rest} B");
    }
    let name = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"][unit];
    if rest >= 10 << 10 {
        return format!("{} {name}", rest >> 10);
    }
    format!("{}.{} {name}", rest >> 10, (rest & 1023) * 10 / 1024)
}

/// `2026-11-22 01:44:05`, from seconds since 1970 that already are local.
pub(crate) fn date(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (mut year, mut day) = (1970, days);
    let length = |year: i64| {
        if (year % 4 == 0 && year % 100 != 0) || year % 400 == 0 { 366 } else { 365 }
    };
    // 400 years have 146,097 days; the loops below run at most 400 times.
    year += day.div_euclid(146_097) * 400;
    day = day.rem_euclid(146_097);
    while day >= length(year) {
        day -= length(year);
        year += 1;
    }
    let february = length(year) - 337;
    let mut month = 1;
    for of_month in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < of_month {
            break;
        }
        day -= of_month;
        month += 1;
    }
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{:02} {hour:02}:{minute:02}:{second:02}", day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_number_is_seconds_and_units_are_read() {
        assert_eq!(parse_duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("24h"), Ok(LONGEST));
    }

    #[test]
    fn impossible_durations_are_refused_with_the_cure() {
        for text in ["", "s", "-1", "1.5s", "3 s", "0", "25h", "99999999999999999999", "3y"] {
            let error = parse_duration(text).unwrap_err();
            assert!(error.contains("write seconds like 30"), "{error}");
        }
        assert!(parse_duration("18446744073709551615h").unwrap_err().contains("24h"));
    }

    #[test]
    fn numbers_are_decimal_or_hexadecimal() {
        assert_eq!(parse_number("26"), Ok(26));
        assert_eq!(parse_number("0xfFFFFFFF"), Ok(u32::MAX));
        for text in ["", "x", "0x", "-1", "0x100000000", "1a"] {
            assert!(parse_number(text).unwrap_err().contains("write 26"), "{text}");
        }
    }

    #[test]
    fn durations_show_the_two_parts_that_matter() {
        let of = |seconds| duration(Duration::from_secs(seconds));
        assert_eq!(of(0), "0s");
        assert_eq!(of(59), "59s");
        assert_eq!(of(250), "4m10s");
        assert_eq!(of(7500), "2h05m");
        assert_eq!(of(3 * 86_400 + 4 * 3600 + 59 * 60), "3d04h");
    }

    #[test]
    fn processor_time_has_hundredths_while_it_is_short() {
        assert_eq!(processor_time(Duration::from_millis(59)), "0.05s");
        assert_eq!(processor_time(Duration::from_secs(250)), "4m10s");
    }

    #[test]
    fn sizes_have_a_digit_after_the_point_below_ten() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1024), "1.0 KiB");
        assert_eq!(size(3_600_000), "3.4 MiB");
        assert_eq!(size(64 << 20), "64 MiB");
        assert_eq!(size(u64::MAX), "15 EiB");
    }

    #[test]
    fn dates_know_leap_years() {
        assert_eq!(date(0), "1970-01-01 00:00:00");
        assert_eq!(date(951_782_399), "2000-02-28 23:59:59");
        assert_eq!(date(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(date(4_107_542_400), "2100-03-01 00:00:00");
        assert_eq!(date(-1), "1969-12-31 23:59:59");
    }
}
