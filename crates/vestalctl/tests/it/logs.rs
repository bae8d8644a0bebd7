//! The log: what is asked for, how it is printed, and that following survives a restart.

use protocol::log::Select;
use serde_json::Value;

use crate::fake::{Fake, Reply, command, run};

fn applet(fake: &Fake, name: &str, args: &[&str], input: &str) -> Reply {
    run(&mut command(fake.run_dir(), name, args), input)
}

#[test]
fn the_log_is_printed_as_lines_or_as_json() {
    let fake = Fake::with_bus();
    let reply = fake.ctl(&["log"]);
    let expected = "2026-11-22T04:05:20.123Z info    web[99]: one\n\
                    2026-11-22T04:05:20.123Z info    web[99]: two \\x1b[1m\n";
    assert_eq!((reply.code, &*reply.stdout), (0, expected), "{reply:?}");
    let reply = fake.ctl(&["log", "--monotonic"]);
    assert!(reply.stdout.starts_with("[   12.345678] info    web[99]: one\n"), "{reply:?}");
    let reply = fake.ctl(&["log", "--json"]);
    let first: Value = serde_json::from_str(reply.stdout.lines().next().unwrap()).unwrap();
    assert_eq!((&first["text"], &first["sequence"]), (&"one".into(), &1.into()));
}

#[test]
fn what_is_wanted_is_sent_to_the_log() {
    let fake = Fake::with_bus();
    let args = [
        "log",
        "-n",
        "5",
        "--since",
        "2026-11-22 04:05",
        "--until",
        "2026-11-22T05:00:00Z",
        "-p",
        "err",
        "--grep",
        "a+",
        "--source",
        "kernel",
        "--instance",
        "front",
        "web",
        "cam",
    ];
    assert_eq!(fake.ctl(&args).code, 0);
    let sent = fake.bus.with(|told| told.selects.pop().unwrap());
    let expected = Select {
        lines: Some(5),
        since_us: Some(1_795_320_300_000_000),
        until_us: Some(1_795_323_600_000_000),
        priority: Some(3),
        grep: Some("a+".into()),
        services: vec!["web".into(), "cam".into()],
        instance: Some("front".into()),
        source: Some(protocol::log::Source::Kernel),
        after: None,
    };
    assert_eq!(sent, expected);
}

#[test]
fn following_goes_on_after_the_log_was_replaced() {
    let fake = Fake::with_bus();
    let mut following = fake.start_ctl("vestalctl", &["log", "-f"]);
    let lines: Vec<_> = (0..3).map(|_| following.line()).collect();
    assert!(lines[0].ends_with(": one") && lines[2].ends_with(": three"), "{lines:?}");
    let asked = fake.bus.with(|told| std::mem::take(&mut told.selects));
    assert_eq!((asked[0].lines, asked[0].after), (Some(10), None));
    assert_eq!((asked[1].lines, asked[1].after), (None, Some(2)));
}

#[test]
fn without_a_log_service_the_supervisors_files_are_named() {
    let fake = Fake::start();
    fake.ctl(&["log"]).fails(4, "supervisor/log");
    applet(&fake, "logger", &["x"], "").fails(4, "no log service runs here");
    let reply = applet(&fake, "logread", &[], "");
    assert!(reply.stderr.starts_with("logread: no log service"), "{reply:?}");
    // Its socket is there, but nobody behind it.
    let path = fake.run_dir().join("log.sock");
    drop(std::os::unix::net::UnixListener::bind(path).unwrap());
    fake.ctl(&["log"]).fails(4, "`vestalctl status log` says why");
}

#[test]
fn wrong_times_and_priorities_are_wrong_usage() {
    let fake = Fake::with_bus();
    for args in [["log", "--since", "soon"], ["log", "-p", "loud"], ["log", "--source", "x"]] {
        assert_eq!(fake.ctl(&args).code, 2, "{args:?}");
    }
    fake.ctl(&["log", "--since", "1h", "--until", "2h"]).fails(2, "--since is not before");
}

#[test]
fn logread_prints_openwrts_lines() {
    let fake = Fake::with_bus();
    let reply = applet(&fake, "logread", &["-l", "7", "-e", "o"], "");
    assert!(
        reply.stdout.starts_with("Sun Nov 22 04:05:20 2026 daemon.info web[99]: one\n"),
        "{reply:?}"
    );
    let sent = fake.bus.with(|told| told.selects.pop().unwrap());
    assert_eq!((sent.lines, sent.grep.as_deref()), (Some(7), Some("o")));
    applet(&fake, "logread", &["-F", "/tmp/x"], "").fails(2, "no meaning here");
}

#[test]
fn logger_writes_words_or_the_lines_of_its_input() {
    let fake = Fake::with_bus();
    let reply =
        applet(&fake, "logger", &["-s", "-t", "cam", "-p", "daemon.err", "lens", "lost"], "");
    assert_eq!((reply.code, &*reply.stderr), (0, "cam: lens lost\n"), "{reply:?}");
    assert_eq!(applet(&fake, "logger", &["-t", "cam"], "a\nb").code, 0);
    let written = fake.bus.with(|told| std::mem::take(&mut told.written));
    let texts: Vec<_> = written.iter().map(|write| write.text.as_str()).collect();
    assert_eq!(texts, ["lens lost", "a", "b"]);
    assert_eq!((written[0].priority, written[0].tag.as_deref()), (Some(3), Some("cam")));
    assert_eq!(written[1].priority, None);
    applet(&fake, "logger", &["-p", "loud", "x"], "").fails(2, "no priority");
}

#[test]
fn the_level_of_a_daemon_is_read_and_changed() {
    let fake = Fake::with_bus();
    assert_eq!(fake.ctl(&["log-level", "log"]).stdout, "info\n");
    assert_eq!(fake.ctl(&["log-level", "vestal-log", "debug"]).stdout, "debug\n");
    assert_eq!(fake.ctl(&["--json", "log-level", "log", "warn"]).json()["level"], "warn");
    fake.ctl(&["log-level", "log", "loud"]).fails(1, "loud is no level");
    fake.ctl(&["log-level", "lgo"]).fails(3, "did you mean \"log\"?");
    fake.ctl(&["log-level", "../x"]).fails(3, "no daemon");
}
