//! What one process uses, from /proc. A process that is gone has no answer.

use std::{fs, time::Duration};

use daemon::accounts::Accounts;

/// What a process uses now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Usage {
    /// Resident memory in bytes.
    pub(crate) memory: u64,
    /// User and system time so far.
    pub(crate) processor: Duration,
}

/// What the kernel calls a process; nothing for one that is gone or was never known.
pub(crate) fn name(pid: i32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

/// The name of a user, or the number where it has none.
pub(crate) fn user(uid: u32) -> String {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    user_of(&users, uid).unwrap_or_else(|| uid.to_string())
}

fn user_of(users: &str, uid: u32) -> Option<String> {
    Accounts::parse(users, "").user_of(uid).map(|account| account.name.clone())
}

/// Looks at a process.
pub(crate) fn usage(pid: u32) -> Option<Usage> {
    let read = |file| fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
    let page = u64::try_from(rustix::param::page_size()).ok()?;
    Some(Usage {
        memory: resident_pages(&read("statm")?)?.checked_mul(page)?,
        processor: processor_time(&read("stat")?, rustix::param::clock_ticks_per_second())?,
    })
}

/// What `top` shows of a process.
#[cfg(feature = "top")]
pub(crate) fn sample(pid: u32) -> Option<crate::top::Sample> {
    let Usage { memory, processor } = usage(pid)?;
    // Another user's process keeps this to itself.
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    Some(crate::top::Sample { processor, resident: memory, proportional: proportional(&rollup) })
}

/// The `Pss:` line of proc_pid_smaps(5), in bytes.
#[cfg(feature = "top")]
fn proportional(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The second field of proc_pid_statm(5).
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_whitespace().nth(1)?.parse().ok()
}

/// `utime` and `stime`, fields 14 and 15 of proc_pid_stat(5); the name in field 2 may hold blanks and brackets.
fn processor_time(stat: &str, ticks_per_second: u64) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let milliseconds = ticks()?.checked_add(ticks()?)?.checked_mul(1000)?;
    milliseconds.checked_div(ticks_per_second).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strange_process_name_does_not_shift_the_fields() {
        let stat = "7 (a) b 9 9) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 1 0 100 1 1";
        assert_eq!(processor_time(stat, 100), Some(Duration::from_secs(2)));
    }

    #[test]
    fn broken_files_have_no_answer() {
        assert_eq!(processor_time("", 100), None);
        assert_eq!(processor_time("7 (a) S 1", 100), None);
        assert_eq!(resident_pages("12"), None);
    }

    #[cfg(feature = "top")]
    #[test]
    fn the_share_of_shared_memory_is_in_the_rollup() {
        let rollup =
            "5592-7ffc ---p 0 00:00 0 [rollup]\nRss:  5584 kB\nPss:  1231 kB\nPss_Dirty: 4 kB\n";
        assert_eq!(proportional(rollup), Some(1231 << 10));
        assert_eq!(proportional(""), None);
        assert!(sample(std::process::id()).unwrap().proportional.is_some());
    }

    #[test]
    fn users_are_found_by_their_number() {
        let users = "root:x:0:0::/:/bin/sh\nbroken\n:x:7::\ncam:x:1000:1000::/:/bin/sh\n";
        assert_eq!(user_of(users, 1000).as_deref(), Some("cam"));
        assert_eq!(user_of(users, 7), None);
        assert_eq!(name(i32::MAX), "");
        assert!(!name(i32::try_from(std::process::id()).unwrap()).is_empty());
    }

    #[test]
    fn this_process_uses_memory() {
        assert!(usage(std::process::id()).unwrap().memory > 0);
        assert_eq!(usage(u32::MAX), None);
    }
}
