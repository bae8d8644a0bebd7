//! The watcher is killed, its supervisor leaves: no change is missed, none is invented.

use std::time::Duration;

use protocol::config::State;
use rustix::process::Signal;

use crate::device::{Device, LIMIT, text};

#[tokio::test]
async fn what_changed_while_it_was_away_is_announced_and_nothing_else() {
    let mut device = Device::new();
    for name in ["hello", "other"] {
        device.write(name, &text("main", "1"));
    }
    device.start().await;
    device.kill().await;
    device.write("hello", &text("main", "2"));
    device.write("other", &format!("# comment\n{}", text("main", "1")));
    device.start().await;
    device.supervisor.taken(1).await;
    device.settled().await;
    device.terminate().await;
    device.start().await;
    device.settled().await;
    assert_eq!(device.announced(), ["hello"]);
}

#[tokio::test]
async fn killed_again_and_again_it_misses_no_change_and_doubles_none() {
    const ROUNDS: u64 = 40;
    let mut device = Device::new();
    device.configure("quiet = \"1ms\"\nlongest = \"5ms\"");
    device.write("hello", &text("main", "start"));
    device.start().await;
    for round in 0..ROUNDS {
        device.write_over("hello", &text("main", &format!("a{round}")));
        device.write_over("hello", &text("main", &format!("b{round}")));
        // Killed somewhere between the write and the end of everything that follows from it.
        tokio::time::sleep(Duration::from_micros(round * 300)).await;
        device.kill().await;
        if round % 3 == 0 {
            // Back to what it may have been before.
            device.write_over("hello", &text("main", &format!("b{}", round.saturating_sub(1))));
        }
        device.spawn();
    }
    device.write_over("hello", &text("main", "end"));
    let last = async {
        loop {
            let status = device.status().await;
            let hello = status.packages.iter().find(|it| it.package == "hello");
            let changes = device.supervisor.changes();
            let there = hello.zip(changes.last());
            if there.is_some_and(|(hello, change)| {
                hello.state == State::Current && hello.digest == change.digest
            }) {
                let shown: protocol::config::Shown =
                    device.call("show", &serde_json::json!({})).await.unwrap();
                if shown["hello"]["main.value"] == "end" {
                    return;
                }
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, last).await.expect("the last change was missed");
    let digests: Vec<_> = device.supervisor.changes().into_iter().map(|it| it.digest).collect();
    assert!(digests.windows(2).all(|pair| pair[0] != pair[1]), "a change was announced twice");
}

#[tokio::test]
async fn a_supervisor_that_is_away_or_refuses_gets_the_change_when_it_is_back() {
    let mut device = Device::new();
    device.write("hello", &text("main", "1"));
    device.start().await;
    device.supervisor.refuse(2);
    device.write("hello", &text("main", "2"));
    device.supervisor.taken(1).await;
    assert_eq!(device.supervisor.calls(), 3);
    device.abandon().await;
    device.write("hello", &text("main", "3"));
    device.until("hello", State::Changed).await;
    device.supervise();
    device.supervisor.taken(2).await;
    device.until("hello", State::Current).await;
}

#[tokio::test]
async fn told_to_stop_it_stops_and_told_to_read_its_settings_it_does() {
    let mut device = Device::new();
    device.write("hello", &text("main", "1"));
    device.start().await;
    device.configure("mode = \"manual\"");
    device.signal(Signal::HUP);
    let manual = async {
        while device.status().await.mode != protocol::config::Mode::Manual {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, manual).await.unwrap();
    device.write("hello", &text("main", "2"));
    assert_eq!(device.reload().await.announced.len(), 1);
    device.configure("mode = 7");
    device.signal(Signal::HUP);
    device.terminate().await;
    let output = device.command().output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("config.toml:1: mode: 7 is not allowed here"), "{told}");
}
