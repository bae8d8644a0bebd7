//! Runs what triggers want run, with a time limit, beside the loop. What it prints goes to the log.

use std::{
    io::{self, PipeReader},
    os::{fd::OwnedFd, unix::process::ExitStatusExt as _},
    process::Stdio,
    time::Duration,
};

use daemon::places::Places;
use protocol::name::Name;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe::Receiver,
    process::{Child, Command},
    sync::mpsc,
};

use super::{Inbound, environment};
use crate::machine::Ended;

/// From SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// So long the output of what a script left behind is still read.
const REST: Duration = Duration::from_secs(1);
/// Longest line that is kept in one piece, in bytes.
const LINE_MAX: usize = 1024;
/// Most lines of one run that are kept.
const LINES_MAX: usize = 256;

/// Starts the command; its end comes back as [`Inbound::ScriptEnded`].
pub(super) fn run(
    run: u64,
    service: &Name,
    command: &[String],
    timeout: Duration,
    places: &Places,
    inbox: mpsc::Sender<Inbound>,
) {
    let name = service.clone();
    let started = start(command, places);
    tokio::spawn(async move {
        let (ended, reader) = match started {
            Ok((child, output)) => {
                let reader = tokio::spawn(log(name.clone(), output));
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

fn start(command: &[String], places: &Places) -> io::Result<(Child, PipeReader)> {
    let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let (output, input) = io::pipe()?;
    let mut child = Command::new(program);
    for private in environment::PRIVATE {
        child.env_remove(private);
    }
    if std::env::var_os("PATH").is_none() {
        child.env("PATH", environment::DEFAULT_PATH);
    }
    child
        .args(arguments)
        .envs(places.to_env())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(input.try_clone()?)
        .stderr(input)
        // Its own, so that all of it can be ended.
        .process_group(0)
        .kill_on_drop(true);
    // Our copies of the pipe's other end go with `child`, the command.
    Ok((child.spawn()?, output))
}

async fn wait(mut child: Child, timeout: Duration) -> Ended {
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
        let places =
            Places { run: "/run/v".into(), config: None, state: "/state".into(), uci: None };
        let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        let (back, mut inbox) = mpsc::channel(1);
        run(7, &Name::new("a").unwrap(), &command, timeout, &places, back);
        match tokio::time::timeout(LONG, inbox.recv()).await {
            Ok(Some(Inbound::ScriptEnded { run: 7, ended })) => ended,
            _ => panic!("it did not end"),
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
}
