//! Objects that only their own process sees.

use std::{process::Command, sync::Arc};

use endpoint::{CallOptions, Client, Code, Options};

use crate::{Demo, Fixture, SOON, refused};

/// Set for the child that this test starts of itself: the socket to connect to.
const SOCKET: &str = "ENDPOINT_TEST_SOCKET";

#[tokio::test]
async fn a_local_object_is_there_for_its_own_process_only() {
    if let Some(socket) = std::env::var_os(SOCKET) {
        return look_from_outside(Client::new(socket, Options::default())).await;
    }
    let fixture = Fixture::new();
    let changes = fixture.server.changes();
    let (parked, _) = tokio::sync::mpsc::unbounded_channel();
    let inner = Demo { counted: Arc::default(), parked };
    fixture.server.add_local("inner", inner).unwrap();
    assert!(!changes.has_changed().unwrap());
    assert_eq!(fixture.server.objects().len(), 1);
    let client = fixture.client();
    client.call("inner", "count", &(), CallOptions::default()).await.unwrap();

    let mut child = Command::new(std::env::current_exe().unwrap());
    let test = "local::a_local_object_is_there_for_its_own_process_only";
    child.args(["--exact", test]).env(SOCKET, fixture.path());
    let outside = tokio::task::spawn_blocking(move || child.output().unwrap());
    let outside = outside.await.unwrap();
    assert!(outside.status.success(), "{}", String::from_utf8_lossy(&outside.stdout));
    // It did look.
    assert!(fixture.server.counters().connections >= 2);

    assert!(fixture.server.remove("inner"));
    assert!(!changes.has_changed().unwrap());
    assert!(fixture.server.remove("demo"));
    assert!(changes.has_changed().unwrap());
}

async fn look_from_outside(client: Client) {
    let objects = client.objects().await.unwrap();
    assert_eq!(objects.iter().map(|object| &*object.name).collect::<Vec<_>>(), ["demo"]);
    let options = CallOptions { deadline: SOON, ..CallOptions::default() };
    let error = client.call("inner", "count", &(), options).await.unwrap_err();
    assert_eq!(refused(error).code, Code::NotFound);
    let described = client.call("", "_describe", &(), CallOptions::default()).await.unwrap();
    assert!(!String::from_utf8_lossy(&described.result).contains("inner"));
    // Nor by guessing its place.
    let stream = std::os::unix::net::UnixStream::connect(client.path()).unwrap();
    let mut raw = crate::raw::Raw::greet(stream).await;
    for generation in [0, 1, 2] {
        let answer = raw.ask_at(generation + 1, 1, generation, "count").await;
        assert!(answer.contains("not-found"), "{answer}");
    }
}
