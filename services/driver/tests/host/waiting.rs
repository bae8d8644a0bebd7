//! Callers who wait no longer for what a driver waits for: by their deadline, by taking the call back, by closing the handle; and those
//! who only lost their connection.

use std::{sync::Arc, time::Duration};

use driver_client::{Driver, Error, Settings};
use endpoint::{CallError, CallOptions, Client, Code};
use protocol::driver::{Answer, Head};

use crate::bench::Bench;

fn read(handle: u64, sequence: u64) -> Head {
    Head { handle, sequence, word: 0, length: 8 }
}

/// A handle whose reader waits for ever has no turn for others.
async fn soon<T>(call: impl Future<Output = T>) -> T {
    let ended = tokio::time::timeout(Duration::from_secs(20), call).await;
    ended.expect("the reader's call is over in the driver, too")
}

async fn call(
    client: &Client,
    bench: &Bench,
    method: &str,
    head: Head,
    deadline: Duration,
) -> Result<(i64, Vec<u8>), CallError> {
    let options = CallOptions { deadline, ..CallOptions::default() };
    let bytes = head.encode(&[]);
    let answer = client.call_bytes(&bench.at(), method, &bytes, options).await?;
    let answer = Answer::parse(&answer.result).unwrap();
    Ok((answer.result, answer.data.to_vec()))
}

#[tokio::test]
async fn a_reader_whose_time_is_over_waits_in_the_driver_no_longer() {
    let bench = Bench::new("pipe", "threads = 1");
    let handle = bench.open().await;
    let time = Duration::from_millis(50);
    let late = call(bench.client(), &bench, "read", read(handle, 1), time).await;
    assert!(
        matches!(&late, Err(CallError::Timeout { .. }))
            || matches!(&late, Err(CallError::Refused(failure)) if failure.code == Code::Timeout),
        "{late:?}"
    );
    // The calls of a handle follow one another.
    assert_eq!(soon(bench.write(handle, 2, b"x")).await, 1);
    assert_eq!(bench.status().await.errors, 0, "that is no fault of the driver's");
}

#[tokio::test]
async fn a_reader_who_takes_the_call_back_waits_in_the_driver_no_longer() {
    let bench = Bench::new("pipe", "threads = 1");
    let handle = bench.open().await;
    let reader = bench.begin("read", read(handle, 1), &[]);
    // Answered after the reader's call was taken up: they come on one connection.
    bench.status().await;
    bench.until_started(handle, 1);
    reader.abort();
    assert_eq!(soon(bench.write(handle, 2, b"x")).await, 1);
}

#[tokio::test]
async fn a_reader_who_lost_the_connection_gets_the_bytes_on_the_next_one() {
    let bench = Bench::new("pipe", "threads = 1");
    let (handle, writer) = (bench.open().await, bench.open().await);
    // A task that is gone from one moment to the next: what it had begun it says nothing more about.
    let (client, at) = (bench.another_client(), bench.at());
    let (end, ends) = tokio::sync::oneshot::channel::<()>();
    let task = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.spawn(async move {
            let options = CallOptions { deadline: Duration::MAX, ..CallOptions::default() };
            client.call_bytes(&at, "read", &read(handle, 1).encode(&[]), options).await.map(drop)
        });
        let _ = runtime.block_on(ends);
    });
    bench.until_started(handle, 1);
    let before = bench.sockets();
    drop(end);
    task.join().unwrap();
    testkit::until("its connection is gone", || (bench.sockets() < before).then_some(()));
    let reader = bench.begin("read", read(handle, 1), &[]);
    // Answered after the reader's call was taken up: they come on one connection.
    bench.status().await;
    assert_eq!(bench.write(writer, 1, b"x").await, 1);
    assert_eq!(reader.await.unwrap(), (1, b"x".to_vec()));
}

#[tokio::test]
async fn closing_a_handle_ends_a_read_that_waits() {
    let bench = Bench::new("pipe", "threads = 1");
    let settings = Settings { run_dir: bench.run_dir(), ..Settings::default() };
    let open = || Driver::open("pipe", 0, settings.clone()).unwrap();
    let (handle, other) = (Arc::new(open()), open());
    let reads = Arc::clone(&handle);
    let reader = std::thread::spawn(move || reads.read(&mut [0; 8]));
    bench.until_started(handle.number(), 1);
    // Its own deadline would end it, too, as an error.
    handle.close().unwrap();
    assert!(matches!(reader.join().unwrap(), Err(Error::Closed)));
    assert_eq!(bench.status().await.handles, 1, "it is closed in the driver as well");
    other.close().unwrap();
}
