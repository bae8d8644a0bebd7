//! Row 16: callers that are hostile, slow or endless are told why and cut off, and nobody else notices.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    time::Duration,
};

use testkit::{Device, until};

use crate::support::{demo, device_with};

fn connect(device: &Device) -> UnixStream {
    let stream = UnixStream::connect(device.run_dir().join("supervisor.sock"))
        .expect("the supervisor listens");
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("a time-out above zero is allowed");
    stream
}

/// What the supervisor says before it closes the connection.
fn answer(mut stream: UnixStream) -> Vec<u8> {
    let mut said = Vec::new();
    // A reset is as good an end as a close.
    let _ = stream.read_to_end(&mut said);
    said
}

#[test]
fn row_16_garbage_is_answered_with_goodbye_and_a_closed_connection() {
    let device = device_with(&[("web", demo(&[]))]);
    let web = device.until_pid("web");
    let huge = [b"VE\x00\x01\x00\x00\x00\x00".as_slice(), &u32::MAX.to_le_bytes()].concat();
    let nonsense =
        [b"VE\x00\x01\x00\x00\x00\x00".as_slice(), &4_u32.to_le_bytes(), &[0xff; 4]].concat();
    for garbage in
        [b"GET / HTTP/1.0\r\n\r\n".to_vec(), vec![0; 4096], huge, nonsense, b"VE".repeat(5000)]
    {
        let mut stream = connect(&device);
        // The other side may have closed before all of it is written.
        let _ = stream.write_all(&garbage);
        let said = answer(stream);
        assert!(said.windows(5).all(|window| window != b"panic"));
        assert!(said.is_empty() || said.starts_with(b"VE"), "{said:?}");
    }
    assert_eq!(device.until_pid("web"), web);
    let report = device.json(&["call", "service", "report"]);
    assert!(report["endpoint"]["violations"].as_u64() >= Some(4), "{report}");
}

#[test]
fn row_16_a_flood_of_half_open_connections_does_not_keep_others_away() {
    let device = device_with(&[("web", demo(&[]))]);
    device.until_pid("web");
    let half: Vec<_> = (0..200)
        .map(|_| {
            let mut stream = connect(&device);
            stream.write_all(b"VE\x00").expect("three bytes fit");
            stream
        })
        .collect();
    for _ in 0..20 {
        device.ctl_ok(&["service", "list"]);
    }
    drop(half);
}

#[test]
fn row_16_another_user_is_refused_with_a_reason_and_may_still_ask_what_there_is() {
    if !crate::support::is_root("another user's call") {
        return;
    }
    let device = device_with(&[("web", demo(&[]))]);
    let pid = device.until_pid("web");
    let mut stranger = device.command("vestalctl");
    std::os::unix::process::CommandExt::uid(&mut stranger, 64_999);
    let reply = stranger.args(["service", "stop", "web"]).output().expect("vestalctl runs");
    let text = String::from_utf8_lossy(&reply.stderr).into_owned();
    assert_eq!(reply.status.code(), Some(1), "{text}");
    assert!(text.contains("64999"), "{text}");
    assert_eq!(device.until_pid("web"), pid);
}

#[test]
fn exit_codes_tell_what_went_wrong() {
    let mut device = device_with(&[("web", demo(&[]))]);
    device.until_pid("web");
    let code = |args: &[&str]| device.ctl(args).status.code();
    assert_eq!(code(&["service", "stop", "nobody"]), Some(3));
    assert_eq!(code(&["service", "frobnicate"]), Some(2));
    assert_eq!(code(&["call", "service", "nonsense"]), Some(3));
    let suggestion = device.ctl(&["call", "service", "strat"]).stderr;
    assert!(suggestion.contains("start"), "{suggestion}");
    assert!(device.stop().success());
    let reply = device.ctl(&["status"]);
    assert_eq!(reply.status.code(), Some(4), "{reply:?}");
}

#[test]
fn ubus_speaks_to_the_supervisor_in_its_own_words() {
    let device = device_with(&[("web", demo(&[]))]);
    device.until_pid("web");
    let ubus = device.folder().join("ubus");
    std::os::unix::fs::symlink(testkit::binary("vestalctl"), &ubus).expect("the folder is ours");
    let run = |args: &[&str]| {
        let output = std::process::Command::new(&ubus)
            .args(args)
            .env("VESTAL_RUN_DIR", device.run_dir())
            .output()
            .expect("it is vestalctl");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (code, list, _) = run(&["list"]);
    assert_eq!((code, list.as_str()), (Some(0), "service\nsystem\n"));
    let (code, board, _) = run(&["call", "system", "board"]);
    assert_eq!(code, Some(0));
    assert!(board.starts_with("{\n\t\"kernel\": \""), "{board}");
    let (code, _, said) = run(&["call", "service", "delete", "{\"name\":\"nobody\"}"]);
    assert_eq!(code, Some(252), "{said}");
    let (code, _, said) = run(&["call", "service", "set", "{}"]);
    assert_eq!(code, Some(254), "{said}");
    let (code, listed, _) = run(&["-S", "call", "service", "list", "{\"name\":\"web\"}"]);
    assert_eq!(code, Some(0));
    assert!(listed.contains("\"running\":true"), "{listed}");
    until("delete ends it", || {
        run(&["call", "service", "delete", "{\"name\":\"web\"}"]);
        device.processes("web").is_empty().then_some(())
    });
}
