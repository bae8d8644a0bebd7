//! What one process uses, from /proc. A process that is gone has no answer.

use std::{fs, time::Duration};

/// What a process uses now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Usage {
    /// Resident memory in bytes.
    pub(crate) memory: u64,
    /// User and system time so far.
    pub(crate) processor: Duration,
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

    #[test]
    fn this_process_uses_memory() {
        assert!(usage(std::process::id()).unwrap().memory > 0);
        assert_eq!(usage(u32::MAX), None);
    }
}
