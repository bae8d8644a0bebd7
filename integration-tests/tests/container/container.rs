//! A container: a copy of the image's root file system, entered by `unshare` and pivot_root; and what a test does in it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use testkit::{children_of, machine::Image, own_group, remove_groups, until, within};

/// Makes a cgroup of its own, then the namespaces; what follows is their PID 1.
const OUTSIDE: &str = r#"
    if [ -n "$GROUP" ] && mkdir "$GROUP"; then echo $$ > "$GROUP/cgroup.procs"; fi
    unset GROUP
    exec unshare --mount --uts --ipc --net --pid --cgroup --fork --kill-child --propagation private sh -ec "$1" sh "$0""#;

/// Fills the new root with what a kernel and its devices would give it, makes it the only one there is, and becomes init.
const INSIDE: &str = r#"
    root=$1
    mount --bind "$root" "$root"
    mkdir -p "$root/.old"
    mount -t proc proc "$root/proc"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup" || echo 'container: no cgroups'
    mount -t tmpfs -o mode=755 dev "$root/dev"
    for node in null zero full random urandom tty; do
        : > "$root/dev/$node"
        mount --bind "/dev/$node" "$root/dev/$node"
    done
    mkdir "$root/dev/shm"
    for place in dev/shm run tmp; do mount -t tmpfs tmpfs "$root/$place"; done
    ip link set lo up
    cd "$root"
    pivot_root . .old
    exec /bin/busybox chroot . /bin/sh -c 'umount -l /.old && exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin /sbin/init'"#;

/// A running container. Dropping it kills everything in it.
pub(crate) struct Container {
    unshare: Child,
    pid_one: i32,
    folder: TempDir,
}

/// The image under test, where these tests can be run.
pub(crate) fn image() -> Option<Image> {
    let image = Image::from_env("VESTAL_IMAGE")?;
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("a container needs root: not tried");
    }
    root.then_some(image)
}

impl Container {
    /// Starts a container whose root file system `prepare` may change first, and waits until its supervisor answers.
    pub(crate) fn start(image: &Image, prepare: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::Builder::new().prefix("vc").tempdir_in("/tmp").unwrap();
        let root = folder.path().join("root");
        image.copy_rootfs(&root);
        prepare(&root);
        let console = fs::File::create(folder.path().join("console")).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", OUTSIDE]).arg(&root).arg(INSIDE).env("GROUP", group_of(&folder));
        command.stdin(Stdio::null()).stdout(console.try_clone().unwrap()).stderr(console);
        let mut unshare = command.spawn().expect("util-linux is there");
        let parent = i32::try_from(unshare.id()).unwrap();
        let pid_one = until("PID 1 runs", || {
            if let Some(status) = unshare.try_wait().unwrap() {
                panic!("unshare: {status}: {}", console_of(&folder));
            }
            // What the first shell starts is none yet, nor is it in a namespace of its own.
            let child = children_of(parent).first().copied()?;
            let own = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
            (own(&child.to_string())? != own("self")?).then_some(child)
        });
        let container = Self { unshare, pid_one, folder };
        container.until("the supervisor answers", |it| it.run("vestalctl status").0 == Some(0));
        container
    }

    /// A command in all of the container's namespaces.
    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.pid_one));
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"]);
        command.args(["/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]);
        command.stdin(Stdio::null());
        command
    }

    /// A program of this machine in the container's network.
    pub(crate) fn beside(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.pid_one)).args(["--net", "--"]).arg(program);
        command.stdin(Stdio::null());
        command
    }

    /// Exit code and output of a shell command in the container.
    pub(crate) fn run(&self, command: &str) -> (Option<i32>, String) {
        let output = self.enter().args(["/bin/sh", "-c", command]).output().unwrap();
        let Output { status, stdout, stderr } = output;
        let text = [stdout, stderr].concat();
        (status.code(), String::from_utf8_lossy(&text).into_owned())
    }

    /// The output of a shell command in the container, which must succeed.
    #[track_caller]
    pub(crate) fn ok(&self, command: &str) -> String {
        let (code, text) = self.run(command);
        assert_eq!(code, Some(0), "{command}: {text}");
        text
    }

    /// As [`Container::ok`], for a command that prints JSON.
    #[track_caller]
    pub(crate) fn json(&self, command: &str) -> Value {
        let text = self.ok(command);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{command}: {error}: {text}"))
    }

    /// Waits until it is so.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        until(what, || {
            assert!(testkit::alive(self.pid_one), "PID 1 ended before this: {what}");
            holds(self).then_some(())
        });
    }

    /// State and pid of every instance that there is, by name.
    fn instances(&self) -> Option<Vec<(String, Value)>> {
        let (code, text) = self.run("vestalctl --json service list");
        let listed: Value = serde_json::from_str(&text).ok().filter(|_| code == Some(0))?;
        let mut instances = Vec::new();
        for (service, described) in listed.as_object()? {
            for (_, instance) in described["instances"].as_object().into_iter().flatten() {
                instances.push((service.clone(), instance.clone()));
            }
        }
        Some(instances)
    }

    /// Waits until every service that is wanted is ready or done.
    #[track_caller]
    pub(crate) fn until_all_ready(&self) {
        let mut last = None;
        let ready = within(testkit::LIMIT, || {
            let instances = self.instances()?;
            let well = |instance: &Value| {
                let state = &instance["state"];
                instance["desired"] != "up" || state == "ready" || state == "done"
            };
            let all = instances.iter().all(|(_, instance)| well(instance));
            let enough = instances.len() > 1;
            last = Some(instances);
            (all && enough).then_some(())
        });
        assert!(ready.is_some(), "not everything is ready: {last:?}\n{}", console_of(&self.folder));
    }

    /// The main process of a service's only instance, as the container counts; none where it doesn't run.
    pub(crate) fn pid(&self, service: &str) -> Option<i64> {
        let instances = self.instances()?;
        let (_, found) = instances.into_iter().find(|(name, _)| name == service)?;
        found["pid"].as_i64()
    }

    /// Every process in the container but PID 1, as this machine counts, with its name.
    pub(crate) fn processes(&self) -> Vec<(i32, String)> {
        let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let Some(ours) = namespace(self.pid_one) else { return Vec::new() };
        let pids = fs::read_dir("/proc").unwrap().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| *pid != self.pid_one && namespace(*pid).as_ref() == Some(&ours))
            .filter_map(|pid| {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
                Some((pid, name.trim().to_owned()))
            })
            .collect()
    }

    /// A file of the container that is on its disk, as this machine sees it.
    pub(crate) fn place(&self, name: &str) -> PathBuf {
        self.folder.path().join("root").join(name)
    }

    /// What PID 1 and the supervisor printed.
    pub(crate) fn console(&self) -> String {
        console_of(&self.folder)
    }

    /// Sends a signal to PID 1.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid_one, signal);
    }

    /// Waits until PID 1 has ended, and with it the namespace.
    #[track_caller]
    pub(crate) fn until_ended(&mut self) {
        until("the container ends", || self.unshare.try_wait().unwrap());
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // unshare kills PID 1 when it ends, and the kernel whatever is left in the namespace.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let group = group_of(&self.folder);
        if !group.is_empty() {
            remove_groups(Path::new(&group));
        }
        if std::thread::panicking() {
            eprintln!("--- console:\n{}", console_of(&self.folder));
        }
    }
}

/// The container's cgroup; empty where there are none.
fn group_of(folder: &TempDir) -> String {
    let name = folder.path().file_name().expect("it was made with a name");
    own_group().map_or_else(String::new, |own| own.join(name).display().to_string())
}

fn console_of(folder: &TempDir) -> String {
    fs::read_to_string(folder.path().join("console")).unwrap_or_default()
}

/// Sends a signal to a process of this machine that may have gone.
pub(crate) fn kill(pid: i32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid).expect("a pid is positive"), signal);
}
