//! Every example in `docs/PROTOCOL.md` is decoded and written again, and means what the table below says.
//!
//! If a test fails here, do not edit the example: a deployed peer speaks those bytes.

use std::collections::BTreeMap;

use protocol::{
    frame,
    message::{Call, Event, Goodbye, Hello, Message, Object, Reply, Welcome},
};

const DOCUMENT: &str = include_str!("../../../docs/PROTOCOL.md");

/// The fenced blocks that begin with three backquotes and `golden NAME`: hex digits, and remarks behind `#`.
fn examples() -> BTreeMap<&'static str, Vec<u8>> {
    let mut examples = BTreeMap::new();
    let mut lines = DOCUMENT.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("```golden ") else { continue };
        let block = lines.by_ref().take_while(|line| *line != "```");
        let digits = block.flat_map(|line| line.split('#').next().unwrap().split_whitespace());
        let bytes = digits.map(|digits| u8::from_str_radix(digits, 16).unwrap()).collect();
        assert!(examples.insert(name, bytes).is_none(), "{name} is there twice");
    }
    examples
}

/// What each example means: its id and its message.
fn meanings() -> BTreeMap<&'static str, (u32, Message<'static>)> {
    let object = Object {
        name: "system",
        token: 1,
        generation: 1,
        interface: "vestal.system",
        version: 1,
        hash: 0x1122_3344_5566_7788,
    };
    let welcome = Welcome {
        major: 1,
        minor: 0,
        features: 0,
        nonce: *b"0123456789abcdef",
        objects: vec![object],
    };
    let call = Call {
        token: 1,
        generation: 1,
        grant: 0,
        method: "board",
        deadline_ms: 30_000,
        credit: 1 << 20,
        fds: 0,
        args: b"{}",
    };
    let failure = br#"{"code":"denied","text":"not for you"}"#;
    BTreeMap::from([
        ("hello", (0, Message::Hello(Hello { min_major: 1, max_major: 1, minor: 0, features: 0 }))),
        ("goodbye", (0, Message::Goodbye(Goodbye { code: "gone", text: "the service leaves" }))),
        ("welcome", (0, Message::Welcome(welcome))),
        ("call", (7, Message::Call(call))),
        ("reply-done", (7, Message::Reply(Reply::Done { fds: 0, result: br#"{"a":1}"# }))),
        ("reply-joined", (7, Message::Reply(Reply::Joined { fds: 0 }))),
        ("reply-failed", (7, Message::Reply(Reply::Failed { failure }))),
        ("chunk", (7, Message::Chunk(b"raw bytes"))),
        ("credit", (7, Message::Credit(65_536))),
        ("cancel", (7, Message::Cancel)),
        ("event", (0, Message::Event(Event { topic: "service.exit", lost: 3, data: b"{}" }))),
        ("ping", (8, Message::Ping)),
        ("pong", (8, Message::Pong)),
    ])
}

#[test]
fn every_example_means_what_the_document_says_and_is_written_the_same() {
    let (examples, meanings) = (examples(), meanings());
    for (name, (id, message)) in &meanings {
        let mut written = Vec::new();
        frame::encode(&mut written, *id, message).unwrap();
        let hex = written.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
        let example = examples.get(name).unwrap_or_else(|| panic!("no example {name}: {hex}"));
        assert_eq!(&written, example, "{name} is written as {hex}");
        let (read_id, read, length) = frame::decode(example).unwrap().unwrap();
        assert_eq!((read_id, &read, length), (*id, message, example.len()), "{name}");
    }
    assert_eq!(examples.len(), meanings.len(), "an example has no meaning in this test");
}
