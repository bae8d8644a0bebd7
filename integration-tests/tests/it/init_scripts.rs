//! OpenWrt's scripts with everything real: booting them, their configuration edited with `uci`, `reload_config`, rules and
//! events by `ubus`, and what `service import` makes of them (root only).

use std::{fs, os::unix::fs::symlink, path::Path};

use serde_json::{Value, json};
use testkit::{alive, until};

use crate::{
    openwrt_root::{OpenWrt, Shell},
    support::{is_root, until_other_pid},
};

const PROGRAM: &str = "#!/bin/sh
trap 'exit 0' TERM
while :; do sleep 3600 & wait; done
";
const CONFIG: &str = "config camera 'main'\n\toption port '80'\n";

/// A script that gives its program the port, and has a rule for it.
fn script(name: &str, start: u32) -> String {
    format!(
        "#!/bin/sh /etc/rc.common
USE_PROCD=1
START={start}
STOP=85
validate() {{ uci_validate_section {name} camera \"${{1}}\" 'port:port:80'; }}
start_service() {{
	local port
	config_load {name}
	config_get port main port 80
	echo \"{name} starts\"
	procd_open_instance
	procd_set_param command /bin/program \"$port\"
	procd_set_param respawn
	procd_close_instance
}}
service_triggers() {{
	procd_add_reload_trigger {name}
	procd_add_validation validate
}}
"
    )
}

/// Two such scripts; not started.
fn root(shell: Shell, settings: &str) -> OpenWrt {
    let root = OpenWrt::new(shell);
    root.program("bin/program", PROGRAM);
    for (name, start) in [("camera", 20), ("door", 15)] {
        root.program(&format!("etc/init.d/{name}"), &script(name, start));
        root.write(&format!("etc/config/{name}"), CONFIG);
    }
    fs::write(root.device.folder().join("etc/config.toml"), settings).unwrap();
    root
}

fn port(root: &OpenWrt, service: &str) -> Value {
    let list = root.device.json(&["service", "list", service]);
    list[service]["instances"]["instance1"]["command"][1].clone()
}

#[track_caller]
fn until_port(root: &OpenWrt, service: &str, wanted: &str) {
    until(&format!("{service} has port {wanted}"), || {
        (port(root, service) == json!(wanted)).then_some(())
    });
}

fn boots(shell: Shell) {
    let mut root = root(shell, "");
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/openwrt/services.d");
    for name in ["rc", "rc-shutdown"] {
        let text = fs::read_to_string(shipped.join(format!("{name}.toml"))).unwrap();
        root.device.define(name, &text);
    }
    let note = |word: &str| format!("#!/bin/sh\necho {word} \"$1\" >> /tmp/order\n");
    root.program("etc/rc.d/S10first", &note("first"));
    root.program("etc/rc.d/S99last", &note("last"));
    root.program("etc/rc.d/K90end", &note("end"));
    for (link, script) in [("S20camera", "camera"), ("S15door", "door"), ("K85door", "door")] {
        symlink(format!("../init.d/{script}"), root.path(&format!("etc/rc.d/{link}"))).unwrap();
    }
    root.device.start();
    let pids = ["camera", "door"].map(|name| root.device.until_pid(name));
    root.device.until_state("rc", "done");
    let order = || fs::read_to_string(root.path("tmp/order")).unwrap();
    assert_eq!(order(), "first boot\nlast boot\n");
    let log = until("the scripts' lines are in the log", || {
        let log = root.device.ctl_ok(&["log", "-n", "1000"]);
        log.contains("camera starts").then_some(log)
    });
    let at = |text: &str| log.find(text).unwrap_or_else(|| panic!("{text}: {log}"));
    assert!(at("S15door: door starts") < at("S20camera: camera starts"), "{log}");
    assert!(root.device.stop().success());
    assert!(pids.iter().all(|pid| !alive(*pid)));
    let order = fs::read_to_string(root.path("tmp/order")).unwrap();
    assert_eq!(order, "first boot\nlast boot\nend shutdown\n");
}

#[test]
fn a_device_boots_and_stops_the_scripts_of_rc_d_in_order_under_busybox() {
    if is_root("an OpenWrt-like root folder") {
        boots(Shell::Busybox);
    }
}

#[test]
fn a_device_boots_and_stops_the_scripts_of_rc_d_in_order_under_dash() {
    if is_root("an OpenWrt-like root folder") {
        boots(Shell::Dash);
    }
}

#[test]
fn what_uci_has_set_counts_when_it_is_committed() {
    if !is_root("an OpenWrt-like root folder") {
        return;
    }
    let mut root = root(Shell::Busybox, "");
    root.device.start();
    for name in ["camera", "door"] {
        root.run_ok(&[&format!("/etc/init.d/{name}"), "start"]);
    }
    let [camera, door] = ["camera", "door"].map(|name| root.device.until_pid(name));
    root.run_ok(&["uci", "set", "camera.main.port=81"]);
    assert_eq!(root.run_ok(&["uci", "changes"]), "camera.main.port='81'\n");
    root.run_ok(&["uci", "set", "door.main.port=82"]);
    root.run_ok(&["uci", "commit", "door"]);
    until_port(&root, "door", "82");
    until_other_pid(&root.device, "door", door);
    assert!(alive(camera));
    root.run_ok(&["uci", "commit"]);
    until_port(&root, "camera", "81");
    until_other_pid(&root.device, "camera", camera);
}

#[test]
fn with_manual_mode_reload_config_is_what_counts_and_the_digests_are_openwrts() {
    if !is_root("an OpenWrt-like root folder") {
        return;
    }
    let mut root = root(Shell::Busybox, "mode = \"manual\"\nmd5 = \"/var/run/config.md5\"\n");
    root.device.start();
    root.run_ok(&["/etc/init.d/camera", "start"]);
    let pid = root.device.until_pid("camera");
    root.run_ok(&["uci", "set", "camera.main.port=81"]);
    root.run_ok(&["uci", "commit", "camera"]);
    assert!(root.device.ctl_ok(&["config", "diff"]).contains("main.port"));
    assert!(alive(pid));
    root.run_ok(&["reload_config"]);
    until_port(&root, "camera", "81");
    let second = until_other_pid(&root.device, "camera", pid);
    let digests = fs::read_to_string(root.path("var/run/config.md5")).unwrap();
    for name in ["camera", "door"] {
        let digest = root.run_ok(&["sh", "-c", &format!("uci show {name} | md5sum")]);
        let digest = digest.split(' ').next().unwrap();
        let line = format!("{digest}  /var/run/config.check/{name}");
        assert!(digests.lines().any(|it| it == line), "{line}: {digests}");
    }
    root.run_ok(&["reload_config"]);
    assert_eq!(root.device.until_pid("camera"), second);
}

#[test]
fn rules_and_events_are_reached_by_ubus() {
    if !is_root("an OpenWrt-like root folder") {
        return;
    }
    let mut root = root(Shell::Busybox, "");
    root.device.start();
    for name in ["camera", "door"] {
        root.run_ok(&[&format!("/etc/init.d/{name}"), "start"]);
    }
    let rules = root.run_ok(&["ubus", "call", "service", "validate"]);
    let rules: Value = serde_json::from_str(&rules).unwrap();
    let rule = json!({ "camera": { "port": "port" } });
    assert_eq!((&rules["camera"], &rules["door"]), (&rule, &rule));
    let one = root.run_ok(&["ubus", "call", "service", "validate", r#"{"package":"door"}"#]);
    let one: Value = serde_json::from_str(&one).unwrap();
    assert_eq!(one, json!({ "door": rule }));

    let [camera, door] = ["camera", "door"].map(|name| root.device.until_pid(name));
    // By hand, as upstream's reload_config does: without a digest it counts whatever the file says.
    root.write("etc/config/camera", &CONFIG.replace("80", "81"));
    let event = r#"{"type":"config.change","data":{"package":"camera"}}"#;
    root.run_ok(&["ubus", "call", "service", "event", event]);
    until_port(&root, "camera", "81");
    until_other_pid(&root.device, "camera", camera);
    assert!(alive(door));
    // What isn't allowed is refused with the script's own rule.
    root.write("etc/config/door", &CONFIG.replace("80", "x"));
    let status = until("the refusal is shown", || {
        let status = root.device.ctl_ok(&["status", "door"]);
        status.contains("not reloaded").then_some(status)
    });
    for word in ["/etc/config/door", "main", "port"] {
        assert!(status.contains(word), "{word}: {status}");
    }
    assert!(alive(door));
}

#[test]
fn an_imported_script_starts_nothing_and_becomes_a_definition_that_is_right() {
    if !is_root("an OpenWrt-like root folder") {
        return;
    }
    let mut root = root(Shell::Dash, "");
    root.device.start();
    let message = root.run(&["vestalctl", "service", "import", "--message", "/etc/init.d/camera"]);
    let message: Value = serde_json::from_slice(&message.stdout).unwrap();
    assert_eq!(message["name"], "camera");
    assert_eq!(message["instances"]["instance1"]["command"], json!(["/bin/program", "80"]));
    let toml = root.run(&["vestalctl", "service", "import", "/etc/init.d/camera"]);
    let told = String::from_utf8_lossy(&toml.stderr);
    assert!(toml.status.success() && told.contains("camera starts"), "{told}");
    assert_eq!(root.device.json(&["service", "list", "camera"]), json!({}));
    let toml = String::from_utf8(toml.stdout).unwrap();
    let file = root.device.folder().join("camera.toml");
    fs::write(&file, &toml).unwrap();
    root.device.ctl_ok(&["service", "check", &file.display().to_string()]);
    // And it does the same.
    root.device.define("camera", &toml);
    root.device.ctl_ok(&["service", "reread"]);
    let pid = root.device.until_pid("camera");
    assert_eq!(port(&root, "camera"), "80");
    root.write("etc/config/camera", &CONFIG.replace("80", "x"));
    until("the refusal is shown", || {
        root.device.ctl_ok(&["status", "camera"]).contains("not reloaded").then_some(())
    });
    assert!(alive(pid));
    root.write("etc/config/camera", &CONFIG.replace("80", "81"));
    until_other_pid(&root.device, "camera", pid);
}
