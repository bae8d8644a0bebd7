//! PID 1 of a namespace that somebody made for it (root only): whatever it needs is there, and it leaves the machine alone.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

#[test]
fn pid_one_of_a_container_mounts_nothing_and_leaves_out_words_that_it_does_not_know() {
    if !rustix::process::geteuid().is_root() {
        println!("a keeper as PID 1: not tried, only root may make namespaces");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    // Exit code 2 from the first supervisor ends the keeper, and so the namespace.
    let supervisor = format!(
        "#!/bin/sh\ncat /proc/self/mountinfo > {}\ncat /proc/self/oom_score_adj > {}\nexit 2\n",
        path("mounts.after"),
        path("score.after")
    );
    fs::write(path("supervisor"), supervisor).unwrap();
    fs::set_permissions(path("supervisor"), fs::Permissions::from_mode(0o755)).unwrap();
    let script = format!(
        "cat /proc/self/mountinfo > {}; cat /proc/self/oom_score_adj > {}; exec {} splash --run-dir {} single",
        path("mounts.before"),
        path("score.before"),
        env!("CARGO_BIN_EXE_vestal-keeper"),
        path("run"),
    );
    let output = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", &script])
        .env("VESTAL_SUPERVISOR", path("supervisor"))
        .output()
        .expect("util-linux is there");
    let text = String::from_utf8_lossy(&output.stderr);
    for word in ["splash", "single"] {
        let told = format!("keeper: the word {word} is not known here: left out\n");
        assert!(text.contains(&told), "{text}");
    }
    let read = |name: &str| fs::read_to_string(path(name)).unwrap_or_else(|_| panic!("{text}"));
    assert_eq!(read("mounts.after"), read("mounts.before"));
    assert_eq!(read("score.after"), read("score.before"), "children are as killable as before");
}
