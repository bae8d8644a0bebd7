//! A program of the device that is asked for a yes or a no.

use std::{
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

/// A child that does not outlive the question.
struct Asked(Child);

impl Drop for Asked {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        let _ = self.0.wait();
    }
}

/// Runs a program; it must exit with 0 in time.
///
/// # Errors
/// Where it can't be run, takes too long, or exits with anything else.
pub(super) async fn ask(program: &str, args: &[String], within: Duration) -> Result<(), String> {
    let named = |text: String| format!("{program}: {text}");
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).process_group(0);
    let child = command.spawn().map_err(|error| named(error.to_string()))?;
    let mut child = Asked(child);
    // It stays a zombie, so that its number is nobody else's while its group is killed.
    let (pid, until_end) =
        (Pid::from_child(&child.0), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
    let ended = tokio::task::spawn_blocking(move || waitid(WaitId::Pid(pid), until_end));
    match tokio::time::timeout(within, ended).await {
        Err(_) => return Err(named(format!("did not end within {within:?}"))),
        Ok(Err(error)) => return Err(named(error.to_string())),
        Ok(Ok(_)) => {}
    }
    match child.0.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(named(format!("says that something is wrong ({status})"))),
        Err(error) => Err(named(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_command_must_succeed_in_time() {
        let sh = |script: &str| vec!["-c".to_owned(), script.to_owned()];
        let second = Duration::from_secs(20);
        ask("/bin/sh", &sh("exit 0"), second).await.unwrap();
        let told = ask("/bin/sh", &sh("exit 3"), second).await.unwrap_err();
        assert!(told.contains("exit status: 3"), "{told}");
        let told = ask("/bin/sh", &sh("sleep 1000"), Duration::from_millis(50)).await.unwrap_err();
        assert!(told.contains("did not end within 50ms"), "{told}");
        assert!(ask("/nonexistent", &[], second).await.unwrap_err().contains("/nonexistent"));
    }
}
