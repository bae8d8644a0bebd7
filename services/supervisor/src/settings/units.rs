//! Texts with a unit or a name behind them: durations, sizes, signals, capabilities, limits, file modes. Pure.

use std::time::Duration;

use rustix::process::{Resource, Signal};

/// A year; longer is a mistake, or `none`.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// Linux has signals 1 to 64 (signal(7)).
pub(crate) const SIGNAL_MAX: i32 = 64;

/// `1500ms`, `5s`, `2m`, `1h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let milliseconds: Option<u64> = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let value = number.parse::<u64>().ok().zip(milliseconds);
    let Some((count, factor)) = value else {
        return Err(format!(
            "{text:?} is not a duration; write one as \"1500ms\", \"5s\", \"2m\" or \"1h\""
        ));
    };
    match count.checked_mul(factor).map(Duration::from_millis) {
        Some(duration) if duration <= LONGEST => Ok(duration),
        _ => Err(format!("{text:?} is longer than a year (\"8760h\")")),
    }
}

/// `512B`, `64KiB`, `16MiB`, `2GiB`, or plain bytes.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let factor: Option<u64> = match unit {
        "" | "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        "TiB" => Some(1 << 40),
        _ => None,
    };
    let Some((count, factor)) = number.parse::<u64>().ok().zip(factor) else {
        return Err(format!(
            "{text:?} is not a size; write one as \"64KiB\", \"16MiB\" or \"1GiB\""
        ));
    };
    count.checked_mul(factor).ok_or_else(|| format!("{text:?} is more than 2^64 bytes"))
}

/// `50%`, `150%`: hundredths of one core.
pub(crate) fn percent(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix('%').and_then(|number| number.parse().ok());
    number
        .filter(|number| (1..=100_000).contains(number))
        .ok_or_else(|| format!("{text:?} is not a share of a core; write \"1%\" to \"100000%\" (\"150%\" is one core and a half)"))
}

/// Digits, and what follows them.
fn split(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// `0660`: permission bits in octal.
pub(crate) fn mode(text: &str) -> Result<u32, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let bits = u32::from_str_radix(text, 8).ok().filter(|bits| digits && *bits <= 0o7777);
    bits.ok_or_else(|| format!("{text:?} is not a mode; write octal digits as \"0660\""))
}

/// Signals by name. The numbers differ between architectures, so they come from the system's headers.
const SIGNALS: [(&str, Signal); 30] = [
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

/// `TERM`, `SIGTERM`, in any case, or a number as text.
pub(crate) fn signal(text: &str) -> Result<i32, String> {
    if let Ok(number) = text.parse() {
        return signal_number(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    match SIGNALS.iter().find(|(known, _)| *known == name) {
        Some((_, signal)) => Ok(signal.as_raw()),
        None => Err(format!(
            "{text:?} is not a signal; write a name as \"TERM\" or a number from 1 to {SIGNAL_MAX}"
        )),
    }
}

/// A signal by number.
pub(crate) fn signal_number(number: i64) -> Result<i32, String> {
    i32::try_from(number)
        .ok()
        .filter(|number| (1..=SIGNAL_MAX).contains(number))
        .ok_or_else(|| format!("{number} is not a signal; allowed are 1 to {SIGNAL_MAX}"))
}

/// capabilities(7), in the order of their numbers.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// `CAP_NET_BIND_SERVICE`, `net-bind-service`: the number of the capability's bit.
pub(crate) fn capability(text: &str) -> Result<u32, String> {
    let upper = text.to_ascii_uppercase().replace('-', "_");
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let bit = (0..).zip(CAPABILITIES).find_map(|(bit, known)| (known == name).then_some(bit));
    bit.ok_or_else(|| {
        let meant = super::problem::nearest(name, CAPABILITIES);
        let meant =
            meant.map_or_else(String::new, |meant| format!(", did you mean \"CAP_{meant}\"?"));
        format!("{text:?} is not a capability{meant}")
    })
}

/// How a limit's numbers are written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Counted {
    Number,
    Bytes,
}

/// The kernel's limits (getrlimit(2)) by procd's names, which are ours too but for `cpu`: that is `cpu-time` in TOML.
pub(crate) const LIMITS: [(&str, Resource, Counted); 15] = [
    ("as", Resource::As, Counted::Bytes),
    ("core", Resource::Core, Counted::Bytes),
    ("cpu", Resource::Cpu, Counted::Number),
    ("data", Resource::Data, Counted::Bytes),
    ("fsize", Resource::Fsize, Counted::Bytes),
    ("locks", Resource::Locks, Counted::Number),
    ("memlock", Resource::Memlock, Counted::Bytes),
    ("msgqueue", Resource::Msgqueue, Counted::Bytes),
    ("nice", Resource::Nice, Counted::Number),
    ("nofile", Resource::Nofile, Counted::Number),
    ("nproc", Resource::Nproc, Counted::Number),
    ("rss", Resource::Rss, Counted::Bytes),
    ("rtprio", Resource::Rtprio, Counted::Number),
    ("sigpending", Resource::Sigpending, Counted::Number),
    ("stack", Resource::Stack, Counted::Bytes),
];

/// `soft hard`, one number for both, or `unlimited`; bytes may have a unit.
pub(crate) fn limit(text: &str, counted: Counted) -> Result<(u64, u64), String> {
    let one = |word: &str| match (word, counted) {
        ("unlimited", _) => Ok(u64::MAX),
        (_, Counted::Bytes) => size(word),
        (_, Counted::Number) => word.parse().map_err(|_| {
            format!("{word:?} is not a limit; write a number, \"SOFT HARD\" or \"unlimited\"")
        }),
    };
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let (soft, hard) = match *words {
        [both] => (one(both)?, one(both)?),
        [soft, hard] => (one(soft)?, one(hard)?),
        _ => {
            return Err(format!(
                "{text:?} is not a limit; write one number, \"SOFT HARD\" or \"unlimited\""
            ));
        }
    };
    if soft > hard {
        return Err(format!("{text:?}: the soft limit is above the hard one"));
    }
    Ok((soft, hard))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_have_one_number_and_one_unit() {
        for (text, millis) in
            [("1500ms", 1500), ("5s", 5_000), ("2m", 120_000), ("1h", 3_600_000), ("0s", 0)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "5",
            "s",
            "5 s",
            "-5s",
            "1.5s",
            "5S",
            "1m30s",
            "+1s",
            "9000h",
            "99999999999999999999s",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(duration("5 parsecs").unwrap_err().contains("\"5s\""));
    }

    #[test]
    fn sizes_are_powers_of_two_and_never_wrap() {
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("16MiB"), Ok(16 << 20));
        assert_eq!(size("7"), Ok(7));
        for text in ["", "16MB", "16 MiB", "-1", "99999999TiB", "1e3"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn signals_go_by_name_in_any_case_or_by_number() {
        assert_eq!(signal("TERM"), Ok(15));
        assert_eq!(signal("sighup"), Ok(1));
        assert_eq!(signal("9"), Ok(9));
        for text in ["", "0", "65", "TREM", "SIG", "-1"] {
            assert!(signal(text).is_err(), "{text}");
        }
    }

    #[test]
    fn capabilities_have_the_kernels_numbers() {
        assert_eq!(capability("CAP_CHOWN"), Ok(0));
        assert_eq!(capability("net-bind-service"), Ok(10));
        assert_eq!(capability("CAP_CHECKPOINT_RESTORE"), Ok(40));
        assert!(
            capability("CAP_NET_ADMN").unwrap_err().ends_with("did you mean \"CAP_NET_ADMIN\"?")
        );
    }

    #[test]
    fn limits_are_soft_and_hard() {
        assert_eq!(limit("1024", Counted::Number), Ok((1024, 1024)));
        assert_eq!(limit("1024 unlimited", Counted::Number), Ok((1024, u64::MAX)));
        assert_eq!(limit("8MiB", Counted::Bytes), Ok((8 << 20, 8 << 20)));
        assert_eq!(limit("unlimited", Counted::Bytes), Ok((u64::MAX, u64::MAX)));
        assert!(limit("2 1", Counted::Number).unwrap_err().contains("above the hard"));
        for text in ["", "1 2 3", "x", "8MiB"] {
            assert!(limit(text, Counted::Number).is_err(), "{text}");
        }
    }

    #[test]
    fn modes_are_octal_and_shares_are_percent() {
        assert_eq!(mode("0660"), Ok(0o660));
        assert_eq!(percent("150%"), Ok(150));
        for text in ["", "9", "0o660", "17777", "+7"] {
            assert!(mode(text).is_err(), "{text}");
        }
        for text in ["", "%", "0%", "50", "-5%"] {
            assert!(percent(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC{0,24}") {
            let _ = (duration(&text), size(&text), percent(&text), mode(&text), signal(&text));
            let _ = (capability(&text), limit(&text, Counted::Bytes), limit(&text, Counted::Number));
        }

        #[test]
        fn every_whole_number_of_milliseconds_reads_back(millis in 0_u64..31_536_000_000) {
            prop_assert_eq!(duration(&format!("{millis}ms")), Ok(Duration::from_millis(millis)));
        }
    }
}
