//! The log service through `vestalctl log`: what services print, whoever is killed meanwhile, and how much it may be.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use rustix::process::Signal;
use serde_json::Value;
use testkit::{Device, until};

use crate::{
    peers::Said,
    support::{demo, kill, replace_supervisor, until_other_pid},
};

/// A device whose log keeps everything, with this in its configuration.
fn device(log: &str, definitions: &[(&str, String)]) -> Device {
    let mut device = Device::with_core();
    fs::write(device.folder().join("etc/log.toml"), log).unwrap();
    for (name, text) in definitions {
        device.define(name, text);
    }
    device.start();
    device.ctl_ok(&["wait-for", "registry", "log"]);
    device.until_state("log", "ready");
    device
}

fn shell(script: &str) -> String {
    format!("command = [\"sh\", \"-c\", {script:?}]\n")
}

/// Records of one service, oldest first.
fn records(device: &Device, service: &str) -> Vec<Value> {
    let said = device.ctl_ok(&["--json", "log", service]);
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn text(record: &Value) -> &str {
    record["text"].as_str().unwrap()
}

/// Waits until the service's log holds this line.
#[track_caller]
fn until_logged(device: &Device, service: &str, line: &str) -> Vec<Value> {
    until(&format!("{service} printed {line:?}"), || {
        // While the log is away there is an error, or nothing.
        let said = device.ctl(&["--json", "log", service]);
        let records: Vec<Value> =
            said.stdout.lines().map_while(|line| serde_json::from_str(line).ok()).collect();
        (said.status.success() && records.iter().any(|record| text(record) == line))
            .then_some(records)
    })
}

/// `line 0` to `line COUNT-1`, all of them, in order, and nothing was dropped. A log that is killed between keeping what it
/// found in a pipe and taking it out may have that twice (`docs/log.md`): so often at most.
#[track_caller]
fn assert_numbered(records: &[Value], count: u64, kills: usize) {
    let number = |record: &Value| text(record).strip_prefix("line ")?.parse::<u64>().ok();
    let (mut next, mut repeats) = (0, Vec::new());
    for number in records.iter().filter_map(number) {
        assert!(number <= next, "between line {next} and line {number} some are missing");
        if number < next {
            repeats.push((number, next));
        }
        next = number + 1;
    }
    assert_eq!(next, count, "the last one");
    assert!(repeats.len() <= kills, "{repeats:?} after {kills} kills");
    if !repeats.is_empty() {
        eprintln!("twice: from, to: {repeats:?}");
    }
    assert!(records.iter().all(|record| record["dropped"].is_null()), "nothing was dropped");
}

/// `vestalctl log -f`.
struct Following {
    child: Child,
    said: Said<ChildStdout>,
}

impl Following {
    fn start(device: &Device, args: &[&str]) -> Self {
        let mut command = device.command("vestalctl");
        command.args(["--json", "log", "-f", "-n", "1000"]).args(args);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let said = Said::new(child.stdout.take().unwrap());
        Self { child, said }
    }

    /// The next record; the remarks of `vestalctl` itself are passed over.
    fn next(&mut self) -> Value {
        loop {
            let line = self.said.next().expect("it goes on");
            if let Ok(record) = serde_json::from_str(&line) {
                return record;
            }
        }
    }

    fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        std::iter::repeat_with(|| self.next()).find(|record| wanted(record)).unwrap()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_every_service_prints_is_followed_with_its_stream_and_priority() {
    let script = "echo plain; echo wrong >&2; echo '<3>an error'; echo '<7>' >&2; \
        printf 'tab\\tbell\\a \\377\\376 end\\n'; \
        head -c 40000 /dev/zero | tr '\\0' x; echo; printf 'no end'; exit 0";
    let device = device(
        "",
        &[
            ("talk", shell(script) + "oneshot = true\nautostart = false\n"),
            ("other", demo(&["say=another one"])),
        ],
    );
    let mut all = Following::start(&device, &[]);
    let mut others = BTreeSet::new();
    while !["other", "registry"].iter().all(|name| others.contains(*name)) {
        others.insert(all.next()["service"].as_str().unwrap_or_default().to_owned());
    }
    device.ctl_ok(&["service", "start", "talk"]);
    let mut seen: Vec<Value> = Vec::new();
    // Its two pipes are read each for itself.
    let complete = |seen: &[Value]| {
        seen.iter().any(|record| text(record) == "no end")
            && seen.iter().filter(|record| record["source"] == "stderr").count() == 2
    };
    while !complete(&seen) {
        seen.push(all.until(|record| record["service"] == "talk"));
    }
    let of = |stream: &str| -> Vec<(u64, &str)> {
        seen.iter()
            .filter(|record| record["source"] == stream && !text(record).starts_with('x'))
            .map(|record| (record["priority"].as_u64().unwrap(), text(record)))
            .collect()
    };
    // Bytes that are no text, and what would move a terminal's cursor, are shown and harmless.
    let escaped = "tab\tbell\\x07 \\xff\\xfe end";
    let stdout = [(6, "plain"), (3, "an error"), (6, escaped), (6, "no end")];
    assert_eq!(of("stdout"), stdout);
    assert_eq!(of("stderr"), [(4, "wrong"), (7, "")]);
    let long: Vec<&Value> = seen.iter().filter(|record| text(record).starts_with('x')).collect();
    assert_eq!(long.iter().map(|record| text(record).len()).sum::<usize>(), 40_000);
    let (last, others) = long.split_last().unwrap();
    assert!(others.iter().all(|record| record["more"] == true) && last["more"].is_null());
    let pids: Vec<&Value> = seen.iter().map(|record| &record["pid"]).collect();
    assert!(pids[0].is_i64() && pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
}

#[test]
fn what_is_selected_is_what_is_shown() {
    let script = "for n in 1 2 3 4 5; do echo \"<3>error $n\"; echo \"<6>info $n\"; done";
    let once = "oneshot = true\n";
    let device = device("", &[("one", shell(script) + once), ("two", shell(script) + once)]);
    until_logged(&device, "one", "info 5");
    until_logged(&device, "two", "info 5");
    let show = |args: &[&str]| -> Vec<String> {
        let said = device.ctl_ok(&[&["--json", "log"], args].concat());
        let records = said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        records
            .map(|record| {
                format!("{} {}", record["service"].as_str().unwrap_or("-"), text(&record))
            })
            .collect()
    };
    assert_eq!(show(&["-n", "2", "one"]), ["one error 5", "one info 5"]);
    assert_eq!(show(&["-p", "err", "-n", "1", "two"]), ["two error 5"]);
    assert_eq!(show(&["-g", "o [24]$", "one"]), ["one info 2", "one info 4"]);
    assert_eq!(show(&["one", "two"]).len(), 20);
    assert_eq!(show(&["--until", "1h", "one"]), Vec::<String>::new());
    assert_eq!(show(&["--since", "1h", "one"]).len(), 10);
    let people = device.ctl_ok(&["log", "-n", "1", "one"]);
    assert!(people.contains("info") && people.trim_end().ends_with("info 5"), "{people}");
}

/// Prints 7,000 numbered lines with pauses, so that something can happen in between.
const NUMBERED: &str = "i=0; while [ $i -lt 7000 ]; do echo \"line $i\"; i=$((i+1)); \
    [ $((i % 250)) = 0 ] && sleep 0.05; done; echo the end; exec sleep 1000";
const KEEP_ALL: &str = "rate = \"off\"\n";

#[test]
fn a_log_killed_again_and_again_while_a_service_prints_has_every_line_once_and_in_order() {
    let device = device(KEEP_ALL, &[("talk", shell(NUMBERED) + "autostart = false\n")]);
    device.ctl_ok(&["service", "start", "talk"]);
    let talk = device.until_pid("talk");
    let mut kills = 0;
    loop {
        let pid = device.until_pid("log");
        kill(pid, Signal::KILL);
        kills += 1;
        assert!(kills < 100, "the last line never came");
        until_other_pid(&device, "log", pid);
        let said = device.ctl(&["log", "talk"]);
        if kills >= 3 && said.stdout.contains("the end") {
            break;
        }
    }
    let records = until_logged(&device, "talk", "the end");
    eprintln!("killed {kills} times");
    assert_numbered(&records, 7000, kills);
    assert_eq!(device.until_pid("talk"), talk, "it noticed nothing");
}

#[test]
fn keeper_supervisor_and_log_killed_while_a_service_prints_lose_no_line() {
    let mut device = device(KEEP_ALL, &[("talk", shell(NUMBERED) + "autostart = false\n")]);
    device.ctl_ok(&["service", "start", "talk"]);
    let talk = device.until_pid("talk");
    until("it prints", || device.ctl(&["log", "talk"]).stdout.contains("line 100").then_some(()));
    replace_supervisor(&device);
    device.kill_keeper();
    device.start();
    let log = device.until_pid("log");
    kill(log, Signal::KILL);
    kill(device.supervisor_pid(), Signal::KILL);
    until_other_pid(&device, "log", log);
    let records = until_logged(&device, "talk", "the end");
    // The log, the supervisor twice, the keeper: each may have been in the middle of something.
    assert_numbered(&records, 7000, 4);
    assert_eq!(device.until_pid("talk"), talk);
}

#[test]
fn what_is_printed_while_no_log_runs_is_there_later_and_no_service_waits() {
    let mut device = Device::with_core();
    fs::write(device.folder().join("etc/log.toml"), KEEP_ALL).unwrap();
    let [gate, done] = ["gate", "done"].map(|name| device.folder().join(name));
    let steps = [
        "say=before",
        &format!("until={}", gate.display()),
        "lines=7000",
        &format!("append={}", done.display()),
        "say=the end",
    ];
    device.define("talk", &demo(&steps));
    device.start();
    until_logged(&device, "talk", "before");
    device.ctl_ok(&["service", "stop", "log"]);
    fs::write(&gate, "").unwrap();
    until("it has printed all of it", || done.exists().then_some(()));
    device.ctl_ok(&["service", "start", "log"]);
    let records = until_logged(&device, "talk", "the end");
    assert_eq!(text(&records[0]), "before");
    assert_numbered(&records, 7000, 0);
}

#[test]
fn more_than_the_ring_holds_blocks_no_service_and_what_is_missing_is_said() {
    let mut device = Device::with_core();
    fs::write(device.folder().join("etc/log.toml"), KEEP_ALL).unwrap();
    let [gate, done] = ["gate", "done"].map(|name| device.folder().join(name));
    let script = format!(
        "echo before; until [ -e {} ]; do sleep 0.05; done; \
         yes 0123456789012345678901234567890123456789 | head -n 100000; echo the end; \
         echo > {}; exec sleep 1000",
        gate.display(),
        done.display()
    );
    device.define("talk", &shell(&script));
    device.start();
    until_logged(&device, "talk", "before");
    device.ctl_ok(&["service", "stop", "log"]);
    fs::write(&gate, "").unwrap();
    until("four megabytes are printed", || done.exists().then_some(()));
    device.ctl_ok(&["service", "start", "log"]);
    let records = until_logged(&device, "talk", "the end");
    assert!(records.len() < 100_000 && records.len() > 1_000, "{}", records.len());
    let said = device.ctl_ok(&["log", "-g", "dropped"]);
    assert!(said.contains("bytes"), "{said}");
}

#[test]
fn a_service_that_prints_without_end_is_cut_and_says_how_much_and_others_are_kept() {
    let gate = "until [ -e $VESTAL_RUN_DIR/../gate ]; do sleep 0.05; done; ";
    let device = device(
        "rate = 100\nburst = 500\n[rates]\nfree = \"off\"\n",
        &[
            ("noise", shell(&format!("{gate} exec yes noise"))),
            ("free", shell(&format!("{gate} {NUMBERED}"))),
        ],
    );
    fs::write(device.folder().join("gate"), "").unwrap();
    // The noise may crowd others out of the store, but not while it is being cut.
    let free = until_logged(&device, "free", "the end");
    assert_numbered(&free, 7000, 0);
    let dropped = until("it is said", || {
        let records = records(&device, "noise");
        let dropped: Vec<u64> =
            records.iter().filter_map(|record| record["dropped"].as_u64()).collect();
        let printed = records.iter().filter(|record| text(record) == "noise").count();
        (dropped.len() >= 3).then_some((dropped, printed))
    });
    eprintln!("kept {}, dropped {:?}", dropped.1, dropped.0);
    assert!(dropped.1 < 5_000, "{}", dropped.1);
    let status = device.json(&["call", "log", "status"]);
    let known = status["dropped"]["noise"].as_u64();
    assert!(known >= Some(dropped.0.iter().sum()), "{status}");
    assert!(status["dropped"]["free"].is_null(), "{status}");
}

fn size_of(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.map(|entry| entry.metadata().unwrap().len()).sum()
}

#[test]
fn a_store_stays_within_its_size_in_memory_and_on_disk_and_survives_a_restart() {
    const SIZE: u64 = 512 << 10;
    for (store, folder) in [("memory", "run/log"), ("disk", "run/state/log")] {
        let config = format!("rate = \"off\"\nsize = {SIZE}\nstore = {store:?}\n");
        let script = "i=0; while [ $i -lt 30000 ]; do \
            echo \"number $i 0123456789012345678901234567890123456789012345678901234567890\"; \
            i=$((i+1)); done; echo the end; exec sleep 1000";
        let device = device(&config, &[("talk", shell(script))]);
        until_logged(&device, "talk", "the end");
        // Again, now that nothing is written any more: a reader may be overtaken, and says so.
        let before = records(&device, "talk");
        let folder = device.folder().join(folder);
        let size = size_of(&folder);
        assert!(size <= SIZE + (64 << 10), "{store}: {size} bytes");
        assert!(size > SIZE / 2, "{store}: {size} bytes");
        let status = device.json(&["call", "log", "status"]);
        assert!(status["bytes"].as_u64() <= Some(SIZE) && status["bytes_max"] == SIZE, "{status}");
        assert!(status["first_sequence"].as_u64() > Some(1_000), "{status}");
        // What is there is the newest, without a gap.
        let number = |record: &Value| {
            text(record).split(' ').nth(1).and_then(|number| number.parse::<u64>().ok())
        };
        let numbers: Vec<u64> = before.iter().filter_map(number).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{store}");
        assert_eq!(numbers.last(), Some(&29_999), "{store}");
        let pid = device.until_pid("log");
        kill(pid, Signal::KILL);
        until_other_pid(&device, "log", pid);
        let after = until_logged(&device, "talk", "the end");
        let sequences = |records: &[Value]| -> Vec<u64> {
            records.iter().filter_map(|record| record["sequence"].as_u64()).collect()
        };
        assert_eq!(sequences(&after).last(), sequences(&before).last(), "{store}");
    }
}

/// `vestalctl` under another name.
fn applet(device: &Device, name: &str) -> PathBuf {
    let link = device.folder().join(name);
    std::os::unix::fs::symlink(testkit::binary("vestalctl"), &link).unwrap();
    link
}

#[test]
fn logger_writes_and_logread_reads_as_in_openwrt() {
    let device = device("", &[]);
    let [logger, logread] = ["logger", "logread"].map(|name| applet(&device, name));
    let run = |program: &Path, args: &[&str]| {
        let mut command = Command::new(program);
        command.args(args).env("VESTAL_RUN_DIR", device.run_dir());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    run(&logger, &["-t", "cron", "-p", "daemon.err", "the", "disk", "is full"]);
    run(&logger, &["-t", "cron", "second"]);
    let said = until("both are there", || {
        let said = run(&logread, &["-e", "disk|second"]);
        (said.lines().count() == 2).then_some(said)
    });
    let mut lines = said.lines();
    let first = lines.next().unwrap();
    assert!(first.contains(".err cron") && first.ends_with("the disk is full"), "{first}");
    assert!(lines.next().unwrap().ends_with("second"));
    assert_eq!(run(&logread, &["-l", "1", "-e", "disk|second"]).lines().count(), 1);
}

#[test]
fn datagrams_to_the_syslog_socket_are_kept() {
    let mut device = Device::with_core();
    let path = device.folder().join("dev-log");
    // As the document says: the supervisor may bind where the log's user may not.
    let built_in = include_str!("../../../configs/core/log.toml");
    let syslog = format!(
        "\n[[sockets]]\nname = \"syslog\"\nlisten = \"unix-dgram:{}\"\nmode = \"0666\"\n",
        path.display()
    );
    device.define("log", &format!("{built_in}{syslog}"));
    device.start();
    device.ctl_ok(&["wait-for", "log"]);
    let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
    socket.connect(&path).unwrap();
    socket.send(b"<11>Nov 22 04:05:20 cron[77]: by datagram").unwrap();
    let found = until_logged(&device, "cron", "by datagram");
    let record = found.iter().find(|record| text(record) == "by datagram").unwrap();
    assert_eq!(record["source"], "syslog");
    assert_eq!(record["priority"], 3);
    // Whose it is says the kernel, not the datagram.
    assert_eq!(record["pid"], i64::from(std::process::id()));
}

#[test]
fn a_follower_goes_on_with_the_line_after_the_last_when_the_log_is_killed() {
    let device = device(KEEP_ALL, &[("talk", shell(NUMBERED) + "autostart = false\n")]);
    let mut follower = Following::start(&device, &["talk"]);
    device.ctl_ok(&["service", "start", "talk"]);
    let mut seen = Vec::new();
    let mut kills = 0;
    loop {
        let record = follower.next();
        let last = text(&record) == "the end";
        seen.push(record);
        if last {
            break;
        }
        if seen.len() % 2_000 == 0 {
            let pid = device.until_pid("log");
            kill(pid, Signal::KILL);
            kills += 1;
            until_other_pid(&device, "log", pid);
        }
    }
    assert!(kills >= 3);
    assert_numbered(&seen, 7000, kills);
}
