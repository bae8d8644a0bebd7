//! What processes cost, from /proc, and when they end, from pidfds.

use std::{collections::BTreeMap, fs, os::fd::OwnedFd};

use anyhow::Context as _;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use serde::Serialize;

use crate::reports::{ms, now};

/// What a set of processes costs.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Cost {
    pub(crate) processes: usize,
    pub(crate) pss_kb: u64,
    pub(crate) private_kb: u64,
    pub(crate) page_tables_kb: u64,
}

/// A process and everything below it.
pub(crate) fn tree(root: i32) -> Vec<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
        if let Some(parent) = parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut at = 0;
    while let Some(pid) = found.get(at) {
        found.extend(children.remove(pid).unwrap_or_default());
        at += 1;
    }
    found
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Memory of these processes; one that ended meanwhile costs nothing.
pub(crate) fn cost(pids: &[i32]) -> Cost {
    let mut cost = Cost::default();
    for pid in pids {
        let Ok(rollup) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else { continue };
        cost.processes += 1;
        cost.pss_kb += field(&rollup, "Pss:");
        cost.private_kb += field(&rollup, "Private_Clean:") + field(&rollup, "Private_Dirty:");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        cost.page_tables_kb += field(&status, "VmPTE:");
    }
    cost
}

/// The time these processes ran so far, in milliseconds, all threads; what they did before an exec counts.
pub(crate) fn cpu_ms(pids: &[i32]) -> f64 {
    let of_thread = |text: &str| text.split_whitespace().next()?.parse::<i64>().ok();
    ms(threads(pids, "schedstat").filter_map(|text| of_thread(&text)).sum())
}

/// How often these processes went to sleep by themselves so far: each time somebody had to wake them.
pub(crate) fn sleeps(pids: &[i32]) -> u64 {
    threads(pids, "status").map(|text| field(&text, "voluntary_ctxt_switches:")).sum()
}

fn threads(pids: &[i32], file: &str) -> impl Iterator<Item = String> {
    let folders = pids.iter().flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task"))).flatten();
    folders.flatten().filter_map(move |thread| fs::read_to_string(thread.path().join(file)).ok())
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Processes that are to end.
pub(crate) struct Ends(Vec<OwnedFd>);

impl Ends {
    /// Watches these; those that are gone already don't count.
    pub(crate) fn watch(pids: &[i32]) -> Self {
        let open = |pid: &i32| pidfd_open(Pid::from_raw(*pid)?, PidfdFlags::empty()).ok();
        Self(pids.iter().filter_map(open).collect())
    }

    /// Waits until all have ended and gives the time of it. One after another: the last end is the same in any order.
    pub(crate) fn wait(self, limit_ns: i64) -> anyhow::Result<i64> {
        let until = now() + limit_ns;
        for pidfd in &self.0 {
            let left = (until - now()).max(0);
            let left = Timespec { tv_sec: left / 1_000_000_000, tv_nsec: left % 1_000_000_000 };
            let ended = poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&left));
            anyhow::ensure!(ended.context("wait for ends")? > 0, "a process does not end");
        }
        Ok(now())
    }
}
