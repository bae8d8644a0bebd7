//! The message as procd's scripts send it, and as nobody should.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::settings::{Instance, Reload, Respawn, context::tests::device};

fn message(value: &Value) -> Message {
    read(value, &device(0)).unwrap()
}

/// The one instance of a message, and what was ignored.
fn instance(keys: &Value) -> (Instance, Vec<String>) {
    let service = message(&json!({ "name": "s", "instances": { "a": keys } })).service;
    (*service.instances.into_values().next().unwrap(), service.ignored)
}

#[test]
fn procds_keys_land_in_their_fields() {
    let (it, ignored) = instance(&json!({
        "command": ["/bin/x", "$HOME", "${NOT_OURS}"],
        "env": { "A": "1" },
        "data": { "k": 1 },
        "limits": { "nofile": "10 20", "cpu": "unlimited", "bogus": "1" },
        "respawn": ["60", "-1", "x", "9"],
        "nice": 276,
        "user": "cam",
        "group": "video",
        "stdout": true,
        "pidfile": "/run/x.pid",
        "reload_signal": 1,
        "term_timeout": 300,
        "watchdog": ["2", "0"],
        "no_new_privs": true,
        "jail": { "name": "x" },
    }));
    assert_eq!(it.process.command, ["/bin/x", "$HOME", "${NOT_OURS}"]);
    assert_eq!(it.process.env["A"], "1");
    assert_eq!(it.shown["limits"], json!({ "cpu": "unlimited", "nofile": "10 20" }));
    assert_eq!(it.process.limits.len(), 2);
    let respawn = Respawn::Procd { threshold: 60, timeout: u32::MAX, retry: 0 };
    assert_eq!(it.policy.respawn, respawn);
    assert_eq!(it.process.nice, Some(19));
    let user = it.process.user.unwrap();
    assert_eq!((user.uid, user.gid), (1001, 44));
    assert!(it.process.stdout && !it.process.stderr && it.process.no_new_privileges);
    assert_eq!((it.policy.reload, it.policy.stop_timeout.as_secs()), (Reload::Signal(1), 300));
    assert_eq!(it.shown["watchdog"], json!({ "mode": 2, "timeout": 30 }));
    assert_eq!(it.process.watchdog, Some(Duration::from_secs(30)));
    assert!(it.errors.is_empty(), "{:?}", it.errors);
    assert_eq!(ignored.len(), 2, "{ignored:?}");
}

#[test]
fn the_defaults_are_procds() {
    let (it, _) = instance(&json!({ "command": ["/x"] }));
    assert_eq!((it.policy.respawn, it.policy.stop_timeout.as_secs()), (Respawn::Never, 5));
    assert!(!it.process.stdout && !it.process.stderr);
    let (it, _) = instance(&json!({ "command": ["/x"], "respawn": [] }));
    assert_eq!(it.policy.respawn, Respawn::Procd { threshold: 3600, timeout: 5, retry: 5 });
}

#[test]
fn keys_that_are_unknown_or_of_another_type_are_dropped_and_listed() {
    let (it, ignored) = instance(&json!({
        "command": ["/x"], "stdout": 1, "nice": 5_000_000_000_i64, "term_timeout": "5", "wat": 1,
    }));
    assert!(!it.process.stdout && it.errors.is_empty());
    assert_eq!((it.process.nice, it.policy.stop_timeout.as_secs()), (None, 5));
    assert_eq!(
        ignored,
        [
            "instances.a.nice: not a number of 32 bits",
            "instances.a.stdout: not true or false",
            "instances.a.term_timeout: not a number of 32 bits",
            "instances.a.wat: unknown key",
        ]
    );
}

#[test]
fn an_instance_that_cant_be_started_says_why() {
    for (keys, why) in [
        (json!({}), "command not set"),
        (json!({ "command": "x" }), "command not set"),
        (json!({ "command": [] }), "command is empty"),
        (json!({ "command": ["x", 1] }), "command holds something that is not a text"),
        (json!({ "command": ["x"], "nice": 21 }), "nice 21 is out of range; allowed are -20 to 20"),
        (json!({ "command": ["x"], "env": { "A": 1 } }), "env: \"A\" is not a text"),
        (json!({ "command": ["x"], "error": ["no disk"] }), "no disk"),
        (json!({ "bundle": "/b" }), "bundle: there are no containers; give a command"),
    ] {
        assert_eq!(instance(&keys).0.errors, [why]);
    }
    let (it, _) = instance(&json!({ "command": ["x"], "user": "nobody-here" }));
    assert!(it.errors[0].contains("\"nobody-here\"") && it.process.user.is_none());
}

#[test]
fn a_message_needs_a_name() {
    for value in [
        json!({}),
        json!([]),
        json!({ "name": 1 }),
        json!({ "name": "" }),
        json!({ "name": "a\nb" }),
    ] {
        assert_eq!(read(&value, &device(0)).unwrap_err().code, Code::InvalidArgument);
    }
}

/// A port.
fn rules() -> Value {
    json!({ "package": "p", "type": "t", "data": { "port": "port", "odd": 1 } })
}

#[test]
fn what_a_script_checked_by_itself_stands_beside_what_it_registered() {
    let both = json!({
        "name": "s", "checked": [rules(), { "package": "p" }, 7], "validate": [rules()],
    });
    let both = message(&both).over(None);
    assert_eq!((both.validate.len(), both.checked.len(), both.ignored.len()), (1, 1, 0));
    // It counts as the registered ones do.
    assert_eq!(both.validate, both.checked);
    assert_eq!(both.rules().count(), 2);
    // Either is replaced only by its own key.
    let one = message(&json!({ "name": "s", "validate": [] })).over(Some(&both));
    assert_eq!((one.validate.len(), one.checked.len()), (0, 1));
    let other = message(&json!({ "name": "s", "checked": [] })).over(Some(&both));
    assert_eq!((other.validate.len(), other.checked.len()), (1, 0));
    let odd = message(&json!({ "name": "s", "checked": {} })).over(Some(&both));
    assert_eq!((odd.checked.len(), &*odd.ignored), (1, &["checked: not an array".to_owned()][..]));
}

#[test]
fn what_a_message_doesnt_mention_stays() {
    let old = message(&json!({
        "name": "s", "autostart": false, "instances": { "a": { "command": ["/x"] } },
        "triggers": [1], "validate": [rules()], "checked": [rules()], "data": { "d": 3 },
    }));
    assert!(old.has_instances);
    let old = old.over(None);
    let bare = message(&json!({ "name": "s", "autostart": true }));
    assert!(!bare.has_instances);
    assert_eq!(bare.over(Some(&old)), old);
    let emptied = json!({ "name": "s", "instances": {}, "triggers": [], "validate": [], "checked": [], "data": {} });
    let emptied = message(&emptied).over(Some(&old));
    assert!(emptied.instances.is_empty() && emptied.triggers.is_empty());
    assert!(emptied.rules().next().is_none());
    assert!(emptied.data.is_empty() && !emptied.autostart);
}

#[test]
fn a_changed_file_makes_a_changed_process() {
    let folder = tempfile::tempdir().unwrap();
    let conf = folder.path().join("x.conf");
    let keys = json!({ "command": ["/x"], "file": [conf, conf, 7], "netdev": ["no-such-device"] });
    let before = instance(&keys).0.process;
    assert_eq!((before.files.len(), before.netdevs["no-such-device"]), (1, 0));
    assert_eq!(instance(&keys).0.process, before);
    std::fs::write(&conf, "changed").unwrap();
    assert_ne!(instance(&keys).0.process, before);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[-+0-9a-z \\x00]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let key = "command|env|nice|respawn|limits|watchdog|error|jail|nofile|user|[a-z]{0,2}";
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(key, inner, 0..6)
                .prop_map(|map| map.into_iter().collect::<Value>()),
        ]
    })
}

proptest! {
    #[test]
    fn no_message_makes_the_reader_panic(value in any_json(), keys in any_json()) {
        let _ = read(&value, &device(1000));
        let _ = read(&json!({ "name": "s", "instances": { "a": keys } }), &device(1000));
    }
}
