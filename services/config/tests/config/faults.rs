//! Files that make no sense: told once, and what they said before stays in force.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
};

use protocol::config::{State, Unreadable};

use crate::device::{Device, text};

/// Does something bad to a package; what is told of it. Then its repair must raise nothing.
async fn told(device: &Device, harm: impl FnOnce(&Device)) -> Unreadable {
    harm(device);
    device.until("hello", State::Error).await;
    let status = device.status().await;
    let hello = status.packages.into_iter().find(|it| it.package == "hello").unwrap();
    let _ = fs::remove_file(device.uci("hello"));
    let _ = fs::remove_dir(device.uci("hello"));
    device.write_over("hello", &format!("# repaired\n{}", text("main", "1")));
    device.until("hello", State::Current).await;
    assert!(device.announced().is_empty());
    hello.error.expect("the error is there")
}

#[tokio::test]
async fn every_bad_file_is_named_and_its_repair_raises_nothing() {
    let mut device = Device::new();
    device.write("hello", &text("main", "1"));
    device.start().await;
    let hello = |device: &Device| device.uci("hello");
    let error =
        told(&device, |it| it.write_over("hello", "config service 'main'\n\toption v 'x")).await;
    assert_eq!((error.line, error.file), (Some(2), hello(&device).to_str().unwrap().to_owned()));
    let error =
        told(&device, |it| fs::write(hello(it), b"config service 'm\xff'\n").unwrap()).await;
    assert!(error.text.contains("UTF-8") && error.line == Some(1), "{error:?}");
    let error = told(&device, |it| fs::write(hello(it), b"\x7fELF\x01\0\0\0").unwrap()).await;
    assert!(error.line.is_some(), "{error:?}");
    let error = told(&device, |it| {
        let sparse = it.path("sparse");
        File::create(&sparse).unwrap().set_len(100 << 20).unwrap();
        fs::rename(sparse, hello(it)).unwrap();
    })
    .await;
    assert!(error.text.contains("104857600 bytes long, at most 16777216"), "{error:?}");
    let error = told(&device, |it| {
        fs::remove_file(hello(it)).unwrap();
        fs::create_dir(hello(it)).unwrap();
    })
    .await;
    assert!(error.text.contains("it is a folder"), "{error:?}");
    let error = told(&device, |it| {
        symlink("other", it.path("loop")).unwrap();
        symlink("loop", it.path("other")).unwrap();
        fs::remove_file(hello(it)).unwrap();
        symlink(it.path("loop"), hello(it)).unwrap();
    })
    .await;
    assert!(error.text.contains("in a circle"), "{error:?}");
    let error = told(&device, |it| {
        fs::remove_file(hello(it)).unwrap();
        symlink("nowhere", hello(it)).unwrap();
    })
    .await;
    assert!(error.text.contains("a link to \"nowhere\", which is not there"), "{error:?}");
    let error = told(&device, |it| {
        let fifo = it.path("fifo");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, mode).unwrap();
        fs::rename(fifo, hello(it)).unwrap();
    })
    .await;
    assert!(error.text.contains("not a plain file"), "{error:?}");
}

#[tokio::test]
async fn a_bad_file_is_put_back_by_revert_with_its_mode() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut device = Device::new();
    device.write("hello", &text("main", "1"));
    fs::set_permissions(device.uci("hello"), fs::Permissions::from_mode(0o640)).unwrap();
    device.start().await;
    device.write("hello", "config service 'main'\n\toption v 'x");
    device.until("hello", State::Error).await;
    let args = serde_json::json!({ "package": "hello" });
    let _: serde_json::Value = device.call("revert", &args).await.unwrap();
    assert_eq!(fs::read_to_string(device.uci("hello")).unwrap(), text("main", "1"));
    assert_eq!(fs::metadata(device.uci("hello")).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(device.state("hello").await, State::Current);
    assert!(device.announced().is_empty());
}

#[tokio::test]
async fn a_file_that_is_written_while_it_is_read_is_never_half_of_it() {
    let mut device = Device::new();
    device.write("hello", &text("main", "0"));
    device.start().await;
    // The mixtures of both are right texts, too; only what was there at one moment may be announced.
    let long = |value: char| text("main", &value.to_string().repeat(200_000));
    let texts = [long('1'), long('2')];
    let path = device.uci("hello");
    let writer = std::thread::spawn({
        let texts = texts.clone();
        move || {
            for at in 0..2000 {
                fs::write(&path, &texts[at % 2]).unwrap();
            }
        }
    });
    while !writer.is_finished() {
        device.reload().await;
    }
    writer.join().unwrap();
    let mut digests = Vec::new();
    for whole in [&texts[0], &texts[1], &String::new(), &text("main", "0")] {
        device.write_over("hello", whole);
        device.reload().await;
        let status = device.status().await;
        digests.push(status.packages[0].digest.clone());
    }
    let changes = device.supervisor.changes();
    assert!(changes.len() > 4, "it was read while it was written");
    assert!(changes.iter().all(|change| digests.contains(&change.digest)), "{digests:?}");
}

#[tokio::test]
async fn an_overflow_of_the_kernels_queue_ends_in_the_right_digests() {
    use rustix::process::Signal;
    let mut device = Device::new();
    device.write("hello", &text("main", "1"));
    device.start().await;
    let max = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let max: usize = max.trim().parse().unwrap();
    // While it is stopped more happens than the kernel keeps, and the one change that counts comes last.
    device.signal(Signal::STOP);
    for at in 0..max + 100 {
        // An event each, and none the same as the one before it, which the kernel would make one.
        fs::write(device.uci(&format!("x{}", at % 2)), "").unwrap();
    }
    fs::remove_file(device.uci("x0")).unwrap();
    fs::remove_file(device.uci("x1")).unwrap();
    device.write_over("hello", &text("main", "2"));
    device.signal(Signal::CONT);
    device.supervisor.taken(1).await;
    device.settled().await;
    assert_eq!(device.announced(), ["hello"]);
}
