//! Every key lands in its field; every mistake is told with its line.

use std::{path::Path, time::Duration};

use proptest::prelude::*;

use super::{super::*, *};
use crate::settings::context::tests::device;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn read_as(who: u32, text: &str) -> Result<Read, Vec<Problem>> {
    let file = Path::new("camera.toml");
    read(text, file, &name("camera"), Source::File(file.into()), &device(who))
}

fn service(text: &str) -> Service {
    match read_as(0, text) {
        Ok(read) => read.service,
        Err(problems) => panic!("{}", printed(&problems)),
    }
}

fn only(text: &str) -> Instance {
    (*service(&format!("command = [\"/bin/x\"]\n{text}")).instances[&name("instance1")]).clone()
}

fn printed(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

/// What is said of a definition with this below its command, which is line 1.
fn mistakes(text: &str) -> String {
    match read_as(0, &format!("command = [\"/bin/x\"]\n{text}")) {
        Ok(read) => panic!("accepted: {:?}", read.service),
        Err(problems) => printed(&problems),
    }
}

#[test]
fn a_command_is_all_that_is_needed() {
    let service = service("command = [\"/bin/x\", \"-v\"]");
    assert!(service.autostart && !service.core);
    assert_eq!((service.start, service.stop), (START_DEFAULT, None));
    let instance = &service.instances[&name("instance1")];
    assert_eq!(instance.process.command, ["/bin/x", "-v"]);
    assert_eq!(instance.process.directory, Path::new("/"));
    assert!(instance.process.stdout && instance.process.stderr && !instance.process.oneshot);
    assert_eq!(instance.process.readiness, Readiness::default());
    let when = RespawnWhen::OnFailure;
    assert_eq!(instance.policy.respawn, Respawn::Backoff { when, max_restarts: None });
    assert_eq!((instance.policy.stop_signal, instance.policy.stop_timeout.as_secs()), (15, 5));
}

#[test]
fn a_service_on_demand_is_not_started_at_boot() {
    let service = service(
        "command = [\"/bin/x\"]\non-demand = { objects = [\"camera\", \"camera/raw\"], idle-timeout = \"30s\" }\nreadiness = { object = \"camera\" }",
    );
    assert!(!service.autostart);
    let on_demand = service.on_demand.as_ref().unwrap();
    assert_eq!(on_demand.objects, ["camera", "camera/raw"]);
    assert_eq!(on_demand.idle_timeout, Some(Duration::from_secs(30)));
    let readiness = &service.instances[&name("instance1")].process.readiness;
    assert_eq!(readiness.kind, ReadinessKind::Object("camera".to_owned()));
    assert_eq!(readiness.timeout, Some(Duration::from_secs(60)));
}

#[test]
fn a_service_on_demand_is_started_at_boot_where_the_definition_says_so() {
    let both = "command = [\"/bin/x\"]\nautostart = true\non-demand = { objects = [\"camera\"] }";
    assert!(service(both).autostart && service(both).on_demand.is_some());
}

#[test]
fn the_keys_of_a_service_land_in_their_fields() {
    let service = service(
        r#"
        command = ["/bin/x"]
        autostart = false
        start = 20
        stop = 80
        after = ["network", "network"]
        requires = ["db"]
        wants = ["clock"]
        conflicts = ["camera2"]
        conditions = { path-exists = ["/dev/video0", "!/etc/off"], kernel-argument = "cam", virtualization = "!vm" }
        data = { mdns = { port = 80 }, when = 2026-01-01 }
        [[triggers]]
        event = "config.change"
        package = "camera"
        action = "reload"
        "#,
    );
    assert!(!service.autostart);
    assert_eq!((service.start, service.stop), (20, Some(80)));
    assert_eq!(service.after, [name("network")]);
    assert_eq!((service.requires, service.wants), (vec![name("db")], vec![name("clock")]));
    assert_eq!(service.conflicts, [name("camera2")]);
    assert_eq!(
        service.conditions,
        [
            Condition::PathExists { path: "/dev/video0".into(), negate: false },
            Condition::PathExists { path: "/etc/off".into(), negate: true },
            Condition::KernelArgument { argument: "cam".into(), negate: false },
            Condition::Virtualization { kind: "vm".into(), negate: true },
        ]
    );
    assert_eq!(service.data["mdns"]["port"], 80);
    assert_eq!(service.data["when"], "2026-01-01");
    assert_eq!(service.triggers[0]["package"], "camera");
}

#[test]
fn the_keys_of_a_process_land_in_their_fields() {
    let Process { user, sockets, .. } =
        only("user = \"cam\"\ngroups = [0]\nsockets = [{ listen = \"run:cam.sock\" }]").process;
    let user = user.unwrap();
    assert_eq!((user.uid, user.gid, user.groups), (1001, 44, vec![0]));
    assert_eq!(
        sockets[0].listen,
        Listen::Unix { path: "/run/v/cam.sock".into(), kind: UnixKind::Stream }
    );
    assert_eq!((sockets[0].name.as_str(), sockets[0].mode), ("socket", 0o660));

    let process = only(
        r#"
        env = { LANG = "C", PATH = "${PATH}:/opt" }
        env-files = ["/etc/a", "-/etc/b"]
        directory = "${VESTAL_RUN_DIR}/camera"
        capabilities = ["CAP_CHOWN", "net-bind-service"]
        no-new-privileges = true
        read-only-paths = ["/etc"]
        umask = "0027"
        limits = { nofile = 1024, core = "0 unlimited", stack = "8MiB", cpu-time = 60, memory = "64MiB", pids = 10, cpu = "150%" }
        nice = -5
        oom-score-adj = 500
        fd-store = 4
        watchdog = "10s"
        stdout = false
        stderr = false
        pidfile = "/run/camera.pid"
        readiness = { fd = 4, timeout = "none" }
        sockets = [{ name = "control", listen = "tcp:127.0.0.1:80", mode = 0o600 }]
        "#,
    )
    .process;
    assert_eq!(process.env["PATH"], "/bin:/opt");
    assert_eq!(process.env_files[1], EnvFile { path: "/etc/b".into(), optional: true });
    assert_eq!(process.directory, Path::new("/run/v/camera"));
    assert_eq!(process.capabilities, Some(1 | 1 << 10));
    assert!(process.no_new_privileges && !process.stdout && !process.stderr);
    assert_eq!(process.read_only_paths, [Path::new("/etc")]);
    assert_eq!(
        (process.umask, process.nice, process.oom_score_adj),
        (Some(0o027), Some(-5), Some(500))
    );
    let nofile = rustix::process::Resource::Nofile as u32;
    let core = rustix::process::Resource::Core as u32;
    assert_eq!(process.limits[&nofile], (1024, 1024));
    assert_eq!(process.limits[&core], (0, u64::MAX));
    assert_eq!(process.limits.len(), 4);
    let cgroup = CgroupLimits { memory: Some(64 << 20), pids: Some(10), cpu_percent: Some(150) };
    assert_eq!(process.cgroup, cgroup);
    assert_eq!((process.fd_store, process.watchdog), (4, Some(Duration::from_secs(10))));
    assert_eq!(process.pidfile.as_deref(), Some(Path::new("/run/camera.pid")));
    assert_eq!(process.readiness, Readiness { kind: ReadinessKind::Fd(4), timeout: None });
    assert_eq!(process.sockets[0].listen, Listen::Tcp("127.0.0.1:80".parse().unwrap()));
    assert_eq!(process.sockets[0].mode, 0o600);
}

#[test]
fn the_keys_of_the_policy_land_in_their_fields() {
    let policy = only(
        r#"
        respawn = { policy = "always", max-restarts = 3 }
        critical = { restarts = 4, window = "4m", action = "rescue" }
        stop-signal = "INT"
        stop-timeout = "300s"
        kill-mode = "main"
        reload = { signal = "HUP" }
        "#,
    )
    .policy;
    let respawn = Respawn::Backoff { when: RespawnWhen::Always, max_restarts: Some(3) };
    let window = Duration::from_secs(240);
    let critical = Critical { restarts: 4, window, action: CriticalAction::Rescue };
    assert_eq!((policy.respawn, policy.critical), (respawn, Some(critical)));
    assert_eq!((policy.stop_signal, policy.stop_timeout.as_secs()), (2, 300));
    assert!(policy.main_only);
    assert_eq!(policy.reload, Reload::Signal(1));
    assert_eq!(only("respawn = \"never\"").policy.respawn, Respawn::Never);
    let reload = only("reload = { command = [\"/bin/r\", \"${VESTAL_SERVICE}\"] }").policy.reload;
    assert_eq!(reload, Reload::Command(vec!["/bin/r".into(), "camera".into()]));
    let procd = only("respawn = { threshold = \"1h\", retry = 0 }").policy.respawn;
    assert_eq!(procd, Respawn::Procd { threshold: 3600, timeout: 5, retry: 0 });
}

#[test]
fn a_heartbeat_has_a_number_and_terms_and_an_instance_need_only_say_its_number() {
    let plain = only("heartbeat = { app-id = -7, period = \"2s\" }");
    assert_eq!(plain.process.app_id, Some(-7));
    let terms = Heartbeat { period: Duration::from_secs(2), ..Heartbeat::default() };
    assert_eq!(plain.policy.heartbeat, terms);
    assert_eq!((terms.misses, terms.on_miss), (3, OnMiss::Restart));
    assert_eq!(only("").process.app_id, None);
    let full = only(
        r#"
        heartbeat = { app-id = 7, period = "1s", misses = 5, on-miss = "signal", signal = "QUIT", grace = "none", progress = "1m", detector = "adaptive" }
        "#,
    );
    let terms = Heartbeat {
        period: Duration::from_secs(1),
        misses: 5,
        on_miss: OnMiss::Signal(3),
        grace: None,
        progress: Some(Duration::from_secs(60)),
        adaptive: true,
    };
    assert_eq!(full.policy.heartbeat, terms);
    let service = service(
        "command = [\"/x\"]\nheartbeat = { period = \"2s\", misses = 9 }\n[instances.a]\nheartbeat.app-id = 1\n[instances.b.heartbeat]\napp-id = 2\nmisses = 1",
    );
    let terms = |text: &str| {
        let instance = &service.instances[&name(text)];
        (instance.process.app_id, instance.policy.heartbeat.misses)
    };
    assert_eq!((terms("a"), terms("b")), ((Some(1), 9), (Some(2), 1)));
}

#[test]
fn a_watchdog_is_a_period_or_a_table_with_what_follows() {
    let read = |text: &str| {
        let instance = only(text);
        (instance.process.watchdog, instance.policy.watchdog_miss)
    };
    let period = Some(Duration::from_secs(30));
    assert_eq!(read("watchdog = \"30s\""), (period, OnMiss::Signal(6)));
    let table = "watchdog = { period = \"30s\", on-miss = \"reboot\" }";
    assert_eq!(read(table), (period, OnMiss::Reboot));
    assert_eq!(read("watchdog = { period = \"none\" }"), (None, OnMiss::Signal(6)));
}

#[test]
fn every_kind_of_readiness_is_understood() {
    let kind = |text: &str| only(&format!("readiness = {{ {text} }}")).process.readiness;
    assert_eq!(kind("exec = true"), Readiness::default());
    let sixty = Some(Duration::from_secs(60));
    assert_eq!(kind("notify = true"), Readiness { kind: ReadinessKind::Notify, timeout: sixty });
    assert_eq!(kind("fd = 3").kind, ReadinessKind::Fd(3));
    assert_eq!(kind("tcp = \"[::1]:80\"").kind, ReadinessKind::Tcp("[::1]:80".parse().unwrap()));
    assert_eq!(kind("unix = \"/x\"").kind, ReadinessKind::Unix("/x".into()));
    assert_eq!(kind("command = [\"/t\"]").kind, ReadinessKind::Command(vec!["/t".into()]));
}

#[test]
fn instances_override_the_services_keys_and_merge_env_and_limits() {
    let service = service(
        r#"
        command = ["/bin/cam", "${SIDE}", "${VESTAL_INSTANCE}"]
        nice = 5
        env = { SIDE = "none", LANG = "C" }
        limits = { nofile = 10, memory = "1MiB" }
        [instances.front]
        env = { SIDE = "front" }
        limits = { memory = "unlimited" }
        [instances.rear]
        command = ["/bin/rear"]
        nice = 7
        data = { side = 2 }
        "#,
    );
    let (front, rear) = (&service.instances[&name("front")], &service.instances[&name("rear")]);
    assert_eq!(service.instances.len(), 2);
    assert_eq!(front.process.command, ["/bin/cam", "front", "front"]);
    assert_eq!((front.process.env["LANG"].as_str(), front.process.nice), ("C", Some(5)));
    assert_eq!((front.process.limits.len(), front.process.cgroup.memory), (1, None));
    assert_eq!((rear.process.command[0].as_str(), rear.process.nice), ("/bin/rear", Some(7)));
    assert_eq!(rear.process.cgroup.memory, Some(1 << 20));
    assert_eq!((rear.shown["data"]["side"].as_i64(), front.shown.len()), (Some(2), 0));
}

#[test]
fn a_disabled_file_reads_well() {
    assert!(!read_as(0, "command = [\"/x\"]\nenabled = false").unwrap().enabled);
}

#[test]
fn without_root_another_user_is_an_error_of_the_instance_and_ones_own_is_fine() {
    let instance = |text: &str| {
        let read = read_as(1000, &format!("command = [\"/x\"]\nuser = {text}")).unwrap();
        read.service.instances[&name("instance1")].clone()
    };
    let other = instance("\"cam\"");
    assert!(other.errors[0].contains("without root"), "{:?}", other.errors);
    let own = instance("\"me\"");
    assert_eq!((own.errors.len(), own.process.user), (0, None));
    assert_eq!(own.shown["user"], "me");
}

#[test]
fn an_unknown_key_is_told_with_its_line_and_what_was_meant() {
    assert_eq!(
        mistakes("nice = 1\n\nrespwan = \"always\""),
        "camera.toml:4: unknown key \"respwan\", did you mean \"respawn\"?\n"
    );
    let nested = mistakes("[readiness]\nnotify = true\ntimout = \"1s\"");
    assert_eq!(
        nested,
        "camera.toml:4: unknown key \"readiness.timout\", did you mean \"timeout\"?\n"
    );
    let instance = mistakes("[instances.a]\ncomand = [\"/x\"]\nstart = 5");
    assert!(
        instance.contains(
            "camera.toml:3: unknown key \"instances.a.comand\", did you mean \"command\"?"
        ),
        "{instance}"
    );
    assert!(
        instance.contains(
            "camera.toml:4: unknown key \"instances.a.start\", it belongs to the service"
        ),
        "{instance}"
    );
    assert!(mistakes("seccomp = \"x\"").contains("can't do that yet"));
    assert!(mistakes("name = \"x\"").contains("called as its file"));
}

#[test]
fn all_mistakes_of_a_file_are_told_at_once_and_each_once() {
    let told = mistakes(
        "stop-timeout = \"5 parsecs\"\nnice = 40\n[instances.a]\n[instances.b]\nuser = \"nobody-here\"",
    );
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 3, "{told}");
    assert!(
        lines[0].starts_with(
            "camera.toml:2: stop-timeout: \"5 parsecs\" is not a duration; write one as"
        )
    );
    assert!(lines[1].starts_with("camera.toml:3: nice: 40 is out of range; allowed are -20 to 19"));
    assert!(
        lines[2].starts_with("camera.toml:6: user: user \"nobody-here\" is not in /etc/passwd")
    );
}

#[test]
fn each_mistake_says_what_is_allowed() {
    for (text, part) in [
        ("stop-signal = \"TREM\"", "2: stop-signal: \"TREM\" is not a signal"),
        ("respawn = \"sometimes\"", "allowed are \"never\", \"on-failure\", \"always\""),
        ("respawn = { policy = \"never\", retry = 3 }", "write one of the two"),
        ("respawn = { policy = \"never\", max-restarts = 3 }", "means nothing"),
        ("oneshot = true\nrespawn = \"always\"", "a oneshot is done"),
        ("readiness = { }", "exactly one of exec, notify"),
        ("readiness = { notify = true, fd = 3 }", "notify and fd contradict"),
        ("readiness = { object = \"ca mera\" }", "not an object's name"),
        ("on-demand = {}", "objects"),
        ("on-demand = { objects = [] }", "write 1 to 64"),
        ("on-demand = { objects = [\"a//b\"] }", "not an object's name"),
        ("on-demand = { objects = [\"a\"], idle = \"3s\" }", "idle-timeout"),
        (
            "readiness = { fd = 3 }\nsockets = [{ listen = \"tcp:127.0.0.1:1\" }]",
            "choose one from 4 to 255",
        ),
        ("readiness = { notify = true, timeout = \"0s\" }", "write \"none\""),
        ("sockets = [{ listen = \"127.0.0.1:1\" }]", "write \"unix:/path\""),
        ("sockets = [{ listen = \"run:../x\" }]", "not a name in the run directory"),
        ("sockets = [{ }]", "needs listen"),
        (
            "sockets = [{ listen = \"udp:[::]:1\" }, { listen = \"udp:[::]:1\" }]",
            "listened on twice",
        ),
        ("umask = 22", "octal digits in quotes"),
        ("stdout = \"yes\"", "write true or false"),
        ("after = [\"camera\"]", "can't relate to itself"),
        ("after = \"network\"", "write a list in [ ]"),
        ("directory = \"here\"", "not an absolute path"),
        ("env = { A = \"${NO_SUCH}\" }", "variable \"NO_SUCH\" is set neither"),
        ("env = { A = 1 }", "env.A: 1 is not allowed here; write a text in quotes"),
        ("critical = { restarts = 4 }", "key \"critical.window\" is missing"),
        ("conditions = { path-exists = \"x\" }", "not an absolute path"),
        ("heartbeat = { period = \"1s\" }", "key \"app-id\" is missing; write heartbeat = {"),
        ("heartbeat = { app-id = 7, period = \"1ms\" }", "allowed are 10ms to 3600000ms"),
        ("heartbeat = { app-id = 2147483648, period = \"1s\" }", "2147483648 is out of range"),
        ("heartbeat = { app-id = 7, period = \"1s\", misses = 256 }", "allowed are 1 to 255"),
        (
            "heartbeat = { app-id = 7, period = \"1s\", signal = \"ABRT\" }",
            "with on-miss = \"signal\" only",
        ),
        ("heartbeat = { app-id = 7, period = \"1s\", grace = \"25h\" }", "longer than a day"),
        (
            "readiness = { fd = 3 }\nheartbeat = { app-id = 7, period = \"1s\" }",
            "descriptor 3 is the heartbeat's key; choose one from 4",
        ),
        (
            "heartbeat = { app-id = 7, period = \"1s\" }\n[instances.a]\n[instances.b]",
            "app-id 7 is the one of instance a; write heartbeat = { app-id = ... } into [instances.b]",
        ),
        ("watchdog = { on-miss = \"restart\" }", "key \"watchdog.period\" is missing"),
        ("heartbeat = { app-id = 7, perod = \"1s\" }", "did you mean \"period\"?"),
        ("limits = { nofiles = 3 }", "did you mean \"nofile\"?"),
        ("limits = { memory = \"1MiB 2MiB\" }", "has one limit"),
        ("instances = { }", "the table is empty"),
        ("triggers = [{ run = [\"x\"] }]", "needs event"),
        ("capabilities = [\"CAP_NET_ADMN\"]", "did you mean \"CAP_NET_ADMIN\"?"),
        ("nice = ", "camera.toml:2:"),
        ("nice = 1\nnice = 2", "camera.toml:3:"),
    ] {
        let told = mistakes(text);
        assert!(told.contains(part), "{text}\n{told}");
    }
    let told = printed(&read_as(0, "command = \"/bin/x -y\"").unwrap_err());
    assert_eq!(
        told,
        "camera.toml:1: command: a command is a list; write [\"/program\", \"argument\"]\n"
    );
    let told = printed(&read_as(0, "nice = 1").unwrap_err());
    assert!(told.contains("key \"command\" is missing"), "{told}");
    assert!(printed(&read_as(0, "command = []").unwrap_err()).contains("is empty"));
}

#[test]
fn a_file_full_of_mistakes_is_told_up_to_the_limit() {
    let many: String = (0..100).map(|n| format!("zzzzzz{n} = 1\n")).collect();
    assert_eq!(read_as(0, &many).unwrap_err().len(), PROBLEMS_MAX);
}

#[test]
fn a_hostile_file_costs_little_and_never_the_stack() {
    let deep = format!("command = {}", "[".repeat(100_000));
    assert!(!read_as(0, &deep).unwrap_err().is_empty());
    let deep =
        format!("command = [\"/x\"]\ndata = {}1{}", "{ a = ".repeat(20_000), " }".repeat(20_000));
    assert!(!read_as(0, &deep).unwrap_err().is_empty());
    let dotted = format!("command = [\"/x\"]\ndata.{} = 1", vec!["a"; 125_000].join("."));
    assert!(!read_as(0, &dotted).unwrap_err().is_empty());
    let wide: String = (0..30_000).map(|n| format!("k{n} = 1\n")).collect();
    assert_eq!(read_as(0, &wide).unwrap_err().len(), PROBLEMS_MAX);
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,120}") {
        let _ = read_as(0, &text);
    }

    #[test]
    fn no_mixture_of_keys_and_values_makes_the_reader_panic(
        entries in proptest::collection::vec((0_usize..45, 0_usize..16), 0..12),
    ) {
        let keys: Vec<&str> = SERVICE_KEYS.into_iter().chain(INSTANCE_KEYS).chain(["x", "a.b", "\"\""]).collect();
        let values = ["1", "-1", "0o7", "true", "1.5", "inf", "\"\"", "\"5s\"", "\"none\"", "\"${X\"", "[]", "[1, \"a\"]", "{}", "{ timeout = \"1s\", signal = 9 }", "[{ listen = \"run:x\" }]", "2026-01-01"];
        let text: String = entries.iter().map(|(key, value)| format!("{} = {}\n", keys[*key % keys.len()], values[*value])).collect();
        match read_as(0, &text) {
            Ok(_) => {}
            Err(problems) => prop_assert!(!problems.is_empty()),
        }
    }
}

#[test]
fn triggers_are_checked_key_by_key() {
    let trigger = |keys: &str| format!("[[triggers]]\nevent = \"e\"\n{keys}");
    for keys in
        ["", "action = \"restart\"", "signal = \"USR1\"", "run = [\"/x\", \"%y%\"]\ndelay = \"1s\""]
    {
        assert_eq!(service(&format!("command = [\"/x\"]\n{}", trigger(keys))).triggers.len(), 1);
    }
    for (keys, told) in [
        ("action = \"dance\"", "allowed are \"reload\", \"restart\""),
        ("action = \"reload\"\nrun = [\"/x\"]", "one of action, signal and run"),
        ("signal = \"NOTHING\"", "signal"),
        ("run = []", "the command is empty"),
        ("run = [\"\"]", "the command is empty"),
        ("run = \"/x\"", "a list in [ ]"),
        ("delay = \"soon\"", "is not a duration"),
        ("strict = 1", "true or false"),
        ("interface = 1", "a text in quotes"),
        ("pakage = \"x\"", "did you mean \"package\"?"),
    ] {
        let mistakes = mistakes(&trigger(keys));
        assert!(mistakes.contains(told), "{keys}: {mistakes}");
    }
}

#[test]
fn rules_are_read_strictly() {
    let rules = |keys: &str| format!("[[validate]]\n{keys}\n");
    let good =
        rules("package = \"p\"\ntype = \"t\"\noptions = { a = \"port\", b = \"or('x','y')\" }");
    let service = service(&format!("command = [\"/x\"]\n{good}"));
    let [read] = &service.validate[..] else { panic!("{:?}", service.validate) };
    assert!(read.strict && read.options.len() == 2);
    assert_eq!((&*read.package, &*read.kind), ("p", "t"));
    for (keys, told) in [
        ("", "key \"validate[0].package\" is missing"),
        ("package = \"../p\"\ntype = \"t\"\noptions = {}", "is no name of a file"),
        ("package = \"p\"\ntype = \"t\"\noptions = { a = \"prot\" }", "column 1"),
        ("package = \"p\"\ntype = \"t\"\noptions = { a = 1 }", "a text in quotes"),
    ] {
        let mistakes = mistakes(&rules(keys));
        assert!(mistakes.contains(told), "{keys}: {mistakes}");
    }
}

#[test]
fn a_changed_file_makes_a_changed_process() {
    let folder = tempfile::tempdir().unwrap();
    let conf = folder.path().join("x.conf");
    let text = format!("files = [{:?}]\nnetdev = [\"no-such-device\"]", conf);
    let before = only(&text).process;
    assert_eq!((before.files.len(), before.netdevs["no-such-device"]), (1, 0));
    assert_eq!(only(&text).process, before);
    std::fs::write(&conf, "changed").unwrap();
    assert_ne!(only(&text).process, before);
    assert!(mistakes("files = [\"x\"]").contains("absolute"));
    assert!(mistakes("netdev = [\"a/b\"]").contains("no name of a device"));
}
