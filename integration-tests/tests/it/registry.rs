//! Starting before the registry and dying beside it; names, handles, tokens and interfaces that are not what they should be.

use std::{collections::BTreeSet, fs, os::unix::net::UnixListener, time::Duration};

use endpoint::{CallOptions, Code, Wanted};
use rustix::process::Signal;
use serde_json::{Value, json};
use testkit::{Device, until, within};

use crate::{
    bus::{Listener, suite},
    load::Load,
    parts::Part,
    peers::{Background, LONG, ONE, Program, Raw, ask, failure, socket_of, within as deadline},
    support::{kill, until_other_pid},
};

const PROVIDERS: usize = 20;
const CLIENTS: usize = 50;

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

    let _registry = Program::start(&device, "vestal-registry", &[], None);
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
    let mut provider = Program::start(&device, "vestal-demo-object", &["alone", "--seed"], None);
    let mut tries = Vec::new();
    let status = within(LONG * 2, || {
        while listener.accept().is_ok() {
            tries.push((milliseconds_since_boot() - began + 500) / 1000);
        }
        provider.ended()
    });
    assert_eq!(status.and_then(|status| status.code()), Some(69));
    assert_eq!(tries, [0, 5, 10, 20, 25, 30, 40, 45, 50], "seconds at which it was tried");
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
    // One by the owner of an object, one by a process that serves nothing.
    background.run(async {
        light.bus.publish("light.level", "dim", true).unwrap();
        bus.publish("season", "winter", true).unwrap();
        assert!(light.bus.flush(LONG).await && bus.flush(LONG).await);
    });
    let load = Load::start(&device.run_dir(), "camera");
    let mut watch = background.run(async { bus.watch("*") });
    background.run(watch.active(LONG)).unwrap();
    load.until_more(1_000);
    for _ in 0..3 {
        let pid = device.until_pid("registry");
        kill(pid, Signal::KILL);
        until_other_pid(&device, "registry", pid);
        device.ctl_ok(&["wait-for", "service", "system", "log", "camera", "light"]);
        for (topic, value) in [("light.level", "dim"), ("season", "winter")] {
            let retained = until(&format!("the value of {topic} is there again"), || {
                let heard = device.ctl(&["--json", "listen", "-n", "1", "--timeout", "5", topic]);
                heard.status.success().then(|| heard.stdout.clone())
            });
            assert!(retained.contains(value), "{retained}");
        }
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
    let (registry, socket) = (device.until_pid("registry"), device.run_dir().join("door.sock"));
    let mut events = Listener::start(&device, &["endpoint.died", "object.remove"]);
    let mut callers = Part::start("sleepers", &device.run_dir(), "door", None);
    let mut before = None;
    for kill_number in 0..KILLS {
        let provider = Program::serve(&device, "door", &socket, None);
        device.ctl_ok(&["wait-for", "door"]);
        callers.tell("go");
        callers.next();
        until("all calls are in flight", || {
            let count = device.json(&["call", "door", "count"]);
            (count["calls"].as_u64() >= Some(9)).then_some(())
        });
        let pid = provider.pid();
        let killed = milliseconds_since_boot();
        kill(pid, Signal::KILL);
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
    until("it has the name", || {
        (socket_of(&device, "camera").as_ref() == Some(&socket)).then_some(())
    });
    device.ctl_ok(&["call", "camera", "ping"]);
    until("nothing is refused any more", || second.registration.refused().is_empty().then_some(()));
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
fn a_caller_who_knew_the_place_before_a_restart_reaches_who_came_after() {
    let device = suite(&["camera"]);
    let pid = device.until_pid("camera");
    let background = Background::start();
    let bus = background.bus(&device.run_dir());
    // Asking who it is does no harm twice: a call that the kill meets is made again.
    let ask = || -> Value {
        let options = CallOptions { deadline: LONG, ..CallOptions::safe() };
        background.run(bus.call("camera", "pid", &(), options)).unwrap().parse().unwrap()
    };
    for _ in 0..3 {
        let before = ask();
        kill(i32::try_from(before["pid"].as_i64().unwrap()).unwrap(), Signal::KILL);
        assert_ne!(ask(), before);
    }
    assert_ne!(device.until_pid("camera"), pid);
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
        let options = CallOptions { wanted, ..deadline(LONG) };
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
