//! Runs what triggers want run, with a time limit, beside the loop. What it prints goes to the log.

use std::{
    ffi::OsStr,
    fs,
    io::{self, PipeReader},
    os::{fd::OwnedFd, unix::process::ExitStatusExt as _},
    process::Stdio,
    time::Duration,
};

use daemon::places::Places;
use protocol::name::Name;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use tokio::{
    io::{AsyncReadExt as _, Interest},
    net::unix::pipe::Receiver,
    process::{Child, Command},
    sync::mpsc,
};

use super::{Inbound, environment, interfaces};
use crate::machine::{Ended, ScriptProcess};

/// From SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// So long the output of what a script left behind is still read.
const REST: Duration = Duration::from_secs(1);
/// Longest line that is kept in one piece, in bytes.
const LINE_MAX: usize = 1024;
/// Most lines of one run that are kept.
const LINES_MAX: usize = 256;

/// What is to be run.
pub(super) struct Script {
    pub(super) run: u64,
    pub(super) service: Name,
    pub(super) command: Vec<String>,
    pub(super) timeout: Duration,
    /// What the supervisor before this one may have left running: two don't run side by side.
    pub(super) after: Option<ScriptProcess>,
}

/// Starts the command; its beginning and its end come back as [`Inbound::ScriptStarted`] and [`Inbound::ScriptEnded`].
pub(super) fn run(script: Script, places: Places, inbox: mpsc::Sender<Inbound>) {
    let Script { run, service, command, timeout, after } = script;
    tokio::spawn(async move {
        if let Some(process) = after {
            outlast(process, timeout).await;
        }
        let (ended, reader) = match start(&command, &places) {
            Ok((child, output)) => {
                if let Some(process) = process_of(&child) {
                    let _ = inbox.send(Inbound::ScriptStarted { run, process }).await;
                }
                let reader = tokio::spawn(log(service, output));
                (wait(child, timeout).await, Some(reader))
            }
            Err(error) => (Ended::NotStarted(error.to_string()), None),
        };
        // Nobody listens where the supervisor is leaving.
        let _ = inbox.send(Inbound::ScriptEnded { run, ended }).await;
        if let Some(mut reader) = reader
            && tokio::time::timeout(REST, &mut reader).await.is_err()
        {
            reader.abort();
        }
    });
}

/// Waits until a script is over that is no child of ours; one that takes too long is ended.
pub(super) async fn outlast(process: ScriptProcess, timeout: Duration) {
    let Some(pid) = Pid::from_raw(process.pid) else { return };
    // First the descriptor, then the look: from then on the number can't become somebody else's unnoticed.
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    if start_of(process.pid) != Some(process.started) {
        return;
    }
    let Ok(pidfd) = interfaces::watched(pidfd, Interest::READABLE) else { return };
    // Its group keeps its number as long as its leader, which the descriptor is about, has not ended.
    for (time, signal) in [(timeout, Signal::TERM), (GRACE, Signal::KILL)] {
        if tokio::time::timeout(time, pidfd.readable()).await.is_ok() {
            return;
        }
        kill(Some(pid), signal);
    }
    let _ = tokio::time::timeout(GRACE, pidfd.readable()).await;
}

pub(super) fn process_of(child: &Child) -> Option<ScriptProcess> {
    let pid = child.id()?.cast_signed();
    Some(ScriptProcess { pid, started: start_of(pid)? })
}

/// When a process was started (proc_pid_stat(5), field 22).
fn start_of(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn start(command: &[String], places: &Places) -> io::Result<(Child, PipeReader)> {
    let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let (output, input) = io::pipe()?;
    let mut child = self::command(program, places);
    child.args(arguments).stdout(input.try_clone()?).stderr(input).kill_on_drop(true);
    // Our copies of the pipe's other end go with `child`, the command.
    Ok((child.spawn()?, output))
}

/// A program that runs beside the loop: in our environment, without what describes our own start, and with no input.
pub(super) fn command(program: impl AsRef<OsStr>, places: &Places) -> Command {
    let mut command = Command::new(program);
    for private in environment::PRIVATE {
        command.env_remove(private);
    }
    if std::env::var_os("PATH").is_none() {
        command.env("PATH", environment::DEFAULT_PATH);
    }
    command
        .envs(places.to_env())
        .current_dir("/")
        .stdin(Stdio::null())
        // Its own, so that all of it can be ended.
        .process_group(0);
    command
}

pub(super) async fn wait(mut child: Child, timeout: Duration) -> Ended {
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let Ok(ended) = tokio::time::timeout(timeout, child.wait()).await else {
        kill(group, Signal::TERM);
        let in_peace = tokio::time::timeout(GRACE, child.wait()).await.is_ok();
        // What the script itself began, too.
        kill(group, Signal::KILL);
        if !in_peace {
            let _ = child.wait().await;
        }
        return Ended::Timeout;
    };
    match ended {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => Ended::Code(code),
            (None, signal) => Ended::Signal(signal.unwrap_or(0)),
        },
        Err(error) => Ended::NotStarted(error.to_string()),
    }
}

fn kill(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        // Nothing of it may be left.
        let _ = kill_process_group(group, signal);
    }
}

/// Writes what a script prints to the log, line by line.
async fn log(service: Name, output: PipeReader) {
    let Ok(mut output) = Receiver::from_owned_fd(OwnedFd::from(output)) else { return };
    let (mut line, mut lines) = (Vec::new(), 0);
    let mut block = [0; LINE_MAX];
    let mut print = |line: &mut Vec<u8>| {
        lines += 1;
        match lines {
            ..=LINES_MAX => {
                tracing::info!("service {service}: trigger: {}", String::from_utf8_lossy(line));
            }
            _ if lines == LINES_MAX + 1 => {
                tracing::warn!(
                    "service {service}: trigger: it prints more than {LINES_MAX} lines; the rest is dropped"
                );
            }
            _ => {}
        }
        line.clear();
    };
    while let Ok(length @ 1..) = output.read(&mut block).await {
        for byte in &block[..length] {
            if *byte != b'\n' {
                line.push(*byte);
            }
            if *byte == b'\n' || line.len() == LINE_MAX {
                print(&mut line);
            }
        }
    }
    if !line.is_empty() {
        print(&mut line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);
    const SOON: Duration = Duration::from_secs(5);

    async fn ended(command: &[&str], timeout: Duration) -> Ended {
        ended_after(None, command, timeout).await
    }

    async fn ended_after(
        after: Option<ScriptProcess>,
        command: &[&str],
        timeout: Duration,
    ) -> Ended {
        end_of(&mut begin(after, command, timeout)).await
    }

    fn begin(
        after: Option<ScriptProcess>,
        command: &[&str],
        timeout: Duration,
    ) -> mpsc::Receiver<Inbound> {
        let places =
            Places { run: "/run/v".into(), config: None, state: "/state".into(), uci: None };
        let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        let (back, inbox) = mpsc::channel(2);
        let service = Name::new("a").unwrap();
        run(Script { run: 7, service, command, timeout, after }, places, back);
        inbox
    }

    async fn end_of(inbox: &mut mpsc::Receiver<Inbound>) -> Ended {
        let mut begun = 0;
        loop {
            match tokio::time::timeout(LONG, inbox.recv()).await {
                Ok(Some(Inbound::ScriptStarted { run: 7, .. })) => begun += 1,
                Ok(Some(Inbound::ScriptEnded { run: 7, ended })) => {
                    assert_eq!(begun, i32::from(!matches!(ended, Ended::NotStarted(_))));
                    return ended;
                }
                _ => panic!("it did not end"),
            }
        }
    }

    fn sh(script: &str) -> [&str; 3] {
        ["/bin/sh", "-c", script]
    }

    #[tokio::test]
    async fn how_a_script_ends_is_told() {
        assert_eq!(ended(&sh("exit 3"), LONG).await, Ended::Code(3));
        assert_eq!(ended(&sh("kill -9 $$"), LONG).await, Ended::Signal(9));
        let Ended::NotStarted(why) = ended(&["/no/such/program"], LONG).await else { panic!() };
        assert!(why.contains("No such file"), "{why}");
        let places =
            "[ \"$VESTAL_RUN_DIR\" = /run/v ] && [ -z \"$NOTIFY_SOCKET\" ] && [ \"$PWD\" = / ]";
        assert_eq!(ended(&sh(places), LONG).await, Ended::Code(0));
    }

    #[tokio::test]
    async fn a_script_that_prints_much_or_leaves_a_child_behind_ends_all_the_same() {
        let much = "i=0; while [ $i -lt 2000 ]; do echo $i-%0200d; i=$((i+1)); done";
        assert_eq!(ended(&sh(much), LONG).await, Ended::Code(0));
        assert_eq!(ended(&sh("sleep 3 & echo $!"), LONG).await, Ended::Code(0));
    }

    #[tokio::test]
    async fn a_script_that_takes_too_long_is_ended_with_all_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("held");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, mode).unwrap();
        let options = tokio::net::unix::pipe::OpenOptions::new();
        let mut reader = options.open_receiver(&fifo).unwrap();
        // The child ignores SIGTERM and holds the FIFO as long as it lives.
        let script = format!(
            "exec 9>{}; (trap '' TERM; sleep 1000) & trap 'exit 0' TERM; wait",
            fifo.display()
        );
        assert_eq!(ended(&sh(&script), Duration::from_millis(500)).await, Ended::Timeout);
        let mut rest = Vec::new();
        let end = tokio::time::timeout(SOON, reader.read_to_end(&mut rest)).await;
        assert!(end.is_ok(), "a child lives on");
    }

    /// A process as an earlier supervisor has left it: in a group of its own.
    fn left(script: &str) -> (std::process::Child, ScriptProcess) {
        use std::os::unix::process::CommandExt as _;
        let [shell, option, script] = sh(script);
        let mut command = std::process::Command::new(shell);
        let child = command.args([option, script]).process_group(0).spawn().unwrap();
        let pid = child.id().cast_signed();
        (child, ScriptProcess { pid, started: start_of(pid).unwrap() })
    }

    #[tokio::test]
    async fn what_another_supervisor_left_running_is_over_before_the_script_begins() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("order").display().to_string();
        let gate = folder.path().join("gate");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &gate, mode).unwrap();
        let gate = gate.display().to_string();
        let (mut child, process) = left(&format!("read x < {gate}; echo first >> {file}"));
        let mut inbox = begin(Some(process), &sh(&format!("echo second >> {file}")), LONG);
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        let early = inbox.try_recv().is_ok();
        fs::write(gate, "go\n").unwrap();
        assert!(!early, "it did not wait");
        assert_eq!(end_of(&mut inbox).await, Ended::Code(0));
        child.wait().unwrap();
        assert_eq!(fs::read_to_string(file).unwrap(), "first\nsecond\n");
    }

    #[tokio::test]
    async fn what_was_left_running_and_takes_too_long_is_ended() {
        let (mut child, process) = left("exec sleep 1000");
        let short = Duration::from_millis(100);
        assert_eq!(ended_after(Some(process), &sh("exit 3"), short).await, Ended::Code(3));
        let status = child.try_wait().unwrap();
        // Where it lives on nothing of it may be left behind.
        let _ = child.kill();
        child.wait().unwrap();
        assert_eq!(status.and_then(|status| status.signal()), Some(15));
    }

    #[tokio::test]
    async fn a_number_that_is_another_processs_now_is_neither_waited_for_nor_signalled() {
        let (mut child, process) = left("exec sleep 1000");
        let other = ScriptProcess { started: process.started + 1, ..process };
        let short = Duration::from_millis(100);
        assert_eq!(ended_after(Some(other), &sh("exit 3"), short).await, Ended::Code(3));
        let status = child.try_wait().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(status, None);
    }
}
