//! Another user whom a rule allows a driver: how much he may ask for, and what stays root's.

use driver_client::WRITE_MAX;
use protocol::driver::Status;
use rustix::{fs::Uid, thread::set_thread_res_uid};

use super::*;

const STRANGER: u32 = 4711;
/// More than any daemon's endpoint takes of a stranger in a second.
const CALLS: usize = 4000;

/// Does this as another user: on Linux a thread can be one, and what connects is the thread.
fn as_stranger<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let as_him = || {
        let uid = Uid::from_raw(STRANGER);
        set_thread_res_uid(uid, uid, uid).unwrap();
        work()
    };
    std::thread::scope(|scope| scope.spawn(as_him).join().unwrap())
}

fn bench() -> Bench {
    let bench = Bench::start(CALM);
    let folder = bench.device.folder().join("etc/policy.d");
    fs::create_dir_all(&folder).unwrap();
    let rule = format!("[[allow]]\nobject = \"driver/counter\"\nuser = {STRANGER}\n");
    fs::write(folder.join("counter.toml"), rule).unwrap();
    let client = bench.client();
    until("the rule holds", || {
        as_stranger(|| Driver::open("counter", 0, client.clone()).map(drop)).ok()
    });
    bench
}

#[test]
fn another_user_whom_a_rule_allows_makes_whole_calls_and_as_many_as_he_likes() {
    if !crate::support::is_root("another_user_whom_a_rule_allows") {
        return;
    }
    let bench = bench();
    let client = bench.client();
    as_stranger(|| {
        let handle = Driver::open("counter", 0, client).unwrap();
        let most = vec![7; WRITE_MAX];
        assert_eq!(handle.write(&most).unwrap(), WRITE_MAX);
        assert_eq!(handle.write(&vec![7; WRITE_MAX + 1]).unwrap(), WRITE_MAX, "it is short");
        for _ in 0..CALLS {
            assert_eq!(handle.write(b"x").unwrap(), 1);
        }
    });
    assert_eq!(counters(&bench.open()).calls, CALLS as u64 + 2);
}

#[test]
fn replacing_code_is_not_for_another_user_even_where_a_rule_allows_him_everything() {
    if !crate::support::is_root("replacing_code_is_not_for_another_user") {
        return;
    }
    let bench = bench();
    let object = bench.object("2", &[]);
    let socket = bench.device.run_dir().join("driver.counter.sock");
    let replacement = serde_json::json!({ "replacement": bench.request(&object, "2") });
    for (method, args) in [
        ("replace", replacement),
        ("rollback", serde_json::json!({})),
        ("state", serde_json::json!({})),
        ("trial", serde_json::json!({})),
    ] {
        let memfd = sealed(&object);
        let refused = as_stranger(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let host = Client::new(&socket, Options::default());
                let fds = [memfd.as_fd()];
                let fds = if method == "replace" { &fds[..] } else { &[] };
                let options = CallOptions { fds, ..CallOptions::default() };
                host.call("driver/counter", method, &args, options).await.map(drop)
            })
        });
        let refused = failure(refused);
        assert_eq!(reason_of(&refused), "privilege", "{method}: {refused}");
    }
    let status: Status = bench.until_serving();
    assert_eq!((status.version.version.as_str(), status.upgrades), ("1", 0));
}
