//! procd's methods for firmware, with a `vestalctl` that only says what it was told to do.

use std::{fs, time::Duration};

use endpoint::{CallError, Code, Failure};
use serde_json::{Value, json};

use crate::device::Device;

const LIMIT: Duration = Duration::from_secs(30);

/// Says its arguments; what it does then is in the name of the bundle.
const VESTALCTL: &str = r#"#!/bin/sh
echo "$*" >> "$SAID"
no() { echo "vestalctl: $2" >&2; exit "$1"; }
case "$*" in
*--dry-run*/hangs) read x < "$GATE" ;;
*--dry-run*--allow-unsigned*) ;;
*--dry-run*/unsigned) no 1 'nobody has signed it (unsigned)' ;;
*--dry-run*/other) no 1 'it is for product "tea" (wrong-product)' ;;
*--dry-run*/alone) no 4 'nobody answers at upgrade.sock' ;;
*--dry-run*) ;;
*/bad) echo '{"state":"receiving","done":1,"total":2}'; no 1 'chunk 7 is broken (bad-chunk)' ;;
*/same) echo '{"outcome":"current"}' ;;
*/waits) read x < "$GATE"; echo '{"outcome":"finished","status":{"state":"activated"}}' ;;
*) echo '{"outcome":"finished","status":{"state":"trial"}}' ;;
esac
"#;

async fn system(device: &Device, method: &str, args: Value) -> Result<Value, Failure> {
    match device.ask("system", method, &args, LIMIT).await {
        Ok(answer) => Ok(answer),
        Err(CallError::Refused(failure)) => Err(failure),
        Err(error) => panic!("{error}"),
    }
}

async fn validate(device: &Device, path: &str) -> Result<Value, Failure> {
    system(device, "validate_firmware_image", json!({ "path": path })).await
}

#[tokio::test]
async fn a_validation_has_procds_answer_and_writes_nothing() {
    let mut device = Device::with_vestalctl(VESTALCTL).await;
    let good = validate(&device, "/tmp/good").await.unwrap();
    let tests = json!({ "fwtool_signature": true, "fwtool_device_match": true });
    let expected =
        json!({ "tests": tests, "valid": true, "forceable": false, "allow_backup": true });
    assert_eq!(good, expected);
    assert_eq!(device.said().await, "--json upgrade install --dry-run -- /tmp/good");
    let unsigned = validate(&device, "/unsigned").await.unwrap();
    assert_eq!((&unsigned["valid"], &unsigned["forceable"]), (&json!(false), &json!(true)));
    assert_eq!(unsigned["code"], "unsigned");
    let other = validate(&device, "/other").await.unwrap();
    assert_eq!((&other["valid"], &other["forceable"]), (&json!(false), &json!(false)));
    assert!(!device.is_installing());
}

#[tokio::test]
async fn what_can_not_be_looked_at_is_no_verdict() {
    let device = Device::with_vestalctl(VESTALCTL).await;
    let alone = validate(&device, "/alone").await.unwrap_err();
    assert_eq!((alone.code, &*alone.text), (Code::Failed, "nobody answers at upgrade.sock"));
    for path in ["", "tmp/x", "-x", "/a\0b"] {
        assert_eq!(validate(&device, path).await.unwrap_err().code, Code::InvalidArgument);
    }
    let missing = system(&device, "sysupgrade", json!({ "prefix": "/" })).await.unwrap_err();
    assert_eq!(missing.code, Code::InvalidArgument);
    let without = Device::with(&[]).await;
    let failure = validate(&without, "/good").await.unwrap_err();
    assert!(failure.text.contains("vestalctl can't be started"), "{failure}");
}

#[tokio::test]
async fn sysupgrade_refuses_what_is_not_valid_and_installs_the_rest_beside_the_loop() {
    let mut device = Device::with_vestalctl(VESTALCTL).await;
    let refused = system(&device, "sysupgrade", json!({ "path": "/other" })).await.unwrap_err();
    assert_eq!((refused.code, refused.code.ubus_status()), (Code::Unsupported, 8));
    let details = refused.details.unwrap();
    assert_eq!(details["reason"], "wrong-product");
    assert_eq!(details["error"]["message"], "it is for product \"tea\" (wrong-product)");
    validate(&device, "/good").await.unwrap();

    let args = json!({ "path": "/waits", "prefix": "/tmp/root", "command": "x", "options": {} });
    let gate = device.gate();
    let accepted = system(&device, "sysupgrade", args).await.unwrap();
    assert_eq!(accepted["ignored"], json!(["prefix", "command", "options"]));
    // Whoever else wants something is told who is at it; everybody else is served.
    let busy = system(&device, "nandupgrade", json!({ "path": "/good" })).await.unwrap_err();
    assert_eq!(busy.code, Code::Busy);
    assert_eq!(busy.details.unwrap()["path"], "/waits");
    device.call("list", &json!({})).await;
    assert!(device.is_installing());
    fs::write(gate, "go\n").unwrap();
    let told = device.told("system.sysupgrade").await;
    let ended =
        json!({ "path": "/waits", "method": "sysupgrade", "result": "done", "state": "activated" });
    assert_eq!(told, ended);

    for (method, path, result) in
        [("upgrade", "/same", "current"), ("nandupgrade", "/bad", "failed")]
    {
        system(&device, method, json!({ "path": path })).await.unwrap();
        let told = device.told("system.sysupgrade").await;
        assert_eq!((&told["method"], &told["result"]), (&json!(method), &json!(result)));
        if result == "failed" {
            assert_eq!(told["code"], "bad-chunk");
        }
    }
    validate(&device, "/good").await.unwrap();
    assert!(!device.is_installing());
    let nothing = system(&device, "upgrade", json!({})).await.unwrap();
    assert!(nothing["text"].as_str().unwrap().contains("nothing is done"), "{nothing}");
}

#[tokio::test]
async fn only_root_forces_and_only_what_has_no_believed_signature() {
    let mut device = Device::with_vestalctl(VESTALCTL).await;
    let forced = json!({ "path": "/unsigned", "force": true });
    let answer = system(&device, "sysupgrade", forced).await;
    assert_eq!(device.said().await, "--json upgrade install --dry-run -- /unsigned");
    if rustix::process::geteuid().is_root() {
        answer.unwrap();
        for flags in ["--dry-run --allow-unsigned", "--allow-unsigned"] {
            let line = format!("--json upgrade install {flags} -- /unsigned");
            assert_eq!(device.said().await, line);
        }
        assert_eq!(device.told("system.sysupgrade").await["result"], "done");
    } else {
        assert_eq!(answer.unwrap_err().code, Code::Denied);
    }
    validate(&device, "/good").await.unwrap();
    while !device.said().await.ends_with("/good") {}
    for (path, force) in [("/other", true), ("/unsigned", false)] {
        let args = json!({ "path": path, "force": force });
        let failure = system(&device, "sysupgrade", args).await.unwrap_err();
        assert_eq!(failure.code, Code::Unsupported);
        assert_eq!(device.said().await, format!("--json upgrade install --dry-run -- {path}"));
    }
}

#[tokio::test]
async fn nothing_is_installed_for_a_caller_who_has_gone() {
    let mut device = Device::with_vestalctl(VESTALCTL).await;
    let _gate = device.gate();
    let args = json!({ "path": "/hangs" });
    let brief = Duration::from_millis(300);
    let answer = device.ask("system", "sysupgrade", &args, brief).await;
    assert!(matches!(answer, Err(CallError::Timeout { .. })), "{answer:?}");
    assert_eq!(device.said().await, "--json upgrade install --dry-run -- /hangs");
    // What he wanted to have looked at is given up, long before its time is over.
    let free = async {
        while let Err(failure) = validate(&device, "/good").await {
            assert_eq!(failure.code, Code::Busy);
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, free).await.expect("it is looked at all the same");
    assert_eq!(device.said().await, "--json upgrade install --dry-run -- /good");
    assert!(!device.is_installing());
}

#[tokio::test]
async fn the_next_supervisor_tells_the_end_of_what_its_predecessor_accepted() {
    let mut device = Device::with_vestalctl(VESTALCTL).await;
    let gate = device.gate();
    system(&device, "sysupgrade", json!({ "path": "/waits" })).await.unwrap();
    for _ in 0..2 {
        device.kill();
        device.start().await;
        assert_eq!(validate(&device, "/good").await.unwrap_err().code, Code::Busy);
    }
    fs::write(&gate, "go\n").unwrap();
    let told = device.told("system.sysupgrade").await;
    assert_eq!((&told["path"], &told["result"]), (&json!("/waits"), &json!("done")));
    validate(&device, "/good").await.unwrap();
    assert!(!device.is_installing());

    // It ended while nobody looked.
    fs::remove_file(&gate).unwrap();
    let gate = device.gate();
    system(&device, "sysupgrade", json!({ "path": "/waits" })).await.unwrap();
    device.kill();
    fs::write(&gate, "go\n").unwrap();
    device.start().await;
    assert_eq!(device.told("system.sysupgrade").await["result"], "done");
}
