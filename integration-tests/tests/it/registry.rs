//! Starting before the registry, dying beside it, bad input, services on demand, gates: through the real binaries.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::net::UnixListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use endpoint::{CallError, Code, Wanted};
use rustix::process::Signal;
use serde_json::{Value, json};
use testkit::{Device, until, within};

use crate::{
    bus::{Listener, object, suite},
    load::Load,
    parts::Part,
    peers::{Background, LONG, ONE, Raw, ask, failure, socket_of, within as deadline},
    support::{kill, until_other_pid},
};

const PROVIDERS: usize = 20;
const CLIENTS: usize = 50;

/// A program of the suite as our own child. Dropped, it is killed.
struct Program(Child);

impl Program {
    /// Its socket is for everybody, as the supervisor's are.
    fn start(device: &Device, name: &str, args: &[&str]) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", "umask 0; exec \"$0\" \"$@\""]).arg(testkit::binary(name)).args(args);
        for (key, value) in device.command(name).get_envs() {
            command.env(key, value.unwrap_or_default());
        }
        Self(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn milliseconds_since_boot() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap() * 1000 + u64::try_from(now.tv_nsec / 1_000_000).unwrap()
}

#[test]
fn providers_and_clients_that_wait_for_a_registry_are_connected_as_soon_as_there_is_one() {
    let device = Device::new();
    let background = Background::start();
    let names: Vec<String> = (0..PROVIDERS).map(|number| format!("early{number}")).collect();
    let providers: Vec<_> = names
        .iter()
        .map(|name| {
            let socket = device.folder().join(name);
            background.serve(&device.run_dir(), &socket, std::slice::from_ref(name))
        })
        .collect();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let name = names[number % PROVIDERS].clone();
            let bus = background.bus(&device.run_dir());
            background.spawn(async move {
                bus.wait_for(&[&name], LONG).await.unwrap();
                ask(&bus, &name, "ping", json!({})).await;
                milliseconds_since_boot()
            })
        })
        .collect();
    // Until the pauses between their tries are some seconds long: who only counted on these would come too late.
    within(Duration::from_secs(8), || None::<()>);
    assert!(providers.iter().all(|provider| provider.handle().is_none()));
    assert!(clients.iter().all(|client| !client.is_finished()));

    let _registry = Program::start(&device, "vestal-registry", &[]);
    until("its socket is there", || device.run_dir().join("registry.sock").exists().then_some(()));
    let there = milliseconds_since_boot();
    let handles: BTreeSet<_> = providers.iter().map(|it| it.until_registered()).collect();
    assert_eq!(handles.len(), PROVIDERS, "a handle each: {handles:?}");
    let served = background.run(async {
        let mut served = Vec::new();
        for client in clients {
            served.push(client.await.unwrap());
        }
        served
    });
    let took = served.iter().max().unwrap().saturating_sub(there);
    eprintln!("{PROVIDERS} providers and {CLIENTS} clients were connected after {took} ms");
    assert!(took < 3_000, "{took} ms");
}

#[test]
fn without_any_registry_the_seeds_nine_tries_end_with_exit_code_sixty_nine() {
    if std::env::var_os("VESTAL_FULL").is_none() {
        eprintln!("the seed's nine tries take a minute: set VESTAL_FULL to see them");
        return;
    }
    let device = Device::new();
    // Something that takes connections and is no registry: each try is seen.
    let listener = UnixListener::bind(device.run_dir().join("registry.sock")).unwrap();
    listener.set_nonblocking(true).unwrap();
    let began = milliseconds_since_boot();
    let mut provider = Program::start(&device, "vestal-demo-object", &["alone", "--seed"]);
    let mut tries = Vec::new();
    let status = within(LONG * 2, || {
        while listener.accept().is_ok() {
            tries.push((milliseconds_since_boot() - began + 500) / 1000);
        }
        provider.0.try_wait().unwrap()
    });
    assert_eq!(status.and_then(|status| status.code()), Some(69));
    assert_eq!(tries.len(), 9, "{tries:?}");
    let took = milliseconds_since_boot() - began;
    assert!((58_000..75_000).contains(&took), "{took} ms: {tries:?}");
}

#[test]
fn a_registry_killed_under_load_has_the_retained_values_and_the_callers_lists_back() {
    let device = suite(&["camera"]);
    let background = Background::start();
    let (bus, socket) = (background.bus(&device.run_dir()), device.folder().join("light.sock"));
    let light = background.serve(&device.run_dir(), &socket, &["light".to_owned()]);
    let handle = light.until_registered();
    background.run(async { bus.publish("season", "winter", true).unwrap() });
    let load = Load::start(&device.run_dir(), "camera");
    let mut watch = background.run(async { bus.watch("*") });
    background.run(watch.active(LONG)).unwrap();
    load.until_more(1_000);
    for _ in 0..3 {
        let pid = device.until_pid("registry");
        kill(pid, Signal::KILL);
        until_other_pid(&device, "registry", pid);
        device.ctl_ok(&["wait-for", "service", "system", "log", "camera", "light"]);
        let retained = until("the value is there again", || {
            let heard = device.ctl(&["--json", "listen", "-n", "1", "--timeout", "5", "season"]);
            eprintln!("{heard:?}");
            heard.status.success().then(|| heard.stdout.clone())
        });
        assert!(retained.contains("winter"), "{retained}");
        until("the handle is the old one", || {
            (light.handle().as_deref() == Some(&*handle)).then_some(())
        });
        load.until_more(1_000);
    }
    let names: BTreeSet<_> = watch.objects().into_iter().map(|found| found.object.name).collect();
    assert!(names.contains("light") && names.contains("camera"), "{names:?}");
    let outcome = load.finish();
    assert!(outcome.failures.is_empty(), "{outcome:?}");
    eprintln!("{} calls, the slowest took {:?}", outcome.done, outcome.slowest);
}

fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn resident_kib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_provider_killed_a_hundred_times_with_calls_in_flight_leaves_nobody_waiting_and_nothing_behind()
{
    const KILLS: usize = 100;
    const WARM_UP: usize = 20;
    let device = suite(&[]);
    let registry = device.until_pid("registry");
    let mut events = Listener::start(&device, &["endpoint.died", "object.remove"]);
    let mut callers = Part::start("sleepers", &device.run_dir(), "door", None);
    let mut before = None;
    for kill_number in 0..KILLS {
        let mut provider = Program::start(&device, "vestal-demo-object", &["door"]);
        device.ctl_ok(&["wait-for", "door"]);
        callers.tell("go");
        callers.next();
        until("all calls are in flight", || {
            let count = device.json(&["call", "door", "count"]);
            (count["calls"].as_u64() >= Some(9)).then_some(())
        });
        let pid = provider.pid();
        let killed = milliseconds_since_boot();
        provider.0.kill().unwrap();
        let ends = callers.next();
        let took = milliseconds_since_boot() - killed;
        assert_eq!(ends, json!(vec!["lost"; 8]), "kill {kill_number}");
        assert!(took < 5_000, "callers heard of it after {took} ms");
        let [first, second] = [events.next(), events.next()];
        let news = format!("{first}\n{second}");
        assert!(news.contains("object.remove") && news.contains("endpoint.died"), "{news}");
        assert!(news.contains(&pid.to_string()), "{news}");
        drop(provider);
        if kill_number == WARM_UP {
            before = Some([registry, callers.pid()].map(|it| (descriptors(it), resident_kib(it))));
        }
    }
    for (pid, (files, memory)) in [registry, callers.pid()].into_iter().zip(before.unwrap()) {
        let now = (descriptors(pid), resident_kib(pid));
        eprintln!("{files} descriptors and {memory} KiB, later {now:?}");
        // The last provider's connections may just be closing.
        assert!(now.0 <= files + 3, "{files} descriptors became {}", now.0);
        assert!(now.1 <= memory + 1024, "{memory} KiB became {}", now.1);
    }
    assert_eq!(device.until_pid("registry"), registry);
}

#[test]
fn of_two_processes_that_claim_one_name_the_second_is_told_who_has_it_and_gets_it_afterwards() {
    let device = suite(&["camera"]);
    let background = Background::start();
    let socket = device.folder().join("second.sock");
    let second = background.serve(&device.run_dir(), &socket, &["camera".to_owned()]);
    second.until_registered();
    let refused = until("it is refused", || {
        second.registration.refused().get("camera").filter(|it| it.code == Code::Busy).cloned()
    });
    let owner = device.until_pid("camera");
    assert!(refused.text.contains(&format!("pid {owner}")), "{}", refused.text);
    assert_eq!(device.json(&["call", "camera", "pid"])["pid"], owner);
    device.ctl_ok(&["service", "stop", "camera"]);
    until("it has the name", || (socket_of(&device, "camera") == socket).then_some(()));
    device.ctl_ok(&["call", "camera", "ping"]);
    until("nothing is refused any more", || {
        second.registration.refused().is_empty().then_some(())
    });
}

#[test]
fn a_process_that_shows_another_ones_handle_gets_one_of_its_own() {
    let device = suite(&["camera"]);
    let background = Background::start();
    let lookup = |name: &str| {
        let args = json!({ "object": name }).to_string();
        device.json(&["call", "registry", "lookup", &args])
    };
    let handle = lookup("camera")["handle"].clone();
    let mut served = Vec::new();
    // While the owner lives, after it has died, and after the registry was restarted.
    for moment in ["alive", "dead", "restarted"] {
        match moment {
            "dead" => drop(device.ctl_ok(&["service", "stop", "camera"])),
            "restarted" => {
                let pid = device.until_pid("registry");
                kill(pid, Signal::KILL);
                until_other_pid(&device, "registry", pid);
            }
            _ => {}
        }
        let socket = device.folder().join(moment);
        // Its own registration goes elsewhere, where no registry is: the handle is shown by hand.
        let provider = background.serve(device.folder(), &socket, &["thief".to_owned()]);
        let nonce: String =
            provider.server.nonce().iter().map(|byte| format!("{byte:02x}")).collect();
        let registry = background.client(&device.run_dir().join("registry.sock"));
        let args = json!({ "socket": socket, "nonce": nonce, "handle": handle, "objects": [] });
        let answer = background.run(registry.call("registry", "register", &args, deadline(LONG)));
        let own = answer.unwrap().parse::<Value>().unwrap()["handle"].clone();
        assert_ne!(own, handle, "{moment}");
        served.push((provider, registry, own));
    }
    let different: BTreeSet<String> = served.iter().map(|(.., own)| own.to_string()).collect();
    assert_eq!(different.len(), 3, "{different:?}");
    // A socket that isn't its own is not believed.
    let (provider, ..) = &served[0];
    let nonce: String = provider.server.nonce().iter().map(|byte| format!("{byte:02x}")).collect();
    let liar = background.client(&device.run_dir().join("registry.sock"));
    let socket = device.run_dir().join("supervisor.sock");
    let args = json!({ "socket": socket, "nonce": nonce, "objects": [] });
    let refused = background.run(liar.call("registry", "register", &args, deadline(LONG)));
    assert_eq!(failure(refused).code, Code::Denied);
}

#[test]
fn a_token_out_of_range_and_a_stale_generation_are_answered_and_harm_nothing() {
    let device = suite(&["camera"]);
    for (socket, object) in [("camera.sock", "camera"), ("registry.sock", "registry")] {
        let mut raw = Raw::connect(&device.run_dir().join(socket));
        let (_, token, generation) =
            raw.objects.iter().find(|(name, ..)| name == object).unwrap().clone();
        let wrong =
            [(token + 100, generation), (u32::MAX - 1, 1), (token, generation + 7), (token, 0)];
        for (id, (token, generation)) in (1..).zip(wrong) {
            raw.call(id, token, generation, "_describe", &json!({}));
            let failure = raw.reply().expect_err("nothing is there");
            let code = failure["code"].as_str().unwrap();
            assert!(matches!(code, "gone" | "not-found"), "{failure}");
            assert_eq!(failure["details"]["not_started"], true, "{failure}");
        }
        raw.call(9, token, generation, "_describe", &json!({}));
        raw.reply().unwrap();
    }
}

#[test]
fn a_generation_from_before_a_restart_is_not_served_by_who_came_after() {
    let device = suite(&["camera"]);
    let socket = device.run_dir().join("camera.sock");
    let before = Raw::connect(&socket).objects;
    let pid = device.until_pid("camera");
    let background = Background::start();
    let bus = background.bus(&device.run_dir());
    // The bus learns the place, and goes on with the next process by itself.
    background.run(ask(&bus, "camera", "pid", json!({})));
    kill(pid, Signal::KILL);
    until_other_pid(&device, "camera", pid);
    let now = background.run(ask(&bus, "camera", "pid", json!({})));
    assert_ne!(now["pid"], pid);
    let after = Raw::connect(&socket).objects;
    eprintln!("token and generation were {before:?} and are {after:?}");
}

#[test]
fn an_event_of_a_mebibyte_is_refused_with_its_limit_and_others_pass() {
    let device = suite(&[]);
    let background = Background::start();
    let bus = background.bus(&device.run_dir());
    let mut heard = Listener::start(&device, &["big.*"]);
    for size in [1 << 20, 100_000] {
        let data = "x".repeat(size);
        let refused = background.run(async { bus.publish("big.local", &data, false) });
        assert_eq!(refused.unwrap_err().code, Code::Limit);
        // By hand, past the checks of the bus.
        let args = json!({ "topic": "big.sent", "data": data });
        let outcome = background.run(bus.call("registry", "publish", &args, deadline(LONG)));
        match outcome {
            Err(CallError::Refused(failure)) => {
                assert_eq!(failure.code, Code::Limit, "{failure}");
                assert!(failure.text.contains("65536"), "{failure}");
            }
            Err(CallError::Invalid { text, .. }) => assert!(size == 1 << 20, "{text}"),
            other => panic!("{other:?}"),
        }
    }
    let data = "y".repeat(60_000);
    background.run(async {
        bus.publish("big.enough", &data, false).unwrap();
        assert!(bus.flush(LONG).await);
    });
    let line = heard.next();
    assert!(line.contains("big.enough") && line.contains(&data), "{line:.200}");
}

#[test]
fn ten_thousand_subscriptions_are_served_and_one_too_many_for_a_connection_is_refused() {
    let device = suite(&[]);
    let background = Background::start();
    let registry = device.run_dir().join("registry.sock");
    let mut connections: Vec<Raw> = (0..160).map(|_| Raw::connect(&registry)).collect();
    for (number, raw) in connections.iter_mut().enumerate() {
        for pattern in 0..63 {
            let args = json!({ "patterns": [format!("many.{number}.{pattern}")] });
            raw.call_named(1, "registry", "subscribe", &args);
            raw.reply().unwrap();
        }
        raw.call_named(1, "registry", "subscribe", &json!({ "patterns": ["many.all"] }));
        raw.reply().unwrap();
    }
    let one_more = json!({ "patterns": ["one.more"] });
    connections[0].call_named(1, "registry", "subscribe", &one_more);
    let refused = connections[0].reply().unwrap_err();
    assert_eq!(refused["code"], "limit", "{refused}");
    assert!(refused["text"].as_str().unwrap().contains("64"), "{refused}");
    let bus = background.bus(&device.run_dir());
    let told = background.run(ask(&bus, "registry", "publish", json!({ "topic": "many.all" })));
    assert_eq!(told["subscribers"], 160);
    let told = background.run(ask(&bus, "registry", "publish", json!({ "topic": "many.7.7" })));
    assert_eq!(told["subscribers"], 1);
    device.ctl_ok(&["list"]);
    drop(connections);
    until("they are forgotten", || {
        let status = device.json(&["registry", "status"]);
        status["subscribers"].as_array().unwrap().is_empty().then_some(())
    });
}

#[test]
fn a_subscriber_that_never_reads_loses_its_own_events_visibly_and_nobody_elses() {
    const EVENTS: usize = 600;
    let device = suite(&[]);
    let background = Background::start();
    let bus = background.bus(&device.run_dir());
    let mut deaf = Raw::connect(&device.run_dir().join("registry.sock"));
    let wanted = json!({ "patterns": ["storm"], "queue": 16 });
    deaf.call_named(1, "registry", "subscribe", &wanted);
    deaf.reply().unwrap();
    let reader = background.client(&device.run_dir().join("registry.sock"));
    let mut events = reader.events();
    let wanted = json!({ "patterns": ["storm"], "queue": 4096 });
    background.run(reader.call("registry", "subscribe", &wanted, deadline(LONG))).unwrap();
    let heard = background.spawn(async move {
        let mut heard = Vec::new();
        while heard.len() < EVENTS {
            let event = events.recv().await.unwrap();
            assert_eq!(event.lost, 0);
            heard.push(event.parse::<Value>().unwrap()["n"].as_u64().unwrap());
        }
        heard
    });
    let data = "z".repeat(8_000);
    for number in 0..EVENTS {
        let args = json!({ "topic": "storm", "data": { "n": number, "data": data } });
        let told = background.run(ask(&bus, "registry", "publish", args));
        assert_eq!(told["subscribers"], 2);
    }
    let heard = background.run(heard).unwrap();
    assert!(heard.into_iter().eq(0..EVENTS as u64), "the other one has all, in their order");
    let status = device.json(&["registry", "status"]);
    let subscribers = status["subscribers"].as_array().unwrap();
    let lost: Vec<u64> = subscribers.iter().map(|it| it["lost"].as_u64().unwrap()).collect();
    assert_eq!(subscribers.len(), 2, "{status}");
    assert!(lost.contains(&0) && lost.iter().any(|lost| *lost > 100), "{status}");
    let shown = device.ctl_ok(&["registry", "status"]);
    assert!(shown.contains(&lost.iter().max().unwrap().to_string()), "{shown}");
}

#[test]
fn another_interface_version_or_content_is_refused_before_anything_is_called() {
    let device = suite(&["camera"]);
    let background = Background::start();
    let bus = background.bus(&device.run_dir());
    let known = background.run(bus.lookup("camera", &Wanted::default(), LONG)).unwrap().object;
    let good = Wanted {
        interface: Some("demo.object"),
        version: Some(known.version),
        hash: Some(known.hash),
    };
    let call = |wanted| {
        let options = endpoint::CallOptions { wanted, ..deadline(LONG) };
        // A bus of its own each: nothing is remembered.
        let bus = background.bus(&device.run_dir());
        background.run(bus.call("camera", "pid", &(), options))
    };
    call(good).unwrap();
    for (wanted, said) in [
        (Wanted { interface: Some("demo.camera"), ..good }, "demo.camera"),
        (Wanted { version: Some(known.version + 1), hash: None, ..good }, "1.1"),
        (Wanted { version: Some(known.version + ONE), hash: None, ..good }, "2.0"),
        (Wanted { hash: Some(known.hash ^ 1), ..good }, "content"),
    ] {
        let refused = failure(call(wanted));
        assert_eq!(refused.code, Code::Unsupported, "{refused}");
        assert!(refused.text.contains(said), "{refused}");
        let refused = failure(background.run(bus.lookup("camera", &wanted, LONG)));
        assert_eq!(refused.code, Code::Unsupported, "{refused}");
    }
    let count = device.json(&["call", "camera", "count"]);
    assert_eq!(count["calls"], 1, "only the good one arrived");
}

fn demand(name: &str, idle: &str) -> String {
    object(name).replace("respawn = \"always\"\n", "")
        + &format!("[on-demand]\nobjects = [{name:?}]\nidle-timeout = {idle:?}\n")
}

#[test]
fn a_service_on_demand_starts_at_the_first_call_and_stops_when_nobody_is_connected() {
    let mut device = Device::with_core();
    device.define("lazy", &demand("lazy", "1s"));
    device.start();
    device.ctl_ok(&["wait-for", "registry", "log"]);
    let running = || device.instance("lazy", "instance1")["pid"].as_i64();
    assert_eq!(running(), None, "it waits to be asked for");
    let background = Background::start();
    let mut pids = BTreeSet::new();
    for _ in 0..2 {
        let bus = background.bus(&device.run_dir());
        let first = background.run(ask(&bus, "lazy", "pid", json!({})))["pid"].as_i64().unwrap();
        assert!(testkit::alive(i32::try_from(first).unwrap()));
        // As long as somebody is connected it stays, however long nothing is called.
        let gone = within(Duration::from_secs(3), || running().is_none().then_some(()));
        assert!(gone.is_none(), "it was stopped under its caller");
        assert_eq!(background.run(ask(&bus, "lazy", "pid", json!({})))["pid"], first);
        drop(bus);
        until("it is stopped", || running().is_none().then_some(()));
        pids.insert(first);
    }
    assert_eq!(pids.len(), 2);
    let looked = device.ctl(&["call", "registry", "lookup", r#"{"object":"lazy","activate":false}"#]);
    assert_eq!(looked.status.code(), Some(3), "{looked:?}");
    assert_eq!(running(), None);
}

#[test]
fn many_callers_of_a_service_on_demand_start_it_once() {
    let mut device = Device::with_core();
    let starts = device.folder().join("starts");
    let program = testkit::binary("vestal-demo-object");
    let script = format!("echo $$ >> {}; exec {program:?} lazy", starts.display());
    let definition = demand("lazy", "none").replace(
        &format!("command = [{program:?}, \"lazy\"]"),
        &format!("command = [\"sh\", \"-c\", {script:?}]"),
    );
    device.define("lazy", &definition);
    device.start();
    let background = Background::start();
    let calls: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let bus = background.bus(&device.run_dir());
            background.spawn(async move { ask(&bus, "lazy", "pid", json!({})).await })
        })
        .collect();
    let pids: BTreeSet<String> = background.run(async {
        let mut pids = BTreeSet::new();
        for call in calls {
            pids.insert(call.await.unwrap().to_string());
        }
        pids
    });
    assert_eq!(pids.len(), 1, "{pids:?}");
    assert_eq!(crate::support::lines(&starts).len(), 1);
}

#[test]
fn a_service_is_ready_when_its_object_is_registered_and_not_before() {
    let mut device = Device::with_core();
    let gate = device.folder().join("gate");
    let program = testkit::binary("vestal-demo-object");
    let script =
        format!("until [ -e {} ]; do sleep 0.05; done; exec {program:?} door", gate.display());
    let definition = object("door")
        .replace(&format!("[{program:?}, \"door\"]"), &format!("[\"sh\", \"-c\", {script:?}]"))
        .replace("{ notify = true }", "{ object = \"door\" }");
    device.define("door", &definition);
    device.define("after", "command = [\"sleep\", \"1000\"]\nrequires = [\"door\"]\n");
    device.start();
    device.ctl_ok(&["wait-for", "registry"]);
    device.until_pid("door");
    assert_ne!(device.instance("door", "instance1")["state"], "ready");
    assert!(device.processes("after").is_empty());
    fs::write(&gate, "").unwrap();
    device.until_state("door", "ready");
    device.until_pid("after");
    device.ctl_ok(&["call", "door", "pid"]);
}

#[test]
fn a_gate_holds_calls_until_it_is_opened_or_its_closer_ends() {
    let device = suite(&["camera", "door"]);
    let background = Background::start();
    let socket = device.run_dir().join("camera.sock");
    let bus = background.bus(&device.run_dir());
    background.run(ask(&bus, "camera", "pid", json!({})));
    let mut answered = 1;
    for ending in ["opened", "disconnected"] {
        let closer = background.client(&socket);
        let close = json!({ "object": "camera", "closed": true, "hold_ms": 60_000 });
        background.run(closer.call("", "_gate", &close, deadline(LONG))).unwrap();
        let held: Vec<_> = (0..20)
            .map(|_| {
                let bus = bus.clone();
                background.spawn(async move { ask(&bus, "camera", "pid", json!({})).await })
            })
            .collect();
        // Other objects are not behind it; and what was asked meanwhile still waits.
        (0..20).for_each(|_| drop(background.run(ask(&bus, "door", "pid", json!({})))));
        let passed = within(Duration::from_millis(500), || {
            held.iter().any(|call| call.is_finished()).then_some(())
        });
        assert!(passed.is_none(), "a call passed the closed gate");
        if ending == "opened" {
            let open = json!({ "object": "camera", "closed": false });
            background.run(closer.call("", "_gate", &open, deadline(LONG))).unwrap();
        } else {
            drop(closer);
        }
        background.run(async {
            for call in held {
                assert!(call.await.unwrap()["pid"].is_i64(), "{ending}");
            }
        });
        answered += 20;
        assert_eq!(device.json(&["call", "camera", "count"])["calls"], answered);
        answered += 1;
    }
    // Who waits too long at it is told so.
    let closer = background.client(&socket);
    let close = json!({ "closed": true, "hold_ms": 100 });
    background.run(closer.call("", "_gate", &close, deadline(LONG))).unwrap();
    let refused = failure(background.run(bus.call("camera", "pid", &(), deadline(LONG))));
    assert_eq!(refused.code, Code::Busy, "{refused}");
}

#[test]
fn a_gate_closed_by_a_killed_process_is_open_again() {
    let device = suite(&["camera"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
    let code = "import sys, vestal\nc = vestal.Client(sys.argv[1])\n\
                c.call('', '_gate', {'closed': True, 'hold_ms': 60000})\n\
                print('closed', flush=True)\nsys.stdin.read()\n";
    let mut python = Command::new("python3")
        .args(["-c", code])
        .arg(device.run_dir().join("camera.sock"))
        .env("PYTHONPATH", script)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 6];
    std::io::Read::read_exact(python.stdout.as_mut().unwrap(), &mut said).unwrap();
    let background = Background::start();
    let bus = background.bus(&device.run_dir());
    let held = background.spawn(async move { ask(&bus, "camera", "pid", json!({})).await });
    let passed = within(Duration::from_millis(500), || held.is_finished().then_some(()));
    assert!(passed.is_none(), "the gate is closed");
    python.kill().unwrap();
    python.wait().unwrap();
    background.run(held).unwrap();
}
