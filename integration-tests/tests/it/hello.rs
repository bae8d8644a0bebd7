//! The document's own `/etc/init.d/hello`, without a change, from its first start to its stop: only a real change of its
//! configuration reloads it, and an invalid one leaves it alone.

use serde_json::json;
use testkit::{alive, until};

use crate::{
    openwrt_root::{OpenWrt, Shell},
    support::is_root,
};

/// As the document has it, down to the dash that isn't one.
const HELLO: &str = r#"#!/bin/sh /etc/rc.common

USE_PROCD=1
START=15
STOP=85
PROG=/bin/hello

validate_hello_section()
{
uci_validate_section hello system globe \
'delay:uinteger(1:200)'
}

start_service() {
echo "start HelloRoute!"
validate_hello_section || {
echo "hello validattion failed!"
return 1
}

procd_open_instance
procd_set_param command "$PROG" –f -w bjbook.net
procd_set_param respawn
procd_close_instance
}

service_triggers()
{
procd_add_reload_trigger "hello"
}

reload_service()
{
stop
start
}
"#;
/// Another service with another configuration, that must not notice anything.
const OTHER: &str = "#!/bin/sh /etc/rc.common
USE_PROCD=1
START=16
start_service() {
	procd_open_instance
	procd_set_param command /bin/hello other \"$(uci -q get other.@main[0].word)\"
	procd_close_instance
}
service_triggers() { procd_add_reload_trigger other; }
";
const PROGRAM: &str = "#!/bin/sh
trap 'exit 0' TERM
while :; do sleep 3600 & wait; done
";
const CONFIG: &str = "config system 'globe'\n\toption delay '100'\n";

fn device(shell: Shell) -> OpenWrt {
    let mut root = OpenWrt::new(shell);
    root.program("bin/hello", PROGRAM);
    root.program("etc/init.d/hello", HELLO);
    root.program("etc/init.d/other", OTHER);
    root.write("etc/config/hello", CONFIG);
    root.write("etc/config/other", "config main\n\toption word 'one'\n");
    root.device.start();
    root
}

fn pid(root: &OpenWrt, service: &str) -> i32 {
    root.device.until_pid(service)
}

/// A real change of the other package, which is seen to arrive: what came before it has been dealt with.
#[track_caller]
fn until_other_is_reloaded(root: &OpenWrt, word: &str) {
    root.write("etc/config/other", &format!("config main\n\toption word '{word}'\n"));
    until("the other service is reloaded", || {
        let list = root.device.json(&["service", "list", "other"]);
        (list["other"]["instances"]["instance1"]["command"] == json!(["/bin/hello", "other", word]))
            .then_some(())
    });
}

fn a_whole_life(shell: Shell) {
    let root = device(shell);
    let told = root.run_ok(&["/etc/init.d/hello", "start"]);
    assert!(told.contains("start HelloRoute!"), "{told}");
    root.run_ok(&["/etc/init.d/other", "start"]);
    let (hello, other) = (pid(&root, "hello"), pid(&root, "other"));
    let list = root.device.json(&["service", "list", "hello"]);
    let instance = &list["hello"]["instances"]["instance1"];
    assert_eq!(instance["command"], json!(["/bin/hello", "–f", "-w", "bjbook.net"]));
    assert_eq!(instance["respawn"], json!({ "threshold": 3600, "timeout": 5, "retry": 5 }));

    // A comment and a blank line say nothing new.
    root.write("etc/config/hello", &format!("# to greet\n\n{CONFIG}"));
    until_other_is_reloaded(&root, "two");
    assert_eq!(pid(&root, "hello"), hello);

    // Another value does, to this service alone.
    let other = {
        let now = pid(&root, "other");
        assert_ne!(now, other);
        now
    };
    root.write("etc/config/hello", &CONFIG.replace("100", "150"));
    until("hello is reloaded", || (!alive(hello)).then_some(()));
    let reloaded = pid(&root, "hello");
    assert_ne!(reloaded, hello);
    assert_eq!(pid(&root, "other"), other);

    // One that is not allowed is refused, named, and costs nothing.
    root.write("etc/config/hello", &CONFIG.replace("100", "300"));
    let status = until("the refusal is shown", || {
        let status = root.device.ctl_ok(&["status", "hello"]);
        status.contains("delay").then_some(status)
    });
    for part in ["/etc/config/hello", "globe", "delay", "uinteger(1:200)", "300"] {
        assert!(status.contains(part), "{part}: {status}");
    }
    until_other_is_reloaded(&root, "three");
    assert_eq!(pid(&root, "hello"), reloaded);
    let console = root.device.console();
    let told = console.lines().find(|line| line.contains("config.invalid"));
    assert!(told.is_some_and(|line| line.contains("uinteger(1:200)")), "{console}");

    // What was in force again is no change; a good value is one.
    root.write("etc/config/hello", &CONFIG.replace("100", "200"));
    until("hello is reloaded", || (!alive(reloaded)).then_some(()));
    let last = pid(&root, "hello");

    root.run_ok(&["/etc/init.d/hello", "stop"]);
    until("hello is gone", || {
        (root.device.json(&["service", "list", "hello"]) == json!({})).then_some(())
    });
    assert!(!alive(last));
}

#[test]
fn the_documents_script_lives_its_whole_life_under_busybox() {
    if is_root("an OpenWrt-like root folder") {
        a_whole_life(Shell::Busybox);
    }
}

#[test]
fn the_documents_script_lives_its_whole_life_under_dash() {
    if is_root("an OpenWrt-like root folder") {
        a_whole_life(Shell::Dash);
    }
}

#[test]
fn what_is_not_allowed_is_not_started() {
    if !is_root("an OpenWrt-like root folder") {
        return;
    }
    let root = device(Shell::Busybox);
    root.write("etc/config/hello", &CONFIG.replace("100", "0"));
    let told = root.run(&["/etc/init.d/hello", "start"]);
    let told = String::from_utf8_lossy(&[told.stdout, told.stderr].concat()).into_owned();
    assert!(told.contains("hello validattion failed!"), "{told}");
    for part in ["hello", "globe", "delay", "uinteger(1:200)"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let list = root.device.json(&["service", "list", "hello"]);
    assert!(list["hello"]["instances"].as_object().is_none_or(serde_json::Map::is_empty), "{list}");
}
