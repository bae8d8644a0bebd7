//! The device in its virtual machine: what is added to its image, and one look at everything that runs in it.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::Context as _;
use serde_json::Value;
use testkit::machine::{Image, Machine, Setup};

use crate::plan::Target;

/// Shows which configuration it was started with; a port that is none keeps it from being reloaded.
const SERVICE: &str = r#"command = ["/usr/lib/soak/service"]
env = { PATH = "/usr/sbin:/usr/bin:/sbin:/bin" }
respawn = "always"

[readiness]
fd = 3
timeout = "20s"

[[triggers]]
event = "config.change"
package = "soak"
action = "reload"

[[validate]]
package = "soak"
type = "soak"
options = { port = "port" }
"#;
const PROGRAM: &str =
    "#!/bin/sh\nuci get soak.main.port > /run/soak.seen\necho >&3\nexec sleep 2147483647\n";
pub(crate) const CONFIGURATION: &str = "config soak 'main'\n\toption port '1000'\n";
/// Everything that runs, in the order that lets one tell who is whose.
const LOOK: &str = "vestalctl --json service list && echo @@ && ps -o pid,ppid,stat,rss,args";

/// A line of ps.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) pid: u64,
    pub(crate) parent: u64,
    pub(crate) state: String,
    pub(crate) args: String,
}

/// Services and processes at one moment.
pub(crate) struct View {
    /// The only instance of each service.
    pub(crate) services: BTreeMap<String, Value>,
    pub(crate) processes: Vec<Process>,
}

/// The image's root file system, with a service of ours.
pub(crate) fn start(image: &Image, folder: &Path) -> Machine {
    let packed = folder.join("rootfs.squashfs");
    image.pack_rootfs(&packed, |root| {
        let put = |name: &str, text: &str, mode: u32| {
            let path = root.join(name);
            fs::create_dir_all(path.parent().expect("it lies in the root"))
                .expect("the copy is ours");
            fs::write(&path, text).expect("the copy is ours");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("we just made it");
        };
        put("etc/vestal/services.d/soak.toml", SERVICE, 0o644);
        put("usr/lib/soak/service", PROGRAM, 0o755);
        put("etc/config/soak", CONFIGURATION, 0o644);
        // A trial of five seconds would be most of the time.
        let settings = root.join("etc/vestal/upgrade.toml");
        let text = fs::read_to_string(&settings).expect("the image has an agent");
        let text = text.replace("stable = \"5s\"", "stable = \"1s\"");
        fs::write(&settings, text).expect("the copy is ours");
    });
    Setup::direct(image).content("rootfs-a", &packed).start()
}

/// Services and processes; none while the supervisor does not answer.
pub(crate) fn look(machine: &Machine) -> anyhow::Result<Option<View>> {
    let (code, text) = machine.run(LOOK);
    if code != 0 {
        return Ok(None);
    }
    view(&text).map(Some)
}

fn view(text: &str) -> anyhow::Result<View> {
    let (listed, processes) =
        text.split_once("@@\n").with_context(|| format!("no list of processes: {text}"))?;
    let listed: BTreeMap<String, Value> = serde_json::from_str(listed)?;
    let services = listed
        .into_iter()
        .map(|(name, mut service)| (name, service["instances"]["instance1"].take()))
        .collect();
    let processes = processes.lines().filter_map(process).filter(userland).collect();
    Ok(View { services, processes })
}

fn process(line: &str) -> Option<Process> {
    let mut words = line.split_whitespace();
    let mut number = || words.next()?.parse().ok();
    let (pid, parent) = (number()?, number()?);
    let (state, _memory) = (words.next()?.to_owned(), words.next()?);
    Some(Process { pid, parent, state, args: words.collect::<Vec<_>>().join(" ") })
}

fn userland(process: &Process) -> bool {
    // The kernel's own threads are children of number 2.
    process.pid != 2 && process.parent != 2
}

impl View {
    pub(crate) fn main(&self, service: &str) -> Option<u64> {
        self.services.get(service)?["pid"].as_u64()
    }

    pub(crate) fn number(&self, service: &str, key: &str) -> u64 {
        self.services.get(service).and_then(|instance| instance[key].as_u64()).unwrap_or(0)
    }

    fn supervisor(&self) -> Option<u64> {
        let found = self.processes.iter().find(|it| it.args.ends_with("vestal-supervisor"));
        found.map(|it| it.pid)
    }

    /// The process that a step wants to hit, where it runs.
    pub(crate) fn pid(&self, target: Target) -> Option<u64> {
        match target {
            Target::Supervisor => self.supervisor(),
            Target::Service(name) => self.main(name),
            Target::Writer => {
                let found = self.processes.iter().find(|it| it.args.ends_with("--writer"));
                found.map(|it| it.pid)
            }
            Target::Application => {
                let script = self.main("application")?;
                self.processes.iter().find(|it| it.parent == script).map(|it| it.pid)
            }
        }
    }

    /// What is not as it should be. `gone` is somebody who was killed.
    pub(crate) fn wrong(&self, gone: Option<u64>) -> Vec<String> {
        let mut wrong = Vec::new();
        for (name, instance) in &self.services {
            let state = instance["state"].as_str().unwrap_or("");
            let pid = instance["pid"].as_u64();
            if instance["desired"] == "up" && !matches!(state, "ready" | "done") {
                wrong.push(format!("{name} is {state}"));
            }
            let there = |pid| self.processes.iter().any(|it| it.pid == pid && it.state != "Z");
            if pid.is_some_and(|pid| !there(pid)) {
                wrong.push(format!("{name} has no process"));
            }
        }
        for process in &self.processes {
            if gone == Some(process.pid) {
                wrong.push(format!("{} is still there", process.pid));
            } else if process.state.starts_with('Z') {
                wrong.push(format!("{} {} is a zombie", process.pid, process.args));
            } else if process.state.starts_with('T') {
                wrong.push(format!("{} {} is still frozen", process.pid, process.args));
            } else if !self.known(process) {
                wrong.push(format!("nobody's process: {} {}", process.pid, process.args));
            }
        }
        wrong
    }

    /// It is PID 1, the supervisor, a service's main process, or a descendant of one.
    fn known(&self, process: &Process) -> bool {
        let mains = self.services.values().filter_map(|instance| instance["pid"].as_u64());
        let roots: Vec<u64> = mains.chain(self.supervisor()).collect();
        let mut pid = process.pid;
        // No tree is deeper than there are processes.
        for _ in 0..=self.processes.len() {
            if roots.contains(&pid) {
                return true;
            }
            match self.processes.iter().find(|it| it.pid == pid) {
                Some(it) if it.parent > 1 => pid = it.parent,
                _ => break,
            }
        }
        process.pid == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICES: &str = r#"{
        "web": { "instances": { "instance1": { "state": "ready", "desired": "up", "pid": 20 } } },
        "done": { "instances": { "instance1": { "state": "done", "desired": "up" } } },
        "hungry": { "instances": { "instance1": { "state": "stopped", "desired": "down" } } }
    }@@
"#;
    const PROCESSES: &str = "PID PPID STAT RSS COMMAND\n 1 0 S 5000 /sbin/init\n 2 0 SW 0 [kthreadd]\n 3 2 IW 0 [worker]\n \
        10 1 S 7000 /usr/sbin/vestal-supervisor\n 20 1 S 4 httpd -f\n 21 20 S 4 httpd -f\n";

    fn wrong(more: &str, gone: Option<u64>) -> Vec<String> {
        view(&format!("{SERVICES}{PROCESSES}{more}")).unwrap().wrong(gone)
    }

    #[test]
    fn services_with_their_processes_and_children_are_well() {
        assert_eq!(wrong("", None), Vec::<String>::new());
    }

    #[test]
    fn zombies_strangers_the_frozen_and_who_should_be_gone_are_told() {
        assert_eq!(wrong(" 30 1 Z 0 [sleep]\n", None), ["30 [sleep] is a zombie"]);
        assert_eq!(wrong(" 22 20 T 4 httpd\n", None), ["22 httpd is still frozen"]);
        assert_eq!(wrong(" 30 1 S 4 sleep 9\n", None), ["nobody's process: 30 sleep 9"]);
        assert_eq!(wrong(" 30 31 S 4 sleep 9\n 31 30 S 4 x\n", None).len(), 2);
        assert_eq!(wrong("", Some(21)), ["21 is still there"]);
    }

    #[test]
    fn a_service_that_is_not_ready_or_has_lost_its_process_is_told() {
        let services = SERVICES.replace("\"ready\"", "\"starting\"").replace("20", "99");
        let wrong = view(&format!("{services}{PROCESSES}")).unwrap().wrong(None);
        assert_eq!(wrong[..2], ["web is starting", "web has no process"]);
    }
}
