//! Whom and what a device believes: whatever is refused is refused before a byte of a slot is written, with its reason and its cure.

use std::{fs, path::PathBuf};

use super::{Bench, MIB, good, recipe};

/// Bytes of both slots of the application; the second one is not there before it is used.
fn slots(bench: &Bench) -> [Option<Vec<u8>>; 2] {
    ["app-a", "app-b"].map(|name| fs::read(bench.place(name)).ok())
}

const COMPONENT: &str = "[components.application]\nimage = \"application\"\nrollback-index = 2\n";

/// A host that makes a bundle of its own each time.
struct Refusals {
    bench: Bench,
    before: [Option<Vec<u8>>; 2],
}

impl Refusals {
    fn new() -> Self {
        let bench = Bench::started();
        fs::write(bench.file("application"), good("two", MIB)).unwrap();
        let before = slots(&bench);
        Self { bench, before }
    }

    /// Such a bundle, signed by `key`, is refused for that reason and with these words.
    #[track_caller]
    fn refused(&self, recipe: &str, key: &str, reason: &str, cure: &str) {
        let key = if key.is_empty() { String::new() } else { format!("--key {key}") };
        self.bench.create("bad.vestal", recipe, &key);
        let error = self.bench.vestal_fails(&self.bench.push("bad.vestal"));
        assert!(
            error.contains(&format!("({reason})")) && error.contains(cure),
            "{reason}: {error}"
        );
        assert!(slots(&self.bench) == self.before, "{reason}");
        assert_eq!(self.bench.in_use(), self.bench.place("app-a"));
        assert_eq!(self.bench.runs(), ["one"]);
        fs::remove_file(self.bench.file("bad.vestal")).unwrap();
    }

    fn recipe(&self, product: &str, revision: &str, more: &str) -> String {
        format!("{}{COMPONENT}{more}", recipe(product, revision, "2"))
    }
}

#[test]
fn a_bundle_that_is_not_signed_by_a_key_of_the_device_is_refused() {
    let all = Refusals::new();
    all.bench.vestal_ok("keygen other.key");
    let good = all.recipe("demo-board", "a1", "");
    all.refused(&good, "", "unsigned", "sign");
    all.refused(&good, "other.key", "unknown-key", "key");
    all.refused(&good, "keys/operator.key", "wrong-role", "role");
    // One that was good until its bytes were changed.
    all.bench.create("bad.vestal", &good, "--key keys/bundle.key");
    let mut bytes = fs::read(all.bench.file("bad.vestal")).unwrap();
    let at = bytes.windows(10).position(|word| word == b"demo-board").unwrap();
    bytes[at + 9] = b'b';
    fs::write(all.bench.file("bad.vestal"), bytes).unwrap();
    let error = all.bench.vestal_fails(&all.bench.push("bad.vestal"));
    assert!(error.contains("(bad-signature)"), "{error}");
    assert!(slots(&all.bench) == all.before);
    all.bench.create("good.vestal", &good, "--key keys/bundle.key");
    all.bench.vestal_ok(&all.bench.push("good.vestal"));
}

#[test]
fn a_bundle_for_another_device_or_for_other_versions_beside_it_is_refused() {
    let all = Refusals::new();
    let key = "keys/bundle.key";
    all.refused(&all.recipe("other-board", "a1", ""), key, "wrong-product", "other-board");
    all.refused(&all.recipe("demo-board", "b7", ""), key, "wrong-revision", "a1");
    let requires = "requires = [{ component = \"rootfs\", version = \">=3\" }]\n";
    all.refused(&all.recipe("demo-board", "a1", requires), key, "requires", "rootfs");
    let other = all.recipe("demo-board", "a1", "").replace("application]", "fpga]");
    all.refused(&other, key, "unknown-component", "fpga");
}

#[test]
fn a_bundle_of_a_lower_rollback_index_is_refused_once_a_higher_one_was_confirmed() {
    let bench = Bench::started();
    bench.bundle("app-5.vestal", "5", 5, &[("application", &good("five", MIB))]);
    bench.vestal_ok(&bench.push("app-5.vestal"));
    let before = slots(&bench);
    bench.bundle("app-4.vestal", "4", 4, &[("application", &good("four", MIB))]);
    let error = bench.vestal_fails(&bench.push("app-4.vestal"));
    assert!(error.contains("(rollback)") && error.contains('5'), "{error}");
    assert!(slots(&bench) == before);
    let error = bench.device.ctl(&["upgrade", "install", &bench.file("app-4.vestal")]);
    assert!(error.stderr.contains("(rollback)"), "{error:?}");
    assert!(slots(&bench) == before);
    assert_eq!(bench.runs(), ["one", "five"]);
}

/// A second keyring with other keys for bundles and operators, signed by the first one's root key.
fn rotate(bench: &Bench) {
    for name in ["bundle-2.key", "operator-2.key"] {
        bench.vestal_ok(&format!("keygen {name}"));
    }
    bench.vestal_ok(
        "keyring create --keyring-version 2 -o second.json --root keys/root.key.pub --bundle bundle-2.key.pub \
         --operator operator-2.key.pub",
    );
    let install = ["upgrade", "keyring", "install", &bench.file("second.json")];
    assert!(!bench.device.ctl(&install).status.success(), "it isn't signed yet");
    bench.vestal_ok("keyring sign second.json --key keys/root.key");
    bench.device.ctl_ok(&install);
}

#[test]
fn a_key_that_a_newer_keyring_no_longer_names_is_believed_no_more() {
    let bench = Bench::started();
    bench.bundle("old.vestal", "2", 2, &[("application", &good("two", MIB))]);
    rotate(&bench);
    let before = slots(&bench);
    let output = bench.vestal(&bench.push("old.vestal"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && error.contains("does not know the operator key"),
        "{error}"
    );
    let again = bench.push("old.vestal").replace("keys/operator.key", "operator-2.key");
    let error = bench.vestal_fails(&again);
    assert!(error.contains("(unknown-key)"), "{error}");
    assert!(slots(&bench) == before);
    // The first keyring is not taken back.
    let reply =
        bench.device.ctl(&["upgrade", "keyring", "install", &bench.file("keys/keyring.json")]);
    assert!(!reply.status.success() && reply.stderr.contains("(not-newer)"), "{reply:?}");
    bench.vestal_ok("bundle sign old.vestal --key bundle-2.key");
    bench.vestal_ok(&again);
    assert_eq!(bench.runs(), ["one", "two"]);
}

#[test]
fn nobody_but_an_operator_of_the_keyring_has_a_session_and_only_with_the_device_that_he_knows() {
    let bench = Bench::started();
    bench.bundle("app-2.vestal", "2", 2, &[("application", &good("two", MIB))]);
    bench.vestal_ok("keygen stranger.key");
    for words in ["status", "history", "slots", "rollback"] {
        let error = bench.vestal_fails(&format!("{words} {} --key stranger.key", bench.address()));
        assert!(error.contains("does not know the operator key"), "{words}: {error}");
    }
    // A device that nobody has compared is not spoken with, and neither is one that shows another key.
    bench.vestal_ok(&format!("trust remove {}", bench.address()));
    let output = bench.vestal(&bench.push("app-2.vestal"));
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("vestal trust add"));
    let wrong = "0".repeat(64);
    let error = bench.vestal_fails(&format!("trust add {} --fingerprint {wrong}", bench.address()));
    assert!(error.contains("not trusted"), "{error}");
    assert_eq!(bench.status()["state"], "idle");
}

#[test]
fn only_root_on_the_device_installs_what_nobody_signed_and_the_history_says_so() {
    let bench = Bench::started();
    fs::write(bench.file("application"), good("two", MIB)).unwrap();
    bench.create("unsigned.vestal", &format!("{}{COMPONENT}", recipe("demo-board", "a1", "2")), "");
    let file = bench.file("unsigned.vestal");
    let reply = bench.device.ctl(&["upgrade", "install", &file]);
    assert!(!reply.status.success() && reply.stderr.contains("(unsigned)"), "{reply:?}");
    if rustix::process::geteuid().is_root() {
        let before = slots(&bench);
        let nobody = stranger(&bench, &["upgrade", "install", "-", "--allow-unsigned"], &file);
        assert!(!nobody.0 && slots(&bench) == before, "{}", nobody.1);
    }
    bench.device.ctl_ok(&["upgrade", "install", "--allow-unsigned", "--wait", &file]);
    assert_eq!(bench.runs(), ["one", "two"]);
    let last = bench.last();
    assert!(last["reason"].as_str().unwrap().contains("unsigned"), "{last}");
}

/// Runs `vestalctl` as nobody, with a file on its standard input.
fn stranger(bench: &Bench, args: &[&str], input: &str) -> (bool, String) {
    use std::os::unix::process::CommandExt as _;
    let mut command = bench.device.command("vestalctl");
    let input = fs::File::open(PathBuf::from(input)).unwrap();
    let output = command.args(args).uid(65_534).gid(65_534).stdin(input).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}
