//! The program as an engineer calls it: keys, a keyring, a bundle, and what is said when something is wrong.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

const RECIPE: &str = r#"
product = "demo-board"
revisions = ["a1"]
version = "2.4.1"
[components.application]
image = "app.img"
rollback-index = 7
[components.files]
directory = "root"
rollback-index = 1
"#;

/// A folder with a recipe, its images and a development set of keys.
struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().expect("there is room"));
        bench.write("recipe.toml", RECIPE);
        let image: Vec<u8> = (0..400_000_u32).flat_map(|number| number.to_le_bytes()).collect();
        fs::write(bench.path().join("app.img"), image).expect("there is room");
        fs::create_dir(bench.path().join("root")).expect("there is room");
        bench.write("root/hello", "world");
        bench.good("keygen --dev keys");
        bench
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).expect("there is room");
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path().join(name)).expect("it is there")
    }

    fn run(&self, line: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_vestal"))
            .args(line.split(' '))
            .current_dir(self.path())
            .env_remove("SOURCE_DATE_EPOCH")
            .output()
            .expect("it was built")
    }

    /// What a command prints that does what it shall.
    fn good(&self, line: &str) -> String {
        let output = self.run(line);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {error}");
        String::from_utf8(output.stdout).expect("it prints text")
    }

    /// The exit code and the error of one that doesn't.
    fn bad(&self, line: &str) -> (i32, String) {
        let output = self.run(line);
        let error = String::from_utf8(output.stderr).expect("it prints text");
        assert!(error.starts_with("vestal: ") || error.starts_with("error: "), "{line}: {error}");
        (output.status.code().expect("it exits"), error)
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.good(&format!("{line} --json"))).expect("it prints JSON")
    }
}

#[test]
fn a_bundle_is_built_signed_and_verified() {
    let bench = Bench::new();
    bench.good("bundle create recipe.toml --key keys/bundle.key -o app.vestal");
    let shown = bench.json("bundle inspect app.vestal");
    assert_eq!(shown["manifest"]["components"][0]["id"], "application");
    assert_eq!(shown["manifest"]["components"][0]["size"], 1_600_000);
    assert_eq!(shown["manifest"]["components"][1]["kind"], "directory");
    let verified = bench.json("bundle verify app.vestal --keyring keys/keyring.json");
    assert_eq!(verified["id"], shown["id"]);
    assert_eq!(verified["signed_by"][0], shown["signatures"][0]["key"]);
    let left: Vec<_> = fs::read_dir(bench.path())
        .expect("it is there")
        .map(|entry| entry.expect("it is there").file_name())
        .filter(|name| name.to_string_lossy().starts_with('.'))
        .collect();
    assert!(left.is_empty(), "{left:?} is left");
}

#[test]
fn the_same_recipe_gives_the_same_bytes_and_a_signature_that_is_added_later_too() {
    let bench = Bench::new();
    bench.good("bundle create recipe.toml --key keys/bundle.key -o one.vestal");
    bench.good("bundle create recipe.toml --key keys/bundle.key -o two.vestal --threads 1");
    assert!(bench.read("one.vestal") == bench.read("two.vestal"));
    bench.good("bundle create recipe.toml -o later.vestal");
    let (code, error) = bench.bad("bundle verify later.vestal --keyring keys/keyring.json");
    assert!(code == 1 && error.contains("(unsigned)"), "{error}");
    bench.good("bundle sign later.vestal --key keys/bundle.key");
    assert!(bench.read("one.vestal") == bench.read("later.vestal"));
}

#[test]
fn a_damaged_bundle_is_refused_with_the_place_of_the_damage() {
    let bench = Bench::new();
    bench.good("bundle create recipe.toml --key keys/bundle.key -o app.vestal");
    let mut bytes = bench.read("app.vestal");
    let place = bytes.len() / 2;
    bytes[place] ^= 1;
    fs::write(bench.path().join("app.vestal"), bytes).expect("there is room");
    let (code, error) = bench.bad("bundle verify app.vestal --any-key");
    assert!(
        code == 1 && error.contains("application: at byte ") && error.contains("(bad-chunk)"),
        "{error}"
    );
}

#[test]
fn a_keyring_is_made_of_public_keys_and_complete_when_enough_root_keys_signed() {
    let bench = Bench::new();
    for name in ["a", "b", "c", "d"] {
        bench.good(&format!("keygen {name}.key"));
    }
    let create = "keyring create -o ring.json --keyring-version 3 --root a.key.pub b.key.pub c.key.pub \
                  --root-threshold 2 --bundle d.key.pub";
    bench.good(create);
    bench.good("keyring sign ring.json --key a.key");
    let shown = bench.json("keyring show ring.json");
    assert_eq!((&shown["version"], &shown["complete"]), (&3.into(), &false.into()));
    assert!(shown["missing"].as_str().expect("it says why").contains("1 of the 2"));
    bench.good("keyring sign ring.json --key c.key");
    assert_eq!(bench.json("keyring show ring.json")["complete"], true);
    let (_, error) = bench.bad("keyring sign ring.json --key d.key");
    assert!(error.contains("has role bundle, and only root keys sign keyrings"), "{error}");
    let (_, error) = bench.bad("keyring create -o x.json --root a.key.pub --root-threshold 2");
    assert!(error.contains("threshold: 2; allowed are 1 to 1"), "{error}");
    let (_, error) = bench.bad("keyring create -o x.json --root a.key");
    assert!(error.contains("a.key: not a public key"), "{error}");
}

#[test]
fn a_permission_names_bundle_component_and_device_and_is_signed_by_recovery() {
    let bench = Bench::new();
    bench.good("bundle create recipe.toml --key keys/bundle.key -o app.vestal");
    let device = "ab".repeat(32);
    let create = format!("permission create app.vestal --device {device}");
    let (_, error) = bench.bad(&format!("{create} -o down.json"));
    assert!(error.contains("--component: application, files"), "{error}");
    let line = format!("{create} --component application --key keys/recovery.key -o down.json");
    let shown = bench.json(&line);
    assert_eq!((&shown["to-index"], &shown["device"]), (&7.into(), &device.into()));
    let keyring = bundle::Keyring::parse(&bench.read("keys/keyring.json")).expect("it is one");
    let verify = || {
        let (bytes, signatures) = (bench.read("down.json"), bench.read("down.json.sig"));
        bundle::Permission::verify(&bytes, &signatures, &keyring)
    };
    let (permission, _) = verify().expect("recovery signed it");
    let bundle = bench.json("bundle inspect app.vestal");
    let manifest = bundle::hex::encode(&permission.manifest);
    assert!(manifest.starts_with(bundle["id"].as_str().expect("it has one")), "{bundle}");
    let (_, error) = bench.bad(&line);
    assert!(error.contains("down.json.sig"), "{error}");
    fs::remove_file(bench.path().join("down.json.sig")).expect("it is there");
    bench.good("permission sign down.json --key keys/recovery.key");
    verify().expect("recovery signed it");
    assert!(bench.bad("permission sign recipe.toml --key keys/recovery.key").1.contains("not a"));
}

#[test]
fn keys_are_not_overwritten_and_not_taken_where_others_may_read_them() {
    let bench = Bench::new();
    let key = bench.path().join("keys/bundle.key");
    assert_eq!(fs::metadata(&key).expect("it is there").permissions().mode() & 0o777, 0o600);
    let before = bench.read("keys/bundle.key");
    for line in ["keygen --dev keys", "keygen keys/bundle.key"] {
        assert!(bench.bad(line).1.contains("is there already"));
    }
    assert_eq!(bench.read("keys/bundle.key"), before);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).expect("it is ours");
    let (_, error) = bench.bad("bundle create recipe.toml --key keys/bundle.key -o app.vestal");
    assert!(error.contains("chmod 600 keys/bundle.key"), "{error}");
    assert!(!bench.path().join("app.vestal").exists());
}

#[test]
fn what_is_missing_or_wrong_is_named_and_nothing_is_written() {
    let bench = Bench::new();
    assert_eq!(bench.bad("bundle inspect nowhere.vestal").0, 3);
    assert_eq!(bench.bad("bundle verify recipe.toml").0, 2);
    let (_, error) = bench.bad("bundle inspect recipe.toml");
    assert!(error.contains("not a bundle"), "{error}");
    bench.write("recipe.toml", &RECIPE.replace("app.img", "gone.img"));
    let (code, error) = bench.bad("bundle create recipe.toml -o app.vestal");
    assert!(code == 3 && error.contains("gone.img"), "{error}");
    bench.write("recipe.toml", &RECIPE.replace("application", "Application"));
    let (_, error) = bench.bad("bundle create recipe.toml -o app.vestal");
    assert!(error.contains("\"Application\" is not a component's name"), "{error}");
    assert!(!bench.path().join("app.vestal").exists());
}
