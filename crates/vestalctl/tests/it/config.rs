//! `vestalctl config ...`, `reload_config` and `event` against a watcher that says what each test needs.

use std::os::unix::net::UnixListener;

use endpoint::{Code, Description, Failure, Incoming, Serve, Server, Settings};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::fake::{Fake, command, run};

/// Ends its server when dropped.
struct Watcher(Option<oneshot::Sender<()>>);

impl Drop for Watcher {
    fn drop(&mut self) {
        drop(self.0.take());
    }
}

/// Serves `config` beside the fake supervisor.
fn watcher(fake: &Fake) -> Watcher {
    let listener = UnixListener::bind(fake.run_dir().join("config.sock")).unwrap();
    let (end, ended) = oneshot::channel::<()>();
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async move {
            let server = Server::new(Settings::default()).unwrap();
            server.add("config", Config).unwrap();
            server.listen(listener).unwrap();
            ready.send(()).unwrap();
            let _ = ended.await;
        });
    });
    is_ready.recv().unwrap();
    Watcher(Some(end))
}

struct Config;

impl Serve for Config {
    fn describe(&self) -> Description {
        protocol::config::description()
    }

    async fn call(&mut self, call: Incoming) {
        let args: Value = call.parse().unwrap_or_default();
        let change = json!({ "package": "hello", "changed": ["globe.delay"], "digest": "ab" });
        let error =
            json!({ "package": "bad", "file": "/c/bad", "line": 3, "text": "no closing quote" });
        let answer = match &*call.method {
            "reload" if args["package"] == "bad" => {
                json!({ "announced": [], "unchanged": 1, "errors": [error] })
            }
            "reload" | "apply" => json!({ "announced": [change], "unchanged": 4 }),
            "diff" => json!([change]),
            "status" => json!({
                "mode": "automatic",
                "problems": ["/c is away"],
                "packages": [
                    { "package": "hello", "file": "/c/hello", "format": "uci", "digest": "0123456789abcdef", "state": "current" },
                    { "package": "bad", "file": "/c/bad", "format": "uci", "digest": "", "state": "error", "error": error },
                ],
                "apply": { "packages": ["hello"], "left_ms": 20_500 },
            }),
            "show" => {
                json!({ "hello": { "globe": "system", "globe.delay": "5", "globe.l": ["a", "b"] } })
            }
            "validate" if args["package"] == "good" => json!([]),
            "validate" => json!([{
                "service": "hello", "package": "hello", "file": "/c/hello", "section": "globe",
                "option": "delay", "rule": "range(1,200)", "value": "500", "text": "1 to 200",
            }]),
            "revert" => {
                let text = format!("{} was never announced", args["package"]);
                return call.responder.fail(Failure::new(Code::NotFound, text));
            }
            _ => Value::Null,
        };
        call.responder.finish(Ok(answer));
    }
}

#[test]
fn a_reload_tells_what_changed_and_fails_where_a_file_can_not_be_read() {
    let fake = Fake::start();
    let _watcher = watcher(&fake);
    let reply = fake.ctl(&["config", "reload"]);
    assert_eq!((reply.code, &*reply.stdout), (0, "hello\n  ~ globe.delay\n4 unchanged\n"));
    let reply = fake.ctl(&["config", "reload", "bad"]);
    assert_eq!((reply.code, &*reply.stdout), (1, "1 unchanged\n"));
    assert_eq!(reply.stderr, "vestalctl: /c/bad:3: no closing quote\n");
    assert_eq!(
        fake.ctl(&["--json", "config", "reload"]).json()["announced"][0]["package"],
        "hello"
    );
    let reply = run(&mut command(fake.run_dir(), "reload_config", &[]), "");
    assert_eq!((reply.code, &*reply.stdout, &*reply.stderr), (0, "", ""));
}

#[test]
fn an_apply_says_when_it_goes_back() {
    let fake = Fake::start();
    let _watcher = watcher(&fake);
    let reply = fake.ctl(&["config", "apply", "--confirm", "90"]);
    assert!(
        reply.stdout.ends_with("goes back in 1m30s unless `vestalctl config confirm` comes\n"),
        "{reply:?}"
    );
    assert_eq!(fake.ctl(&["config", "apply"]).code, 2);
    let reply = fake.ctl(&["config", "confirm"]);
    assert_eq!((reply.code, &*reply.stdout), (0, ""));
    fake.ctl(&["config", "revert", "nope"]).fails(3, "\"nope\" was never announced");
}

#[test]
fn status_show_and_diff_are_for_people_and_for_programs() {
    let fake = Fake::start();
    let _watcher = watcher(&fake);
    let status = fake.ctl(&["config", "status"]).stdout;
    let lines: Vec<_> = status.lines().collect();
    assert_eq!(
        lines[1].split_whitespace().collect::<Vec<_>>(),
        ["hello", "current", "uci", "0123456789ab", "/c/hello"]
    );
    assert!(
        status.ends_with(
            "\nmode: automatic\nnot confirmed: hello; goes back in 20s\nproblem: /c is away\nerror: /c/bad:3: no closing quote\n"
        ),
        "{status}"
    );
    let shown = fake.ctl(&["config", "show", "hello"]).stdout;
    assert_eq!(shown, "globe = \"system\"\nglobe.delay = \"5\"\nglobe.l = [\"a\",\"b\"]\n");
    assert!(fake.ctl(&["config", "show"]).stdout.starts_with("hello.globe = "));
    assert_eq!(fake.ctl(&["config", "diff"]).stdout, "hello\n  ~ globe.delay\n");
    for args in [["config", "status"], ["config", "show"], ["config", "diff"]] {
        fake.ctl(&[&["--json"], &args[..]].concat()).json();
    }
}

#[test]
fn what_is_not_allowed_is_told_and_exits_with_1() {
    let fake = Fake::start();
    let _watcher = watcher(&fake);
    let reply = fake.ctl(&["config", "validate"]);
    assert_eq!(reply.code, 1, "{reply:?}");
    assert_eq!(
        reply.stdout,
        "/c/hello: hello.globe.delay: \"500\" is not allowed by range(1,200): 1 to 200\n"
    );
    assert_eq!(fake.ctl(&["config", "validate", "good"]).code, 0);
}

#[test]
fn an_event_goes_to_the_supervisor_in_procds_shape() {
    let fake = Fake::start();
    let sent = fake.ctl(&["--json", "event", "config.change", "{\"package\":\"hello\"}"]).json();
    assert_eq!(sent, json!({ "type": "config.change", "data": { "package": "hello" } }));
    assert_eq!(fake.ctl(&["--json", "event", "x"]).json()["data"], json!({}));
    assert_eq!(fake.ctl(&["event", "x", "[]"]).code, 2);
    assert_eq!(fake.ctl(&["event", "x", "{"]).code, 2);
}

#[test]
fn without_a_watcher_it_is_not_reached() {
    let fake = Fake::start();
    fake.ctl(&["config", "reload"]).fails(4, "config.sock");
}
