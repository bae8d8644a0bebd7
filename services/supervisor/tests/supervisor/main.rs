//! The real supervisor, killed while it is at work: what it has acknowledged is done, and done once.

mod device;
mod firmware;

use std::fs;

use crate::device::Device;

/// A trigger for the changes of one package.
fn trigger(package: &str, delay: &str, script: &str) -> String {
    format!(
        "[[triggers]]\nevent = \"config.change\"\npackage = \"{package}\"\ndelay = \"{delay}\"\nrun = [\"/bin/sh\", \"-c\", '{script}']\n"
    )
}

/// Says the word when the package changes.
fn says(package: &str, delay: &str) -> String {
    trigger(package, delay, &format!("echo {package} >> $SAID"))
}

#[tokio::test]
async fn a_change_whose_answer_was_lost_is_not_done_again_by_the_next_supervisor() {
    let triggers = says("hello", "0s") + &says("before", "0s") + &says("mark", "0s");
    let mut device = Device::with(&[("app", triggers)]).await;
    device.change("hello", "1").await;
    assert_eq!(device.said().await, "hello");
    // A service does one thing at a time: the second has begun, so the first is known to be done.
    device.change("before", "1").await;
    assert_eq!(device.said().await, "before");
    device.kill();
    device.start().await;
    device.change("hello", "1").await;
    device.change("mark", "1").await;
    let mut said = device.said().await;
    if said == "before" {
        // It was still running then.
        said = device.said().await;
    }
    assert_eq!(said, "mark");
    // There and back is two changes.
    for digest in ["2", "1"] {
        device.change("hello", digest).await;
        assert_eq!(device.said().await, "hello");
    }
}

#[tokio::test]
async fn what_was_acknowledged_is_done_by_the_next_supervisor_though_nobody_tells_it_again() {
    let triggers = says("hello", "500ms") + &says("mark", "0s");
    let mut device = Device::with(&[("app", triggers)]).await;
    device.change("hello", "1").await;
    device.kill();
    device.start().await;
    device.change("hello", "1").await;
    assert_eq!(device.said().await, "hello");
    device.change("hello", "1").await;
    device.change("mark", "1").await;
    assert_eq!(device.said().await, "mark");
}

#[tokio::test]
async fn a_script_that_its_supervisor_left_running_is_over_before_it_is_run_again() {
    let slow = trigger("hello", "0s", "echo begin >> $SAID; read x < $GATE; echo end >> $SAID");
    let mut device = Device::with(&[("app", slow), ("other", says("mark", "0s"))]).await;
    let gate = device.gate();
    device.change("hello", "1").await;
    assert_eq!(device.said().await, "begin");
    // Whatever was on its way to the journal is there when this is answered.
    device.call("list", &serde_json::json!({})).await;
    device.kill();
    device.start().await;
    // The next one is at work, and has not begun it.
    device.change("mark", "1").await;
    assert_eq!(device.said().await, "mark");
    for next in ["end", "begin", "end"] {
        if next == "end" {
            fs::write(&gate, "go\n").unwrap();
        }
        assert_eq!(device.said().await, next);
    }
}
