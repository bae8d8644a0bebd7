//! One run of a script at a time, without a lock that outlives its holder or that a child holds on to.

use std::process::Stdio;

use testkit::until;

use super::{Root, each_shell};

/// A script whose start waits until somebody opens the pipe `gate`.
const WAITING: &str = "USE_PROCD=1\nstart_service() {\n echo \"in $$\" >> \"$FAKES/log\"\n \
                       read -r _line < \"$FAKES/gate\"\n procd_add_instance /bin/true\n}\n";

fn gate(root: &Root) {
    let ran = root.shell("mkfifo \"$FAKES/gate\"");
    assert_eq!(ran.code, Some(0), "{}", ran.errors);
}

#[test]
fn a_child_that_runs_on_does_not_keep_the_lock() {
    each_shell(|root| {
        gate(root);
        root.script(
            "parent",
            "USE_PROCD=1\nstart_service() {\n sleep 600 > /dev/null 2>&1 &\n echo $! >> \"$FAKES/pids\"\n \
             ( read -r _line < \"$FAKES/gate\" ) > /dev/null 2>&1 &\n echo $! >> \"$FAKES/pids\"\n \
             procd_add_instance /bin/true\n}\n",
        );
        assert_eq!(root.run("parent", &["start"]).code, Some(0));
        let mut command = root.action("parent", &["stop"]);
        command.env("PROCD_LOCK_TIMEOUT", "0");
        let ran = root.ran(command);
        root.shell("while read -r pid; do kill $pid; done < \"$FAKES/pids\"");
        assert_eq!((ran.code, ran.errors.as_str()), (Some(0), ""));
    });
}

#[test]
fn a_second_run_waits_for_the_first_and_says_whom_it_waited_for() {
    each_shell(|root| {
        root.script("one", WAITING);
        gate(root);
        let mut first = root.action("one", &["start"]).stdout(Stdio::null()).spawn().unwrap();
        let line = until("the first run is in", || {
            let log = root.read("fakes/log");
            log.ends_with('\n').then_some(log)
        });
        let pid = line.trim().strip_prefix("in ").expect("the script wrote it").to_owned();
        let mut second = root.action("one", &["restart"]);
        second.env("PROCD_LOCK_TIMEOUT", "0");
        let ran = root.ran(second);
        assert_eq!(ran.code, Some(1));
        assert!(ran.errors.contains(&format!("process {pid} still works on")), "{}", ran.errors);
        let mut third = root.action("one", &["start"]).stdout(Stdio::null()).spawn().unwrap();
        root.write("fakes/gate", "go\n");
        assert!(first.wait().unwrap().success());
        until("the third run is in", || {
            (root.read("fakes/log").lines().count() == 2).then_some(())
        });
        root.write("fakes/gate", "go\n");
        assert!(third.wait().unwrap().success());
        assert_eq!(root.calls().len(), 2);
    });
}

#[test]
fn a_holder_that_was_killed_holds_nothing() {
    each_shell(|root| {
        root.script("killed", WAITING);
        gate(root);
        let mut first = root.action("killed", &["start"]).stdout(Stdio::null()).spawn().unwrap();
        until("the first run is in", || root.read("fakes/log").ends_with('\n').then_some(()));
        first.kill().unwrap();
        first.wait().unwrap();
        let mut next = root.action("killed", &["stop"]);
        next.env("PROCD_LOCK_TIMEOUT", "0");
        assert_eq!(root.ran(next).code, Some(0));
    });
}

/// Its own child would wait for ever: the script waits for the child.
#[test]
fn a_script_that_calls_itself_is_let_through() {
    each_shell(|root| {
        root.script(
            "inner",
            "USE_PROCD=1\nstart_service() { procd_add_instance /bin/true; }\n\
             reload_service() { \"$FAKES/again\" stop; start; }\n",
        );
        let common = super::configs().join("etc/rc.common");
        let script = root.path("etc/init.d/inner");
        root.program(
            "fakes/again",
            &format!("#!/bin/sh\nexec /bin/sh {} {} \"$@\"\n", common.display(), script.display()),
        );
        let mut command = root.action("inner", &["reload"]);
        command.env("PROCD_LOCK_TIMEOUT", "0");
        let ran = root.ran(command);
        assert_eq!((ran.code, ran.errors.as_str()), (Some(0), ""));
        let called: Vec<String> = root.calls().into_iter().map(|(name, _)| name).collect();
        assert_eq!(called, ["service delete", "service set"]);
    });
}

#[test]
fn asking_takes_no_lock() {
    each_shell(|root| {
        root.script("asked", "USE_PROCD=1\nSTART=10\nstart_service() { :; }\n");
        for action in ["enabled", "running", "status", "info", "help"] {
            root.run("asked", &[action]);
        }
        assert!(!root.path("var/lock/procd_asked.lock").exists());
    });
}
