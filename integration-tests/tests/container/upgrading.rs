//! An application in two files is upgraded by `vestal push` over the network while the container runs.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;
use testkit::binary;

use crate::container::{Container, image};

const SETTINGS: &str = r#"
product = "vestal-container"
revision = "a1"
listen = "127.0.0.1:7421"
health = { timeout = "20s", stable = "0ms" }
[components.application]
slots = [{ path = "/data/app-a", size = "1MiB" }, { path = "/data/app-b", size = "1MiB" }]
method = "symlink"
link = "/run/app"
services = ["camera"]
"#;

const DEFINITION: &str = "command = [\"/bin/sh\", \"/run/app\"]\nrespawn = \"always\"\nafter = [\"upgrade\"]\n\
    [readiness]\nfd = 3\ntimeout = \"10s\"\n";

/// A host with keys and bundles.
struct Host<'container> {
    folder: TempDir,
    container: &'container Container,
}

impl Host<'_> {
    /// `vestal` with these words, in the container's network.
    fn vestal(&self, words: &str) -> Output {
        run(self.container.beside(&binary("vestal")), self.folder.path(), words)
    }

    #[track_caller]
    fn ok(&self, words: &str) -> String {
        let output = self.vestal(words);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "vestal {words}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

fn run(mut command: Command, folder: &Path, words: &str) -> Output {
    command.args(words.split(' ')).current_dir(folder).env("XDG_CONFIG_HOME", folder);
    command.output().unwrap()
}

/// An application that says who it is, and that it is ready.
fn good(name: &str) -> String {
    format!("echo {name} >> /tmp/runs\necho >&3\nexec sleep 2147483647\n")
}

/// One that never gets ready.
fn bad(name: &str) -> String {
    format!("echo {name} >> /tmp/runs\nexit 1\n")
}

#[test]
fn an_application_is_pushed_into_the_other_file_and_a_bad_one_goes_back_by_itself() {
    let Some(image) = image() else { return };
    let folder = tempfile::Builder::new().prefix("vh").tempdir_in("/tmp").unwrap();
    let made = run(Command::new(binary("vestal")), folder.path(), "keygen --dev keys");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let container = Container::start(&image, |root| {
        fs::write(root.join("etc/vestal/upgrade.toml"), SETTINGS).unwrap();
        fs::write(root.join("etc/vestal/services.d/camera.toml"), DEFINITION).unwrap();
        for name in ["keyring.json", "keyring.json.sig"] {
            let to = root.join("usr/share/vestal").join(name);
            fs::copy(folder.path().join("keys").join(name), to).unwrap();
        }
        fs::create_dir_all(root.join("data")).unwrap();
        fs::write(root.join("data/app-a"), good("one")).unwrap();
    });
    container.until_all_ready();
    let host = Host { folder, container: &container };
    let identity = container.json("vestalctl --json upgrade identity");
    let fingerprint = identity["fingerprint"].as_str().unwrap();
    host.ok(&format!("trust add 127.0.0.1 --fingerprint {fingerprint}"));

    let before = container.pid("registry");
    for (name, index, application, confirmed) in
        [("two", 2, good("two"), true), ("three", 3, bad("three"), false)]
    {
        fs::write(host.folder.path().join("app"), application).unwrap();
        let recipe = format!(
            "product = \"vestal-container\"\nrevisions = [\"a1\"]\nversion = \"{index}\"\n\
             [components.application]\nimage = \"app\"\nrollback-index = {index}\n"
        );
        fs::write(host.folder.path().join("recipe.toml"), recipe).unwrap();
        host.ok(&format!("bundle create recipe.toml --key keys/bundle.key -o {name}.vestal"));
        let pushed =
            host.vestal(&format!("push {name}.vestal 127.0.0.1 --key keys/operator.key --wait"));
        let said = String::from_utf8_lossy(&pushed.stderr);
        assert_eq!(pushed.status.success(), confirmed, "{name}: {said}");
    }
    // What the third one was replaced by is the second one, in the second file.
    container.until("the good one runs again", |it| {
        it.run("readlink /run/app").1.trim() == "/data/app-b"
            && it.run("tail -n 1 /tmp/runs").1.trim() == "two"
    });
    assert!(container.ok("cat /tmp/runs").starts_with("one\ntwo\nthree\n"));
    let history = container.json("vestalctl --json upgrade history");
    let states: Vec<&str> =
        history.as_array().unwrap().iter().filter_map(|line| line["state"].as_str()).collect();
    assert_eq!(states.last(), Some(&"rolled-back"), "{history}");
    assert!(states.contains(&"confirmed"), "{history}");
    assert_eq!(container.pid("registry"), before);
    assert!(fs::exists(container.place("data/app-b")).unwrap());
}
