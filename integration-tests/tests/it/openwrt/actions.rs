//! Every action of `rc.common`, for scripts with and without `USE_PROCD`.

use std::fs;

use super::{Root, each_shell};

const MINIMAL: &str =
    "USE_PROCD=1\nSTART=15\nSTOP=85\nstart_service() { procd_add_instance /bin/true; }\n";

fn links(root: &Root) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(root.path("etc/rc.d"))
        .expect("it is ours")
        .flatten()
        .map(|entry| {
            let target = fs::read_link(entry.path()).expect("only links are there");
            format!("{} -> {}", entry.file_name().display(), target.display())
        })
        .collect();
    names.sort();
    names
}

#[test]
fn enabling_makes_the_links_and_disabling_removes_them() {
    each_shell(|root| {
        root.script("hello", MINIMAL);
        assert_eq!(root.run("hello", &["enabled"]).code, Some(1));
        assert_eq!(root.run("hello", &["enable"]).code, Some(0));
        assert_eq!(links(root), ["K85hello -> ../init.d/hello", "S15hello -> ../init.d/hello"]);
        assert_eq!(root.run("hello", &["enabled"]).code, Some(0));
        fs::remove_file(root.path("etc/rc.d/K85hello")).unwrap();
        assert_eq!(root.run("hello", &["enabled"]).code, Some(1), "one link is missing");
        assert_eq!(root.run("hello", &["disable"]).code, Some(0));
        assert!(links(root).is_empty());
        assert_eq!(root.run("hello", &["disable"]).code, Some(0), "there is nothing to remove");
    });
}

#[test]
fn a_script_without_numbers_cannot_be_enabled() {
    each_shell(|root| {
        root.script("plain", "USE_PROCD=1\nstart_service() { :; }\n");
        assert_eq!(root.run("plain", &["enable"]).code, Some(1));
        assert!(links(root).is_empty());
    });
}

#[test]
fn a_script_is_called_by_its_link_as_by_its_name() {
    each_shell(|root| {
        root.script("hello", MINIMAL);
        root.run("hello", &["enable"]);
        let ran = root.run("../rc.d/S15hello", &["boot"]);
        assert_eq!(ran.code, Some(0), "{}", ran.errors);
        assert_eq!(root.calls()[0].1["name"], "hello");
        assert_eq!(root.run("../rc.d/S15hello", &["disable"]).code, Some(0));
        assert!(links(root).is_empty());
    });
}

#[test]
fn an_unknown_action_prints_what_there_is() {
    each_shell(|root| {
        root.script(
            "helpful",
            &format!(
                "{MINIMAL}EXTRA_COMMANDS=\"old\"\nEXTRA_HELP=\"\\told             As before\\n\"\n\
                 extra_command rotate \"Open the log again\"\nrotate() {{ echo rotated; }}\nold() {{ echo was; }}\n"
            ),
        );
        let ran = root.run("helpful", &["no-such-thing"]);
        assert_eq!(ran.code, Some(0));
        assert!(ran.printed.starts_with("Syntax: /etc/init.d/helpful [command]\n"), "{ran:?}");
        for line in [
            "\tstart           Start the service\n",
            "\tenabled         Check if service is started on boot\n",
            "\tstatus          Service status\n",
            "\trotate          Open the log again\n",
            "\told             As before\n",
        ] {
            assert!(ran.printed.contains(line), "{line:?} in {}", ran.printed);
        }
        assert_eq!(root.run("helpful", &[]).printed, ran.printed);
        assert_eq!(root.run("helpful", &["rotate"]).printed, "rotated\n");
        assert_eq!(root.run("helpful", &["old"]).printed, "was\n");
        assert_eq!(root.run("helpful", &["depends"]).printed, "");
        assert!(root.calls().is_empty());
    });
}

#[test]
fn a_reload_without_reload_service_starts_again() {
    each_shell(|root| {
        root.script("plain", MINIMAL);
        root.run("plain", &["reload"]);
        let called: Vec<String> = root.calls().into_iter().map(|(name, _)| name).collect();
        assert_eq!(called, ["service set"]);
    });
}

#[test]
fn a_trace_is_a_start_that_is_traced() {
    each_shell(|root| {
        root.script("traced", MINIMAL);
        root.run("traced", &["trace"]);
        assert_eq!(root.calls()[0].1["instances"]["instance1"]["trace"], true);
    });
}

#[test]
fn whether_it_runs_is_asked_and_the_answer_is_the_status() {
    each_shell(|root| {
        root.script("asked", MINIMAL);
        root.answer("filter.0", "true\n");
        root.answer("filter.1", "false\n");
        assert_eq!(root.run("asked", &["running"]).code, Some(0));
        assert_eq!(root.run("asked", &["running", "one"]).code, Some(1));
        assert_eq!(root.run("asked", &["running"]).code, Some(1), "nothing is listed");
        assert_eq!(
            root.read("fakes/filters"),
            "-l 1 -e @['asked'].instances[*].running\n-l 1 -e @['asked'].instances['one'].running\n\
             -l 1 -e @['asked'].instances[*].running\n"
        );
        assert!(
            root.calls()
                .iter()
                .all(|(name, message)| name == "service list" && message["name"] == "asked")
        );
    });
}

#[test]
fn the_status_tells_every_case_apart() {
    each_shell(|root| {
        root.script("asked", MINIMAL);
        let cases: [(&[&str], &[&str], &str, i32); 7] = [
            (&["", "", ""], &["status"], "inactive", 3),
            (&["{ }", "", ""], &["status"], "active with no instances", 0),
            (&["{ }", "{ }", "true\ntrue\n"], &["status"], "running", 0),
            (&["{ }", "{ }", "true\nfalse\n"], &["status"], "running (1/2)", 0),
            (&["{ }", "{ }", "false\n"], &["status"], "not running", 5),
            (&["{ }", "{ }", ""], &["status", "that"], "unknown instance that", 4),
            (&["{ }", "", ""], &["status", "that"], "unknown instance that", 4),
        ];
        for (answers, words, printed, code) in cases {
            let _ = fs::remove_file(root.path("fakes/filtered"));
            for (number, answer) in answers.iter().enumerate() {
                root.answer(&format!("filter.{number}"), answer);
            }
            let ran = root.run("asked", words);
            assert_eq!((ran.printed.trim_end(), ran.code), (printed, Some(code)), "{answers:?}");
        }
    });
}

#[test]
fn a_script_may_answer_for_itself() {
    each_shell(|root| {
        root.script(
            "own",
            &format!(
                "{MINIMAL}service_running() {{ echo \"running $*\"; return 7; }}\nstatus_service() {{ echo \"status $*\"; return 8; }}\n"
            ),
        );
        let ran = root.run("own", &["running", "a"]);
        assert_eq!((ran.printed.as_str(), ran.code), ("running a\n", Some(7)));
        let ran = root.run("own", &["status", "b"]);
        assert_eq!((ran.printed.as_str(), ran.code), ("status b\n", Some(8)));
    });
}

#[test]
fn a_script_without_procd_does_it_itself() {
    each_shell(|root| {
        root.script(
            "old",
            "START=1\nstart() { echo start \"$@\"; }\nstop() { echo stop \"$@\"; }\n",
        );
        for (words, printed) in [
            (&["start", "a"][..], "start a\n"),
            (&["boot"], "start\n"),
            (&["stop"], "stop\n"),
            (&["shutdown"], "stop\n"),
            (&["reload"], "stop\nstart\n"),
            (&["restart"], "stop\nstart\n"),
        ] {
            let ran = root.run("old", words);
            assert_eq!((ran.printed.as_str(), ran.code), (printed, Some(0)), "{words:?}");
        }
        assert!(root.run("old", &["running"]).printed.starts_with("Syntax:"), "only procd knows");
    });
}

/// A `stop` that kills every process of its name also hits the shell that runs it.
#[test]
fn a_restart_survives_its_own_stop() {
    each_shell(|root| {
        root.script("loud", "start() { echo started; }\nstop() { kill -TERM $$; echo stopped; }\n");
        assert_eq!(root.run("loud", &["restart"]).printed, "stopped\nstarted\n");
    });
}

#[test]
fn a_run_can_be_followed_line_by_line() {
    each_shell(|root| {
        root.script("followed", "start() { true followed-here; }\n");
        let mut command = root.action("followed", &["start"]);
        command.env("INIT_TRACE", "1");
        assert!(root.ran(command).errors.contains("+ true followed-here"));
    });
}
