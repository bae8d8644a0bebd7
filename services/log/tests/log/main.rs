//! The real log as a process, with a supervisor that is none.

mod device;

use std::{os::unix::net::UnixDatagram, process::Stdio};

use endpoint::{CallError, CallOptions, Code};
use protocol::log::{Select, Source, TEXT_MAX, Write};
use rustix::process::Signal;

use crate::device::{Device, print, texts};

#[tokio::test]
async fn what_a_service_prints_is_there_with_everything_that_is_known_of_it() {
    let mut device = Device::new();
    let mut pipe = device.service("web", 7);
    device.start().await;
    print(&mut pipe, "hello\n<3>bad \x1b\nhalf");
    print(&mut pipe, " a line\n");
    let records = device.until("half a line").await;
    assert_eq!(texts(&records), ["hello", "bad \\x1b", "half a line"]);
    let first = &records[0];
    assert_eq!((first.service.as_deref(), first.instance.as_deref()), (Some("web"), Some("one")));
    assert_eq!((first.source, first.pid, first.priority), (Source::Stdout, Some(100), 6));
    assert_eq!((records[1].priority, first.sequence, first.boot.len()), (3, 1, 8));
    let status = device.status().await;
    assert_eq!((status.pipes, status.next_sequence, status.problems), (1, 4, Vec::new()));
}

#[tokio::test]
async fn a_log_that_is_killed_again_and_again_loses_no_line_and_holds_up_no_service() {
    const ROUNDS: usize = 8;
    const LINES: usize = 600;
    let mut device = Device::new();
    device.configure("rate = \"off\"");
    let mut pipe = device.service("web", 1);
    device.start().await;
    for round in 0..ROUNDS {
        // Killed in the middle of them, somewhere else each time, also inside of a line.
        for line in 0..LINES {
            print(&mut pipe, &format!("{round}-{line}"));
            if line == LINES / ROUNDS * round {
                device.signal(Signal::KILL);
            }
            print(&mut pipe, "\n");
            if line % 50 == 0 {
                tokio::task::yield_now().await;
            }
        }
        device.ended().await;
        device.start().await;
    }
    print(&mut pipe, "end\n");
    let records = device.until("end").await;
    assert!(records.is_sorted_by(|a, b| a.sequence + 1 == b.sequence));
    // Stored and not yet taken from the pipe when it was killed: there twice, one read's worth at most.
    let mut expected =
        (0..ROUNDS).flat_map(|round| (0..LINES).map(move |line| format!("{round}-{line}")));
    let mut seen = std::collections::HashSet::new();
    for record in &records[..records.len() - 1] {
        if seen.insert(record.text.clone()) {
            assert_eq!(Some(&record.text), expected.next().as_ref());
        }
    }
    assert_eq!(expected.next(), None);
}

#[tokio::test]
async fn an_orderly_restart_neither_loses_nor_repeats_a_line() {
    let mut device = Device::new();
    let mut pipe = device.service("web", 1);
    device.start().await;
    let mut follower = device.follow(&Select::default()).await;
    print(&mut pipe, "one\ntwo");
    assert_eq!(follower.next().await.text, "one");
    device.terminate().await;
    let end = follower.stream.next().await;
    assert!(
        matches!(&end, Err(CallError::Refused(failure)) if failure.code == Code::Gone),
        "{end:?}"
    );
    print(&mut pipe, " halves\nthree\n");
    device.start().await;
    assert_eq!(texts(&device.until("three").await), ["one", "two halves", "three"]);
}

#[tokio::test]
async fn what_was_kept_meanwhile_comes_first_and_is_stored_once() {
    let mut device = Device::new();
    let mut pipe = device.service("web", 1);
    device.ring(5, &["early\nbeg", "in"]);
    device.ring(9, &["<2>second part\n"]);
    print(&mut pipe, "ning\nlate\n");
    device.start().await;
    let records = device.until("late").await;
    assert_eq!(texts(&records), ["early", "begin", "second part", "ning", "late"]);
    assert_eq!(
        records.iter().map(|it| it.more).collect::<Vec<_>>(),
        [false, true, false, false, false]
    );
    assert_eq!(records[0].service.as_deref(), Some("web"));
    assert!(records[0].monotonic_us < records[4].monotonic_us);
    assert!(device.supervisor.lock().unwrap().ring.is_empty());
}

#[tokio::test]
async fn a_process_that_ends_within_a_line_has_said_that_line() {
    let mut device = Device::new();
    let mut pipe = device.service("web", 1);
    device.start().await;
    print(&mut pipe, "panicked at");
    device.change(1, |line| line.pid = 0);
    let records = device.until("panicked at").await;
    assert_eq!((records[0].pid, records[0].more), (Some(100), false));
    device.change(1, |line| (line.pid, line.generation) = (101, 2));
    print(&mut pipe, "again\n");
    // It may be read before the supervisor's line.
    device.until("again").await;
    print(&mut pipe, "last words");
    device.change(1, |line| line.gone = true);
    device.until("last words").await;
}

#[tokio::test]
async fn a_process_that_came_and_went_between_two_lines_of_the_list_has_said_its_last_line() {
    let mut device = Device::new();
    let mut pipe = device.service("web", 1);
    device.start().await;
    print(&mut pipe, "the first one's");
    device.change(1, |line| line.pid = 0);
    device.until("the first one's").await;
    print(&mut pipe, "came and went");
    device.change(1, |line| line.generation = 2);
    device.until("came and went").await;
    // Also where the list did not know it yet.
    let known = device.supervisor.lock().unwrap().list[0].clone();
    print(&mut pipe, "forgotten");
    device.change(1, |line| line.gone = true);
    device.until("forgotten").await;
    print(&mut pipe, "was gone before");
    device.tell(known);
    device.until("was gone before").await;
}

#[tokio::test]
async fn a_long_line_is_kept_in_pieces_of_the_longest_text() {
    let mut device = Device::new();
    let mut pipe = device.service("web", 1);
    device.start().await;
    let mut follower = device.follow(&Select::default()).await;
    print(&mut pipe, "y");
    for _ in 0..20 {
        print(&mut pipe, &"x".repeat(TEXT_MAX));
        let record = follower.next().await;
        assert_eq!((record.text.len(), record.more), (TEXT_MAX, true));
    }
    print(&mut pipe, "z\n");
    let record = follower.next().await;
    assert_eq!((&*record.text, record.more), ("xz", false));
}

#[tokio::test]
async fn a_line_that_fills_the_pipe_makes_nobody_wait() {
    let mut device = Device::new();
    let mut pipe = device.service("web", 1);
    rustix::pipe::fcntl_setpipe_size(&pipe, 4096).unwrap();
    // A record is stored, and read here, a moment before it leaves the pipe.
    rustix::io::ioctl_fionbio(&pipe, false).unwrap();
    device.start().await;
    let mut follower = device.follow(&Select::default()).await;
    for _ in 0..20 {
        print(&mut pipe, &"x".repeat(4096));
        let record = follower.next().await;
        assert_eq!((record.text.len(), record.more), (4096, true));
    }
    print(&mut pipe, "end\n");
    let record = follower.next().await;
    assert_eq!((&*record.text, record.more), ("end", false));
}

#[tokio::test]
async fn a_flood_is_cut_off_and_told_and_others_are_not_touched() {
    let mut device = Device::new();
    device.configure("rate = 10\nburst = 20\n[rates]\ncam = \"off\"");
    let mut web = device.service("web", 1);
    let mut cam = device.service("cam", 2);
    device.start().await;
    for number in 0..500 {
        print(&mut web, &format!("{number}\n"));
    }
    for number in 0..500 {
        print(&mut cam, &format!("{number}\n"));
    }
    let mut follower = device.follow(&Select::default()).await;
    let (mut of_web, mut of_cam) = (0, 0);
    let note = loop {
        let record = follower.next().await;
        match (record.source, record.service.as_deref()) {
            (Source::Log, Some("web")) => break record,
            (_, Some("web")) => of_web += 1,
            _ => of_cam += 1,
        }
    };
    assert_eq!((of_web, of_cam), (20, 500));
    assert_eq!(note.dropped, 480);
    assert_eq!(device.status().await.dropped["web"], 480);
}

#[tokio::test]
async fn what_is_written_by_call_is_kept_without_a_supervisor_too() {
    let mut device = Device::new();
    std::fs::remove_file(device.path("supervisor.sock")).unwrap();
    device.start().await;
    let write = Write { text: "by hand".to_owned(), priority: Some(2), tag: Some("me".to_owned()) };
    device.client.call("log", "write", &write, CallOptions::default()).await.unwrap();
    let select = Select { source: Some(Source::Call), ..Select::default() };
    let records = device.read(&select).await;
    let own = i32::try_from(std::process::id()).unwrap();
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!(
        (record.service.as_deref(), record.priority, record.pid),
        (Some("me"), 2, Some(own))
    );
    let problems = device.status().await.problems;
    assert!(problems[0].contains("nothing that services print is drained here"), "{problems:?}");
}

#[tokio::test]
async fn a_reader_chooses_and_a_choice_that_makes_no_sense_is_refused() {
    let mut device = Device::new();
    let mut pipe = device.service("web", 1);
    device.start().await;
    print(&mut pipe, "<3>one\n<6>two\n<3>three\n");
    device.until("three").await;
    let select = Select { priority: Some(3), lines: Some(1), ..Select::default() };
    assert_eq!(texts(&device.read(&select).await), ["three"]);
    let wrong = Select { grep: Some("(".to_owned()), ..Select::default() };
    let refused = device.client.call("log", "read", &wrong, CallOptions::default()).await;
    let Err(CallError::Refused(failure)) = refused else { panic!("{refused:?}") };
    assert_eq!(failure.code, Code::InvalidArgument);
}

#[tokio::test]
async fn a_follower_that_does_not_read_delays_nobody_and_is_told_what_it_missed() {
    let mut device = Device::new();
    device.configure("rate = \"off\"\nsize = \"512KiB\"");
    let mut pipe = device.service("web", 1);
    device.start().await;
    let mut slow = device.follow(&Select::default()).await;
    let mut quick = device.follow(&Select::default()).await;
    let line = "x".repeat(4000);
    let count = 4000;
    for _ in 0..count {
        print(&mut pipe, &format!("{line}\n"));
        assert_eq!(quick.next().await.text.len(), 4000);
    }
    print(&mut pipe, "end\n");
    let (mut read, mut missed) = (0, 0);
    loop {
        let record = slow.next().await;
        match record.source {
            Source::Log => missed += record.dropped,
            _ if record.text == "end" => break,
            _ => read += 1,
        }
    }
    assert!(missed > 0);
    assert_eq!(read + missed, count);
}

#[tokio::test]
async fn syslog_is_received_with_the_senders_pid() {
    let mut device = Device::new();
    device.configure("syslog = \"run:syslog\"");
    device.start().await;
    let socket = UnixDatagram::unbound().unwrap();
    // The socket is bound beside everything else; a record that is written behind it comes later.
    let path = device.path("syslog");
    let deadline = std::time::Duration::from_secs(10);
    let bound = async {
        while !path.exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(deadline, bound).await.unwrap();
    socket.send_to(b"<11>Nov 22 04:34:42 cron[1]: no such user", &path).unwrap();
    let records = device.until("no such user").await;
    let record = records.last().unwrap();
    let own = i32::try_from(std::process::id()).unwrap();
    assert_eq!((record.source, record.priority), (Source::Syslog, 3));
    assert_eq!((record.service.as_deref(), record.pid), (Some("cron"), Some(own)));
}

#[tokio::test]
async fn the_kernels_messages_are_kept_once_or_it_is_said_why_not() {
    let mut device = Device::new();
    device.configure("kernel = true");
    device.start().await;
    let mut follower = device.follow(&Select::default()).await;
    let first = follower.next().await;
    if first.source == Source::Log {
        assert!(first.text.contains("kernel messages can't be read"), "{}", first.text);
        return;
    }
    assert_eq!(first.source, Source::Kernel);
    device.kill().await;
    device.start().await;
    let kernel = Select { source: Some(Source::Kernel), ..Select::default() };
    let records = device.read(&kernel).await;
    let same = |record: &&protocol::log::Record| {
        (record.monotonic_us, &record.text) == (first.monotonic_us, &first.text)
    };
    assert_eq!(records.iter().filter(same).count(), 1);
}

#[tokio::test]
async fn a_second_log_on_the_same_folder_is_refused() {
    let mut device = Device::new();
    device.start().await;
    let output = device.command().stderr(Stdio::piped()).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(told.contains(&format!("(pid {})", device.pid())), "{told}");
}

#[tokio::test]
async fn a_mistake_in_the_configuration_is_told_and_ends_it_only_at_the_start() {
    let mut device = Device::new();
    device.configure("kernel = true\nsise = 3");
    let output = device.command().stderr(Stdio::piped()).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(told.contains("log.toml:2: unknown key \"sise\", did you mean \"size\"?"), "{told}");
    device.configure("");
    device.start().await;
    device.configure("sise = 3");
    device.signal(Signal::HUP);
    let records = device.until(&device.path("config/log.toml").to_string_lossy()).await;
    assert!(records.last().unwrap().text.contains("the configuration from before holds"));
}

#[tokio::test]
async fn one_that_takes_anothers_place_opens_the_store_when_the_other_has_left() {
    let mut device = Device::new();
    let mut pipe = device.service("web", 1);
    device.start().await;
    print(&mut pipe, "one\n");
    device.until("one").await;
    let mut next = device.command().env("VESTAL_REPLACES", "1").spawn().unwrap();
    device.notified().await;
    print(&mut pipe, "two\n");
    device.until("two").await;
    device.terminate().await;
    print(&mut pipe, "three\n");
    device.notified().await;
    let records = device.until("three").await;
    assert_eq!(records.iter().map(|it| it.sequence).collect::<Vec<_>>(), [1, 2, 3]);
    next.kill().unwrap();
    next.wait().unwrap();
}

#[tokio::test]
async fn a_log_that_is_watched_says_that_it_lives() {
    let mut device = Device::new();
    let mut child = device.command().env("WATCHDOG_USEC", "100000").spawn().unwrap();
    let mut said = Vec::new();
    while said.iter().filter(|text| *text == "WATCHDOG=1").count() < 3 {
        said.push(device.said().await);
    }
    assert!(said.iter().any(|text| text == "READY=1"), "{said:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    // One that isn't watched says nothing more than that it is ready.
    device.start().await;
}
