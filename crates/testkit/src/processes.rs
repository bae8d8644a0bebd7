//! What runs, from /proc: by environment, so that a test sees every process of its own device and none of another test's.

use std::{fs, path::Path};

/// One process, as found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    /// `Z` for a zombie, `T` for a stopped one.
    pub state: char,
    pub service: Option<String>,
    pub instance: Option<String>,
    pub command: String,
}

/// Every process whose environment says that it belongs to the copy of the suite at `run`; zombies have no environment.
#[must_use]
pub fn processes_of(run: &Path) -> Vec<Process> {
    let wanted = format!("VESTAL_RUN_DIR={}", run.display());
    pids()
        .filter_map(|pid| {
            let environment = environment_of(pid)?;
            environment.contains(&wanted).then(|| describe(pid, &environment))?
        })
        .collect()
}

/// The children of a process, zombies included.
#[must_use]
pub fn children_of(parent: i32) -> Vec<i32> {
    pids().filter(|pid| stat(*pid).is_some_and(|(_, its)| its == parent)).collect()
}

/// Whether the process exists and is no zombie.
#[must_use]
pub fn alive(pid: i32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// `NAME=value` of a process that we may look at.
#[must_use]
pub fn environment_of(pid: i32) -> Option<Vec<String>> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    Some(text.split('\0').filter(|entry| !entry.is_empty()).map(str::to_owned).collect())
}

fn describe(pid: i32, environment: &[String]) -> Option<Process> {
    let variable = |name: &str| {
        environment
            .iter()
            .find_map(|entry| entry.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
    };
    let (state, parent) = stat(pid)?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(Process {
        pid,
        parent,
        state,
        service: variable("VESTAL_SERVICE"),
        instance: variable("VESTAL_INSTANCE"),
        command: String::from_utf8_lossy(&command).replace('\0', " ").trim().to_owned(),
    })
}

/// State letter and parent, fields 3 and 4 of proc_pid_stat(5); the name before them may hold blanks and brackets.
fn stat(pid: i32) -> Option<(char, i32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}
