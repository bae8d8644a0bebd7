//! Standard output: JSON or text, and a reader who left is no error.

use std::io::{self, Write as _};

use serde::Serialize;

use crate::error::Error;

/// How results are printed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) json: bool,
}

impl Output {
    /// Prints one or the other.
    pub(crate) fn either<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        if !self.json {
            return write(&text());
        }
        let mut json = serde_json::to_string_pretty(value)
            .map_err(|error| Error::failed(format!("write the result as JSON: {error}")))?;
        json.push('\n');
        write(&json)
    }
}

pub(crate) fn write(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // `vestal bundle inspect | head -1`: who reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| Error::failed(format!("write to standard output: {error}"))),
    }
}

/// What came out of a file is shown, never obeyed: control characters come out escaped, but line ends.
pub(crate) fn clean(text: &str) -> String {
    let escape = |c: char| match c {
        '\n' => vec![c],
        c if c.is_control() => c.escape_default().collect(),
        c => vec![c],
    };
    text.chars().flat_map(escape).collect()
}

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let found = units.into_iter().find(|(shift, _)| bytes >> shift > 0);
    match found {
        Some((shift, unit)) => {
            // In tenths, and in 128 bits, so that nothing overflows.
            let tenths = (u128::from(bytes) * 10) >> shift;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

/// Seconds since 1970 for people, in UTC: `2026-11-22T04:05:20Z`.
pub(crate) fn time(seconds: u64) -> String {
    // Further away than any calendar; a device's clock may say anything.
    const LAST: u64 = 253_402_300_799;
    let seconds = seconds.min(LAST);
    let (mut day, mut year) = (seconds / 86_400, 1970);
    let february = |year: u64| match (year % 4, year % 100, year % 400) {
        (_, _, 0) => 29,
        (_, 0, _) => 28,
        (0, _, _) => 29,
        _ => 28,
    };
    while day >= 337 + february(year) {
        day -= 337 + february(year);
        year += 1;
    }
    let mut month = 1;
    for of_month in [31, february(year), 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if day < of_month {
            break;
        }
        day -= of_month;
        month += 1;
    }
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(5 << 30), "5.0 GiB");
        assert_eq!(size(u64::MAX), "17179869183.9 GiB");
    }

    #[test]
    fn times_are_dates_in_utc_that_know_leap_years() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(time(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(time(4_107_542_400), "2100-03-01T00:00:00Z");
        assert_eq!(time(1_795_320_320), "2026-11-22T04:05:20Z");
        assert_eq!(time(1_798_761_599), "2026-12-31T23:59:59Z");
        assert_eq!(time(u64::MAX), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn control_characters_are_shown() {
        assert_eq!(clean("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\nc");
    }
}
