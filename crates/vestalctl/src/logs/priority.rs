//! The names of syslog(3)'s priorities and facilities.

/// By number, from emergency to debug.
const NAMES: [&str; 8] = ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];
/// What other programs write for some of them.
const OTHERS: [(&str, u8); 4] = [("panic", 0), ("error", 3), ("warn", 4), ("critical", 2)];
const FACILITIES: [&str; 21] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv",
    "ftp", "security", "local0", "local1", "local2", "local3", "local4", "local5", "local6",
    "local7",
];

/// The name of a priority; numbers that are none count as the last.
pub(crate) fn name(priority: u8) -> &'static str {
    NAMES.get(usize::from(priority)).copied().unwrap_or("debug")
}

/// Reads a name, or a number from 0 to 7.
pub(crate) fn parse(text: &str) -> Result<u8, String> {
    let lower = text.to_ascii_lowercase();
    let known = (0..).zip(NAMES).find(|(_, name)| *name == lower).map(|(number, _)| number);
    let other = OTHERS.iter().find(|(name, _)| *name == lower).map(|(_, number)| *number);
    let number = || lower.parse::<u8>().ok().filter(|number| *number < 8);
    known.or(other).or_else(number).ok_or_else(|| {
        format!("{text:?} is no priority; write 0 to 7, or one of {}", NAMES.join(", "))
    })
}

/// Reads `daemon.err` or `err`; the log keeps no facilities, but a mistyped one is no priority either.
pub(crate) fn parse_with_facility(text: &str) -> Result<u8, String> {
    let Some((facility, level)) = text.split_once('.') else { return parse(text) };
    if !FACILITIES.contains(&facility) {
        let all = FACILITIES.join(", ");
        return Err(format!("{facility:?} is no facility; write one of {all}"));
    }
    parse(level)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_have_names_and_numbers() {
        for number in 0..8 {
            assert_eq!(parse(name(number)), Ok(number));
            assert_eq!(parse(&number.to_string()), Ok(number));
        }
        assert_eq!(parse("WARN"), Ok(4));
        assert_eq!(parse_with_facility("daemon.error"), Ok(3));
        assert_eq!(parse_with_facility("6"), Ok(6));
    }

    #[test]
    fn what_is_none_is_refused_with_all_that_are() {
        assert!(parse("8").unwrap_err().contains("emerg, alert"));
        assert!(parse("loud").is_err());
        assert!(parse_with_facility("demon.err").unwrap_err().contains("daemon"));
        assert!(parse_with_facility("daemon.").is_err());
    }
}
