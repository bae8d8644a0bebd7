//! Events and what they set off: procd's language, queues, validation, and what a killed supervisor still does.

use proptest::prelude::*;
use protocol::{config::Invalid, failure::Code};
use serde_json::{Map, Value, json};

use super::{
    super::{
        contract::Action,
        triggers::{Ended, ScriptProcess},
    },
    *,
};
use crate::settings::Rules;

const MS: Duration = Duration::from_millis(1);

/// A service whose triggers are these.
fn with_triggers(text: &str, triggers: Value) -> Arc<Service> {
    with(text, |service| {
        service.source = Source::Message;
        service.triggers = triggers.as_array().unwrap().clone();
    })
}

fn table(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn raise(device: &mut Device, kind: &str, data: Value) -> u64 {
    let id = device.request(Request::Event { kind: kind.to_owned(), data: table(data) });
    device.calm();
    id
}

/// The command lines that one program asks for at one event.
fn wanted(script: Value, data: Value) -> Vec<String> {
    let mut device = Device::with([with_triggers("a", json!([["e", script]]))]);
    raise(&mut device, "e", data);
    let mut all = Vec::new();
    loop {
        device.advance(MS);
        let before = all.len();
        all.extend(scripts(&mut device));
        if before == all.len() {
            return all;
        }
        end(&mut device, 0);
    }
}

fn scripts(device: &mut Device) -> Vec<String> {
    let log = device.done();
    log.iter().filter_map(|entry| entry.strip_prefix("run ")).map(str::to_owned).collect()
}

/// The script that was begun first ends.
fn end(device: &mut Device, code: i32) {
    let run = device.scripts.remove(0);
    device.event(Event::ScriptEnded { run, ended: Ended::Code(code) });
    device.calm();
}

fn run(words: &[&str]) -> Value {
    let mut command = vec!["run_script"];
    command.extend(words);
    json!(command)
}

#[test]
fn every_command_of_the_language_does_what_procd_does() {
    let go = || run(&["go"]);
    let data = || json!({ "x": "1", "y": "two", "n": 5 });
    for (script, commands) in [
        (go(), vec!["a go"]),
        (json!([go(), run(&["on"])]), vec!["a go", "a on"]),
        (json!([[go()]]), vec!["a go"]),
        (json!(["if", ["eq", "x", "1"], go()]), vec!["a go"]),
        (json!(["if", ["eq", "x", "2"], go()]), vec![]),
        (json!(["if", ["eq", "x", "2"], [], go()]), vec!["a go"]),
        (json!(["if", ["eq", "x", ["0", "1"]], go()]), vec!["a go"]),
        (json!(["if", ["eq", "n", "5"], go()]), vec![]),
        (json!(["if", ["regex", "y", "w"], go()]), vec!["a go"]),
        (json!(["if", ["regex", "y", ["^w", "o$"]], go()]), vec!["a go"]),
        (json!(["if", ["regex", "y", "("], go(), run(&["no"])]), vec![]),
        (json!(["if", ["has", "y"], go()]), vec!["a go"]),
        (json!(["if", ["has", ["z", "y"]], go()]), vec!["a go"]),
        (json!(["if", ["has", "n"], go()]), vec![]),
        (json!(["if", ["and", ["has", "x"], ["has", "z"]], go()]), vec![]),
        (json!(["if", ["or", ["has", "z"], ["has", "x"]], go()]), vec!["a go"]),
        (json!(["if", ["not", ["has", "z"]], go()]), vec!["a go"]),
        (json!(["if", ["and"], go()]), vec!["a go"]),
        (json!(["if", ["or"], go()]), vec![]),
        (json!(["case", "y", { "one": run(&["no"]), "two": go() }]), vec!["a go"]),
        (json!(["case", "z", { "two": go() }]), vec![]),
        (json!([go(), ["return"], run(&["no"])]), vec!["a go"]),
        (json!([["if", ["has", "x"], [["return"]]], go()]), vec![]),
        (json!([["include", "e"], ["include", "other"], go()]), vec!["a go"]),
        (json!([["dance", "x"], 7, go()]), vec!["a go"]),
        (run(&["%x%-%z%-%%", "%y%"]), vec!["a 1--% two"]),
        (json!([run(&["50%"]), go()]), vec!["a go"]),
        (json!([["run_script"], ["run_script", 1], go()]), vec!["a go"]),
        (json!([["if", ["in", "x", "1"], go()], run(&["after"])]), vec![]),
        (json!([["if", 7, go()], ["if"], run(&["after"])]), vec!["a after"]),
    ] {
        assert_eq!(wanted(script.clone(), data()), commands, "{script}");
    }
}

#[test]
fn an_unknown_expression_ends_its_trigger_and_says_so() {
    let bad = json!(["if", ["in", "x", "1"], run(&["no"])]);
    let mut device = Device::with([with_triggers("a", json!([["e", bad], ["e", run(&["go"])]]))]);
    let id = raise(&mut device, "e", json!({}));
    assert_eq!(device.answer(id), Some(Ok(())));
    device.advance(MS);
    assert_eq!(scripts(&mut device), ["a go"]);
    let (_, told) = device.topics.iter().find(|(topic, _)| *topic == "service.trigger").unwrap();
    assert!(told["error"].as_str().unwrap().contains(r#"["in","x","1"]"#), "{told}");
}

#[test]
fn folders_are_looked_for_as_the_shell_says() {
    let script = json!(["if", ["isdir", "/%x%"], run(&["go"])]);
    let mut device = Device::with([with_triggers("a", json!([["e", script]]))]);
    raise(&mut device, "e", json!({ "x": "tmp" }));
    device.advance(MS);
    assert_eq!(scripts(&mut device), [""; 0]);
    device.machine.look_for_folders_with(|path| path == "/tmp");
    raise(&mut device, "e", json!({ "x": "tmp" }));
    device.advance(MS);
    assert_eq!(scripts(&mut device), ["a go"]);
}

#[test]
fn later_triggers_come_first_and_one_service_does_one_thing_at_a_time() {
    let triggers = json!([["e", run(&["one"])], ["e", run(&["two"])]]);
    let other = with_triggers("b", json!([["e", run(&["three"])]]));
    let mut device = Device::with([with_triggers("a", triggers), other]);
    raise(&mut device, "e", json!({}));
    device.advance(MS);
    let mut begun = scripts(&mut device);
    begun.sort();
    // The other service doesn't wait for this one.
    assert_eq!(begun, ["a two", "b three"]);
    end(&mut device, 0);
    assert_eq!(scripts(&mut device), ["a one"]);
}

#[test]
fn what_is_wanted_while_it_waits_is_put_off_and_done_once() {
    let triggers = json!([["short", run(&["go"]), 100], ["long", run(&["go"]), 1000]]);
    let mut device = Device::with([with_triggers("a", triggers)]);
    raise(&mut device, "short", json!({}));
    device.advance(50 * MS);
    raise(&mut device, "long", json!({}));
    device.advance(500 * MS);
    // What is left is longer than this one's delay: nothing changes.
    raise(&mut device, "short", json!({}));
    device.advance(499 * MS);
    assert_eq!(scripts(&mut device), [""; 0]);
    device.advance(MS);
    assert_eq!(scripts(&mut device), ["a go"]);
    end(&mut device, 0);
    device.advance(5 * SECOND);
    assert_eq!(scripts(&mut device), [""; 0]);
}

#[test]
fn what_is_wanted_while_it_runs_is_done_once_more_at_its_end() {
    let mut device = Device::with([with_triggers("a", json!([["e", run(&["go"])]]))]);
    raise(&mut device, "e", json!({}));
    device.advance(MS);
    for _ in 0..3 {
        raise(&mut device, "e", json!({}));
    }
    device.advance(SECOND);
    assert_eq!(scripts(&mut device), ["a go"]);
    end(&mut device, 1);
    assert_eq!(scripts(&mut device), ["a go"]);
    end(&mut device, 0);
    device.advance(SECOND);
    assert_eq!(scripts(&mut device), [""; 0]);
    let results: Vec<&Value> = device
        .topics
        .iter()
        .filter(|(topic, _)| *topic == "service.trigger")
        .map(|(_, data)| &data["result"])
        .collect();
    assert_eq!(results, ["exit 1", "exit 0"]);
}

#[test]
fn what_is_due_is_journalled_before_the_caller_is_answered() {
    let mut device = Device::with([with_triggers("a", json!([["e", run(&["go"])]]))]);
    let request = Request::Event { kind: "e".to_owned(), data: Map::new() };
    device.machine.handle_event(Event::Request { id: 77, request }, device.now);
    let mut recorded = false;
    while let Some(action) = device.machine.poll_action() {
        match action {
            Action::Record(Record::Queue(record)) => recorded = !record.jobs.is_empty(),
            Action::Reply { id: 77, .. } => {
                assert!(recorded, "answered before it was journalled");
                return;
            }
            _ => {}
        }
    }
    panic!("nobody was answered");
}

#[test]
fn what_needs_no_script_is_journalled_before_it_is_done_as_well() {
    let service = with("a", |service| {
        service.triggers = vec![json!({ "event": "e", "signal": "USR1" })];
    });
    let mut device = Device::with([service]);
    let request = Request::Event { kind: "e".to_owned(), data: Map::new() };
    device.machine.handle_event(Event::Request { id: 77, request }, device.now);
    let mut jobs = Vec::new();
    while let Some(action) = device.machine.poll_action() {
        match action {
            Action::Record(Record::Queue(record)) => jobs.push(record.jobs.len()),
            Action::Signal { .. } => assert_eq!(jobs, [1]),
            Action::Reply { id: 77, .. } => return assert_eq!(jobs, [1, 0]),
            _ => {}
        }
    }
    panic!("nobody was answered");
}

#[test]
fn a_killed_supervisor_runs_what_was_due_and_nothing_that_had_ended() {
    let triggers =
        json!([["e", run(&["slow"])], ["e", run(&["fast"])], ["f", run(&["late"]), 500]]);
    let mut device = Device::with([with_triggers("a", triggers)]);
    raise(&mut device, "e", json!({}));
    raise(&mut device, "f", json!({}));
    device.advance(MS);
    end(&mut device, 0);
    assert_eq!(scripts(&mut device), ["a fast", "a slow"]);
    device.take_over();
    device.advance(MS);
    assert_eq!(scripts(&mut device), ["a slow"]);
    // The number is the new machine's.
    device.scripts.drain(..device.scripts.len() - 1);
    end(&mut device, 0);
    device.advance(SECOND);
    assert_eq!(scripts(&mut device), ["a late"]);
    end(&mut device, 0);
    device.take_over();
    device.advance(SECOND);
    assert_eq!(scripts(&mut device), [""; 0]);
}

#[test]
fn a_service_that_is_gone_has_nothing_more_to_do() {
    let mut device = Device::with([]);
    let service = with_triggers("a", json!([["e", run(&["go"]), 100]]));
    device.request(Request::Set { service });
    device.calm();
    raise(&mut device, "e", json!({}));
    device.request(Request::Delete { name: name("a"), instance: None, wait: false });
    device.calm();
    device.advance(SECOND);
    assert_eq!(scripts(&mut device), [""; 0]);
    // And what it had to do is not remembered, either.
    let record = device.journal.iter().rev().find_map(|record| match record {
        Record::Queue(record) => Some(record),
        _ => None,
    });
    assert!(record.unwrap().is_empty());
}

#[test]
fn our_own_triggers_reload_restart_and_signal_without_a_script() {
    let triggers = json!([
        { "event": "config.change", "package": "p" },
        { "event": "interface.*", "interface": "lan", "strict": true, "action": "restart" },
        { "event": "x", "signal": "USR1", "delay": "2s" },
        { "event": "y", "run": ["/bin/do", "%x%"] },
    ]);
    let service = with("a", |service| {
        service.triggers = triggers.as_array().unwrap().clone();
        main(service).policy.reload = Reload::Signal(1);
    });
    let mut device = Device::with([service]);
    device.done();
    raise(&mut device, "config.change", json!({ "package": "q" }));
    assert_eq!(device.done(), [""; 0]);
    raise(&mut device, "config.change", json!({ "package": "p" }));
    assert_eq!(device.done(), ["signal a 1"]);
    raise(&mut device, "interfaceXY", json!({ "interface": "lan" }));
    assert_eq!(device.done(), [""; 0]);
    device.event(Event::Seen {
        kind: "interface.up".into(),
        data: table(json!({ "interface": "lan" })),
    });
    device.calm();
    assert!(device.done().contains(&"signal a 15".to_owned()));
    device.advance(10 * SECOND);
    device.done();
    raise(&mut device, "x", json!({}));
    device.advance(SECOND);
    assert_eq!(device.done(), [""; 0]);
    device.advance(SECOND);
    assert_eq!(device.done(), ["signal a 10"]);
    // Nothing is filled in there.
    raise(&mut device, "y", json!({ "x": "1" }));
    assert_eq!(device.done(), ["run a /bin/do %x%"]);
}

#[test]
fn a_trigger_starts_no_service_that_somebody_has_stopped() {
    let triggers = json!([{ "event": "e", "action": "restart" }, { "event": "e" }]);
    let mut device = Device::with([with_triggers("a", triggers)]);
    device.stop("a", false);
    device.done();
    raise(&mut device, "e", json!({}));
    device.advance(SECOND);
    assert_eq!(device.spawned(), [""; 0]);
}

fn ruled(triggers: Value) -> Arc<Service> {
    with("a", |service| {
        service.source = Source::Message;
        service.triggers = triggers.as_array().unwrap().clone();
        let options = vec![("port".to_owned(), "port".to_owned())];
        let (package, kind) = ("p".to_owned(), "p".to_owned());
        service.validate.push(Rules { package, kind, options, strict: false });
    })
}

fn invalid() -> Invalid {
    Invalid {
        service: name("a"),
        package: "p".to_owned(),
        file: "/etc/config/p".to_owned(),
        section: "@p[0]".to_owned(),
        option: "port".to_owned(),
        rule: "port".to_owned(),
        value: Some("x".to_owned()),
        text: "a port".to_owned(),
    }
}

fn validated(device: &mut Device, found: Vec<Invalid>) {
    let run = device.validations.remove(0);
    device.event(Event::Validated { run, found });
    device.calm();
}

#[test]
fn an_invalid_configuration_reloads_nothing_until_it_is_good_again() {
    let mut device = Device::with([ruled(json!([["config.change", run(&["go"])]]))]);
    let change = || json!({ "package": "p" });
    device.done();
    raise(&mut device, "config.change", change());
    device.advance(MS);
    assert_eq!(device.done(), ["validate a p"]);
    validated(&mut device, vec![invalid()]);
    device.advance(SECOND);
    assert_eq!(device.done(), [""; 0]);
    assert_eq!(device.heard("config.invalid"), 1);
    assert_eq!(device.machine.invalid_of(&name("a")), [invalid()]);
    // The next supervisor shows it, too.
    device.take_over();
    assert_eq!(device.machine.invalid_of(&name("a")), [invalid()]);
    raise(&mut device, "config.change", change());
    device.advance(MS);
    validated(&mut device, Vec::new());
    assert_eq!(scripts(&mut device), ["a go"]);
    assert_eq!(device.machine.invalid_of(&name("a")), []);
}

#[test]
fn what_a_script_checked_by_itself_is_looked_at_before_a_reload_as_well() {
    let service = with("a", |service| {
        *service = (*ruled(json!([["config.change", run(&["go"])]]))).clone();
        service.checked = std::mem::take(&mut service.validate);
    });
    let mut device = Device::with([service]);
    device.done();
    raise(&mut device, "config.change", json!({ "package": "p" }));
    device.advance(MS);
    assert_eq!(device.done(), ["validate a p"]);
    validated(&mut device, vec![invalid()]);
    let reload = Request::Reload { name: name("a"), instance: None, wait: false };
    device.request(reload);
    assert_eq!(device.done(), ["validate a p"]);
}

#[test]
fn a_reload_by_hand_is_refused_as_long_as_the_configuration_is_not_valid() {
    let mut device = Device::with([with("a", |service| {
        *service = (*ruled(json!([]))).clone();
        main(service).policy.reload = Reload::Signal(1);
    })]);
    device.done();
    let reload = || Request::Reload { name: name("a"), instance: None, wait: false };
    let refused = device.request(reload());
    assert_eq!((device.answer(refused), device.done()), (None, vec!["validate a p".to_owned()]));
    validated(&mut device, vec![invalid()]);
    assert_eq!(device.done(), [""; 0]);
    let Err(failure) = &device.replies[&refused] else { panic!("it was reloaded") };
    assert_eq!(
        failure.text,
        "a is not reloaded, its configuration is not valid: /etc/config/p: @p[0].port: \"x\" is not allowed by port; allowed is a port"
    );
    assert_eq!(device.heard("config.invalid"), 1);
    let done = device.request(reload());
    validated(&mut device, Vec::new());
    assert_eq!(device.answer(done), Some(Ok(())));
    assert_eq!(device.done(), ["validate a p", "signal a 1"]);
    assert_eq!(device.machine.invalid_of(&name("a")), []);
}

#[test]
fn other_packages_and_other_events_are_not_validated() {
    let triggers = json!([["config.change", run(&["go"])], ["e", run(&["on"])]]);
    let mut device = Device::with([ruled(triggers)]);
    device.done();
    raise(&mut device, "config.change", json!({ "package": "q" }));
    device.advance(MS);
    end(&mut device, 0);
    raise(&mut device, "e", json!({ "package": "p" }));
    device.advance(MS);
    assert_eq!(device.done(), ["run a go", "run a on"]);
}

#[test]
fn a_change_during_the_validation_is_looked_at_again() {
    let mut device = Device::with([ruled(json!([["config.change", run(&["go"])]]))]);
    device.done();
    raise(&mut device, "config.change", json!({ "package": "p" }));
    device.advance(MS);
    raise(&mut device, "config.change", json!({ "package": "p" }));
    // The older answer is about a file that says something else now.
    validated(&mut device, Vec::new());
    assert_eq!(scripts(&mut device), [""; 0]);
    device.advance(MS);
    validated(&mut device, Vec::new());
    assert_eq!(scripts(&mut device), ["a go"]);
}

#[test]
fn a_full_queue_is_an_error_that_names_the_service() {
    let triggers: Vec<Value> = (0..33).map(|n| json!(["e", run(&[&n.to_string()])])).collect();
    let mut device = Device::with([with_triggers("a", json!(triggers))]);
    let id = raise(&mut device, "e", json!({}));
    assert_eq!(device.answer(id), Some(Err(Code::Limit)));
}

#[test]
fn only_so_many_scripts_of_all_services_run_at_once() {
    let one = |n: usize| with_triggers(&format!("s{n}"), json!([["e", run(&["go"])]]));
    let mut device = Device::with((0..20).map(one));
    raise(&mut device, "e", json!({}));
    device.advance(SECOND);
    assert_eq!(scripts(&mut device).len(), 16);
    for _ in 0..20 {
        end(&mut device, 0);
    }
    assert_eq!(scripts(&mut device).len(), 4);
}

#[test]
fn an_event_needs_a_type_that_is_not_too_long() {
    let mut device = Device::with([]);
    for kind in [String::new(), "x".repeat(257)] {
        let id = raise(&mut device, &kind, json!({}));
        assert_eq!(device.answer(id), Some(Err(Code::InvalidArgument)));
    }
    assert_eq!(device.heard("event.trigger"), 0);
    raise(&mut device, "e", json!({ "x": 1 }));
    assert_eq!(device.topics.last().unwrap().1, json!({ "type": "e", "data": { "x": 1 } }));
}

#[test]
fn changed_data_and_changed_instances_are_events() {
    let watching = with_triggers(
        "w",
        json!([
            ["service.data.update", ["if", ["eq", "name", "mdns"], run(&["data"])]],
            ["instance.update", run(&["instance"])],
        ]),
    );
    let mut device = Device::with([watching]);
    let set = |device: &mut Device, change: &dyn Fn(&mut Service)| {
        let service = with("a", |service| {
            service.source = Source::Message;
            change(service);
        });
        device.request(Request::Set { service });
        device.calm();
        let mut begun = Vec::new();
        for _ in 0..3 {
            device.advance(MS);
            begun.extend(scripts(device));
            if !device.scripts.is_empty() {
                end(device, 0);
            }
        }
        begun.sort();
        begun
    };
    let with_data = |service: &mut Service| drop(service.data.insert("mdns".into(), json!(1)));
    assert_eq!(set(&mut device, &with_data), ["w data", "w instance"]);
    assert_eq!(set(&mut device, &with_data), [""; 0]);
    assert_eq!(set(&mut device, &|_| ()), ["w data"]);
    assert_eq!(set(&mut device, &|service| service.instances.clear()), ["w instance"]);
}

/// The same change, told again: by whoever did not hear that it was taken.
fn change(device: &mut Device, package: &str, digest: &str) -> Option<Result<(), Code>> {
    let data = json!({ "package": package, "digest": digest, "again": true });
    let id = raise(device, "config.change", data);
    device.advance(MS);
    device.answer(id)
}

/// How many scripts these changes set off; each ends at once.
fn set_off(device: &mut Device, digests: &[&str]) -> usize {
    let mut begun = 0;
    for digest in digests {
        assert_eq!(change(device, "p", digest), Some(Ok(())));
        begun += scripts(device).len();
        for _ in 0..device.scripts.len() {
            end(device, 0);
        }
    }
    begun
}

#[test]
fn a_change_that_was_taken_is_answered_again_and_sets_off_nothing() {
    let mut device = Device::with([with_triggers("a", json!([["config.change", run(&["go"])]]))]);
    assert_eq!(set_off(&mut device, &["1", "1", "1"]), 1);
    assert_eq!(device.heard("event.trigger"), 1);
    // To another one and back counts, and so does a file that is gone.
    assert_eq!(set_off(&mut device, &["2", "1", "", "", "1"]), 4);
    // Of another package it says nothing.
    change(&mut device, "q", "1");
    assert_eq!(scripts(&mut device), ["a go"]);
    end(&mut device, 0);
    assert_eq!(set_off(&mut device, &["1"]), 0);
}

#[test]
fn a_change_without_a_digest_always_counts_and_other_events_do_too() {
    let triggers = json!([["config.change", run(&["go"])], ["e", run(&["go"])]]);
    let mut device = Device::with([with_triggers("a", triggers)]);
    set_off(&mut device, &["1"]);
    for (kind, data) in [
        ("config.change", json!({ "package": "p" })),
        ("config.change", json!({ "package": "p" })),
        ("config.change", json!({ "package": "p", "digest": 1, "again": true })),
        ("config.change", json!({ "package": "p", "digest": "1" })),
        ("config.change", json!({ "digest": "1" })),
        ("e", json!({ "package": "p", "digest": "1" })),
    ] {
        raise(&mut device, kind, data);
        device.advance(MS);
        assert_eq!(scripts(&mut device), ["a go"]);
        end(&mut device, 0);
    }
    assert_eq!(set_off(&mut device, &["1"]), 0);
}

#[test]
fn the_next_supervisor_knows_what_was_taken_and_that_alone() {
    let mut device = Device::with([with_triggers("a", json!([["config.change", run(&["go"])]]))]);
    assert_eq!(set_off(&mut device, &["1", "2"]), 2);
    device.take_over();
    assert_eq!(set_off(&mut device, &["2"]), 0);
    assert_eq!(set_off(&mut device, &["1"]), 1);
    device.take_over();
    device.take_over();
    assert_eq!(set_off(&mut device, &["1", "2"]), 1);
}

/// Killed before every single thing that it does about a change: the change is told again until it is taken, and what it
/// sets off is done once.
#[test]
fn wherever_the_supervisor_is_killed_a_change_is_neither_lost_nor_done_twice() {
    let go = |text: &str| with_triggers(text, json!([["config.change", run(&["go"])]]));
    for cut in 0..12 {
        let mut device = Device::with([go("a"), go("b")]);
        device.cut_after = Some(cut);
        let mut answer = None;
        for _ in 0..3 {
            // Between two tries the supervisor goes on with what it remembers.
            answer = change(&mut device, "p", "1");
            device.advance(SECOND);
            if answer.is_some() {
                break;
            }
        }
        assert_eq!(answer, Some(Ok(())), "cut after {cut}");
        device.cut_after = None;
        let mut begun = scripts(&mut device);
        begun.sort();
        begun.dedup();
        assert_eq!(begun, ["a go", "b go"], "cut after {cut}");
        // A script that was running then is begun again, and none is a third time.
        let last = device.scripts.split_off(device.scripts.len().saturating_sub(2));
        assert!(device.scripts.len() <= 2, "cut after {cut}");
        for run in last {
            device.event(Event::ScriptEnded { run, ended: Ended::Code(0) });
        }
        device.take_over();
        assert_eq!(change(&mut device, "p", "1"), Some(Ok(())));
        device.advance(SECOND);
        assert_eq!(scripts(&mut device), [""; 0], "cut after {cut}");
    }
}

#[test]
fn a_change_that_found_no_room_counts_when_it_is_told_again() {
    let full: Vec<Value> = (0..32).map(|n| json!(["e", run(&[&n.to_string()])])).collect();
    let mut triggers = full;
    triggers.push(json!(["config.change", run(&["go"])]));
    let mut device = Device::with([with_triggers("a", json!(triggers))]);
    set_off(&mut device, &["1"]);
    raise(&mut device, "e", json!({}));
    assert_eq!(change(&mut device, "p", "2"), Some(Err(Code::Limit)));
    // Something was perhaps done about it: what it was before is a change again.
    let mut begun = Vec::new();
    for _ in 0..32 {
        device.advance(MS);
        begun.extend(scripts(&mut device));
        end(&mut device, 0);
    }
    assert_eq!(begun.len(), 32);
    assert_eq!(set_off(&mut device, &["1", "2", "2"]), 2);
}

#[test]
fn a_script_that_a_killed_supervisor_left_running_is_waited_for() {
    let mut device = Device::with([with_triggers("a", json!([["e", run(&["go"])]]))]);
    raise(&mut device, "e", json!({}));
    device.advance(MS);
    let process = ScriptProcess { pid: 71, started: 5 };
    let run = device.scripts.remove(0);
    device.event(Event::ScriptStarted { run, process });
    device.take_over();
    device.advance(MS);
    // Wanted once more while it runs: by then nothing of the old one is left.
    raise(&mut device, "e", json!({}));
    end(&mut device, 0);
    assert_eq!(device.waited_for, [None, Some(process), None]);
}

fn any_script() -> impl Strategy<Value = Value> {
    let word =
        "if|case|return|include|run_script|eq|regex|has|and|or|not|isdir|in|x|%x%|%|e|\\PC{0,4}";
    let leaf = prop_oneof![
        word.prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        Just(Value::Null),
    ];
    leaf.prop_recursive(6, 64, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map("event|action|run|signal|[a-z]", inner, 0..4)
                .prop_map(|map| map.into_iter().collect::<Value>()),
        ]
    })
}

proptest! {
    #[test]
    fn no_json_as_triggers_panics_or_runs_for_ever(scripts in proptest::collection::vec(any_script(), 0..4), data in any_script()) {
        let mut triggers: Vec<Value> = scripts.iter().map(|it| json!(["e", it, 5])).collect();
        triggers.extend(scripts);
        let mut device = Device::with([with_triggers("a", json!(triggers))]);
        let mut all = Map::from_iter([("x".to_owned(), json!("1"))]);
        if let Value::Object(data) = data {
            all.extend(data);
        }
        let id = device.request(Request::Event { kind: "e".to_owned(), data: all });
        prop_assert!(device.answer(id).is_some());
        device.advance(SECOND);
    }

    #[test]
    fn a_deep_or_long_script_ends(depth in 0_usize..100, length in 0_usize..300) {
        let mut script = json!(["if", ["has", "x"], run(&["go"])]);
        for _ in 0..depth {
            script = json!([script]);
        }
        let script = json!(vec![script; length]);
        let begun = wanted(script, json!({ "x": "1" }));
        prop_assert!(begun.len() <= 1);
    }
}
