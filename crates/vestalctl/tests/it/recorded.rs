//! The applets against what OpenWrt's own programs answered: uci 66127cd, jshn of libubox 1aa36ee, and jsonfilter (jsonpath
//! e5a07f4 with json-c 0.16), that one built to answer every `-e` in turn and to read standard input, as the version before
//! it does. Calls that are meant to differ are not in here. If a test fails, do not edit the recording: scripts rely on it.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;

use crate::fake::{Reply, command, run};

/// One call and its answer.
#[derive(Deserialize)]
struct Call {
    args: Vec<String>,
    #[serde(default)]
    input: String,
    #[serde(default)]
    env: BTreeMap<String, String>,
    code: i32,
    stdout: String,
    /// The text, or only that there was one.
    #[serde(default = "silence", deserialize_with = "said")]
    stderr: Option<String>,
}

fn silence() -> Option<String> {
    Some(String::new())
}

/// `None`: any text.
fn said<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let value = serde_json::Value::deserialize(from)?;
    Ok(value.as_str().map(str::to_owned))
}

fn recording<T: for<'de> Deserialize<'de>>(file: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded").join(file);
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn check(call: &Call, shown: &str, reply: &Reply) {
    assert_eq!((reply.code, &reply.stdout), (call.code, &call.stdout), "{shown}: {reply:?}");
    match &call.stderr {
        Some(text) => assert_eq!(&reply.stderr, text, "{shown}"),
        None => assert!(!reply.stderr.is_empty(), "{shown}"),
    }
}

#[test]
fn uci_answers_as_it_was_recorded() {
    #[derive(Deserialize)]
    struct Recording {
        files: BTreeMap<String, String>,
        cases: Vec<Vec<Call>>,
    }
    let recording: Recording = recording("uci.json");
    for case in &recording.cases {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        fs::create_dir(at("c")).unwrap();
        for (name, text) in &recording.files {
            fs::write(folder.path().join("c").join(name), text).unwrap();
        }
        let places = ["-C", &at("none"), "-c", &at("c"), "-t", &at("s")];
        let mut before = String::new();
        for call in case {
            let args: Vec<_> =
                places.into_iter().chain(call.args.iter().map(String::as_str)).collect();
            let reply = run(&mut command(folder.path(), "uci", &args), &call.input);
            before.push_str(&format!("uci {:?}\n", call.args));
            check(call, &before, &reply);
        }
    }
}

#[derive(Deserialize)]
struct Calls {
    #[serde(default)]
    document: String,
    cases: Vec<Call>,
}

fn replay(name: &str, file: &str) {
    let recording: Calls = recording(file);
    let folder = tempfile::tempdir().unwrap();
    for call in &recording.cases {
        let args = call.args.iter().map(|arg| match &**arg {
            "@DOCUMENT" => &*recording.document,
            arg => arg,
        });
        let mut command = command(folder.path(), name, &args.collect::<Vec<_>>());
        let reply = run(command.envs(&call.env), &call.input);
        check(call, &format!("{name} {:?} {:?}", call.args, call.env), &reply);
    }
}

#[test]
fn jsonfilter_answers_as_it_was_recorded() {
    replay("jsonfilter", "jsonfilter.json");
}

#[test]
fn jshn_answers_as_it_was_recorded() {
    replay("jshn", "jshn.json");
}
