//! Rules against real users, groups, programs and services; refusals and their traces; rules that change under calls.
//!
//! These need root: who calls is what the kernel says, and only root can be several users.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use testkit::{Device, until};

use crate::{
    bus::suite,
    parts::Part,
    peers::{Background, LONG, Program, Said},
    support::is_root,
};

/// Somebody: user, group, further groups.
#[derive(Clone, Copy, Debug)]
struct Who(u32, u32, &'static [u32]);

const ROOT: Who = Who(0, 0, &[]);

fn user(uid: u32) -> Who {
    Who(uid, uid, &[])
}

/// Writes a policy file, whole, as its readers expect it.
fn policy(device: &Device, name: &str, text: &str) {
    let folder = device.folder().join("etc/policy.d");
    fs::create_dir_all(&folder).unwrap();
    let fresh = folder.join(format!(".{name}.new"));
    fs::write(&fresh, text).unwrap();
    fs::rename(fresh, folder.join(format!("{name}.toml"))).unwrap();
}

/// What the registry says of its rules.
fn rules(device: &Device) -> Value {
    device.json(&["registry", "policy"])
}

/// Waits until a rule of this file holds (or none does, where `there` is false) and every endpoint judges by it.
#[track_caller]
fn until_policy(device: &Device, source: &str, there: bool) {
    until(&format!("rules of {source} hold: {there}"), || {
        let state = rules(device);
        let of_file =
            |rule: &Value| rule["source"].as_str().is_some_and(|it| it.starts_with(source));
        let found = state["rules"].as_array().unwrap().iter().any(of_file);
        let behind = state["behind"].as_array().is_some_and(|behind| !behind.is_empty());
        (found == there && !behind).then_some(())
    });
}

/// Runs a program as somebody, with this device's folders.
fn run_as(device: &Device, program: &Path, Who(uid, gid, groups): Who, args: &[&str]) -> Output {
    let mut command = Command::new("setpriv");
    let groups: Vec<String> = groups.iter().map(u32::to_string).collect();
    command.args([&format!("--reuid={uid}"), &format!("--regid={gid}")]);
    match groups.as_slice() {
        [] => command.arg("--clear-groups"),
        some => command.arg(format!("--groups={}", some.join(","))),
    };
    command.arg(program).args(args).env("VESTAL_RUN_DIR", device.run_dir()).current_dir("/");
    command.output().expect("setpriv is part of every Debian")
}

fn ctl_as(device: &Device, who: Who, args: &[&str]) -> Output {
    run_as(device, &testkit::binary("vestalctl"), who, args)
}

/// Whether the call is allowed; a refusal must be a reply that says so.
#[track_caller]
fn allowed(output: &Output) -> bool {
    let text = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => true,
        Some(1) if ["may", "allow", "denied", "owner"].iter().any(|it| text.contains(it)) => false,
        code => panic!("{code:?}: {text}"),
    }
}

#[test]
fn every_kind_of_rule_admits_whom_it_names_and_nobody_beside() {
    if !is_root("every kind of rule") {
        return;
    }
    let device = suite(&[]);
    // Object, rules about it, and then who may and who may not.
    let video: &[u32] = &[7, 44];
    let cases: &[(&str, &str, &[Who], &[Who])] = &[
        ("bare", "", &[ROOT], &[user(1000), user(870), user(65534)]),
        (
            "fixed",
            "[[allow]]\nusers = [1000]\n",
            &[user(1000), Who(1000, 5, &[6]), ROOT],
            &[user(999), user(1001), Who(999, 1000, &[1000])],
        ),
        (
            "eight",
            "[[allow]]\nusers = [1001, 1002, 1003, 1004, 1005, 1006, 1007, 1008]\n",
            &[user(1001), user(1008)],
            &[user(1000), user(1009)],
        ),
        (
            "range",
            "[[allow]]\nuid-range = \"2000-2010\"\n",
            &[user(2000), user(2010)],
            &[user(1999), user(2011)],
        ),
        (
            "group",
            "[[allow]]\ngroup = 44\n",
            &[Who(1000, 44, &[]), Who(1000, 1000, video)],
            &[user(1000), Who(44, 43, &[45])],
        ),
        (
            "both",
            "[[allow]]\nuser = 1000\ngroup = 44\n",
            &[Who(1000, 1000, video)],
            &[user(1000), Who(1001, 44, &[])],
        ),
        (
            "denied",
            "[[allow]]\nanyone = true\n[[deny]]\nuser = 1000\n[[deny]]\nuser = 0\n",
            &[user(1001)],
            &[user(1000), ROOT],
        ),
        ("elsewhere", "[[allow]]\nanyone = true\nmethods = [\"pong\"]\n", &[ROOT], &[user(1000)]),
        (
            "method",
            "[[allow]]\nanyone = true\nmethods = [\"pi*\"]\n[[deny]]\nuser = 7\nmethods = [\"ping\"]\n",
            &[user(1000), ROOT],
            &[user(7)],
        ),
    ];
    let text: String = cases
        .iter()
        .map(|(name, rules, ..)| {
            let about = format!("]]\nobject = \"matrix/{name}\"\n");
            rules.replace("]]\n", &about)
        })
        .collect();
    policy(&device, "matrix", &text);
    until_policy(&device, "matrix.toml", true);
    let background = Background::start();
    let names: Vec<String> = cases.iter().map(|(name, ..)| format!("matrix/{name}")).collect();
    let socket = device.folder().join("matrix.sock");
    let provider = background.serve(&device.run_dir(), &socket, &names);
    provider.until_registered();
    let before = provider.server.counters().denied;
    for (name, _, may, may_not) in cases {
        let object = format!("matrix/{name}");
        let ask = |who: &Who| allowed(&ctl_as(&device, *who, &["call", &object, "ping"]));
        may.iter().for_each(|who| assert!(ask(who), "{object} is for {who:?}"));
        may_not.iter().for_each(|who| assert!(!ask(who), "{object} is not for {who:?}"));
    }
    // Whoever may call one method finds the object, and is refused at the endpoint for another one.
    assert!(provider.server.counters().denied > before, "the endpoint judges by itself");
    let other = ctl_as(&device, user(1000), &["call", "matrix/method", "pong"]);
    assert!(!allowed(&other));
}

#[test]
fn a_refusal_is_a_reply_with_its_reason_a_line_in_the_log_and_an_event() {
    if !is_root("a refusal's traces") {
        return;
    }
    let device = suite(&["camera"]);
    policy(
        &device,
        "camera",
        "[[allow]]\nobject = \"camera\"\nmethods = [\"count\"]\nuser = 1000\n",
    );
    until_policy(&device, "camera.toml", true);
    let mut events = crate::bus::Listener::start(&device, &["policy.denied"]);
    // By the registry: nothing of the object is his.
    let refused = ctl_as(&device, user(1001), &["call", "camera", "count"]);
    assert!(!allowed(&refused));
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("1001") && text.contains("camera"), "{text}");
    let event = events.next();
    assert!(event.contains("1001") && event.contains("camera"), "{event}");
    // By the endpoint: another method is his.
    assert!(allowed(&ctl_as(&device, user(1000), &["call", "camera", "count"])));
    assert!(!allowed(&ctl_as(&device, user(1000), &["call", "camera", "pid"])));
    for (service, uid) in [("registry", "1001"), ("camera", "1000")] {
        until(&format!("{service} has said so"), || {
            let said = device.ctl_ok(&["--json", "log", "-g", "audit", service]);
            said.lines().any(|line| line.contains(uid) && line.contains("camera")).then_some(())
        });
    }
}

#[test]
fn a_name_and_a_topic_are_for_whom_a_rule_lets_own_and_publish_them() {
    if !is_root("owning and publishing") {
        return;
    }
    let device = suite(&[]);
    policy(
        &device,
        "own",
        "[[allow]]\nverb = \"own\"\nobject = \"door\"\nuser = 1200\n\
         [[allow]]\nverb = \"publish\"\ntopic = \"scene.*\"\nuser = 1200\n",
    );
    until_policy(&device, "own.toml", true);
    let folder = device.folder().join("1200");
    fs::create_dir(&folder).unwrap();
    chown(&folder, Some(1200), Some(1200)).unwrap();
    let start = |name: &str| Program::serve(&device, name, &folder.join(name), Some(1200));
    let _door = start("door");
    device.ctl_ok(&["wait-for", "door"]);
    // The others are told why, and are not there.
    for name in ["window", "log"] {
        let told = start(name).until_said("not registered");
        assert!(told.contains(name), "{told}");
    }
    let all = device.json(&["list"]);
    assert!(all["door"].is_object() && all["window"].is_null(), "{all}");
    assert_ne!(all["log"]["uid"], 1200, "{all}");
    assert!(allowed(&ctl_as(&device, user(1200), &["publish", "scene.one", "1"])));
    for topic in ["scenery", "door.open", "object.add", "service.exit", "registry.policy"] {
        assert!(!allowed(&ctl_as(&device, user(1200), &["publish", topic, "1"])), "{topic}");
    }
}

fn digest(file: &Path) -> String {
    let output = Command::new("sha256sum").arg(file).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().to_owned()
}

/// A copy of `vestalctl`, in a folder of its own that belongs to this user.
fn copy_of_ctl(device: &Device, folder: &str, owner: u32) -> PathBuf {
    let folder = device.folder().join(folder);
    fs::create_dir(&folder).unwrap();
    let copy = folder.join("setup");
    fs::copy(testkit::binary("vestalctl"), &copy).unwrap();
    for path in [&folder, &copy] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        chown(path, Some(owner), Some(owner)).unwrap();
    }
    copy
}

#[test]
fn a_program_is_believed_only_with_its_digest_and_where_its_user_cannot_change_it() {
    if !is_root("rules on programs") {
        return;
    }
    let device = suite(&["camera", "door"]);
    let good = copy_of_ctl(&device, "bin", 0);
    let own = copy_of_ctl(&device, "home", 1000);
    let rule = |object: &str, program: &Path, sha256: &str| {
        format!(
            "[[allow]]\nobject = {object:?}\nuser = 1000\n\
             executable = {{ path = {program:?}, sha256 = {sha256:?} }}\n"
        )
    };
    let zeros = "0".repeat(64);
    let text = rule("camera", &good, &digest(&good)) + &rule("door", &good, &zeros);
    policy(&device, "setup", &text);
    until_policy(&device, "setup.toml", true);
    let call = |program: &Path, who: Who, object: &str| {
        allowed(&run_as(&device, program, who, &["call", object, "pid"]))
    };
    assert!(call(&good, user(1000), "camera"));
    assert!(!call(&good, user(1001), "camera"), "another user");
    assert!(!call(&own, user(1000), "camera"), "the same bytes elsewhere");
    assert!(!call(&testkit::binary("vestalctl"), user(1000), "camera"), "another program");
    assert!(!call(&good, user(1000), "door"), "another digest");
    // Given away after the rules were read: it proves nothing any more.
    chown(&good, Some(1000), Some(1000)).unwrap();
    assert!(!call(&good, user(1000), "camera"), "he can change it");
    chown(&good, Some(0), Some(0)).unwrap();
    fs::set_permissions(&good, fs::Permissions::from_mode(0o775)).unwrap();
    chown(&good, Some(0), Some(1000)).unwrap();
    assert!(!call(&good, user(1000), "camera"), "his group can change it");
    // A rule on a program that its user can replace is no rule but a mistake.
    policy(&device, "own", &rule("door", &own, &digest(&own)));
    until("it is told", || {
        let problems = rules(&device)["problems"].to_string();
        (problems.contains("own.toml") && problems.contains("1000")).then_some(())
    });
    assert!(!call(&own, user(1000), "door"));
}

#[test]
fn a_rule_on_a_service_holds_for_its_processes_and_for_no_other_of_the_same_user() {
    if !is_root("rules on services") {
        return;
    }
    let mut device = Device::with_core();
    device.define("camera", &crate::bus::object("camera"));
    policy(&device, "camera", "[[allow]]\nobject = \"camera\"\nservice = \"recorder\"\n");
    let ctl = testkit::binary("vestalctl");
    // The child of a service's shell is a process of the service, too.
    let script = format!(
        "if {} call camera pid; then echo was allowed; else echo was refused; fi; exit 0",
        ctl.display()
    );
    for name in ["recorder", "visitor"] {
        let definition = format!(
            "command = [\"sh\", \"-c\", {script:?}]\nuser = \"1000\"\noneshot = true\nautostart = false\n"
        );
        device.define(name, &definition);
    }
    device.start();
    device.ctl_ok(&["wait-for", "camera", "log", "registry"]);
    for (name, expected) in [("recorder", "was allowed"), ("visitor", "was refused")] {
        device.ctl_ok(&["service", "start", name]);
        until(&format!("{name} {expected}"), || {
            let said = device.ctl_ok(&["log", name]);
            assert!(
                !said.contains("was ") || said.contains(expected),
                "{name} was to say {expected:?}: {said}"
            );
            said.contains(expected).then_some(())
        });
    }
    assert!(!allowed(&ctl_as(&device, user(1000), &["call", "camera", "pid"])));
    // Without a supervisor nobody is known as a service, and nobody is taken for one.
    assert!(allowed(&ctl_as(&device, ROOT, &["call", "camera", "pid"])));
}

/// What the part `calls` says after all that was allowed.
fn until_refused(caller: &mut Part) -> Value {
    std::iter::repeat_with(|| caller.next()).find(|said| *said != "allowed").unwrap()
}

const CALLERS_RULE: &str = "[[allow]]\nobject = \"camera\"\nuser = 1000\n";

#[test]
fn a_right_that_is_taken_away_under_running_calls_ends_soon_and_comes_back_when_it_is_given_again()
{
    if !is_root("a right taken away") {
        return;
    }
    let device = suite(&["camera"]);
    policy(&device, "callers", CALLERS_RULE);
    until_policy(&device, "callers.toml", true);
    let mut caller = Part::start("calls", &device.run_dir(), "camera", Some(1000));
    for _ in 0..5 {
        assert_eq!(caller.next(), "allowed");
        policy(&device, "callers", "");
        assert_eq!(until_refused(&mut caller), "denied");
        policy(&device, "callers", CALLERS_RULE);
        until_policy(&device, "callers.toml", true);
        caller.tell("go on");
    }
    assert_eq!(caller.next(), "allowed");
    // Deny wins, also for a moment in which both are there.
    policy(&device, "zdeny", "[[deny]]\nobject = \"*\"\nuser = 1000\n");
    assert_eq!(until_refused(&mut caller), "denied");
}

#[test]
fn a_stream_of_a_user_whose_right_is_taken_away_ends_with_denied() {
    if !is_root("a stream taken away") {
        return;
    }
    let device = suite(&["camera"]);
    policy(
        &device,
        "reader",
        "[[allow]]\nobject = \"log\"\nmethods = [\"read\", \"follow\"]\nuser = 1000\n",
    );
    until_policy(&device, "reader.toml", true);
    let follow = |uid: u32| {
        let mut command = device.command("vestalctl");
        command.args(["log", "-f"]).uid(uid).gid(uid);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let (mut reader, mut root) = (follow(1000), follow(0));
    let mut said = [&mut reader, &mut root].map(|child| Said::new(child.stdout.take().unwrap()));
    let mark = |text: &str| {
        let args = serde_json::json!({ "text": text }).to_string();
        device.ctl_ok(&["call", "log", "write", &args]);
    };
    let mut hears = |who: usize, text: &str| {
        std::iter::from_fn(|| said[who].next()).any(|line| line.contains(text))
    };
    mark("first mark");
    assert!(hears(0, "first mark") && hears(1, "first mark"));
    policy(&device, "reader", "");
    let status = until("it ends", || reader.try_wait().unwrap());
    assert_eq!(status.code(), Some(1));
    let told = Said::new(reader.stderr.take().unwrap()).next().unwrap();
    assert!(told.contains("1000") && told.contains("denied"), "{told}");
    // Root's stream goes on, and nothing was told to the other one afterwards.
    mark("second mark");
    assert!(hears(1, "second mark"));
    assert!(!hears(0, "second mark"));
    root.kill().unwrap();
    root.wait().unwrap();
}

#[test]
fn a_policy_file_with_a_mistake_keeps_its_old_rules_and_is_told_with_its_line() {
    if !is_root("a policy with a mistake") {
        return;
    }
    let device = suite(&["camera"]);
    policy(&device, "callers", CALLERS_RULE);
    until_policy(&device, "callers.toml", true);
    let ask = || allowed(&ctl_as(&device, user(1000), &["call", "camera", "pid"]));
    assert!(ask());
    for (text, told) in [
        ("[[allow]]\nobject = \"camera\"\nusr = 1000\n", ["callers.toml:3", "\"user\""]),
        ("[[allow]]\nobject = \"camera\"\nusers = []\n", ["callers.toml:3", "0 items"]),
        ("[[allow]]\nobject = \"camera\"\n", ["callers.toml:1", "means nobody"]),
        ("[[allow]\n", ["callers.toml:1", ""]),
    ] {
        policy(&device, "callers", text);
        let problems = until("it is told", || {
            let problems = rules(&device)["problems"].to_string();
            told.iter()
                .all(|part| problems.contains(&part.replace('"', "\\\"")))
                .then_some(problems)
        });
        let shown = device.ctl_ok(&["registry", "policy"]);
        assert!(shown.contains(told[0]), "{shown}\n{problems}");
        assert!(ask(), "the old rules of the file stay");
    }
    until("the log says so", || {
        let said = device.ctl_ok(&["log", "registry"]);
        said.contains("callers.toml:3").then_some(())
    });
    policy(&device, "callers", "");
    until_policy(&device, "callers.toml", false);
    assert_eq!(rules(&device)["problems"].as_array().map(Vec::len), Some(0));
    assert!(!ask());
    // A file that was never read well since the registry started might forbid anything: until it is repaired no file allows.
    policy(&device, "callers", CALLERS_RULE);
    until_policy(&device, "callers.toml", true);
    policy(&device, "broken", "nonsense");
    until("it is told", || {
        rules(&device)["problems"].to_string().contains("broken.toml").then_some(())
    });
    until("nothing is allowed by files", || (!ask()).then_some(()));
    policy(&device, "broken", "");
    until("all is as it was", || ask().then_some(()));
}

#[test]
fn endpoints_judge_by_the_last_rules_while_there_is_no_registry() {
    if !is_root("rules without a registry") {
        return;
    }
    let device = suite(&["camera"]);
    policy(&device, "callers", CALLERS_RULE);
    until_policy(&device, "callers.toml", true);
    let mut caller = Part::start("calls", &device.run_dir(), "camera", Some(1000));
    assert_eq!(caller.next(), "allowed");
    device.ctl_ok(&["service", "stop", "registry"]);
    let background = Background::start();
    // Nobody can be asked where it is: its socket is known.
    let client = background.client(&device.run_dir().join("camera.sock"));
    background
        .run(client.call("camera", "pid", &(), crate::peers::within(LONG)))
        .expect("root may always");
    policy(&device, "callers", "");
    // Called again and again meanwhile, and allowed.
    for _ in 0..5 {
        assert_eq!(caller.next(), "allowed");
    }
    assert!(device.processes("registry").is_empty());
    device.ctl_ok(&["service", "start", "registry"]);
    assert_eq!(until_refused(&mut caller), "denied", "the next registry has the new rules");
}
