//! What callers of the object can order.

use std::fs;

use endpoint::Code;
use protocol::config::{Differences, Mode, Reloaded, State};
use serde_json::json;

use crate::device::{Device, text};

async fn manual() -> Device {
    let mut device = Device::new();
    device.configure("mode = \"manual\"");
    for (name, value) in [("hello", "1"), ("other", "7")] {
        device.write(name, &text("main", value));
    }
    device.start().await;
    device
}

#[tokio::test]
async fn in_manual_mode_a_reload_announces_what_changed_and_answers_when_it_is_taken() {
    let device = manual().await;
    device.write("hello", &text("main", "2"));
    let status = device.status().await;
    assert_eq!((status.mode, status.packages[0].state), (Mode::Manual, State::Changed));
    let differences: Differences = device.call("diff", &json!({})).await.unwrap();
    assert_eq!((differences.len(), &*differences[0].changed), (1, &["main.value".to_owned()][..]));
    assert_eq!(device.supervisor.calls(), 0);
    let reloaded = device.reload().await;
    assert_eq!((reloaded.announced, reloaded.unchanged), (differences, 1));
    assert_eq!(device.supervisor.packages(), ["hello"]);
    let reloaded = device.reload().await;
    assert_eq!((reloaded.announced.len(), reloaded.unchanged), (0, 2));
}

#[tokio::test]
async fn what_is_applied_and_not_confirmed_is_put_back_even_by_the_next_watcher() {
    let mut device = manual().await;
    device.write("hello", &text("main", "2"));
    device.write("new", &text("main", "9"));
    let reloaded: Reloaded = device.call("apply", &json!({ "confirm_ms": 700 })).await.unwrap();
    assert_eq!(reloaded.announced.len(), 2);
    let applying = device.status().await.apply.unwrap();
    assert_eq!(applying.packages, ["hello", "new"]);
    device.kill().await;
    device.start().await;
    device.supervisor.taken(4).await;
    assert_eq!(fs::read_to_string(device.uci("hello")).unwrap(), text("main", "1"));
    assert!(!device.uci("new").exists());
    let confirmed: Result<serde_json::Value, _> = device.call("confirm", &json!({})).await;
    assert_eq!(confirmed.unwrap_err().code, Code::Gone);
    let reloaded = device.reload().await;
    assert_eq!((reloaded.announced.len(), reloaded.unchanged), (0, 2));
}

#[tokio::test]
async fn what_is_confirmed_stays() {
    let device = manual().await;
    device.write("hello", &text("main", "2"));
    let _: Reloaded = device.call("apply", &json!({ "confirm_ms": 600_000 })).await.unwrap();
    let _: serde_json::Value = device.call("confirm", &json!({})).await.unwrap();
    assert_eq!(device.status().await.apply, None);
    assert_eq!(fs::read_to_string(device.uci("hello")).unwrap(), text("main", "2"));
}

#[tokio::test]
async fn packages_are_shown_and_what_isnt_watched_is_not_found() {
    let device = manual().await;
    let shown: protocol::config::Shown = device.call("show", &json!({})).await.unwrap();
    assert_eq!(shown.len(), 2);
    assert_eq!(shown["hello"]["main.value"], "1");
    for method in ["show", "diff", "reload", "revert"] {
        let args = json!({ "package": "helo" });
        let refused: Result<serde_json::Value, _> = device.call(method, &args).await;
        let failure = refused.unwrap_err();
        assert_eq!(failure.code, Code::NotFound, "{method}");
        assert!(failure.text.contains("did you mean \"hello\"?"), "{}", failure.text);
    }
}

#[tokio::test]
async fn what_the_services_dont_allow_is_told_with_section_option_rule_and_value() {
    let device = manual().await;
    let rows =
        |rule: &str| json!([{ "package": "hello", "type": "service", "rules": { "value": rule } }]);
    *device.supervisor.list.lock().unwrap() = json!({
        "good": { "validate": rows("uinteger") },
        "bad": { "validate": rows("range(5,9)") },
        "none": { "instances": {} },
    });
    let found: Vec<protocol::config::Invalid> = device.call("validate", &json!({})).await.unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    let found = &found[0];
    assert_eq!((found.service.as_str(), &*found.package), ("bad", "hello"));
    assert_eq!((&*found.section, &*found.option), ("main", "value"));
    assert_eq!((&*found.rule, found.value.as_deref()), ("range(5,9)", Some("1")));
    assert!(!found.text.is_empty() && found.file.ends_with("/uci/hello"), "{found:?}");
    let args = json!({ "package": "other" });
    let found: Vec<protocol::config::Invalid> = device.call("validate", &args).await.unwrap();
    assert!(found.is_empty());
}

#[tokio::test]
async fn the_digests_that_openwrt_compares_are_written_where_they_are_wanted() {
    let mut device = Device::new();
    let md5 = device.path("config.md5");
    device.configure(&format!("md5 = {md5:?}"));
    device.write("hello", "config service 'main'\n\toption value '1'\n");
    device.start().await;
    // MD5 of "hello.main=service\nhello.main.value='1'\n".
    let expected = "7884475dfed9291359d7ec8dc6a3c921  /var/run/config.check/hello\n";
    assert_eq!(fs::read_to_string(&md5).unwrap(), expected);
}

#[tokio::test]
async fn a_thousand_files_are_compared_and_changed_at_once() {
    let mut device = Device::new();
    for at in 0..1000 {
        device.write(&format!("p{at:04}"), &text("main", "1"));
    }
    device.start().await;
    for at in 0..1000 {
        device.write_over(&format!("p{at:04}"), &text("main", "2"));
    }
    device.supervisor.taken(1000).await;
    device.settled().await;
    let mut announced = device.announced();
    announced.sort();
    announced.dedup();
    assert_eq!((announced.len(), device.announced().len()), (1000, 1000));
}
