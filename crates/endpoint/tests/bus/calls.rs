//! Calls by name: found, found again, and going on without the registry.

use std::{
    os::unix::net::UnixListener,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use endpoint::{
    Bus, CallError, CallOptions, Code, Description, Incoming, Options, Serve, Server, Settings,
};
use protocol::objects::{Wanted, version};
use tokio::time::Instant;

use crate::{SOON, bus, provider, registered, registry::Device};

async fn name(bus: &Bus, object: &str) -> Result<String, CallError> {
    let answer = bus.call(object, "name", &(), CallOptions::default()).await?;
    Ok(answer.parse().unwrap())
}

fn refusal(outcome: Result<String, CallError>) -> Code {
    match outcome {
        Err(CallError::Refused(failure)) => failure.code,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn an_object_is_looked_up_once_and_called_without_the_registry_from_then_on() {
    let device = Device::new();
    let registry = device.registry();
    let socket = device.path("camera.sock");
    let server = provider(&socket, "camera", "one");
    let _registration = registered(&bus(device.directory.path()), &server, &socket).await;
    let caller = bus(device.directory.path());
    for _ in 0..3 {
        assert_eq!(name(&caller, "camera").await.unwrap(), "one");
    }
    assert_eq!(device.notes().lookups, 1);
    registry.kill();
    assert_eq!(name(&caller, "camera").await.unwrap(), "one");
}

#[tokio::test]
async fn what_nobody_serves_is_not_found_at_once_and_a_handlers_own_not_found_is_not_repeated() {
    let device = Device::new();
    let _registry = device.registry();
    let socket = device.path("camera.sock");
    let server = provider(&socket, "camera", "one");
    let _registration = registered(&bus(device.directory.path()), &server, &socket).await;
    let caller = bus(device.directory.path());
    assert_eq!(refusal(name(&caller, "lens").await), Code::NotFound);
    let before = server.counters().calls;
    let missing = caller.call("camera", "missing", &(), CallOptions::default()).await;
    assert_eq!(refusal(missing.map(|_| String::new())), Code::NotFound);
    assert_eq!(server.counters().calls, before + 1);
}

#[tokio::test]
async fn without_a_registry_the_suites_objects_are_found_by_their_sockets() {
    let device = Device::new();
    let _server = provider(&device.path("supervisor.sock"), "service", "supervisor");
    let caller = bus(device.directory.path());
    assert_eq!(name(&caller, "service").await.unwrap(), "supervisor");
    let impatient = Bus::new(
        device.directory.path(),
        Options { patience: Duration::from_millis(50), ..Options::default() },
    );
    let unknown = name(&impatient, "camera").await;
    assert!(matches!(unknown, Err(CallError::Unreachable { .. })), "{unknown:?}");
}

#[tokio::test]
async fn a_registry_that_does_not_know_a_daemon_of_the_suite_yet_is_no_obstacle() {
    let device = Device::new();
    let _registry = device.registry();
    let _server = provider(&device.path("heartbeat.sock"), "heartbeat", "heartbeat");
    let caller = bus(device.directory.path());
    assert_eq!(name(&caller, "heartbeat").await.unwrap(), "heartbeat");
}

#[tokio::test]
async fn a_registry_that_says_nothing_delays_a_call_of_the_suite_by_a_second_only() {
    let device = Device::new();
    // It listens and never accepts.
    let _silent = UnixListener::bind(device.path("registry.sock")).unwrap();
    let _server = provider(&device.path("supervisor.sock"), "service", "supervisor");
    let caller = bus(device.directory.path());
    let began = Instant::now();
    assert_eq!(name(&caller, "service").await.unwrap(), "supervisor");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test]
async fn every_version_gets_its_answer_with_and_without_a_registry() {
    let device = Device::new();
    let registry = device.registry();
    let socket = device.path("log.sock");
    let server = provider(&socket, "log", "log");
    let registration = registered(&bus(device.directory.path()), &server, &socket).await;
    let expect = |major, minor| {
        let version = Some(version(major, minor));
        CallOptions {
            wanted: Wanted { interface: Some("test.named"), version, hash: None },
            ..CallOptions::default()
        }
    };
    for with_registry in [true, false] {
        let caller = bus(device.directory.path());
        for (major, minor, fits) in [(1, 0, true), (1, 2, true), (1, 3, false), (2, 0, false)] {
            let outcome = caller.call("log", "name", &(), expect(major, minor)).await;
            let case = format!("{major}.{minor}, with a registry: {with_registry}");
            match outcome {
                Ok(_) => assert!(fits, "{case}"),
                Err(CallError::Refused(failure)) => {
                    assert_eq!((fits, failure.code), (false, Code::Unsupported), "{case}");
                    assert!(failure.text.contains("1.2"), "{failure}");
                }
                Err(error) => panic!("{case}: {error}"),
            }
        }
        if with_registry {
            device.notes().lookups = 0;
        }
    }
    registry.kill();
    let caller = bus(device.directory.path());
    let outcome = caller.call("log", "name", &(), expect(2, 0)).await;
    assert!(matches!(outcome, Err(CallError::Refused(f)) if f.code == Code::Unsupported));
    let wrong = Wanted { interface: Some("test.other"), ..Wanted::default() };
    let options = CallOptions { wanted: wrong, ..CallOptions::default() };
    let outcome = caller.call("log", "name", &(), options).await;
    assert!(matches!(outcome, Err(CallError::Refused(f)) if f.code == Code::Unsupported));
    drop(registration);
}

#[tokio::test]
async fn a_provider_that_moved_to_another_socket_is_found_there() {
    let device = Device::new();
    let _registry = device.registry();
    let (first, second) = (device.path("one.sock"), device.path("two.sock"));
    let server = provider(&first, "camera", "one");
    let registration = registered(&bus(device.directory.path()), &server, &first).await;
    let caller = bus(device.directory.path());
    assert_eq!(name(&caller, "camera").await.unwrap(), "one");
    drop(registration);
    server.drain(SOON).await;
    std::fs::remove_file(&first).unwrap();
    let (outcome, _kept) = tokio::join!(name(&caller, "camera"), async {
        let server = provider(&second, "camera", "two");
        let registration = registered(&bus(device.directory.path()), &server, &second).await;
        (server, registration)
    });
    assert_eq!(outcome.unwrap(), "two");
}

#[tokio::test]
async fn an_object_that_was_withdrawn_and_is_served_elsewhere_is_found_there() {
    let device = Device::new();
    let _registry = device.registry();
    let (first, second) = (device.path("one.sock"), device.path("two.sock"));
    let server = provider(&first, "camera", "one");
    server.add("lens", crate::Named("lens")).unwrap();
    let _one = registered(&bus(device.directory.path()), &server, &first).await;
    let caller = bus(device.directory.path());
    assert_eq!(name(&caller, "camera").await.unwrap(), "one");
    assert!(server.remove("camera"));
    let other = provider(&second, "camera", "two");
    let _two = registered(&bus(device.directory.path()), &other, &second).await;
    assert_eq!(name(&caller, "camera").await.unwrap(), "two");
    assert_eq!(name(&caller, "lens").await.unwrap(), "lens");
}

#[tokio::test]
async fn ten_thousand_calls_while_the_registry_dies_and_comes_back_and_none_fails() {
    const CALLS: u32 = 10_000;
    let device = Device::new();
    let registry = device.registry();
    let (camera, lens) = (device.path("camera.sock"), device.path("lens.sock"));
    let (one, two) = (provider(&camera, "camera", "one"), provider(&lens, "lens", "two"));
    let (bus_one, bus_two) = (bus(device.directory.path()), bus(device.directory.path()));
    let _one = registered(&bus_one, &one, &camera).await;
    let _two = registered(&bus_two, &two, &lens).await;
    let (made, failed) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let caller = bus(device.directory.path());
    let began = Instant::now();
    let callers: Vec<_> = (0..32)
        .map(|at| {
            let (made, failed) = (Arc::clone(&made), Arc::clone(&failed));
            let caller = caller.clone();
            tokio::spawn(async move {
                while made.fetch_add(1, SeqCst) < CALLS {
                    let object = if at % 2 == 0 { "camera" } else { "lens" };
                    if let Err(error) = name(&caller, object).await {
                        failed.fetch_add(1, SeqCst);
                        println!("{error}");
                    }
                }
            })
        })
        .collect();
    crate::until(|| made.load(SeqCst) > CALLS / 4).await;
    registry.kill();
    crate::until(|| made.load(SeqCst) > CALLS / 2).await;
    let _registry = device.registry();
    for caller in callers {
        caller.await.unwrap();
    }
    println!("{CALLS} calls in {:?}", began.elapsed());
    assert_eq!(failed.load(SeqCst), 0);
}

/// Says who is asked about.
struct Supervisor {
    asked: Arc<AtomicU64>,
}

impl Serve for Supervisor {
    fn describe(&self) -> Description {
        protocol::service::description()
    }

    async fn call(&mut self, call: Incoming) {
        let args: protocol::service::Identify = call.parse().unwrap();
        self.asked.store(u64::try_from(args.pid.unwrap()).unwrap(), SeqCst);
        assert_eq!(call.fds.len(), 1);
        let service = Some("camera".to_owned());
        call.responder.reply(&protocol::policy::Identity { service, ..Default::default() });
    }
}

#[tokio::test]
async fn the_supervisor_is_asked_who_a_process_is() {
    let device = Device::new();
    let asked = Arc::new(AtomicU64::new(0));
    let server = Server::new(Settings::default()).unwrap();
    server.add("service", Supervisor { asked: Arc::clone(&asked) }).unwrap();
    server.listen(UnixListener::bind(device.path("supervisor.sock")).unwrap()).unwrap();
    let identify = bus(device.directory.path()).identify();
    let caller = endpoint::Caller { pid: 4711, uid: 1000, gid: 1000 };
    let process = std::fs::File::open("/dev/null").unwrap().into();
    let identity = identify(caller, Some(process)).await.unwrap();
    assert_eq!(identity.service.as_deref(), Some("camera"));
    assert_eq!(asked.load(SeqCst), 4711);
}
