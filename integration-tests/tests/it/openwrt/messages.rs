//! Scripts that look like real ones, and the messages they must send: `scripts/NAME` and `scripts/NAME.expected`.
//!
//! The expected messages are what upstream's own `procd.sh` sends for the same script, but for what it gets wrong:
//! `hello` (it checks its section at the start and registers no rules; they are registered for it, so that a changed file
//! is refused before its reload stops it),
//! `triggers` (the script's name is missing in mount triggers), `mounts` (two mount points in one text), `validation` and
//! `data` (an array or table that is opened again loses what it had).

use std::fs;

use serde_json::{Value, json};

use super::{Root, each_shell, here, transcript};

/// Runs the actions that the expectation names, and compares what was sent, member by member.
fn sends_what_is_expected(name: &str) {
    each_shell(|root| {
        let text = fs::read_to_string(here("scripts").join(name)).expect("it is in the checkout");
        root.program(&format!("etc/init.d/{name}"), &text);
        let expected = fs::read_to_string(here("scripts").join(format!("{name}.expected")))
            .expect("it is in the checkout");
        for part in expected.split("> ").skip(1) {
            let (action, lines) = part.split_once('\n').expect("an action ends its line");
            let wanted: Vec<(String, Value)> = lines.lines().map(call).collect();
            let words: Vec<&str> = action.split(' ').collect();
            let ran = root.run(name, &words);
            let sent = root.calls();
            assert_eq!(
                transcript(action, &sent),
                transcript(action, &wanted),
                "{name} {action}: {ran:?}"
            );
        }
    });
}

fn call(line: &str) -> (String, Value) {
    let start = line.find('{').expect("a message is an object");
    let (name, message) = line.split_at(start);
    (name.trim_end().to_owned(), serde_json::from_str(message).expect("it is JSON"))
}

macro_rules! scripts {
    ($($sentence:ident: $name:literal,)*) => {
        $(#[test] fn $sentence() { sends_what_is_expected($name); })*
    };
}

scripts! {
    the_documents_hello_is_sent_as_it_stands_there: "hello",
    every_type_of_parameter_has_its_place_and_unknown_ones_none: "parameters",
    parameters_grow_and_are_given_twice: "appending",
    there_is_one_instance_for_each_section_that_is_enabled: "instances",
    a_jail_takes_its_flags_and_mounts_and_no_jail_takes_none: "jail",
    every_kind_of_trigger_has_its_form: "triggers",
    mount_triggers_name_the_mount_points_that_hold_the_paths: "mounts",
    rules_are_registered_and_values_are_loaded: "validation",
    free_data_and_names_for_the_network_stand_beside_the_instances: "data",
    text_arrives_as_it_was_whatever_is_in_it: "text",
    hooks_and_commands_of_its_own_are_called: "hooks",
    a_script_without_procd_sends_nothing: "legacy",
}

#[test]
fn a_failed_validation_starts_nothing_and_is_said() {
    each_shell(|root| {
        root.script(
            "checked",
            "USE_PROCD=1\nstart_service() {\n uci_validate_section system system wrong a:uinteger || { echo refused; return 1; }\n \
             procd_add_instance /bin/true\n}\n",
        );
        let ran = root.run("checked", &["start"]);
        assert_eq!(ran.printed, "refused\n");
        assert!(ran.errors.contains("system.wrong.cronloglevel=x"), "{}", ran.errors);
        assert_eq!(root.calls()[0].1["instances"], json!({}));
    });
}

#[test]
fn the_devices_own_respawn_values_take_the_place_of_the_defaults() {
    each_shell(|root| {
        root.write(
            "fakes/show",
            "system.service=service\nsystem.service.respawn_threshold='60'\nsystem.service.respawn_retry='9'\n",
        );
        root.script(
            "again",
            "USE_PROCD=1\nstart_service() {\n for each in a b; do\n procd_open_instance $each\n \
             procd_set_param command /bin/$each\n procd_set_param respawn\n procd_close_instance\n done\n}\n",
        );
        root.run("again", &["start"]);
        let message = root.calls().remove(0).1;
        assert_eq!(message["instances"]["a"]["respawn"], json!(["60", "5", "9"]));
        assert_eq!(message["instances"]["b"]["respawn"], json!(["60", "5", "9"]));
    });
}

#[test]
fn a_numeric_reload_signal_is_that_signal() {
    each_shell(|root| {
        root.script(
            "signals",
            "USE_PROCD=1\nstart_service() {\n for each in 12 TERM SIGUSR1 NONE; do\n procd_open_instance i$each\n \
             procd_set_param command /bin/x\n procd_set_param reload_signal $each\n procd_close_instance\n done\n}\n",
        );
        let ran = root.run("signals", &["start"]);
        let instances = root.calls().remove(0).1["instances"].clone();
        let signal = |name: &str| instances[name]["reload_signal"].clone();
        assert_eq!([signal("i12"), signal("iTERM"), signal("iSIGUSR1")], [12, 15, 10]);
        assert_eq!(signal("iNONE"), Value::Null);
        assert!(ran.errors.contains("there is no signal NONE"), "{}", ran.errors);
    });
}

#[test]
fn debugging_shows_the_message_that_is_sent() {
    each_shell(|root| {
        root.script("shown", "USE_PROCD=1\nstart_service() { procd_add_instance /bin/shown; }\n");
        let mut command = root.action("shown", &["start"]);
        command.env("PROCD_DEBUG", "1");
        let ran = root.ran(command);
        let shown: Value = serde_json::from_str(&ran.errors).expect("the message is JSON");
        assert_eq!(shown, root.calls()[0].1);
    });
}

/// No argument of a process may be longer than 128 KiB.
#[test]
fn a_message_that_no_argument_can_hold_goes_through_standard_input() {
    each_shell(|root| {
        root.script(
            "large",
            "USE_PROCD=1\nstart_service() {\n local each=0 text=0123456789abcdef\n text=$text$text$text$text\n \
             text=$text$text$text$text\n procd_open_instance\n procd_set_param command /bin/large\n \
             while [ $each -lt 600 ]; do procd_append_param command \"$text\"; each=$((each + 1)); done\n \
             procd_close_instance\n}\n",
        );
        let ran = root.run("large", &["start"]);
        assert_eq!((ran.code, ran.errors.as_str()), (Some(0), ""));
        let message = root.calls().remove(0).1;
        let command = message["instances"]["instance1"]["command"].as_array().unwrap().clone();
        assert_eq!(command.len(), 601);
        assert!(command.iter().skip(1).all(|word| word.as_str().unwrap().len() == 256));
    });
}

#[test]
fn a_message_that_nobody_takes_fails_the_start() {
    each_shell(|root| {
        root.script("refused", "USE_PROCD=1\nstart_service() { procd_add_instance /bin/true; }\n");
        root.answer("service.set.code", "255");
        assert_eq!(root.run("refused", &["start"]).code, Some(255));
    });
}

/// The shell itself is the fourth. With the shell's own commands only, a minimal script needs no other program.
#[test]
fn the_start_of_a_minimal_script_takes_four_processes() {
    each_shell(|root| {
        let text = fs::read_to_string(here("scripts/hello")).expect("it is in the checkout");
        let minimal = text.replace("validate_hello_section ||", "true ||");
        root.program("etc/init.d/hello", &minimal);
        let only = root.path("only");
        fs::create_dir(&only).expect("the scratch folder is ours");
        for (name, program) in [
            ("flock", "/usr/bin/flock".to_owned()),
            ("ubus", root.path("bin/ubus").display().to_string()),
            ("uci", root.path("bin/uci").display().to_string()),
        ] {
            root.program(
                &format!("only/{name}"),
                &format!("#!/bin/sh\necho {name} >> \"$FAKES/started\"\nPATH=/usr/bin:/bin exec {program} \"$@\"\n"),
            );
        }
        let mut command = root.action("hello", &["start"]);
        command.env("PATH", &only);
        let ran = root.ran(command);
        assert_eq!((ran.code, ran.errors.as_str()), (Some(0), ""), "{}", ran.printed);
        assert_eq!(root.read("fakes/started"), "flock\nuci\nubus\n");
    });
}

/// `Root` is also used for scripts that call the functions without `rc.common`.
#[test]
fn the_functions_work_without_rc_common() {
    each_shell(|root: &Root| {
        let ran = root.shell(
            ". \"$IPKG_INSTROOT/lib/functions.sh\"; . \"$IPKG_INSTROOT/lib/functions/procd.sh\"\n\
             service_triggers() { procd_add_raw_trigger a.b 5 /bin/true; }\n\
             procd_open_service alone\nprocd_add_instance /bin/alone\nprocd_close_service\n",
        );
        assert_eq!(ran.errors, "");
        assert_eq!(
            root.calls(),
            [(
                "service set".to_owned(),
                json!({
                    "name": "alone",
                    "instances": { "instance1": { "command": ["/bin/alone"] } },
                    "triggers": [["a.b", [["run_script", "/bin/true"]], 5]],
                })
            )]
        );
    });
}
