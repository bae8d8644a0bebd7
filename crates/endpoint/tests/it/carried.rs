//! A connection that somebody else carries, such as a network's: made by a dial of its own, and without its carrier's rights.

use std::{
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
};

use endpoint::{CallOptions, Client, Dial, Options, Server, Settings};
use protocol::{
    objects::{GATE, LOG_LEVEL, MONITOR},
    policy::{Rule, Verb, Verdict, Who},
};
use serde_json::json;

use crate::{DENIED, SOON, refused, serve};

/// All of them may count; nothing else.
fn strangers() -> Settings {
    let rule = Rule {
        verdict: Verdict::Allow,
        verb: Verb::Call,
        what: "demo".to_owned(),
        methods: vec!["count".to_owned()],
        who: Who { anyone: true, ..Who::default() },
        source: "test".to_owned(),
    };
    Settings { trusting: false, rules: Arc::new(vec![rule]), ..Settings::default() }
}

/// A client whose connections are pairs with the server that stands there then, and how many it made.
fn carried(server: &Arc<Mutex<Server>>) -> (Client, Arc<AtomicU32>) {
    let made = Arc::new(AtomicU32::new(0));
    let (count, server) = (Arc::clone(&made), Arc::clone(server));
    let dial: Dial = Arc::new(move || {
        let (server, count) = (Arc::clone(&server), Arc::clone(&count));
        Box::pin(async move {
            let (here, there) = UnixStream::pair()?;
            server.lock().unwrap().serve(there)?;
            count.fetch_add(1, SeqCst);
            here.set_nonblocking(true)?;
            tokio::net::UnixStream::from_std(here)
        })
    });
    (Client::over("the network", dial, Options { patience: SOON, ..Options::default() }), made)
}

#[tokio::test]
async fn a_carried_connection_has_the_rights_of_the_rules_and_not_those_of_its_carrier() {
    let counted = Arc::new(AtomicU32::new(0));
    let (server, _parked) = serve(strangers(), &counted);
    let (client, _) = carried(&Arc::new(Mutex::new(server)));
    client.call("demo", "count", &(), CallOptions::default()).await.unwrap();
    assert_eq!(counted.load(SeqCst), 1);
    let denied = client.call("demo", "text", &json!({ "bytes": 1 }), CallOptions::default()).await;
    assert_eq!(refused(denied.unwrap_err()).code, DENIED);
    for method in [GATE, MONITOR, LOG_LEVEL] {
        let denied = client.call("", method, &json!({}), CallOptions::default()).await;
        assert_eq!(refused(denied.unwrap_err()).code, DENIED, "{method}");
    }
}

#[tokio::test]
async fn a_connection_that_ended_is_dialled_again() {
    let counted = Arc::new(AtomicU32::new(0));
    let (server, _parked) = serve(Settings::default(), &counted);
    let behind = Arc::new(Mutex::new(server.clone()));
    let (client, made) = carried(&behind);
    client.call("demo", "count", &(), CallOptions::safe()).await.unwrap();
    assert_eq!(made.load(SeqCst), 1);
    server.drain(SOON).await;
    let (next, _parked) = serve(Settings::default(), &counted);
    *behind.lock().unwrap() = next;
    client.call("demo", "count", &(), CallOptions::safe()).await.unwrap();
    assert_eq!((made.load(SeqCst), counted.load(SeqCst)), (2, 2));
    let failing: Dial = Arc::new(|| Box::pin(async { Err(std::io::Error::other("no route")) }));
    let nobody = Client::over(
        "192.0.2.1:7421",
        failing,
        Options { patience: std::time::Duration::ZERO, ..Options::default() },
    );
    let told = nobody.call("demo", "count", &(), CallOptions::default()).await.unwrap_err();
    let told = format!("{told:#}");
    assert!(told.contains("192.0.2.1:7421"), "{told}");
}
