//! Network interfaces that go up and down are events, and a device that is another one restarts who is bound to it. Each
//! test has a network of its own (root only).

use serde_json::json;
use testkit::{Device, alive, until};

use crate::support::{applet, demo, is_root, lines, until_other_pid};

/// A network without anything but a loopback that is down, and a view of it in /sys.
const ENTER: &str = "set -e
mount --make-rprivate /
mount -t sysfs sysfs /sys
exec \"$@\"";

fn device(definitions: &[(&str, &str)]) -> Device {
    let mut device = Device::new();
    let words = ["unshare", "--net", "--mount", "sh", "-c", ENTER, "enter"].map(str::to_owned);
    device.wrap(&words);
    for (name, triggers) in definitions {
        device.define(name, &format!("{}{triggers}", demo(&[])));
    }
    device.start();
    device
}

/// Runs `ip` in the device's network.
fn ip(device: &Device, words: &str) {
    let network = format!("--net=/proc/{}/ns/net", device.keeper_pid());
    let mut command = device.in_environment("nsenter");
    let output = command.arg(network).arg("ip").args(words.split(' ')).output();
    let output = output.expect("util-linux and iproute2 are there");
    assert!(output.status.success(), "ip {words}: {output:?}");
}

#[test]
fn an_interface_that_goes_up_and_down_is_seen_by_whom_it_is_for() {
    if !is_root("a network of its own") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let trigger = |event: &str, interface: &str, name: &str| {
        let file = folder.path().join(name);
        let note = format!("echo {event} >> {}", file.display());
        format!(
            "[[triggers]]\nevent = {event:?}\ninterface = {interface:?}\nrun = [\"/bin/sh\", \"-c\", {note:?}]\n"
        )
    };
    let of_lo = ["up", "down"].map(|way| trigger(&format!("interface.{way}"), "lo", "lo")).concat();
    let of_wan = trigger("interface.up", "wan", "wan");
    let device = device(&[("loopback", &of_lo), ("uplink", &of_wan)]);
    let seen = |name: &str, wanted: &[&str]| {
        until(&format!("{name} has seen {wanted:?}"), || {
            (lines(&folder.path().join(name)) == wanted).then_some(())
        });
    };
    ip(&device, "link set lo up");
    seen("lo", &["interface.up"]);
    ip(&device, "link set lo down");
    seen("lo", &["interface.up", "interface.down"]);
    assert_eq!(lines(&folder.path().join("wan")), [""; 0]);
    // It has to carry packets: one end of a cable alone is not up.
    ip(&device, "link add wan type veth peer name lan");
    ip(&device, "link set wan up");
    ip(&device, "link set lo up");
    seen("lo", &["interface.up", "interface.down", "interface.up"]);
    assert_eq!(lines(&folder.path().join("wan")), [""; 0]);
    ip(&device, "link set lan up");
    seen("wan", &["interface.up"]);
    // A script that ran when its supervisor died would be run again.
    until("all of it is over", || {
        let console = device.console();
        let ended = |line: &&str| line.contains("service.trigger") && line.contains("exit 0");
        (console.lines().filter(ended).count() == 4).then_some(())
    });
    // The next supervisor takes what is there as it is.
    crate::support::replace_supervisor(&device);
    ip(&device, "link set lo down");
    seen("lo", &["interface.up", "interface.down", "interface.up", "interface.down"]);
    seen("wan", &["interface.up"]);
}

#[test]
fn a_procd_trigger_sees_the_interface_s_name_and_what_became_of_it() {
    if !is_root("a network of its own") {
        return;
    }
    let device = device(&[]);
    let file = device.folder().join("said");
    let say = format!("echo %interface% %action% >> {}", file.display());
    let message = json!({ "name": "hello", "instances": {}, "triggers": [
        ["interface.*", ["if", ["eq", "interface", ["wan", "lo"]], ["run_script", "/bin/sh", "-c", say]], 1],
    ] });
    let set = applet(&device, "ubus", &["call", "service", "set", &message.to_string()]);
    assert!(set.status.success(), "{set:?}");
    // Its addresses come and go with it, which is an update.
    for (way, told) in [("up", "lo ifup"), ("down", "lo ifdown")] {
        ip(&device, &format!("link set lo {way}"));
        until(&format!("it went {way}"), || {
            lines(&file).iter().any(|line| line == told).then_some(())
        });
    }
}

#[test]
fn a_network_device_that_was_made_anew_restarts_and_one_that_changed_does_not() {
    if !is_root("a network of its own") {
        return;
    }
    let device = device(&[]);
    let message = json!({ "name": "hello", "instances": { "instance1": {
        "command": [testkit::binary("vestal-demo")], "netdev": ["wan"],
    } } })
    .to_string();
    let set = || {
        let set = applet(&device, "ubus", &["call", "service", "set", &message]);
        assert!(set.status.success(), "{set:?}");
    };
    ip(&device, "link add wan type veth peer name lan");
    set();
    let pid = device.until_pid("hello");
    ip(&device, "link set wan up");
    ip(&device, "addr add 192.0.2.1/24 dev wan");
    set();
    assert!(alive(pid));
    assert_eq!(device.until_pid("hello"), pid);
    ip(&device, "link del wan");
    ip(&device, "link add wan type veth peer name lan");
    set();
    let second = until_other_pid(&device, "hello", pid);
    ip(&device, "link set wan name old");
    set();
    until_other_pid(&device, "hello", second);
}
