//! Parts of tests that have to be processes of their own: as another user, or because their memory and descriptors are looked at.
//!
//! Each is this very binary, started again for one test function, with the part's name in the environment.

use std::{
    collections::BTreeMap,
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use endpoint::{Bus, CallError, CallOptions, Client, Options};
use serde_json::{Value, json};

use crate::peers::{LONG, Said, retry_after_ms};

const PART: &str = "VESTAL_TEST_PART";
const OBJECT: &str = "VESTAL_TEST_OBJECT";
/// What a part says begins with this; all else is the test harness.
const MARK: &str = "part: ";

/// A part at work. Dropped, it is killed.
pub(crate) struct Part {
    child: Child,
    said: Said<ChildStdout>,
    input: ChildStdin,
}

impl Part {
    /// Starts it, as this user.
    pub(crate) fn start(name: &str, run_dir: &Path, object: &str, user: Option<u32>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "parts::a_part_of_another_test_is_nothing_by_itself", "--nocapture"])
            .env(PART, name)
            .env(OBJECT, object)
            .env("VESTAL_RUN_DIR", run_dir)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        let mut child = command.spawn().unwrap();
        let said = Said::new(child.stdout.take().unwrap());
        let input = child.stdin.take().unwrap();
        Self { child, said, input }
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Tells it to go on.
    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    /// What it says next.
    pub(crate) fn next(&mut self) -> Value {
        loop {
            let line = self.said.next().expect("the part has not ended");
            // The harness writes the name of the test in front, without a line's end.
            if let Some((_, said)) = line.split_once(MARK) {
                return serde_json::from_str(said).unwrap();
            }
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn say(value: &Value) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{MARK}{value}").unwrap();
    out.flush().unwrap();
}

fn heard() -> String {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    line
}

#[test]
fn a_part_of_another_test_is_nothing_by_itself() {
    let Ok(name) = std::env::var(PART) else { return };
    let object = std::env::var(OBJECT).unwrap();
    let run_dir = std::env::var_os("VESTAL_RUN_DIR").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let bus = Bus::new(run_dir, Options::default());
        match name.as_str() {
            "flood" => flood(bus, &object).await,
            "steady" => steady(&bus, &object).await,
            "calls" => calls(&bus, &object).await,
            "sleepers" => sleepers(&bus, &object).await,
            "subscriptions" => subscriptions(&bus).await,
            other => panic!("there is no part {other}"),
        }
    });
}

/// Calls as fast as it can until it has 20,000 answers, and says how many there were of each kind.
async fn flood(bus: Bus, object: &str) {
    let counts: Arc<Mutex<BTreeMap<String, u64>>> = Arc::default();
    let left = Arc::new(Mutex::new(20_000_u32));
    let callers: Vec<_> = (0..128)
        .map(|_| {
            let (bus, counts, left) = (bus.clone(), Arc::clone(&counts), Arc::clone(&left));
            let object = object.to_owned();
            tokio::spawn(async move {
                loop {
                    {
                        let mut left = left.lock().unwrap();
                        if *left == 0 {
                            return;
                        }
                        *left -= 1;
                    }
                    let options = CallOptions {
                        deadline: LONG,
                        wait_when_busy: false,
                        ..CallOptions::default()
                    };
                    let outcome = match bus.call_bytes(&object, "echo", b"x", options).await {
                        Ok(_) => "done".to_owned(),
                        Err(CallError::Refused(failure)) if retry_after_ms(&failure).is_some() => {
                            "busy".to_owned()
                        }
                        Err(error) => error.to_string(),
                    };
                    *counts.lock().unwrap().entry(outcome).or_default() += 1;
                }
            })
        })
        .collect();
    say(&json!("begun"));
    for caller in callers {
        caller.await.unwrap();
    }
    say(&json!(*counts.lock().unwrap()));
}

/// Calls one after the other, a thousand times, and says what failed.
async fn steady(bus: &Bus, object: &str) {
    let mut failed = Vec::new();
    for _ in 0..1000 {
        let options = CallOptions { deadline: LONG, ..CallOptions::default() };
        if let Err(error) = bus.call_bytes(object, "echo", b"x", options).await {
            failed.push(error.to_string());
        }
    }
    say(&json!(failed));
}

/// Calls until one fails, and says so now and then; says the failure's code, waits for a line and begins again.
async fn calls(bus: &Bus, object: &str) {
    loop {
        let mut done = 0_u32;
        let failure = loop {
            // Below the rate that a stranger has.
            tokio::time::sleep(Duration::from_millis(2)).await;
            let options = CallOptions { deadline: LONG, ..CallOptions::default() };
            match bus.call_bytes(object, "echo", b"x", options).await {
                Ok(_) => {
                    if done.is_multiple_of(100) {
                        say(&json!("allowed"));
                    }
                    done += 1;
                }
                Err(CallError::Refused(failure)) => break json!(failure.code),
                Err(other) => break json!(other.to_string()),
            }
        };
        say(&failure);
        if heard().is_empty() {
            return;
        }
    }
}

/// For each line: eight calls at once that the provider does not answer, and what became of each.
async fn sleepers(bus: &Bus, object: &str) {
    while !heard().is_empty() {
        let options = CallOptions { deadline: LONG, ..CallOptions::default() };
        // Found, connected and counted before the others are sent.
        let count = bus.call(object, "count", &(), options).await.unwrap();
        say(&count.parse::<Value>().unwrap());
        let sleep = json!({ "ms": 3_600_000 });
        let calls = (0..8).map(|_| {
            let (bus, object, sleep) = (bus.clone(), object.to_owned(), sleep.clone());
            tokio::spawn(async move {
                let options = CallOptions { deadline: LONG, ..CallOptions::default() };
                match bus.call(&object, "sleep", &sleep, options).await {
                    Err(CallError::Lost { .. }) => "lost".to_owned(),
                    Err(other) => other.to_string(),
                    Ok(_) => "done".to_owned(),
                }
            })
        });
        let calls: Vec<_> = calls.collect();
        let mut ends = Vec::new();
        for call in calls {
            ends.push(call.await.unwrap());
        }
        say(&json!(ends));
    }
}

/// Subscribes to as many patterns as it is allowed, over as many connections as that takes; says how many, and the refusal.
async fn subscriptions(bus: &Bus) {
    let registry = bus.run_dir().join("registry.sock");
    let mut connections = Vec::new();
    for connection in 0..200 {
        let client = Client::new(&registry, Options::default());
        for pattern in 0..64 {
            let args = json!({ "patterns": [format!("of.{connection}.{pattern}")] });
            let options = CallOptions { deadline: LONG, ..CallOptions::default() };
            let outcome = client.call("registry", "subscribe", &args, options).await;
            if let Err(error) = outcome {
                return say(&json!([connection * 64 + pattern, error.to_string()]));
            }
        }
        connections.push(client);
    }
    say(&json!([12_800, null]));
}
