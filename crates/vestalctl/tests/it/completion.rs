//! The completion script in a real bash.

use std::process::Command;

use crate::fake::{Fake, run};

/// Runs bash with the script sourced and `vestalctl` in PATH.
fn bash(fake: &Fake, line: &str) -> String {
    let script = fake.ctl(&["completion", "bash"]);
    assert_eq!(script.code, 0);
    let script = fake.file("completion.bash", &script.stdout);
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_vestalctl"));
    let folder = program.parent().unwrap().display();
    let mut command = Command::new("bash");
    command.env_clear().env("VESTAL_RUN_DIR", fake.run_dir());
    command.env("PATH", format!("{folder}:/usr/bin:/bin"));
    command.args(["--norc", "-c", &format!("source {} && {line}", script.display())]);
    let reply = run(&mut command, "");
    assert_eq!((reply.code, &*reply.stderr), (0, ""), "{reply:?}");
    reply.stdout
}

/// What bash offers for the last word.
fn offered(fake: &Fake, words: &str, at: usize) -> String {
    let line = format!(
        "COMP_WORDS=({words}) COMP_CWORD={at}; _vestalctl_with_services vestalctl \"${{COMP_WORDS[{at}]}}\" x; echo \"${{COMPREPLY[*]}}\""
    );
    bash(fake, &line)
}

#[test]
fn bash_learns_the_command() {
    let fake = Fake::start();
    let complete = bash(&fake, "complete -p vestalctl");
    assert!(complete.contains("-F _vestalctl_with_services vestalctl"), "{complete}");
}

#[test]
fn services_are_offered_where_one_is_wanted() {
    let fake = Fake::start();
    assert_eq!(offered(&fake, "vestalctl service start ''", 3), "web idle\n");
    assert_eq!(offered(&fake, "vestalctl --json status w", 3), "web\n");
}

#[test]
fn commands_are_offered_elsewhere() {
    let fake = Fake::start();
    assert!(offered(&fake, "vestalctl sta", 1).contains("status"));
    assert!(offered(&fake, "vestalctl service re", 2).contains("reload"));
}

#[test]
fn objects_methods_and_daemons_are_offered_where_one_is_wanted() {
    let fake = Fake::with_bus();
    assert_eq!(offered(&fake, "vestalctl call c", 2), "camera\n");
    assert_eq!(offered(&fake, "vestalctl call camera ''", 3), "snap\n");
    assert_eq!(offered(&fake, "vestalctl wait-for camera l", 3), "log\n");
    assert_eq!(offered(&fake, "vestalctl log-level re", 2), "registry\n");
    assert_eq!(offered(&fake, "vestalctl log -f web i", 4), "idle\n");
}
