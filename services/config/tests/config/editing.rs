//! What people and programs do to files, and what is announced of it.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::symlink,
};

use protocol::config::State;

use crate::device::{Device, text};

/// A watcher of one package.
async fn device() -> Device {
    let mut device = Device::new();
    device.write("hello", &text("main", "1"));
    device.start().await;
    device
}

#[tokio::test]
async fn a_comment_is_no_change_and_a_value_is_one_with_its_name() {
    let device = device().await;
    let commented = format!("# a comment\n\n{}", text("main", "1").replace('\'', "\""));
    device.write("hello", &commented);
    device.settled().await;
    assert!(device.announced().is_empty());
    let before = device.status().await.packages[0].digest.clone();
    device.write("hello", &text("main", "2"));
    let change = device.supervisor.taken(2).await.pop().unwrap();
    assert_eq!(
        (change.package.as_str(), &*change.changed),
        ("hello", &["main.value".to_owned()][..])
    );
    assert!(change.added.is_empty() && change.removed.is_empty());
    assert_ne!(change.digest, before);
    device.settled().await;
    assert_eq!(device.announced(), ["hello"]);
    let record = fs::read_to_string(device.path("config/digests")).unwrap();
    assert!(record.contains(&change.digest), "{record}");
}

#[tokio::test]
async fn a_file_renamed_over_another_is_seen_and_what_editors_leave_is_not() {
    let device = device().await;
    device.write_over("hello", &text("main", "2"));
    device.supervisor.taken(1).await;
    // As vim does: swap file, backup by rename, a new file.
    device.write(".hello.swp", &text("swap", "1"));
    fs::rename(device.uci("hello"), device.uci("hello~")).unwrap();
    device.write("hello", &text("main", "3"));
    device.settled().await;
    fs::remove_file(device.uci("hello~")).unwrap();
    fs::remove_file(device.uci(".hello.swp")).unwrap();
    device.settled().await;
    assert_eq!(device.announced(), ["hello", "hello"]);
}

#[tokio::test]
async fn a_file_that_is_written_in_pieces_counts_when_it_is_closed() {
    let device = device().await;
    let mut file = OpenOptions::new().write(true).truncate(true).open(device.uci("hello")).unwrap();
    for piece in ["config service 'main'\n", "\toption value '5'\n", "\toption other '6'\n"] {
        file.write_all(piece.as_bytes()).unwrap();
        // Longer than any quiet time: each mark is announced after one.
        device.settled().await;
    }
    assert!(device.announced().is_empty());
    drop(file);
    let change = device.supervisor.taken(4).await.pop().unwrap();
    assert_eq!(
        (change.changed, change.added),
        (vec!["main.value".into()], vec!["main.other".into()])
    );
}

#[tokio::test]
async fn a_new_file_counts_when_it_is_complete_however_it_is_made() {
    let device = device().await;
    let mut file = fs::File::create(device.uci("slow")).unwrap();
    file.write_all(b"config service 'main'\n").unwrap();
    device.settled().await;
    file.write_all(b"\toption value '1'\n").unwrap();
    drop(file);
    device.supervisor.taken(2).await;
    fs::hard_link(device.uci("slow"), device.uci("linked")).unwrap();
    device.supervisor.taken(3).await;
    symlink("slow", device.uci("pointing")).unwrap();
    let changes = device.supervisor.taken(4).await;
    assert_eq!(device.announced(), ["slow", "linked", "pointing"]);
    assert!(changes[1..].iter().all(|change| change.added.contains(&"main.value".to_owned())));
}

#[tokio::test]
async fn a_thousand_writes_in_a_burst_are_one_change() {
    let device = device().await;
    let begin = tokio::time::Instant::now();
    for value in 0..1000 {
        device.write("hello", &text("main", &value.to_string()));
    }
    device.settled().await;
    let count = device.announced().len();
    // The longest wait is half a second, and a slow machine may take several to write.
    let most = usize::try_from(begin.elapsed().as_millis() / 500).unwrap() + 1;
    assert!((1..=most).contains(&count), "{count} of {most}");
    device.until("hello", State::Current).await;
    let shown: protocol::config::Shown =
        device.call("show", &serde_json::json!({ "package": "hello" })).await.unwrap();
    assert_eq!(shown["hello"]["main.value"], "999");
}

#[tokio::test]
async fn new_files_and_those_that_are_gone_are_announced_with_what_they_said() {
    let device = device().await;
    device.write("new", &text("one", "1"));
    let change = device.supervisor.taken(1).await.pop().unwrap();
    assert!(
        change.package == "new" && change.added.contains(&"one.value".to_owned()),
        "{change:?}"
    );
    fs::remove_file(device.uci("new")).unwrap();
    let change = device.supervisor.taken(2).await.pop().unwrap();
    assert!(change.digest.is_empty() && change.removed.contains(&"one.value".to_owned()));
    assert_eq!(device.status().await.packages.len(), 1);
}

#[tokio::test]
async fn a_folder_may_go_and_come_back_changed() {
    let device = device().await;
    let away = device.path("away");
    fs::rename(device.path("uci"), &away).unwrap();
    let gone = async {
        while device.status().await.problems.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::device::LIMIT, gone).await.unwrap();
    assert!(device.announced().is_empty());
    fs::write(away.join("hello"), text("main", "2")).unwrap();
    fs::rename(&away, device.path("uci")).unwrap();
    device.supervisor.taken(1).await;
    assert!(device.status().await.problems.is_empty());
    fs::remove_dir_all(device.path("uci")).unwrap();
    fs::create_dir(device.path("uci")).unwrap();
    device.write("hello", &text("main", "3"));
    device.supervisor.taken(2).await;
    device.settled().await;
    assert_eq!(device.announced(), ["hello", "hello"]);
}

#[tokio::test]
async fn a_folder_that_was_never_there_is_waited_for() {
    let mut device = Device::new();
    fs::remove_dir(device.path("uci")).unwrap();
    device.start().await;
    fs::create_dir(device.path("uci")).unwrap();
    device.write("hello", &text("main", "1"));
    device.supervisor.taken(1).await;
    assert_eq!(device.announced(), ["hello"]);
}

#[tokio::test]
async fn links_are_followed_wherever_they_are_switched() {
    let mut device = Device::new();
    for (version, value) in [("v1", "1"), ("v2", "2")] {
        fs::create_dir(device.path(version)).unwrap();
        fs::write(device.path(version).join("hello"), text("main", value)).unwrap();
    }
    // uci/hello -> now/hello, now -> v1
    symlink("v1", device.path("now")).unwrap();
    symlink(device.path("now").join("hello"), device.uci("hello")).unwrap();
    device.start().await;
    // The target is written.
    fs::write(device.path("v1/hello"), text("main", "3")).unwrap();
    device.supervisor.taken(1).await;
    // A folder on the way is another one.
    symlink("v2", device.path("next")).unwrap();
    fs::rename(device.path("next"), device.path("now")).unwrap();
    device.supervisor.taken(2).await;
    // What the link led to before means nothing any more; what it leads to now does.
    fs::write(device.path("v1/hello"), text("main", "4")).unwrap();
    device.settled().await;
    assert_eq!(device.announced().len(), 2);
    fs::write(device.path("v2/hello"), text("main", "5")).unwrap();
    device.supervisor.taken(4).await;
    // The link itself.
    fs::remove_file(device.uci("hello")).unwrap();
    symlink(device.path("v1/hello"), device.uci("hello")).unwrap();
    let change = device.supervisor.taken(5).await.pop().unwrap();
    assert_eq!(change.changed, ["main.value"]);
}

#[tokio::test]
async fn files_of_every_format_are_compared_by_what_they_say() {
    let mut device = Device::new();
    let file = |name: &str| device.path(name).to_str().unwrap().to_owned();
    let cases = [
        (
            "a.json",
            "json",
            "{\"a\": 1, \"b\": 2}",
            "{\n \"b\": 2, \"a\": 1 }",
            "{\"a\": 3, \"b\": 2}",
        ),
        ("a.toml", "toml", "a = 1\n", "# x\na = 1", "a = 2\n"),
        ("a.ini", "ini", "[s]\na = 1\n", "; x\n[s]\na=1\n", "[s]\na = 2\n"),
        ("a.lines", "lines", "one\n# x\n", "one  \n\n", "two\n"),
        ("a.bytes", "bytes", "one", "one", "one\n"),
    ];
    let mut sources = String::new();
    for (name, format, text, _, _) in cases {
        fs::write(device.path(name), text).unwrap();
        sources += &format!("{{ path = {:?}, format = {format:?} }},\n", file(name));
    }
    let uci = file("uci");
    device.configure(&format!("sources = [{sources}{{ path = {uci:?} }}]"));
    device.start().await;
    for (name, _, _, same, _) in cases {
        fs::write(device.path(name), same).unwrap();
    }
    device.settled().await;
    assert!(device.announced().is_empty(), "{:?}", device.announced());
    for (at, (name, _, _, _, other)) in cases.into_iter().enumerate() {
        fs::write(device.path(name), other).unwrap();
        let change = device.supervisor.taken(at + 2).await.pop().unwrap();
        assert_eq!(change.package, name);
    }
}

#[tokio::test]
async fn what_isnt_committed_counts_where_it_is_to_and_the_commit_is_no_second_change() {
    let mut device = Device::new();
    let deltas = device.path("deltas");
    device.configure(&format!("uncommitted = {deltas:?}"));
    device.write("hello", &text("main", "1"));
    device.start().await;
    fs::create_dir(&deltas).unwrap();
    fs::write(deltas.join("hello"), "hello.main.value='5'\n").unwrap();
    let change = device.supervisor.taken(1).await.pop().unwrap();
    assert_eq!(change.changed, ["main.value"]);
    device.write_over("hello", &text("main", "5"));
    fs::remove_file(deltas.join("hello")).unwrap();
    device.settled().await;
    fs::write(deltas.join("hello"), "hello.main.value='6'\n").unwrap();
    device.supervisor.taken(3).await;
    fs::remove_file(deltas.join("hello")).unwrap();
    device.supervisor.taken(4).await;
    device.settled().await;
    assert_eq!(device.announced(), ["hello", "hello", "hello"]);
}

#[tokio::test]
async fn without_being_asked_to_nothing_uncommitted_counts() {
    let device = device().await;
    fs::create_dir(device.path("deltas")).unwrap();
    fs::write(device.path("deltas/hello"), "hello.main.value='5'\n").unwrap();
    let reloaded = device.reload().await;
    assert_eq!((reloaded.announced.len(), reloaded.unchanged), (0, 1));
}
