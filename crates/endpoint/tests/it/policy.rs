//! Who may call: rules, what the supervisor says of a process, and rules that change while calls run.

use std::{
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use endpoint::{CallError, CallOptions, Caller, Client, Code, Failure, Identify, Settings};
use protocol::{
    policy::{Identity, Rule, Verb, Verdict, Who, built_in},
    registry::Policy,
};
use serde_json::json;
use tokio::{sync::Notify, time::Instant};

use crate::{DENIED, Fixture, IMPATIENT, SOON, raw::Raw, refused, until};

fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn users(users: &[u32]) -> Who {
    Who { users: users.to_vec(), ..Who::default() }
}

fn service(name: &str) -> Who {
    Who { services: vec![name.to_owned()], ..Who::default() }
}

fn rule(verdict: Verdict, methods: &[&str], who: Who) -> Rule {
    Rule {
        verdict,
        verb: Verb::Call,
        what: "demo".to_owned(),
        methods: methods.iter().map(|method| (*method).to_owned()).collect(),
        who,
        source: "camera.toml:7".to_owned(),
    }
}

fn settings(rules: Vec<Rule>) -> Settings {
    Settings { rules: Arc::new(rules), ..Settings::default() }
}

fn policy(epoch: u64, rules: Vec<Rule>) -> Arc<Policy> {
    Arc::new(Policy { epoch, rules })
}

/// Answers every question with this service's name once it is let, or refuses while it is told to.
struct Supervisor {
    asked: AtomicU32,
    answer: Mutex<Result<String, String>>,
    let_go: Notify,
}

impl Supervisor {
    fn saying(answer: Result<&str, &str>) -> Arc<Self> {
        let answer = answer.map(str::to_owned).map_err(str::to_owned);
        let (asked, answer, let_go) = (AtomicU32::new(0), Mutex::new(answer), Notify::new());
        Arc::new(Self { asked, answer, let_go })
    }

    fn identify(self: &Arc<Self>) -> Option<Identify> {
        let this = Arc::clone(self);
        Some(Arc::new(move |caller: Caller, process| {
            let this = Arc::clone(&this);
            Box::pin(async move {
                this.asked.fetch_add(1, SeqCst);
                assert_eq!(u32::try_from(caller.pid).unwrap(), std::process::id());
                assert!(process.is_some(), "kernel 6.5 and later give a pidfd");
                this.let_go.notified().await;
                let answer = this.answer.lock().unwrap().clone();
                let named = |name| Identity { service: Some(name), ..Identity::default() };
                answer.map(named).map_err(|text| Failure::new(Code::Gone, text))
            })
        }))
    }
}

/// The answers to calls that were begun at once, in the order in which they came.
async fn together(client: &Client, methods: &[&'static str]) -> Vec<Result<(), Code>> {
    let order = Arc::new(Mutex::new(Vec::new()));
    let calls: Vec<_> = methods
        .iter()
        .copied()
        .enumerate()
        .map(|(at, method)| {
            let (client, order) = (client.clone(), Arc::clone(&order));
            tokio::spawn(async move {
                let outcome = client.call("demo", method, &(), CallOptions::default()).await;
                order.lock().unwrap().push((at, outcome.map(drop).map_err(|e| refused(e).code)));
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    let answers = std::mem::take(&mut *order.lock().unwrap());
    assert!(answers.iter().map(|(at, _)| at).is_sorted(), "{answers:?}");
    answers.into_iter().map(|(_, outcome)| outcome).collect()
}

#[tokio::test]
async fn a_refusal_names_the_rule_and_is_counted() {
    let rules = vec![rule(Verdict::Deny, &["count"], users(&[own_user()]))];
    let fixture = Fixture::with(settings(rules));
    let client = fixture.client();
    client.call("demo", "echo", &(), CallOptions::default()).await.unwrap();
    let error = client.call("demo", "count", &(), CallOptions::default()).await.unwrap_err();
    let failure = refused(error);
    assert_eq!(failure.code, DENIED);
    assert!(failure.text.contains("demo.count") && failure.text.contains("camera.toml:7"));
    assert_eq!(failure.details, Some(json!({ "not_started": true, "rule": "camera.toml:7" })));
    assert_eq!(fixture.server.counters().denied, 1);
    assert_eq!(fixture.counted.load(SeqCst), 0);
}

#[tokio::test]
async fn calls_wait_in_their_order_until_it_is_known_who_calls() {
    let supervisor = Supervisor::saying(Ok("web"));
    // What another service may not do must be decided before ours may.
    let rules = vec![rule(Verdict::Deny, &["echo"], service("ftp"))];
    let fixture = Fixture::with(Settings { identify: supervisor.identify(), ..settings(rules) });
    let client = fixture.client();
    let calls = {
        let client = client.clone();
        tokio::spawn(async move { together(&client, &["echo", "count", "echo", "count"]).await })
    };
    until(|| supervisor.asked.load(SeqCst) == 1 && fixture.server.counters().calls == 4).await;
    // `count` is allowed to anybody trusted, and yet does not overtake.
    assert_eq!(fixture.counted.load(SeqCst), 0);
    supervisor.let_go.notify_one();
    assert_eq!(calls.await.unwrap(), [Ok(()); 4]);
    client.call("demo", "echo", &(), CallOptions::default()).await.unwrap();
    assert_eq!(supervisor.asked.load(SeqCst), 1);
}

#[tokio::test]
async fn what_the_supervisor_says_can_refuse_too() {
    let supervisor = Supervisor::saying(Ok("ftp"));
    let rules = vec![rule(Verdict::Deny, &["echo"], service("ftp"))];
    let fixture = Fixture::with(Settings { identify: supervisor.identify(), ..settings(rules) });
    supervisor.let_go.notify_one();
    let answers = together(&fixture.client(), &["echo", "echo"]).await;
    assert_eq!(answers, [Err(DENIED); 2]);
    assert_eq!(fixture.server.counters().denied, 2);
    assert_eq!(fixture.server.counters().revoked, 0);
}

#[tokio::test]
async fn a_supervisor_that_fails_denies_only_until_the_next_call() {
    let supervisor = Supervisor::saying(Err("no such process"));
    let rules = vec![rule(Verdict::Deny, &["echo"], service("ftp"))];
    let fixture = Fixture::with(Settings { identify: supervisor.identify(), ..settings(rules) });
    let client = fixture.client();
    let call = || client.call("demo", "echo", &(), CallOptions::default());
    supervisor.let_go.notify_one();
    let failure = refused(call().await.unwrap_err());
    assert_eq!(failure.code, DENIED);
    assert!(failure.text.contains("no such process"), "{failure}");
    *supervisor.answer.lock().unwrap() = Ok("web".to_owned());
    supervisor.let_go.notify_one();
    call().await.unwrap();
    assert_eq!(supervisor.asked.load(SeqCst), 2);
}

#[tokio::test]
async fn without_a_supervisor_what_it_would_decide_is_denied() {
    let rules = vec![rule(Verdict::Deny, &["echo"], service("ftp"))];
    let fixture = Fixture::with(settings(rules));
    let error = fixture.client().call("demo", "echo", &(), CallOptions::default()).await;
    let failure = refused(error.unwrap_err());
    assert_eq!(failure.code, DENIED);
    assert!(failure.text.contains("could not be asked"), "{failure}");
}

#[tokio::test]
async fn only_so_many_calls_wait_for_the_supervisor() {
    let supervisor = Supervisor::saying(Ok("web"));
    let rules = vec![rule(Verdict::Deny, &["count"], service("ftp"))];
    let fixture =
        Fixture::with(Settings { identify: supervisor.identify(), queue: 4, ..settings(rules) });
    let client = fixture.client();
    let calls: Vec<_> = (0..6)
        .map(|_| {
            let client = client.clone();
            let call = async move { client.call("demo", "count", &(), IMPATIENT).await.map(drop) };
            tokio::spawn(call)
        })
        .collect();
    until(|| fixture.server.counters().busy == 2).await;
    supervisor.let_go.notify_one();
    let mut done = 0;
    for call in calls {
        match call.await.unwrap() {
            Ok(()) => done += 1,
            Err(error) => assert_eq!(refused(error).code, Code::Busy),
        }
    }
    assert_eq!(done, 4);
}

#[tokio::test]
async fn a_call_that_is_cancelled_while_it_waits_is_never_begun() {
    let supervisor = Supervisor::saying(Ok("web"));
    let rules = vec![rule(Verdict::Deny, &["count"], service("ftp"))];
    let fixture = Fixture::with(Settings { identify: supervisor.identify(), ..settings(rules) });
    let client = fixture.client();
    let given_up = {
        let client = client.clone();
        tokio::spawn(async move { client.call("demo", "count", &(), CallOptions::default()).await })
    };
    until(|| supervisor.asked.load(SeqCst) == 1).await;
    given_up.abort();
    until(|| fixture.server.counters().cancelled == 1).await;
    supervisor.let_go.notify_one();
    let counted = client.call("demo", "count", &(), CallOptions::default()).await.unwrap();
    assert_eq!(counted.parse::<u32>().unwrap(), 1);
}

#[tokio::test]
async fn a_stream_ends_within_50_ms_when_its_caller_is_no_longer_allowed() {
    let fixture = Fixture::new();
    let mut times = Vec::new();
    for epoch in 1..=9 {
        fixture.server.set_policy(policy(epoch, built_in()));
        let client = fixture.client();
        let (args, options) = (json!({ "bytes": 4 << 20 }).to_string(), CallOptions::default());
        let stream = client.call_stream("demo", "stream", args.as_bytes(), options).await;
        let mut stream = stream.unwrap();
        stream.next().await.unwrap();

        let rules = vec![rule(Verdict::Deny, &["stream"], users(&[own_user()]))];
        let before = Instant::now();
        fixture.server.set_policy(policy(epoch, rules));
        let ended = loop {
            match stream.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it went on to its end"),
                Err(error) => break error,
            }
        };
        times.push(before.elapsed());
        let failure = refused(ended);
        assert_eq!(
            (failure.code, &failure.details.unwrap()["not_started"]),
            (DENIED, &json!(false))
        );
        assert_eq!(fixture.server.epoch(), epoch);
    }
    // The median, because this machine has other work.
    times.sort_unstable();
    assert!(times[4] < Duration::from_millis(50), "{times:?}");
    assert_eq!(fixture.server.counters().revoked, 9);
}

#[tokio::test]
async fn a_handler_hears_that_its_caller_lost_the_right() {
    let mut fixture = Fixture::new();
    let client = fixture.client();
    let call =
        tokio::spawn(async move { client.call("demo", "park", &(), CallOptions::default()).await });
    let responder = fixture.parked.recv().await.unwrap();
    // The built-in rules say nothing of it: it goes on.
    fixture.server.set_policy(policy(1, built_in()));
    let rules = vec![rule(Verdict::Deny, &[], users(&[own_user()]))];
    fixture.server.set_policy(policy(2, rules));
    tokio::time::timeout(SOON, responder.cancelled()).await.unwrap();
    assert_eq!(refused(call.await.unwrap().unwrap_err()).code, DENIED);
}

#[tokio::test]
async fn rules_that_ask_who_calls_judge_running_calls_when_that_is_known() {
    for (name, outcome) in [("web", Ok(())), ("ftp", Err(DENIED))] {
        let supervisor = Supervisor::saying(Ok(name));
        let mut fixture =
            Fixture::with(Settings { identify: supervisor.identify(), ..Settings::default() });
        let client = fixture.client();
        let call = tokio::spawn(async move {
            client.call("demo", "park", &(), CallOptions::default()).await.map(drop)
        });
        let responder = fixture.parked.recv().await.unwrap();
        fixture.server.set_policy(policy(1, vec![rule(Verdict::Deny, &[], service("ftp"))]));
        until(|| supervisor.asked.load(SeqCst) == 1).await;
        supervisor.let_go.notify_one();
        if outcome.is_err() {
            tokio::time::timeout(SOON, responder.cancelled()).await.unwrap();
        }
        responder.reply(&());
        assert_eq!(call.await.unwrap().map_err(|error| refused(error).code), outcome);
    }
}

/// Connects as another user; `None` where this process can't become one. (Credentials belong to the thread.)
fn connect_as(uid: u32, groups: &[u32], fixture: &Fixture) -> Option<UnixStream> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    std::fs::set_permissions(fixture.path(), std::os::unix::fs::PermissionsExt::from_mode(0o666))
        .unwrap();
    std::fs::set_permissions(
        fixture.directory.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let path = fixture.path();
    let groups: Vec<_> = groups.iter().map(|gid| rustix::thread::Gid::from_raw(*gid)).collect();
    let connected = std::thread::spawn(move || {
        rustix::thread::set_thread_groups(&groups).unwrap();
        rustix::thread::set_thread_gid(rustix::thread::Gid::from_raw(uid)).unwrap();
        rustix::thread::set_thread_uid(rustix::thread::Uid::from_raw(uid)).unwrap();
        UnixStream::connect(path).unwrap()
    });
    Some(connected.join().unwrap())
}

#[tokio::test]
async fn real_users_and_groups_get_what_the_rules_say() {
    let in_group = Who { groups: vec![777], ..Who::default() };
    let rules = vec![
        rule(Verdict::Allow, &["echo"], users(&[4711])),
        rule(Verdict::Allow, &["count"], in_group),
    ];
    let cases: [(u32, &[u32], &str, &str); 6] = [
        (4711, &[], "echo", "Reply"),
        (4710, &[], "echo", "denied"),
        (4712, &[], "echo", "denied"),
        (4712, &[5, 777], "count", "Reply"),
        (4712, &[776], "count", "denied"),
        (777, &[], "count", "Reply"),
    ];
    for (uid, groups, method, expected) in cases {
        let fixture = Fixture::with(settings(rules.clone()));
        let Some(stream) = connect_as(uid, groups, &fixture) else { return };
        let mut raw = Raw::greet(stream).await;
        let answer = raw.ask(1, method).await;
        assert!(answer.contains(expected), "{uid} {groups:?} {method}: {answer}");
        // The endpoint's own methods are for root, whatever the rules say.
        for method in ["_gate", "_monitor", "_log_level"] {
            let answer = raw.ask_endpoint(2, method).await;
            assert!(answer.contains("denied"), "{uid} {method}: {answer}");
        }
    }
}

#[tokio::test]
async fn each_refusal_leaves_a_line_in_the_audit_log() {
    let log = Arc::new(Mutex::new(String::new()));
    let _guard = tracing::subscriber::set_default(Collector(Arc::clone(&log)));
    let rules = vec![rule(Verdict::Deny, &["count"], users(&[own_user()]))];
    let fixture = Fixture::with(settings(rules));
    let client = fixture.client();
    let outcome = client.call("demo", "count", &(), CallOptions::default()).await;
    assert!(matches!(outcome, Err(CallError::Refused(_))));
    let log = log.lock().unwrap();
    let (pid, uid) = (std::process::id(), own_user());
    for part in [
        "audit",
        &format!("pid={pid}"),
        &format!("uid={uid}"),
        "object=\"demo\"",
        "method=\"count\"",
        "rule=\"camera.toml:7\"",
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
}

/// Keeps what is logged.
struct Collector(Arc<Mutex<String>>);

impl tracing::Subscriber for Collector {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Text<'a>(&'a mut String);
        impl tracing::field::Visit for Text<'_> {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0.push_str(&format!(" {field}={value:?}"));
            }
        }
        let mut log = self.0.lock().unwrap();
        log.push_str(event.metadata().target());
        event.record(&mut Text(&mut log));
        log.push('\n');
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}
