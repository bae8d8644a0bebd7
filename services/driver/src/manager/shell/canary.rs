//! Tries a new version out in a process of its own, as the user of the host and with nothing in its hands, before the gate is touched.

use std::{
    io::{self, Read as _},
    mem::ManuallyDrop,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    process::{ChildStderr, Command, ExitStatus, Stdio},
    time::Duration,
};

use daemon::clock;
use protocol::failure::{Code, Failure};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::SeekFrom,
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
    time::Timespec,
};

use super::folders::User;
use crate::manager::machine::refusal;

/// This very program, also where the file has been replaced since.
const PROGRAM: &str = "/proc/self/exe";
/// Where the canary finds the object.
const DESCRIPTOR: i32 = 3;
/// How long loading, importing and all calls together may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How much of what it says is passed on.
const SAID_MAX: usize = 500;
/// What a pipe holds.
const PIPE: usize = 64 << 10;

/// Returns when the version has shown that it loads, takes over the state and survives the calls. Blocks for [`LIMIT`] at most.
///
/// # Errors
/// `failed` with the reason `canary`, or with the code that the canary says first.
pub(super) fn try_out(
    object: BorrowedFd<'_>,
    trial: Option<OwnedFd>,
    user: Option<&User>,
) -> Result<(), Failure> {
    let failed =
        |error: io::Error| refusal(Code::Failed, "canary", format!("start the canary: {error}"));
    let object = object.try_clone_to_owned().map_err(failed)?;
    let mut command = Command::new(PROGRAM);
    command.arg("--canary").env_clear().current_dir("/");
    if let Some(trial) = &trial {
        // Whoever wrote it left its place at the end.
        rustix::fs::seek(trial, SeekFrom::Start(0)).map_err(|error| failed(error.into()))?;
    }
    command.stdin(trial.map_or_else(Stdio::null, Stdio::from));
    // A group of its own, so that whatever it starts ends with it.
    command.stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    give(&mut command, object);
    let mut child = command.spawn().map_err(failed)?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let ended = pid.is_some_and(ends);
    if let Some(pid) = pid {
        // It has no end of its own to come, or nothing of it may stay.
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let status = child.wait().map_err(failed)?;
    match (ended, status.success()) {
        (true, true) => Ok(()),
        (true, false) => Err(told(status, &said(child.stderr.take()))),
        (false, _) => Err(refusal(
            Code::Failed,
            "canary",
            format!(
                "tried out beside the old version it did not load, take over the state and answer calls within {LIMIT:?}"
            ),
        )),
    }
}

/// Whether it ends in time.
fn ends(pid: Pid) -> bool {
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    let until = clock::now() + LIMIT;
    loop {
        let left = until.since(clock::now());
        let Ok(left) = Timespec::try_from(left) else { return false };
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            outcome => return outcome.is_ok_and(|ready| ready > 0),
        }
    }
}

/// What is in the pipe now; whoever else may hold it open is not waited for.
fn said(pipe: Option<ChildStderr>) -> Vec<u8> {
    let Some(mut pipe) = pipe else { return Vec::new() };
    let mut bytes = vec![0; PIPE];
    let readable = rustix::fs::fcntl_setfl(&pipe, rustix::fs::OFlags::NONBLOCK);
    let length = readable.ok().and_then(|()| pipe.read(&mut bytes).ok()).unwrap_or_default();
    bytes.truncate(length);
    bytes
}

/// What it said, after the code in its last line: `no-symbol: ...`.
fn told(status: ExitStatus, said: &[u8]) -> Failure {
    let said = String::from_utf8_lossy(said);
    let said: String = said
        .trim()
        .chars()
        .take(SAID_MAX)
        .filter(|letter| !letter.is_control() || *letter == '\n')
        .collect();
    let last = said.lines().last().unwrap_or_default();
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("status {code}"),
        (_, Some(signal)) => format!("signal {signal}"),
        _ => "an unknown end".to_owned(),
    };
    let is_word = |word: &str| {
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
    };
    match last.split_once(": ") {
        Some((code, text)) if is_word(code) && status.code().is_some() => {
            refusal(Code::Failed, code, format!("tried out beside the old version: {text}"))
        }
        _ => refusal(
            Code::Failed,
            "canary",
            format!("tried out beside the old version it ended with {how}: {last}")
                .trim_end_matches(": "),
        ),
    }
}

#[expect(unsafe_code, reason = "the canary finds the object by a number that both know")]
fn give(command: &mut Command, object: OwnedFd) {
    let place = move || -> io::Result<()> {
        if object.as_raw_fd() == DESCRIPTOR {
            // It must only stay open over exec.
            return Ok(rustix::io::fcntl_setfd(&object, rustix::io::FdFlags::empty())?);
        }
        // SAFETY: between fork and exec nobody else uses descriptors, whatever this number stood for was the parent's and is
        // not needed by the child; it is never dropped here, so nothing is closed twice.
        let mut three = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(DESCRIPTOR) });
        Ok(rustix::io::dup2(&object, &mut three)?)
    };
    // SAFETY: the closure makes one system call on descriptors, which is async-signal-safe, and allocates nothing.
    unsafe { command.pre_exec(place) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_canary_says_last_is_the_reason_and_a_crash_is_one_too() {
        let reason = |status: i32, said: &str| {
            let failure = told(ExitStatus::from_raw(status), said.as_bytes());
            (failure.details.unwrap()["reason"].as_str().unwrap().to_owned(), failure.text)
        };
        let (code, text) = reason(1 << 8, "note\nself-test: it answered -5\n");
        assert_eq!((code.as_str(), text.contains("it answered -5")), ("self-test", true));
        let (code, text) = reason(11, "");
        assert_eq!((code.as_str(), text.contains("signal 11")), ("canary", true));
        assert_eq!(reason(1 << 8, "Segfault: x").0, "canary");
        assert_eq!(reason(6, "abi: 3").0, "canary");
    }
}
