//! What the names of OpenWrt's programs do beyond what was recorded: files, locks, scripts.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
    process::Command,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fake::{Fake, Reply, command, run};

/// A folder of configuration and one of changes.
struct Scratch(TempDir);

impl Scratch {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("c")).unwrap();
        for (name, text) in files {
            fs::write(folder.path().join("c").join(name), text).unwrap();
        }
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.0.path().join(name)).unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let places = ["-C", &self.path("none"), "-c", &self.path("c"), "-t", &self.path("s")];
        command(self.0.path(), "uci", &places.iter().chain(args).copied().collect::<Vec<_>>())
    }

    fn uci(&self, args: &[&str]) -> Reply {
        run(&mut self.command(args), "")
    }

    #[track_caller]
    fn done(&self, args: &[&str]) {
        let reply = self.uci(args);
        assert_eq!((reply.code, &*reply.stderr), (0, ""), "{args:?}: {reply:?}");
    }
}

const HELLO: &str = "config system 'globe'\n\toption delay '5'\n";

#[test]
fn a_commit_keeps_rights_and_links_and_leaves_nothing_beside_the_file() {
    let scratch = Scratch::new(&[]);
    let real = scratch.path("real");
    fs::write(&real, HELLO).unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    symlink(&real, scratch.path("c/hello")).unwrap();
    let before = fs::metadata(&real).unwrap().ino();
    scratch.done(&["set", "hello.globe.delay=7"]);
    assert_eq!(scratch.text("real"), HELLO);
    scratch.done(&["commit", "hello"]);
    assert_eq!(scratch.text("real"), "\nconfig system 'globe'\n\toption delay '7'\n\n");
    let after = fs::metadata(&real).unwrap();
    assert_eq!(after.mode() & 0o777, 0o640);
    assert_ne!(after.ino(), before, "it was replaced, not overwritten");
    assert!(fs::symlink_metadata(scratch.path("c/hello")).unwrap().is_symlink());
    assert_eq!(scratch.text("s/hello"), "");
    let names: Vec<_> = fs::read_dir(scratch.0.path()).unwrap().collect();
    assert_eq!(names.len(), 3, "{names:?}");
    // A commit without a change replaces nothing.
    scratch.done(&["commit", "hello"]);
    assert_eq!(fs::metadata(&real).unwrap().ino(), after.ino());
}

#[test]
fn commits_at_the_same_time_lose_nothing() {
    let scratch = Scratch::new(&[("hello", HELLO)]);
    let each = 12;
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let scratch = &scratch;
            scope.spawn(move || {
                for number in 0..each {
                    scratch.done(&["set", &format!("hello.globe.t{thread}n{number}=1")]);
                    scratch.done(&["commit", "hello"]);
                }
            });
        }
    });
    assert_eq!(scratch.text("c/hello").matches("\toption t").count(), 4 * each);
}

#[test]
fn who_reads_during_a_commit_sees_what_was_set_before() {
    let scratch = Scratch::new(&[("hello", HELLO)]);
    scratch.done(&["set", "hello.globe.delay=100"]);
    let last = 140;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 101..=last {
                scratch.done(&["set", &format!("hello.globe.delay={number}")]);
                scratch.done(&["commit", "hello"]);
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                let mut seen = 100;
                while seen < last {
                    let reply = scratch.uci(&["get", "hello.globe.delay"]);
                    let now: i32 = reply.stdout.trim().parse().unwrap();
                    assert!(now >= seen, "{now} after {seen}");
                    seen = now;
                }
            });
        }
    });
}

#[test]
fn changes_for_reading_are_never_committed() {
    let scratch = Scratch::new(&[("hello", HELLO)]);
    let state = scratch.path("state");
    scratch.done(&["-P", &state, "set", "hello.globe.up=1"]);
    scratch.done(&["-P", &state, "commit"]);
    assert_eq!(scratch.text("c/hello"), HELLO);
    assert_eq!(scratch.uci(&["-P", &state, "get", "hello.globe.up"]).stdout, "1\n");
    assert_eq!(scratch.uci(&["get", "hello.globe.up"]).stderr, "uci: Entry not found\n");
}

#[test]
fn a_file_that_can_not_be_read_is_told_and_left_alone() {
    let scratch = Scratch::new(&[("bad", "config a 'b\n"), ("hello", HELLO)]);
    fs::write(scratch.path("c/binary"), b"config a b\n\toption c \xff\n").unwrap();
    assert!(Command::new("mkfifo").arg(scratch.path("c/fifo")).status().unwrap().success());
    for name in ["bad", "binary", "fifo"] {
        for args in [vec!["show", name], vec!["commit", name]] {
            let reply = scratch.uci(&args);
            assert_eq!((reply.code, &*reply.stdout), (1, ""), "{reply:?}");
            assert!(reply.stderr.starts_with("uci: "), "{reply:?}");
        }
    }
    assert_eq!(scratch.text("c/bad"), "config a 'b\n");
    assert_eq!(scratch.uci(&["-q", "show", "bad"]).stderr, "");
}

#[test]
fn a_whole_path_is_changed_at_once() {
    let scratch = Scratch::new(&[]);
    let file = scratch.path("other");
    fs::write(&file, HELLO).unwrap();
    // A folder with a dot in its name can't be written in an address; nor can it with libuci.
    if !file.contains('.') {
        scratch.done(&["set", &format!("{file}.globe.delay=9")]);
        assert!(scratch.text("other").contains("option delay '9'"));
    }
    assert!(!Path::new(&scratch.path("s")).exists());
}

#[test]
fn validate_data_prints_what_a_shell_evaluates() {
    let scratch = Scratch::new(&[("hello", HELLO)]);
    let validate = |args: &[&str]| {
        let mut command = command(scratch.0.path(), "validate_data", args);
        run(command.env("VESTAL_UCI_DIR", scratch.path("c")), "")
    };
    let reply = validate(&["hello", "system", "globe", "delay:range(1,200)", "name:string:it's"]);
    assert_eq!((reply.code, &*reply.stdout), (0, "delay=5; name='it'\"'\"'s'; "), "{reply:?}");
    let reply = validate(&["hello", "system", "globe", "delay:range(6,200)"]);
    assert_eq!((reply.code, &*reply.stdout), (255, "unset -v delay; "), "{reply:?}");
    let reply = validate(&["uci(\"hello\",\"globe\",\"delay\")", "5"]);
    assert_eq!((reply.code, &*reply.stdout), (0, ""), "{reply:?}");
    assert_eq!(validate(&["directory", "/"]).code, 0);
    assert_eq!(validate(&["file", "/"]).code, 1);
    assert_eq!(validate(&["nope", "system", "globe", "delay:uinteger"]).code, 255);
    assert_eq!(validate(&["x"]).code, 255);
}

#[test]
fn a_lock_is_held_by_a_process_of_its_own_until_it_is_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lock").display().to_string();
    let lock = |args: &[&str]| {
        let args: Vec<_> = args.iter().copied().chain([&*file]).collect();
        run(&mut command(folder.path(), "lock", &args), "")
    };
    // `run` reads to the end of its output: a holder that kept it would never let this return.
    assert_eq!(lock(&[]).code, 0);
    let holder: u32 = fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    assert!(Path::new(&format!("/proc/{holder}")).exists());
    lock(&["-n"]).fails(1, "Can't lock");
    lock(&["-sn"]).fails(1, "Can't lock");
    assert_eq!(lock(&["-u"]).code, 0);
    assert_eq!(lock(&["-w"]).code, 0);
    assert_eq!(lock(&["-s"]).code, 0);
    assert_eq!(lock(&["-sn"]).code, 0);
    lock(&["-n"]).fails(1, "Can't lock");
    assert_eq!(lock(&["-u"]).code, 0);
}

#[test]
fn unlocking_harms_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let mut stranger = Command::new("sleep").arg("60").spawn().unwrap();
    let file = folder.path().join("lock");
    fs::write(&file, format!("{}\n", stranger.id())).unwrap();
    let reply = run(&mut command(folder.path(), "lock", &["-u", file.to_str().unwrap()]), "");
    assert_eq!(reply.code, 0);
    assert!(stranger.try_wait().unwrap().is_none(), "a process that holds no lock was ended");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

fn script(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn service_runs_a_script_and_lists_all() {
    let fake = Fake::start();
    let root = fake.run_dir().join("root");
    let init = root.join("etc/init.d");
    script(&init.join("web"), "#!/bin/sh\nSTART=20\nSTOP=80\necho \"$@\"\nexit 7\n");
    script(&init.join("idle"), "#!/bin/sh\nSTART=30\nrunning() {\n:\n}\n[ \"$1\" = running ]\n");
    fs::create_dir(root.join("etc/rc.d")).unwrap();
    for link in ["S20web", "K80web"] {
        symlink("../init.d/web", root.join("etc/rc.d").join(link)).unwrap();
    }
    let service = |args: &[&str]| {
        run(command(fake.run_dir(), "service", args).env("IPKG_INSTROOT", &root), "")
    };
    let reply = service(&["web", "start", "a b"]);
    assert_eq!((reply.code, &*reply.stdout), (7, "start a b\n"));
    assert_eq!(service(&["nope"]).stdout, "Service \"nope\" not found:\n");
    assert_eq!(service(&["../init.d/web"]).code, 1);
    let listed = service(&[]).stdout;
    let words: Vec<Vec<&str>> =
        listed.lines().skip(1).map(|line| line.split_whitespace().skip(1).collect()).collect();
    // One instance of `web` is down; `idle` is asked, and says that it runs.
    assert_eq!(words, [["disabled", "running"], ["enabled", "stopped"]], "{listed}");
}

#[test]
fn ubus_takes_long_messages_from_standard_input_and_json_of_scripts() {
    let fake = Fake::start();
    let long = json!({ "name": "x".repeat(300_000) }).to_string();
    let sent = |message: &str, input: &str| {
        let args = ["-S", "call", "service", "get_data", message];
        run(&mut command(fake.run_dir(), "ubus", &args), input)
    };
    assert_eq!(sent("-", &long).json(), serde_json::from_str::<Value>(&long).unwrap());
    assert_eq!(sent("{'name':'web',}", "").json(), json!({ "name": "web" }));
    assert_eq!(sent("{'name'", "").code, 12);
}

/// An `rc.common` that knows just enough to hand a message over.
const RC_COMMON: &str = r#"
. "$1"
start_service() { :; }
. "$1"
ubus call network.interface dump >&2
[ "$2" = start ] && start_service
"#;

#[test]
fn importing_shows_the_definition_and_starts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    script(&folder.path().join("root/etc/rc.common"), RC_COMMON);
    let file = folder.path().join("hello");
    let text = "USE_PROCD=1\nstart_service() {\necho noise\nubus call service set \
                '{\"name\":\"hello\",\"instances\":{\"instance1\":{\"command\":[\"/bin/hello\"]}}}'\n}\n";
    script(&file, text);
    let import = |args: &[&str]| {
        let args: Vec<_> =
            ["service", "import", file.to_str().unwrap()].iter().chain(args).copied().collect();
        let mut command = command(folder.path(), "vestalctl", &args);
        run(
            command.env("IPKG_INSTROOT", folder.path().join("root")).env("TMPDIR", folder.path()),
            "",
        )
    };
    let reply = import(&[]);
    assert_eq!(reply.code, 0, "{reply:?}");
    assert!(
        reply.stdout.contains("\ncommand = [\"/bin/hello\"]\nrespawn = \"never\"\n"),
        "{reply:?}"
    );
    assert!(reply.stderr.contains("noise"));
    let shown = import(&["--json"]).json();
    assert_eq!(
        (&shown[0]["method"], &shown[0]["message"]["name"]),
        (&json!("set"), &json!("hello"))
    );
    assert_eq!(import(&["--message"]).json()["name"], "hello");
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().collect();
    assert_eq!(left.len(), 2, "the scratch folder is removed: {left:?}");
    fs::write(&file, "start() {\ntouch started\n}\n").unwrap();
    import(&[]).fails(1, "sets no USE_PROCD");
    fs::write(&file, "USE_PROCD=1\n").unwrap();
    assert!(import(&[]).stderr.contains("defined nothing"));
}
