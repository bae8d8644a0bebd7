//! `vestalctl config ...` and `reload_config`, as a person tries them.

use std::fs;

use super::{Watched, uci_text};
use crate::support::{applet, is_root};

/// Two packages with a service each; manual mode unless the settings say otherwise.
fn device(settings: &str) -> Watched {
    let mut watched = Watched::new();
    watched.configure(settings, &[]);
    for name in ["hello", "other"] {
        watched.write(name, &uci_text("1"));
        watched.counted(name, &watched.uci(name));
    }
    watched.start();
    watched
}

const MANUAL: &str = "mode = \"manual\"";

#[test]
fn in_manual_mode_nothing_is_told_until_a_reload_and_then_only_what_changed() {
    let watched = device(MANUAL);
    let device = &watched.device;
    watched.write("hello", &uci_text("2"));
    watched.write("other", &format!("# no change\n{}", uci_text("1")));
    let status = device.ctl_ok(&["config", "status"]);
    assert!(status.contains("mode: manual"), "{status}");
    let hello = status.lines().find(|line| line.starts_with("hello ")).unwrap();
    assert!(hello.contains("changed"), "{status}");
    assert_eq!(device.ctl_ok(&["config", "diff"]), "hello\n  ~ main.value\n");
    assert_eq!(device.ctl_ok(&["config", "diff", "other"]), "");
    let reloaded = device.ctl_ok(&["config", "reload"]);
    assert!(reloaded.starts_with("hello\n  ~ main.value\n"), "{reloaded}");
    watched.until_seen("hello", "value '2'");
    assert_eq!(device.ctl_ok(&["config", "diff"]), "");
    let again = device.ctl_ok(&["config", "reload"]);
    assert_eq!(again, "3 unchanged\n");

    // One package and no other.
    watched.write("hello", &uci_text("3"));
    watched.write("other", &uci_text("3"));
    device.ctl_ok(&["config", "reload", "other"]);
    watched.until_seen("other", "value '3'");
    assert_eq!(watched.seen("hello").len(), 1);
    let unknown = device.ctl(&["config", "reload", "nothing"]);
    assert!(!unknown.status.success() && unknown.stderr.contains("nothing"), "{unknown:?}");
}

#[test]
fn reload_config_announces_without_a_word_and_says_what_is_wrong() {
    let watched = device(MANUAL);
    watched.write("hello", &uci_text("2"));
    let done = applet(&watched.device, "reload_config", &[]);
    assert_eq!((done.status.code(), &*done.stdout, &*done.stderr), (Some(0), "", ""));
    watched.until_seen("hello", "value '2'");
    watched.write("hello", "config 'x");
    watched.write("other", &uci_text("2"));
    let done = applet(&watched.device, "reload_config", &[]);
    assert!(done.stderr.contains("uci/hello:1"), "{done:?}");
    watched.until_seen("other", "value '2'");
    assert_eq!(watched.seen("hello").len(), 1);
}

#[test]
fn what_the_files_say_is_shown_and_what_was_announced_is_put_back() {
    let watched = device(MANUAL);
    let device = &watched.device;
    let shown = device.ctl_ok(&["config", "show", "hello"]);
    assert!(shown.contains("main.value = \"1\"\n"), "{shown}");
    let shown = device.json(&["config", "show"]);
    assert_eq!(shown["other"]["main.value"], "1");

    watched.write("hello", &uci_text("9"));
    device.ctl_ok(&["config", "revert", "hello"]);
    assert_eq!(fs::read_to_string(watched.uci("hello")).unwrap(), uci_text("1"));
    assert_eq!(device.ctl_ok(&["config", "reload"]), "3 unchanged\n");
    assert_eq!(watched.seen("hello"), [""; 0]);
    // A bad file, too.
    watched.write("hello", "config 'x");
    device.ctl_ok(&["config", "revert", "hello"]);
    assert_eq!(watched.package("hello")["state"], "current");
}

#[test]
fn what_was_applied_and_confirmed_stays() {
    let watched = device(MANUAL);
    let device = &watched.device;
    watched.write("hello", &uci_text("2"));
    let applied = device.ctl_ok(&["config", "apply", "--confirm", "60"]);
    assert!(applied.contains("main.value") && applied.contains("config confirm"), "{applied}");
    watched.until_seen("hello", "value '2'");
    let status = device.ctl_ok(&["config", "status"]);
    assert!(status.contains("not confirmed: hello; goes back in"), "{status}");
    device.ctl_ok(&["config", "confirm"]);
    let status = device.ctl_ok(&["config", "status"]);
    assert!(!status.contains("not confirmed"), "{status}");
    assert_eq!(device.ctl_ok(&["config", "reload"]), "3 unchanged\n");
    let late = device.ctl(&["config", "confirm"]);
    assert!(!late.status.success() && !late.stderr.is_empty(), "{late:?}");
}

#[test]
fn what_was_applied_and_not_confirmed_goes_back_and_reloads_again() {
    let watched = device("");
    let device = &watched.device;
    let applied = device.ctl_ok(&["config", "apply", "--confirm", "2s"]);
    assert!(applied.contains("goes back in 2s unless"), "{applied}");
    let status = device.ctl_ok(&["config", "status"]);
    assert!(status.contains("not confirmed: nothing yet; goes back in"), "{status}");
    watched.write("hello", &uci_text("2"));
    watched.until_seen("hello", "value '2'");
    watched.write("new", &uci_text("2"));
    watched.until_package("new", "current");
    // Whoever is killed meanwhile: the promise holds.
    crate::support::kill(device.until_pid("config"), rustix::process::Signal::KILL);
    watched.until_seen("hello", "value '1'");
    testkit::until("the new file is gone", || (!watched.uci("new").exists()).then_some(()));
    assert_eq!(fs::read_to_string(watched.uci("hello")).unwrap(), uci_text("1"));
    watched.until_watched();
    watched.settle();
    let seen = watched.seen("hello");
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert_eq!(watched.seen("other"), [""; 0]);
}

#[test]
fn mistakes_in_an_order_are_told_with_their_cure() {
    let watched = device("");
    for (words, told) in [
        (&["config", "apply"][..], "--confirm"),
        (&["config", "apply", "--confirm", "0"], "no time"),
        (&["config", "apply", "--confirm", "2h"], "hour"),
        (&["config", "revert"], "PACKAGE"),
        (&["config", "show", "helo"], "hello"),
        (&["event", "config.change", "[]"], "object"),
        (&["event", "config.change", "{"], "JSON"),
        (&["event", ""], "type"),
    ] {
        let reply = watched.device.ctl(words);
        assert!(!reply.status.success(), "{words:?}: {reply:?}");
        assert!(reply.stderr.contains(told), "{words:?}: {reply:?}");
    }
    let settings = watched.path("etc/config.toml");
    let good = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, format!("qiet = \"1s\"\n{good}")).unwrap();
    let watcher = watched.device.command("vestal-config").output().unwrap();
    let told = String::from_utf8_lossy(&watcher.stderr);
    assert_eq!(watcher.status.code(), Some(2), "{told}");
    for word in ["config.toml:1", "qiet", "quiet"] {
        assert!(told.contains(word), "{word}: {told}");
    }
}

/// Configuration is often closed to others: only its names leave the watcher without being asked for by root.
#[test]
fn an_ordinary_user_sees_and_orders_nothing() {
    if !is_root("another user") {
        return;
    }
    let watched = device("");
    for words in [
        &["show"][..],
        &["status"],
        &["diff"],
        &["validate"],
        &["reload"],
        &["apply", "--confirm", "60"],
        &["confirm"],
        &["revert", "hello"],
    ] {
        let output = watched
            .device
            .in_environment("setpriv")
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(testkit::binary("vestalctl"))
            .arg("config")
            .args(words)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && output.stdout.is_empty(), "{words:?}: {output:?}");
        assert!(told.contains(&format!("config.{} is denied", words[0])), "{words:?}: {told}");
    }
}
