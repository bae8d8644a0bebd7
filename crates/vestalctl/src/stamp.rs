//! Times of day, in UTC: as they are printed, and as they are typed. A device has no table of time zones.

use std::time::Duration;

use crate::units;

const DAY: i64 = 86_400;

/// A moment somebody typed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum When {
    Ago(Duration),
    /// Microseconds since 1970.
    At(u64),
}

impl When {
    /// In microseconds since 1970, where `now` is that too.
    pub(crate) fn resolve(self, now_us: u64) -> u64 {
        match self {
            Self::Ago(ago) => {
                now_us.saturating_sub(u64::try_from(ago.as_micros()).unwrap_or(u64::MAX))
            }
            Self::At(at) => at,
        }
    }
}

/// `2026-11-22T04:05:20.123Z`.
pub(crate) fn full(us: u64) -> String {
    let seconds = i64::try_from(us / 1_000_000).unwrap_or(i64::MAX);
    format!("{}.{:03}Z", units::date(seconds).replacen(' ', "T", 1), us / 1000 % 1000)
}

/// `04:05:20.123`.
pub(crate) fn short(us: u64) -> String {
    let text = full(us);
    let time = text.split_once('T').map_or("", |(_, time)| time);
    time.trim_end_matches('Z').to_owned()
}

/// `Sun Nov 22 04:05:20 2026`, as ctime(3) writes it.
pub(crate) fn ctime(us: u64) -> String {
    let seconds = i64::try_from(us / 1_000_000).unwrap_or(i64::MAX);
    let date = units::date(seconds);
    // 1970 began on a Thursday.
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    let months =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let weekday = usize::try_from((seconds / DAY) % 7).ok().and_then(|day| weekday.get(day));
    let (day, time) = date.split_once(' ').unwrap_or((&date, ""));
    let mut parts = day.split('-');
    let (year, month, day) = (parts.next(), parts.next(), parts.next());
    let number = |part: Option<&str>| part.and_then(|part| part.parse::<usize>().ok()).unwrap_or(1);
    let month = months.get(number(month) - 1);
    format!(
        "{} {} {:>2} {time} {}",
        weekday.unwrap_or(&"???"),
        month.unwrap_or(&"???"),
        number(day),
        year.unwrap_or("????")
    )
}

/// Reads `10min`, `2h`, `3d` (so long ago), `now`, `2026-11-22`, `2026-11-22 04:05`, `2026-11-22T04:05:20.5+01:00`.
pub(crate) fn parse(text: &str) -> Result<When, String> {
    let text = text.trim();
    if text == "now" {
        return Ok(When::Ago(Duration::ZERO));
    }
    let found = if text.get(4..5) == Some("-") { date(text).map(When::At) } else { ago(text) };
    found.ok_or_else(|| {
        format!(
            "{text:?} is no time; write how long ago like 30s, 10min, 2h, 3d, or in UTC 2026-11-22, \
             2026-11-22 04:05, 2026-11-22T04:05:20Z"
        )
    })
}

fn ago(text: &str) -> Option<When> {
    let text = text.strip_suffix("ago").unwrap_or(text).trim();
    let text = text.strip_prefix('-').unwrap_or(text);
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let seconds = match unit.trim() {
        "" | "s" | "sec" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return None,
    };
    let number: u64 = number.parse().ok()?;
    Some(When::Ago(Duration::from_secs(number.checked_mul(seconds)?)))
}

/// RFC 3339, where the time may be absent, or only its seconds; without an offset it is UTC.
fn date(text: &str) -> Option<u64> {
    let (day, rest) = text.split_at_checked(10)?;
    let mut seconds = days(day)?.checked_mul(DAY)?;
    let mut micros = 0;
    if let Some(rest) = rest.strip_prefix(['T', 't', ' ']) {
        let (time, offset) = match rest.find(['Z', 'z', '+', '-']) {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
        seconds = seconds.checked_add(of_day(clock)?)?.checked_sub(offset_of(offset)?)?;
        micros = fraction_of(fraction, time.contains('.'))?;
    } else if !rest.is_empty() {
        return None;
    }
    u64::try_from(seconds).ok()?.checked_mul(1_000_000)?.checked_add(micros)
}

/// Days since 1970 of `YYYY-MM-DD`.
fn days(text: &str) -> Option<i64> {
    let mut parts = text.split('-');
    let year = digits(parts.next()?, 4)?;
    let month = digits(parts.next()?, 2)?;
    let day = digits(parts.next()?, 2)?;
    if parts.next().is_some() || !(1..=12).contains(&month) || day == 0 {
        return None;
    }
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let february = if leap { 29 } else { 28 };
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let month = usize::try_from(month).ok()?;
    if day > lengths[month - 1] {
        return None;
    }
    let before = year - 1;
    let since_year_one = before * 365 + before / 4 - before / 100 + before / 400;
    // 719,162 days lie between 0001-01-01 and 1970-01-01.
    Some(since_year_one - 719_162 + lengths[..month - 1].iter().sum::<i64>() + day - 1)
}

/// Seconds of `HH:MM` or `HH:MM:SS`; a leap second counts as the one before.
fn of_day(text: &str) -> Option<i64> {
    let mut parts = text.split(':');
    let hour = digits(parts.next()?, 2)?;
    let minute = digits(parts.next()?, 2)?;
    let second = parts.next().map_or(Some(0), |second| digits(second, 2))?;
    let fits = hour < 24 && minute < 60 && second <= 60 && parts.next().is_none();
    fits.then(|| hour * 3600 + minute * 60 + second.min(59))
}

fn offset_of(text: &str) -> Option<i64> {
    let sign = match text.chars().next() {
        None => return Some(0),
        Some('Z' | 'z') => return (text.len() == 1).then_some(0),
        Some('-') => -1,
        Some(_) => 1,
    };
    let (hours, minutes) = text[1..].split_once(':')?;
    let (hours, minutes) = (digits(hours, 2)?, digits(minutes, 2)?);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

/// Microseconds of the digits behind the point; finer ones are cut off.
fn fraction_of(text: &str, must: bool) -> Option<u64> {
    if text.is_empty() {
        return (!must).then_some(0);
    }
    let digits = text.len() <= 9 && text.bytes().all(|letter| letter.is_ascii_digit());
    if !digits {
        return None;
    }
    format!("{text:0<6}")[..6].parse().ok()
}

fn digits(text: &str, count: usize) -> Option<i64> {
    let fits = text.len() == count && text.bytes().all(|letter| letter.is_ascii_digit());
    fits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-22T04:05:20Z.
    const THEN: u64 = 1_795_320_320;

    #[test]
    fn times_are_printed_in_utc_with_milliseconds() {
        assert_eq!(full(THEN * 1_000_000 + 123_999), "2026-11-22T04:05:20.123Z");
        assert_eq!(short(THEN * 1_000_000 + 7000), "04:05:20.007");
        assert_eq!(ctime(THEN * 1_000_000), "Sun Nov 22 04:05:20 2026");
        assert_eq!(ctime(0), "Thu Jan  1 00:00:00 1970");
    }

    #[test]
    fn how_long_ago_is_read_with_its_unit() {
        let ago = |seconds| Ok(When::Ago(Duration::from_secs(seconds)));
        assert_eq!(parse("10min"), ago(600));
        assert_eq!(parse("2h"), ago(7200));
        assert_eq!(parse("10"), ago(10));
        assert_eq!(parse("-3d"), ago(3 * 86_400));
        assert_eq!(parse("5 min ago"), ago(300));
        assert_eq!(parse("now"), ago(0));
        assert_eq!(When::Ago(Duration::from_secs(1)).resolve(3_000_000), 2_000_000);
        assert_eq!(When::Ago(Duration::MAX).resolve(3_000_000), 0);
    }

    #[test]
    fn dates_are_read_whole_or_in_part() {
        let at = |seconds: u64| Ok(When::At(seconds * 1_000_000));
        assert_eq!(parse("2026-11-22T04:05:20Z"), at(THEN));
        assert_eq!(parse("2026-11-22T05:05:20+01:00"), at(THEN));
        assert_eq!(parse("2026-11-22 04:05:20"), at(THEN));
        assert_eq!(parse("2026-11-22 04:05"), at(THEN - 20));
        assert_eq!(parse("2026-11-22"), at(THEN - 20 - 5 * 60 - 4 * 3600));
        assert_eq!(parse("2024-02-29"), at(1_709_164_800));
        assert_eq!(parse("1970-01-01T00:00:00.5Z"), Ok(When::At(500_000)));
    }

    #[test]
    fn what_is_printed_is_read_again() {
        for us in [0, THEN * 1_000_000 + 123_000, 951_782_399_000_000, 4_107_542_400_000_000] {
            assert_eq!(parse(&full(us)), Ok(When::At(us)));
        }
    }

    #[test]
    fn impossible_times_are_refused_with_the_cure() {
        for text in [
            "",
            "soon",
            "x10min",
            "2026-13-01",
            "2026-02-29",
            "2026-11-22T",
            "2026-11-22T25:00",
            "2026-11-22 04:05:20.",
            "2026-11-22T04:05+1",
            "1969-12-31",
            "99999999999999999999h",
            "2026-11-22x",
            "2026-1é-22",
        ] {
            assert!(parse(text).is_err_and(|error| error.contains("10min")), "{text:?}");
        }
    }
}
