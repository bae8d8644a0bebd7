//! A value that a service's rules don't allow: refused and named everywhere, and the running service is left alone.

use serde_json::json;
use testkit::alive;

use super::{Watched, uci_text};
use crate::{
    applications::Events,
    support::{demo, until_other_pid},
};

const RULES: &str = "
[[triggers]]
event = \"config.change\"
package = \"hello\"
[[validate]]
package = \"hello\"
type = \"service\"
options = { value = \"uinteger(1:200)\" }
";

fn device() -> Watched {
    let mut watched = Watched::new();
    watched.write("hello", &uci_text("100"));
    watched.device.define("service", &format!("{}{RULES}", demo(&[])));
    watched.start();
    watched
}

#[test]
fn an_invalid_value_is_refused_by_name_and_a_repair_reloads() {
    let watched = device();
    let device = &watched.device;
    let pid = device.until_pid("service");
    let mut events = Events::start(device, &["config.invalid"]);
    watched.write("hello", &uci_text("300"));
    let event = events.next()["data"].take();
    let wanted = json!({
        "service": "service", "package": "hello", "file": watched.uci("hello"),
        "section": "main", "option": "value", "rule": "uinteger(1:200)", "value": "300",
        "text": event["text"],
    });
    assert_eq!(event, wanted);
    assert!(event["text"].as_str().is_some_and(|text| text.contains("200")), "{event}");
    let status = device.ctl_ok(&["status", "service"]);
    let named = ["not reloaded", "uci/hello", "main", "value", "uinteger(1:200)", "300"];
    for word in named {
        assert!(status.contains(word), "{word}: {status}");
    }
    let validated = device.ctl(&["config", "validate"]);
    assert_eq!(validated.status.code(), Some(1), "{validated:?}");
    for word in &named[1..] {
        assert!(validated.stdout.contains(word), "{word}: {validated:?}");
    }
    // Nor by hand.
    let reload = device.ctl(&["service", "reload", "service"]);
    assert!(!reload.status.success() && reload.stderr.contains("uinteger(1:200)"), "{reload:?}");
    assert_eq!(events.next()["data"]["value"], "300");
    watched.settle();
    assert!(alive(pid));
    assert_eq!(device.until_pid("service"), pid);

    watched.write("hello", &uci_text("150"));
    until_other_pid(device, "service", pid);
    let status = device.ctl_ok(&["status", "service"]);
    assert!(!status.contains("not reloaded"), "{status}");
    device.ctl_ok(&["config", "validate"]);
}

#[test]
fn what_was_refused_stays_refused_over_the_supervisors_death() {
    let watched = device();
    let device = &watched.device;
    let pid = device.until_pid("service");
    watched.write("hello", &uci_text("0"));
    let refused = || {
        testkit::until("the refusal is shown", || {
            device.ctl_ok(&["status", "service"]).contains("not reloaded").then_some(())
        });
    };
    refused();
    crate::support::replace_supervisor(device);
    refused();
    watched.settle();
    assert!(alive(pid));
    // Back to what runs: that is no reload that is needed, but the refusal is over.
    watched.write("hello", &uci_text("101"));
    until_other_pid(device, "service", pid);
}

#[test]
fn a_value_of_one_service_keeps_no_other_from_its_reload() {
    let mut watched = Watched::new();
    watched.write("hello", &uci_text("100"));
    watched.device.define("service", &format!("{}{RULES}", demo(&[])));
    watched.counted("lenient", &watched.uci("hello"));
    watched.start();
    let pid = watched.device.until_pid("service");
    watched.write("hello", &uci_text("word"));
    watched.until_seen("lenient", "value 'word'");
    watched.settle();
    assert!(alive(pid));
}
