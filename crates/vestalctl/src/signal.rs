//! Signals by name or number, as `kill` takes them.

use protocol::objects::nearest;
use rustix::process::Signal;

/// The names, without `SIG`; the numbers are this machine's.
const NAMES: [(&str, Signal); 31] = [
    ("HUP", Signal::HUP),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("ILL", Signal::ILL),
    ("TRAP", Signal::TRAP),
    ("ABRT", Signal::ABORT),
    ("BUS", Signal::BUS),
    ("FPE", Signal::FPE),
    ("KILL", Signal::KILL),
    ("USR1", Signal::USR1),
    ("SEGV", Signal::SEGV),
    ("USR2", Signal::USR2),
    ("PIPE", Signal::PIPE),
    ("ALRM", Signal::ALARM),
    ("TERM", Signal::TERM),
    ("STKFLT", Signal::STKFLT),
    ("CHLD", Signal::CHILD),
    ("CONT", Signal::CONT),
    ("STOP", Signal::STOP),
    ("TSTP", Signal::TSTP),
    ("TTIN", Signal::TTIN),
    ("TTOU", Signal::TTOU),
    ("URG", Signal::URG),
    ("XCPU", Signal::XCPU),
    ("XFSZ", Signal::XFSZ),
    ("VTALRM", Signal::VTALARM),
    ("PROF", Signal::PROF),
    ("WINCH", Signal::WINCH),
    ("IO", Signal::IO),
    ("PWR", Signal::POWER),
    ("SYS", Signal::SYS),
];
/// The kernel's highest signal.
const HIGHEST: i32 = 64;

/// Reads `TERM`, `SIGTERM`, `term` or `15`.
pub(crate) fn parse(text: &str) -> Result<i32, String> {
    if let Ok(number) = text.parse::<i32>() {
        if (1..=HIGHEST).contains(&number) {
            return Ok(number);
        }
        return Err(format!(
            "signal {number} does not exist; use 1 to {HIGHEST}, or a name like TERM"
        ));
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some((_, signal)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Ok(signal.as_raw());
    }
    let near = nearest(name, NAMES.iter().map(|(name, _)| *name));
    let hint = near.map(|name| format!("did you mean {name}?"));
    let cure = hint.unwrap_or_else(|| "use a name like TERM, or a number".to_owned());
    Err(format!("unknown signal {text:?}; {cure}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_and_without_sig_and_numbers_mean_the_same() {
        for text in ["TERM", "SIGTERM", "sigterm", "15"] {
            assert_eq!(parse(text), Ok(15));
        }
    }

    #[test]
    fn unknown_signals_are_refused_with_a_suggestion() {
        assert_eq!(parse("TRM").unwrap_err(), "unknown signal \"TRM\"; did you mean TERM?");
        assert!(parse("0").unwrap_err().contains("1 to 64"));
        assert!(parse("65").is_err() && parse("").is_err() && parse("-9").is_err());
    }
}
