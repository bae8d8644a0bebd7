//! The canary: what it lets through, and why not.

use std::{
    io::Write as _,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Command, Output, Stdio},
};

use hotpatch::Sealed;
use serde_json::json;
use testkit::drivers::{build, version};

use crate::bench::{Bench, PROGRAM};

/// Runs the canary as the manager does: the object is descriptor 3. A shell puts it there.
fn canary(object: &Path, sample: &[u8]) -> Output {
    let bytes = std::fs::read(object).unwrap();
    let sealed = Sealed::new("object", &bytes).unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&sealed.fd());
    let place = format!("/proc/{}/fd/{number}", std::process::id());
    let mut child = Command::new("/bin/sh")
        .args(["-c", "exec 3<\"$1\"; exec \"$0\" --canary", PROGRAM, &place])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(sample).unwrap();
    child.wait_with_output().unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned()
}

#[test]
fn a_good_version_passes_and_a_bad_one_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let object = |options: &[&str]| build(folder.path(), "counter", options);
    let good = canary(&object(&[&version("2")]), b"");
    assert!(good.status.success(), "{:?} {}", good.status, told(&good));
    for (option, word) in [("-DIMPORT_FAILS", "import: "), ("-DSELF_TEST_FAILS", "self-test: ")] {
        let bad = canary(&object(&[option]), b"");
        assert!(!bad.status.success() && told(&bad).starts_with(word), "{option}: {}", told(&bad));
    }
    let file = folder.path().join("text.so");
    std::fs::write(&file, "no object").unwrap();
    assert!(told(&canary(&file, b"")).starts_with("not-elf: "));
    let nonsense = canary(&object(&[&version("2")]), b"nonsense");
    assert!(told(&nonsense).starts_with("system: "), "{}", told(&nonsense));
}

#[tokio::test]
async fn the_last_calls_of_a_host_are_made_again_and_a_crash_in_them_shows() {
    let bench = Bench::new("counter", "");
    let handle = bench.open().await;
    for sequence in 1..=20 {
        bench.write(handle, sequence, b"bytes").await;
    }
    let options = endpoint::CallOptions::default();
    let trial = bench.client().call(&bench.at(), "trial", &json!({}), options).await.unwrap();
    let mut sample = Vec::new();
    let mut file = std::fs::File::from(trial.fds.into_iter().next().unwrap());
    std::io::Seek::rewind(&mut file).unwrap();
    std::io::Read::read_to_end(&mut file, &mut sample).unwrap();
    let good = canary(&bench.object("2", &[]).path, &sample);
    assert!(good.status.success(), "{:?} {}", good.status, told(&good));
    let bad = canary(&bench.object("2", &["-DCRASH_AT=15"]).path, &sample);
    assert_eq!(bad.status.signal(), Some(11), "{}", told(&bad));
}
