//! How thoroughly to measure, and where threads run.

use std::{ffi::c_int, process::Command};

use hotpatch::Services;
use rustix::thread::{CpuSet, Pid, sched_setaffinity};

pub(crate) struct Ground {
    pub(crate) quick: bool,
    /// Threads may be scheduled in real time.
    pub(crate) real_time: bool,
    pub(crate) cores: usize,
}

impl Ground {
    pub(crate) fn new(quick: bool) -> Self {
        let real_time = schedule(Class::RoundRobin) && schedule(Class::Ordinary);
        if !real_time {
            eprintln!("no real-time priority: other work on this machine counts in the figures");
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { quick, real_time, cores }
    }

    /// How the calling thread runs where it is measured.
    pub(crate) fn measured(&self) -> Class {
        if self.real_time { Class::RoundRobin } else { Class::Ordinary }
    }
}

/// How a thread is scheduled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Class {
    Ordinary,
    /// SCHED_RR 1, which tasks are.
    RoundRobin,
    /// SCHED_FIFO 10, which who closes a gate is.
    Upgrader,
}

/// From now on the calling thread runs so; false where that is not allowed.
pub(crate) fn schedule(class: Class) -> bool {
    let (policy, priority) = match class {
        Class::Ordinary => ("--other", "0"),
        Class::RoundRobin => ("--rr", "1"),
        Class::Upgrader => ("--fifo", "10"),
    };
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let status = Command::new("chrt").args([policy, "--pid", priority, &thread]).output();
    status.is_ok_and(|output| output.status.success())
}

/// The calling thread stays on this processor. Where that is refused it is measured as it runs.
pub(crate) fn pin(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor);
    let _ = sched_setaffinity(None::<Pid>, &set);
}

/// A host that does nothing for its drivers.
pub(crate) struct Nothing;

impl Services for Nothing {
    fn watch(&self, _: u64, _: c_int, _: u32) -> i64 {
        0
    }

    fn notify(&self, _: u64) {}

    fn log(&self, _: c_int, _: &str) {}
}
