//! An application in C, linked statically against the shipped library, reports to the container's broker; one that hangs is replaced.

use std::{fs, path::Path, process::Command};

use rustix::process::Signal;
use serde_json::Value;
use testkit::binary;

use crate::container::{Container, image, kill};

const DEFINITION: &str = "command = [\"/usr/bin/heartbeat\", \"7\"]\n\
    [heartbeat]\napp-id = 7\nperiod = \"300ms\"\nmisses = 5\n";

/// Compiles the shipped example for a device that has no libraries.
fn compile(to: &Path) {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("we are a member");
    let client = project.join("crates/heartbeat-client");
    let output = Command::new("cc")
        .args(["-static", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(client.join("include"))
        .arg(client.join("examples/c/heartbeat.c"))
        .arg("-o")
        .arg(to)
        .arg(binary("libheartbeat_client.a"))
        .args(["-lpthread", "-ldl", "-lm"])
        .output()
        .expect("cc is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The broker's row of the application, where there is one.
fn row(container: &Container) -> Option<Value> {
    let (_, text) = container.run("vestalctl --json call heartbeat list");
    let rows: Value = serde_json::from_str(&text).ok()?;
    rows.as_array()?.iter().find(|row| row["app_id"] == 7).cloned()
}

fn reports(container: &Container) -> u64 {
    row(container).and_then(|row| row["reports"].as_u64()).unwrap_or(0)
}

#[test]
fn heartbeats_arrive_and_a_program_that_hangs_is_started_again() {
    let Some(image) = image() else { return };
    let container = Container::start(&image, |root| {
        compile(&root.join("usr/bin/heartbeat"));
        fs::write(root.join("etc/vestal/services.d/camera.toml"), DEFINITION).unwrap();
    });
    container.until_all_ready();
    container.until("the application reports", |it| reports(it) >= 5);
    let before = container.pid("camera").unwrap();
    let (frozen, _) =
        container.processes().into_iter().find(|(_, name)| name == "heartbeat").unwrap();
    kill(frozen, Signal::STOP);
    container.until("another one runs", |it| it.pid("camera").is_some_and(|pid| pid != before));
    container.until("it reports", |it| reports(it) >= 3);
}
