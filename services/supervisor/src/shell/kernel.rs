//! What the kernel says of this boot: its command line, its id, whether the machine is ours, what the hardware watchdog's
//! driver remembers, and when a process began. Only reads.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use daemon::clock;
use protocol::time::Moment;

use crate::settings::files::{read_beginning, read_text};

/// Other places, where several devices share one kernel.
const CMDLINE: (&str, &str) = ("VESTAL_CMDLINE", "/proc/cmdline");
const BOOT_ID: (&str, &str) = ("VESTAL_BOOT_ID", "/proc/sys/kernel/random/boot_id");
const FILE_MAX: u64 = 64 << 10;
/// The pid namespace that the kernel starts with (PROC_PID_INIT_INO): not a container's.
const INITIAL_NAMESPACE: &str = "pid:[4026531836]";
/// Where the keeper says when it began, in nanoseconds of CLOCK_MONOTONIC. Of PID 1 of the machine nobody else knows: to the
/// kernel it is as old as the kernel.
const KEEPER_STARTED: &str = "VESTAL_KEEPER_STARTED";
/// The field of proc_pid_stat(5) that says when a process began, counted from behind the program's name.
const STARTED_FIELD: usize = 19;
/// WDIOF_CARDRESET: the watchdog has reset the machine.
const CARD_RESET: u32 = 0x20;

pub(super) fn line() -> String {
    read_text(&place(CMDLINE), FILE_MAX).unwrap_or_default()
}

pub(super) fn boot_id() -> Option<String> {
    let id = read_text(&place(BOOT_ID), FILE_MAX).ok()?.trim().to_owned();
    (!id.is_empty()).then_some(id)
}

/// Whether the machine is ours alone: the keeper is PID 1, and of no container. We are in the keeper's namespace.
pub(super) fn is_machine(pid_one: bool) -> bool {
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    pid_one && namespace == Path::new(INITIAL_NAMESPACE)
}

/// What the command line asks of us. In a container it is the host's, and means nothing.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Words {
    /// `vestal.rescue`: the rescue set, whatever is defined.
    pub(super) rescue: bool,
    /// `vestal.watchdog=`: `off`, or seconds; the last one counts.
    pub(super) watchdog: Option<String>,
    /// `vestal.log-level=`.
    pub(super) log_level: Option<String>,
}

impl Words {
    pub(super) fn read(pid_one: bool) -> Self {
        let is_ours = is_machine(pid_one) || (pid_one && env::var_os(CMDLINE.0).is_some());
        if is_ours { Self::of(&line()) } else { Self::default() }
    }

    fn of(line: &str) -> Self {
        let mut words = Self::default();
        for word in line.split_ascii_whitespace() {
            match word.split_once('=') {
                None if word == "vestal.rescue" => words.rescue = true,
                Some(("vestal.watchdog", value)) => words.watchdog = Some(value.to_owned()),
                Some(("vestal.log-level", value)) => words.log_level = Some(value.to_owned()),
                _ => {}
            }
        }
        words
    }
}

/// Any watchdog's driver says that it was him who reset the machine.
pub(super) fn was_reset_by_watchdog() -> bool {
    let Ok(devices) = fs::read_dir("/sys/class/watchdog") else { return false };
    devices.flatten().any(|device| {
        read_beginning(&device.path().join("bootstatus"), FILE_MAX).is_ok_and(|it| is_reset(&it))
    })
}

fn is_reset(bootstatus: &str) -> bool {
    bootstatus.trim().parse::<u32>().is_ok_and(|status| status & CARD_RESET != 0)
}

/// When the keeper began.
pub(super) fn keeper_began(pid: i32, is_machine: bool) -> Option<Moment> {
    let told = env::var(KEEPER_STARTED).ok().and_then(|text| text.parse().ok()).map(Moment);
    let now = clock::now();
    let told = told.filter(|at| *at <= now);
    told.or_else(|| {
        let stat = read_text(Path::new(&format!("/proc/{pid}/stat")), FILE_MAX).ok()?;
        let ticks_per_second = rustix::param::clock_ticks_per_second();
        began(&stat, ticks_per_second, clock::suspended()).filter(|_| !is_machine)
    })
}

/// From a process' `stat`, which counts the time that the machine was suspended.
fn began(stat: &str, ticks_per_second: u64, suspended: Duration) -> Option<Moment> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks: u64 = fields.split(' ').nth(STARTED_FIELD)?.parse().ok()?;
    let nanoseconds = ticks.checked_mul(1_000_000_000 / ticks_per_second.max(1))?;
    let awake = Duration::from_nanos(nanoseconds).saturating_sub(suspended);
    Some(Moment::default() + awake)
}

/// The name of a process' program, for a message.
pub(super) fn program(pid: i32) -> Option<String> {
    let name = read_beginning(Path::new(&format!("/proc/{pid}/comm")), FILE_MAX).ok()?;
    Some(name.trim().to_owned())
}

fn place((variable, otherwise): (&str, &str)) -> PathBuf {
    let set = env::var_os(variable).filter(|value| !value.is_empty());
    set.map_or_else(|| Path::new(otherwise).to_owned(), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_command_line_are_ours_only_with_our_prefix_and_the_last_one_counts() {
        let line = "quiet rescue vestal.rescue vestal.watchdog=off vestal.watchdog=60 vestal.log-level=debug xvestal.rescue=1\n";
        let words = Words::of(line);
        assert!(words.rescue);
        assert_eq!(words.watchdog.as_deref(), Some("60"));
        assert_eq!(words.log_level.as_deref(), Some("debug"));
        for none in ["", "rescue vestal.rescue=0", "vestal.rescued xvestal.watchdog=off"] {
            assert_eq!(Words::of(none), Words::default(), "{none}");
        }
    }

    #[test]
    fn a_reset_by_the_watchdog_is_one_bit_of_many() {
        for (text, is) in [("32\n", true), ("33", true), ("0\n", false), ("31", false), ("", false)]
        {
            assert_eq!(is_reset(text), is, "{text:?}");
        }
    }

    #[test]
    fn a_process_is_as_old_as_the_kernel_says_whatever_its_name_is() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 1234 20";
        let suspended = Duration::from_secs(2);
        let at = began(&format!("7 (a) b) {fields}"), 100, suspended);
        assert_eq!(at, Some(Moment(10_340_000_000)));
        assert_eq!(began("7 (a) S 1", 100, suspended), None);
        assert_eq!(began("", 100, suspended), None);
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(keeper_began(own, false).unwrap() <= clock::now());
        assert!(!is_machine(false));
    }
}
