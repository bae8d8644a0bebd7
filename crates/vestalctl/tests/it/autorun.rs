//! `vestalctl autorun`, `hibernate` and `suspend` against an engine that says what each test needs.

use std::{
    os::unix::net::UnixListener,
    sync::{Arc, Mutex},
};

use endpoint::{Code, Description, Failure, Incoming, Serve, Server, Settings};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::fake::Fake;

/// What was called with which arguments.
type Calls = Arc<Mutex<Vec<(String, Value)>>>;

struct Engine(Calls);

impl Serve for Engine {
    fn describe(&self) -> Description {
        protocol::autorun::description()
    }

    async fn call(&mut self, call: Incoming) {
        let args = call.parse::<Value>().unwrap_or_default();
        self.0.lock().unwrap().push((call.method.to_string(), args.clone()));
        let answer = match &*call.method {
            "check" => Ok(json!({ "problems": ["no swap: enable one"], "notes": ["no clock"] })),
            "sleep" if args["kind"] == "suspend" => {
                Err(Failure::new(Code::Failed, "the camera did not stop"))
            }
            "sleep" => Ok(json!({ "run": "ab12", "ordinal": 3 })),
            "invalidate" => Ok(Value::Null),
            _ => Ok(json!({
                "state": "done", "back_end": "sysfs", "ordinal": 3, "image": "cd34", "notes": [],
                "targets": [{ "name": "logo", "state": "timed-out", "started_ms": 4 }],
            })),
        };
        call.responder.finish(answer);
    }
}

/// An engine beside the fake supervisor; it ends with the sender.
fn engine(fake: &Fake) -> (Calls, oneshot::Sender<()>) {
    let listener = UnixListener::bind(fake.run_dir().join("autorun.sock")).unwrap();
    let (end, ended) = oneshot::channel::<()>();
    let (calls, ready) = (Calls::default(), std::sync::mpsc::channel());
    let kept = Arc::clone(&calls);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async move {
            let server = Server::new(Settings::default()).unwrap();
            server.add("autorun", Engine(kept)).unwrap();
            server.listen(listener).unwrap();
            ready.0.send(()).unwrap();
            let _ = ended.await;
        });
    });
    ready.1.recv().unwrap();
    (calls, end)
}

#[test]
fn each_command_is_one_call() {
    let fake = Fake::start();
    let (calls, _end) = engine(&fake);
    for (words, method, args) in [
        (&["autorun", "arm"][..], "arm", json!({})),
        (&["autorun", "disarm"], "disarm", json!({})),
        (&["autorun", "status"], "status", json!({})),
        (&["autorun", "run"], "run", json!({})),
        (&["autorun", "run", "logo", "ui"], "run", json!({ "targets": ["logo", "ui"] })),
        (&["autorun", "invalidate"], "invalidate", json!({})),
        (&["autorun", "invalidate", "--reason", "new"], "invalidate", json!({ "reason": "new" })),
        (&["autorun", "notify-post", "suspend"], "notify_post", json!({ "kind": "suspend" })),
        (&["hibernate"], "sleep", json!({ "kind": "hibernate" })),
        (
            &["hibernate", "--back-end", "exec"],
            "sleep",
            json!({ "kind": "hibernate", "back_end": "exec" }),
        ),
    ] {
        let reply = fake.ctl(words);
        assert_eq!((reply.code, &*reply.stderr), (0, ""), "{words:?}");
        let called = calls.lock().unwrap().pop().unwrap();
        assert_eq!(called, (method.to_owned(), args), "{words:?}");
    }
}

#[test]
fn people_are_told_in_words_and_programs_in_json() {
    let fake = Fake::start();
    let (_calls, _end) = engine(&fake);
    let status = fake.ctl(&["autorun", "status"]).stdout;
    assert!(status.contains("done: every target had its turn"), "{status}");
    assert!(status.contains("image cd34, resumed 3 times"), "{status}");
    assert!(status.contains("logo    timed-out     4 ms      -"), "{status}");
    assert_eq!(fake.ctl(&["autorun", "status", "--json"]).json()["targets"][0]["name"], "logo");
    let slept = fake.ctl(&["hibernate"]).stdout;
    assert_eq!(slept, "resumed: life 3 of the image, run ab12\n");
    assert_eq!(fake.ctl(&["--json", "hibernate"]).json(), json!({ "run": "ab12", "ordinal": 3 }));
}

#[test]
fn what_would_fail_or_has_failed_is_an_exit_code_with_its_reason() {
    let fake = Fake::start();
    fake.ctl(&["autorun", "status"]).fails(4, "autorun.sock");
    let (_calls, _end) = engine(&fake);
    let check = fake.ctl(&["autorun", "check"]);
    assert!(check.code == 1 && check.stderr.contains("remove it first"), "{check:?}");
    assert_eq!(check.stdout, "no swap: enable one\nnote: no clock\n");
    let check = fake.ctl(&["autorun", "check", "--json"]);
    let problems: Value = serde_json::from_str(&check.stdout).unwrap();
    assert_eq!((check.code, &problems["problems"][0]), (1, &"no swap: enable one".into()));
    fake.ctl(&["suspend"]).fails(1, "the camera did not stop");
    let wrong = fake.ctl(&["autorun", "notify-post", "sleep"]);
    assert!(wrong.code == 2 && wrong.stderr.contains("hibernate, suspend"), "{wrong:?}");
}
