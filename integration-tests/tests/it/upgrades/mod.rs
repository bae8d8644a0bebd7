//! Upgrades as a user sees them: keys and bundles made by `vestal` on a host, pushed to a device whose keeper, supervisor, agent and
//! writer are the real ones.

mod application;
mod bad_input;
mod commands;
mod driver;
mod killing;
mod relay;
mod resuming;
mod set;
mod trust;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;
use testkit::{Device, binary, until};

use self::relay::Relay;
use crate::support::{demo, lines};

const MIB: usize = 1 << 20;
/// Slots are this long; images are shorter, or fill it.
const SLOT: &str = "4MiB";
const HEALTH: &str = "health = { timeout = \"3s\", stable = \"0ms\" }\n";
/// Whatever the application does, it is asked to be ready and is restarted when it ends.
const SERVICE: &str = "respawn = \"always\"\nafter = [\"upgrade\"]\n\
    [readiness]\nnotify = true\ntimeout = \"1s\"\n";

/// As it is built in.
const AGENT: &str = include_str!("../../../../configs/core/upgrade.toml");

/// A host and a device that it can reach.
struct Bench {
    device: Device,
    relay: Relay,
    /// The host's: keys, images, recipes, bundles, known devices.
    host: TempDir,
}

/// Bytes without a pattern, the same for the same seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(0x9e37_79b9);
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// An image that a shell can run: it writes its name down, then it is the demo with these steps. The shell never reads what follows.
fn application(name: &str, steps: &[&str], length: usize) -> Vec<u8> {
    let steps = steps.iter().map(|step| format!(" '{step}'")).collect::<String>();
    let demo = binary("vestal-demo");
    let mut image =
        format!("echo {name} >>\"$RUNS\"\nexec {}{steps}\n", demo.display()).into_bytes();
    let seed = name.bytes().fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    image.extend(noise(seed, length - image.len()));
    image
}

/// One that becomes ready and stays so.
fn good(name: &str, length: usize) -> Vec<u8> {
    application(name, &["notify=READY=1"], length)
}

impl Bench {
    /// A device that is not started yet: an application in slot A, which the service `camera` runs, and a service beside it.
    fn new() -> Self {
        let device = Device::with_core();
        let host = tempfile::Builder::new().prefix("vh").tempdir_in("/tmp").unwrap();
        let bench =
            Self { relay: Relay::start(device.run_dir().join("upgrade/addr")), device, host };
        // The network side gives up root, and must come through to its sockets all the same.
        fs::set_permissions(bench.device.folder(), fs::Permissions::from_mode(0o755)).unwrap();
        let places = [("CMDLINE", "cmdline"), ("BOOT_ID", "boot-id"), ("FACTORY_DIR", "factory")];
        let places = places.map(|(name, file)| format!("VESTAL_{name} = {:?}", bench.place(file)));
        bench.device.define("upgrade", &format!("env = {{ {} }}\n{AGENT}", places.join(", ")));
        fs::write(bench.place("cmdline"), "quiet\n").unwrap();
        fs::write(bench.place("boot-id"), "first\n").unwrap();
        for name in ["driver", "autorun"] {
            bench.device.define(name, "command = [\"off\"]\nenabled = false\n");
        }
        bench.vestal_ok("keygen --dev keys");
        bench.settings("", HEALTH);
        fs::write(bench.place("app-a"), good("one", MIB)).unwrap();
        bench.camera("");
        bench.device.define("bystander", &demo(&[]));
        bench
    }

    /// The service that runs the application, with these keys beside its own.
    fn camera(&self, keys: &str) {
        let (app, runs) = (self.place("app"), self.place("runs"));
        let command = format!("command = [\"/bin/sh\", {app:?}]\nenv = {{ RUNS = {runs:?} }}\n");
        self.device.define("camera", &format!("{command}{keys}{SERVICE}"));
    }

    /// Started, with its keyring, and known to the host.
    fn started() -> Self {
        let mut bench = Self::new();
        bench.start();
        bench
    }

    fn start(&mut self) {
        self.boot();
        self.device.ctl_ok(&["upgrade", "keyring", "install", &self.file("keys/keyring.json")]);
        self.trust();
    }

    /// Starts the device and waits until the agent and the application are there.
    fn boot(&mut self) {
        let _ = fs::remove_file(self.device.run_dir().join("upgrade/addr"));
        self.device.start();
        self.until_up();
    }

    #[track_caller]
    fn until_up(&self) {
        for service in ["upgrade", "camera"] {
            self.device.until_state(service, "ready");
        }
    }

    /// The settings of the agent: those of the application, and more of them before and after.
    fn settings(&self, components: &str, top: &str) {
        let slot = |name: &str| format!("{{ path = {:?}, size = \"{SLOT}\" }}", self.place(name));
        let (a, b, link) = (slot("app-a"), slot("app-b"), self.place("app"));
        let text = format!(
            "product = \"demo-board\"\nrevision = \"a1\"\nlisten = \"127.0.0.1:0\"\n{top}[components.application]\n\
             slots = [{a}, {b}]\nmethod = \"symlink\"\nlink = {link:?}\nservices = [\"camera\"]\n{components}"
        );
        fs::write(self.place("etc/upgrade.toml"), text).unwrap();
    }

    /// A file of the device.
    fn place(&self, name: &str) -> PathBuf {
        self.device.folder().join(name)
    }

    /// A file of the host.
    fn file(&self, name: &str) -> String {
        self.host.path().join(name).display().to_string()
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.relay.port)
    }

    /// `vestal` with these words.
    fn vestal(&self, words: &str) -> Output {
        self.command(words).output().unwrap()
    }

    /// The same beside the test.
    fn begin(&self, words: &str) -> Begun {
        let mut command = self.command(words);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        Begun(Some(child))
    }

    fn command(&self, words: &str) -> Command {
        let mut command = Command::new(binary("vestal"));
        command.args(words.split(' ')).current_dir(self.host.path()).env_clear();
        command.env("XDG_CONFIG_HOME", self.host.path().join("config"));
        command
    }

    /// Waits until a host has sent so much more than `before`.
    #[track_caller]
    fn until_sent(&self, before: u64, bytes: u64) {
        until("a host has sent it", || (self.relay.sent() >= before + bytes).then_some(()));
    }

    #[track_caller]
    fn vestal_ok(&self, words: &str) -> String {
        let output = self.vestal(words);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "vestal {words}: {}: {error}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// What `vestal` said on standard error, for it must fail.
    #[track_caller]
    fn vestal_fails(&self, words: &str) -> String {
        let output = self.vestal(words);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "vestal {words}: {said}{error}");
        error
    }

    fn trust(&self) {
        let identity = self.device.json(&["upgrade", "identity"]);
        let fingerprint = identity["fingerprint"].as_str().unwrap();
        self.vestal_ok(&format!("trust add {} --fingerprint {fingerprint}", self.address()));
    }

    /// The words of a push of this bundle with the operator's key.
    fn push(&self, bundle: &str) -> String {
        format!("push {bundle} {} --key keys/operator.key --wait", self.address())
    }

    /// A signed bundle of these components, as `name`.
    fn bundle(&self, name: &str, version: &str, index: u64, images: &[(&str, &[u8])]) {
        let mut recipe = recipe("demo-board", "a1", version);
        for (component, image) in images {
            fs::write(self.file(component), image).unwrap();
            recipe += &format!(
                "[components.{component}]\nimage = {component:?}\nrollback-index = {index}\n"
            );
        }
        self.create(name, &recipe, "--key keys/bundle.key");
    }

    fn create(&self, name: &str, recipe: &str, more: &str) {
        fs::write(self.file("recipe.toml"), recipe).unwrap();
        let more = if more.is_empty() { String::new() } else { format!(" {more}") };
        self.vestal_ok(&format!("bundle create recipe.toml -o {name} --level 1{more}"));
    }

    /// What the device says of its upgrade.
    fn status(&self) -> Value {
        self.device.json(&["upgrade", "status"])
    }

    #[track_caller]
    fn until_upgrade_is(&self, state: &str) -> Value {
        until(&format!("the upgrade is {state}"), || {
            let reply = self.device.ctl(&["--json", "upgrade", "status"]);
            let status: Value = serde_json::from_str(&reply.stdout).ok()?;
            (status["state"] == state).then_some(status)
        })
    }

    /// The row of a slot.
    #[track_caller]
    fn slot(&self, component: &str, letter: &str) -> Value {
        let slots = self.device.json(&["upgrade", "slots"]);
        let rows = slots.as_array().unwrap().iter();
        let mut rows = rows.filter(|row| row["component"] == component && row["letter"] == letter);
        rows.next().unwrap_or_else(|| panic!("{component} {letter}: {slots}")).clone()
    }

    /// The newest line of the history.
    #[track_caller]
    fn last(&self) -> Value {
        let history = self.device.json(&["upgrade", "history"]);
        history.as_array().unwrap().last().unwrap_or_else(|| panic!("no history")).clone()
    }

    /// The versions of the application that were run, in order.
    fn runs(&self) -> Vec<String> {
        lines(&self.place("runs"))
    }

    /// Which slot the application is run from.
    fn in_use(&self) -> PathBuf {
        fs::read_link(self.place("app")).unwrap()
    }
}

/// A running `vestal`; it does not outlive the test.
struct Begun(Option<Child>);

impl Begun {
    fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Its status, and what it said on standard error.
    fn wait(mut self) -> (ExitStatus, String) {
        let output = self.0.take().expect("it was begun").wait_with_output().unwrap();
        (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.end();
    }
}

fn recipe(product: &str, revision: &str, version: &str) -> String {
    format!("product = {product:?}\nrevisions = [{revision:?}]\nversion = {version:?}\n")
}

/// A recipe for the device of one component, whose image was written before.
fn recipe_of(component: &str) -> String {
    let recipe = recipe("demo-board", "a1", "2");
    format!("{recipe}[components.{component}]\nimage = {component:?}\nrollback-index = 2\n")
}

/// Whether a slot begins with this image.
#[track_caller]
fn holds(slot: &Path, image: &[u8]) -> bool {
    let bytes = fs::read(slot).unwrap_or_else(|error| panic!("{}: {error}", slot.display()));
    bytes.starts_with(image)
}

/// Whether nothing was ever written to a slot; to ask for its length makes the file.
fn is_blank(slot: &Path) -> bool {
    fs::read(slot).unwrap_or_default().iter().all(|byte| *byte == 0)
}
