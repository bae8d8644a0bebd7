//! An OpenWrt-like root folder of a device: `configs/openwrt` laid out as on a device, a shell that is busybox or dash, the
//! suite's names for OpenWrt's programs, and a keeper that runs in it (root only).

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Output,
};

use testkit::{Device, binary};

/// Names under which `vestalctl` is OpenWrt's program.
const APPLETS: [&str; 9] = [
    "ubus",
    "uci",
    "validate_data",
    "jshn",
    "jsonfilter",
    "reload_config",
    "logger",
    "logread",
    "lock",
];
/// Makes the root folder the process's own: mounts stay in its namespace.
const ENTER: &str = "set -e
root=$1 device=$2 programs=$3; shift 3
mount --make-rprivate /
for place in /lib/*-linux-gnu /usr/lib/*-linux-gnu /lib64 /dev /proc /sys \"$device\" \"$programs\"; do
  [ -d \"$place\" ] || continue
  mkdir -p \"$root$place\"
  mount --rbind \"$place\" \"$root$place\"
done
exec chroot \"$root\" \"$@\"";

/// Which program is `/bin/sh`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shell {
    Busybox,
    Dash,
}

/// A device whose services see an OpenWrt-like root folder.
pub(crate) struct OpenWrt {
    pub(crate) device: Device,
    root: PathBuf,
}

impl OpenWrt {
    /// Not started yet.
    pub(crate) fn new(shell: Shell) -> Self {
        let mut device = Device::with_core();
        let root = device.folder().join("root");
        for name in
            ["bin", "etc/config", "etc/init.d", "etc/rc.d", "tmp", "var/lock", "var/run", "root"]
        {
            fs::create_dir_all(root.join(name)).expect("the scratch folder is ours");
        }
        copy_tree(&configs(), &root);
        fill_bin(&root.join("bin"), shell);
        let write = |name: &str, text: &str| fs::write(root.join(name), text).expect("it is ours");
        write(
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        );
        write("etc/group", "root:x:0:\nnogroup:x:65534:\n");
        for name in ["upgrade", "driver", "autorun"] {
            device.define(name, "command = [\"off\"]\nenabled = false\n");
        }
        device.wrap(&Self::enter(&root, &device));
        device.set_env("PATH", "/bin:/sbin:/usr/bin:/usr/sbin");
        device.set_env("VESTAL_UCI_DIR", "/etc/config");
        Self { device, root }
    }

    fn enter(root: &Path, device: &Device) -> Vec<String> {
        let programs =
            binary("vestalctl").parent().expect("it is in a folder").display().to_string();
        let words = ["unshare", "--mount", "sh", "-c", ENTER, "enter"].map(str::to_owned);
        let places = [root.display().to_string(), device.folder().display().to_string(), programs];
        words.into_iter().chain(places).collect()
    }

    /// Runs a program in the root folder, with the device's environment.
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        let enter = Self::enter(&self.root, &self.device);
        let mut command = self.device.in_environment(&enter[0]);
        command.args(&enter[1..]).args(words).output().expect("util-linux is there")
    }

    /// As [`OpenWrt::run`]; it must succeed. Both outputs together.
    #[track_caller]
    pub(crate) fn run_ok(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{words:?}: {text}\n{}", self.device.console());
        text
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name.trim_start_matches('/'))
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("the scratch folder is ours");
    }

    /// Writes a program.
    pub(crate) fn program(&self, name: &str, text: &str) {
        self.write(name, text);
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755))
            .expect("it is ours");
    }
}

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/openwrt")
}

fn copy_tree(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())) {
        let entry = entry.expect("the folder is readable");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("it is there").is_dir() {
            fs::create_dir_all(&target).expect("the scratch folder is ours");
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).expect("the scratch folder is ours");
        }
    }
}

fn fill_bin(bin: &Path, shell: Shell) {
    let link = |program: &Path, name: &str| {
        let _ = fs::remove_file(bin.join(name));
        symlink(program, bin.join(name)).expect("the scratch folder is ours");
    };
    fs::copy("/bin/busybox", bin.join("busybox")).expect("scripts/test installs busybox");
    let names = std::process::Command::new("/bin/busybox").arg("--list").output().expect("it runs");
    // The static one names itself, too.
    for name in String::from_utf8_lossy(&names.stdout).lines().filter(|name| *name != "busybox") {
        link(Path::new("/bin/busybox"), name);
    }
    if matches!(shell, Shell::Dash) {
        fs::copy("/bin/dash", bin.join("dash")).expect("Debian has it");
        link(Path::new("/bin/dash"), "sh");
    }
    // Debian's busybox has neither.
    for name in ["flock", "start-stop-daemon"] {
        let program = ["/usr/bin", "/sbin", "/bin"].map(|folder| Path::new(folder).join(name));
        if let Some(program) = program.iter().find(|program| program.is_file()) {
            let _ = fs::remove_file(bin.join(name));
            fs::copy(program, bin.join(name)).expect("the scratch folder is ours");
        }
    }
    for name in APPLETS {
        link(&binary("vestalctl"), name);
    }
    link(&binary("vestalctl"), "vestalctl");
}
