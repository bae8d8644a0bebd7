//! Files that can't be understood: each is named, what it said last stays in force, and nothing restarts.

use std::{
    fs::{self, File},
    io::{Seek as _, SeekFrom, Write as _},
    os::unix::fs::{PermissionsExt as _, symlink},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use rustix::fs::{CWD, Mode, RenameFlags, mkfifoat, renameat_with};
use serde_json::json;
use testkit::alive;

use super::{Watched, uci_text};
use crate::{
    applications::Events,
    support::{demo, is_root},
};

/// What was done, how, and words of the error.
type Harm = (&'static str, fn(&Watched), &'static [&'static str]);

const HARMS: [Harm; 8] = [
    (
        "cut in the middle",
        |it| it.write("hello", "config service 'main'\n\toption value '1"),
        &["uci/hello:2", "quote"],
    ),
    (
        "binary",
        |it| fs::write(it.uci("hello"), b"\x7fELF\x02\x01\0\0\0").unwrap(),
        &["uci/hello:1"],
    ),
    (
        "not UTF-8",
        |it| fs::write(it.uci("hello"), b"config service 'main'\n\toption v '\xff'\n").unwrap(),
        &["uci/hello:2", "UTF-8"],
    ),
    (
        "100 MiB",
        |it| {
            let huge = it.path("huge");
            File::create(&huge).unwrap().set_len(100 << 20).unwrap();
            fs::rename(huge, it.uci("hello")).unwrap();
        },
        &["uci/hello", "104857600", "16777216"],
    ),
    (
        "a circle of links",
        |it| {
            symlink("second", it.path("first")).unwrap();
            symlink("first", it.path("second")).unwrap();
            symlink(it.path("first"), it.path("link")).unwrap();
            fs::rename(it.path("link"), it.uci("hello")).unwrap();
        },
        &["uci/hello", "circle"],
    ),
    (
        "a folder",
        |it| {
            fs::create_dir(it.path("folder")).unwrap();
            exchange(it, "folder");
        },
        &["uci/hello", "folder"],
    ),
    (
        "a pipe",
        |it| {
            let pipe = it.path("pipe");
            mkfifoat(CWD, &pipe, Mode::from_raw_mode(0o666)).unwrap();
            fs::rename(pipe, it.uci("hello")).unwrap();
        },
        &["uci/hello", "plain file"],
    ),
    (
        "without permission",
        |it| {
            it.write(".hello.new", &uci_text("secret"));
            fs::set_permissions(it.uci(".hello.new"), fs::Permissions::from_mode(0o0)).unwrap();
            fs::rename(it.uci(".hello.new"), it.uci("hello")).unwrap();
        },
        &["uci/hello", "ermission"],
    ),
];

/// Puts another thing in the package's place without a moment in which nothing is there, which would be a change.
fn exchange(watched: &Watched, name: &str) {
    let (other, place) = (watched.path(name), watched.uci("hello"));
    renameat_with(CWD, &other, CWD, &place, RenameFlags::EXCHANGE).unwrap();
}

fn device() -> Watched {
    // root may read everything; an ordinary user makes the last of the harms one.
    let mut watched = Watched::of_an_ordinary_user();
    watched.write("hello", &uci_text("1"));
    let trigger = "[[triggers]]\nevent = \"config.change\"\npackage = \"hello\"\n";
    watched.device.define("service", &format!("{}{trigger}", demo(&[])));
    watched.counted("hello", &watched.uci("hello"));
    watched.start();
    watched
}

#[test]
fn every_bad_file_is_named_and_leaves_everything_as_it_is() {
    let watched = device();
    let pid = watched.device.until_pid("service");
    let mut events = Events::start(&watched.device, &["config.error"]);
    for (what, harm, words) in HARMS {
        eprintln!("{what}");
        harm(&watched);
        let data = events.next()["data"].take();
        assert_eq!(data["package"], "hello", "{what}");
        let status = watched.device.ctl_ok(&["config", "status"]);
        let told = status.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
        for word in words {
            assert!(told.contains(word), "{what}: {word}: {status}");
        }
        let reloaded = watched.device.ctl(&["config", "reload"]);
        assert_eq!(reloaded.status.code(), Some(1), "{what}: {reloaded:?}");
        assert!(reloaded.stderr.contains(words[0]), "{what}: {reloaded:?}");
        watched.settle();
        assert!(alive(pid), "{what}");

        // The repair says what was in force all the time.
        let repaired = format!("# repaired after {what}\n{}", uci_text("1"));
        fs::write(watched.path("repaired"), repaired).unwrap();
        exchange(&watched, "repaired");
        let bad = watched.path("repaired");
        fs::remove_file(&bad).or_else(|_| fs::remove_dir(&bad)).unwrap();
        watched.until_package("hello", "current");
    }
    watched.settle();
    assert_eq!(watched.seen("hello"), [""; 0]);
    assert!(alive(pid));
    // Nor does anything come later: the first that is noted is the first that is different.
    watched.write_over("hello", &uci_text("2"));
    watched.until_seen("hello", "value '2'");
    assert_eq!(watched.seen("hello").len(), 1);
}

#[test]
fn a_file_that_is_written_all_the_time_is_named_and_counts_when_it_is_complete() {
    let watched = device();
    let path = watched.uci("hello");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = File::options().write(true).open(&path).unwrap();
            while !over.load(Relaxed) {
                file.seek(SeekFrom::Start(0)).unwrap();
                file.write_all(uci_text("3").as_bytes()).unwrap();
            }
        });
        // It is open for writing: only who asks makes the watcher look.
        let told = testkit::until("it is said", || {
            let reloaded = watched.device.ctl(&["config", "reload", "hello"]);
            // A look between two writes is a good one.
            let told = (reloaded.status.code() == Some(1)).then_some(reloaded.stderr);
            told.or_else(|| (!watched.seen("hello").is_empty()).then(String::new))
        });
        over.store(true, Relaxed);
        assert!(told.is_empty() || told.contains("uci/hello: it was written to"), "{told}");
    });
    watched.until_seen("hello", "value '3'");
    watched.settle();
    assert_eq!(watched.seen("hello").len(), 1);
    watched.until_package("hello", "current");
}

#[test]
fn a_file_that_was_closed_to_the_watcher_counts_when_it_is_opened() {
    if !is_root("a file of somebody else") {
        return;
    }
    let watched = device();
    watched.write(".hello.new", &uci_text("4"));
    fs::set_permissions(watched.uci(".hello.new"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(watched.uci(".hello.new"), watched.uci("hello")).unwrap();
    let error = watched.until_package("hello", "error");
    assert_eq!(error["error"]["file"], json!(watched.uci("hello")));
    fs::set_permissions(watched.uci("hello"), fs::Permissions::from_mode(0o644)).unwrap();
    watched.until_seen("hello", "value '4'");
    assert_eq!(watched.seen("hello").len(), 1);
}
