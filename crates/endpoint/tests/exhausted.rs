//! A process of its own, because it uses up its descriptors.

use std::{fs::File, os::unix::net::UnixListener, time::Duration};

use endpoint::{CallOptions, Client, Options, Server, Settings};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[tokio::test]
async fn without_descriptors_callers_are_turned_away_and_served_again_later() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("demo.sock");
    let server = Server::new(Settings::default()).unwrap();
    server.listen(UnixListener::bind(&path).unwrap()).unwrap();
    let options = Options { patience: Duration::from_secs(20), ..Options::default() };
    let client = Client::new(&path, options);

    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: before.maximum }).unwrap();
    let mut hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    // One for the caller's own socket; the server's accept finds none.
    hoard.pop();
    let call =
        tokio::spawn(async move { client.call("", "_objects", &(), CallOptions::default()).await });
    while server.counters().out_of_descriptors == 0 {
        tokio::task::yield_now().await;
    }
    drop(hoard);
    call.await.unwrap().unwrap();
    assert_eq!(server.counters().connections, 1);
}
