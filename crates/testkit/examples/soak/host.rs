//! The host that upgrades the device: keys of the image, two applications, and `vestal`.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use anyhow::{Context as _, ensure};
use testkit::{
    binary,
    machine::{Image, Machine},
};

/// Seconds after which a `vestal` that hangs is ended; it tries again by itself until then.
const PATIENCE: &str = "150";
pub(crate) const VERSIONS: [&str; 2] = ["soak-1", "soak-2"];

pub(crate) struct Host {
    folder: PathBuf,
    device: String,
}

impl Host {
    /// Makes the bundles, and believes the device.
    pub(crate) fn new(image: &Image, machine: &Machine, folder: &Path) -> anyhow::Result<Self> {
        let device = format!("127.0.0.1:{}", machine.port("tcp", 7421));
        let host = Self { folder: folder.to_owned(), device };
        for version in VERSIONS {
            host.bundle(&image.path("keys"), version).with_context(|| version.to_owned())?;
        }
        fs::copy(image.path("keys").join("operator.key"), folder.join("operator.key"))?;
        let identity = machine.json("vestalctl --json upgrade identity");
        let fingerprint = identity["fingerprint"].as_str().context("a device has an identity")?;
        host.ok(&["trust", "add", &host.device, "--fingerprint", fingerprint])?;
        Ok(host)
    }

    fn bundle(&self, keys: &Path, version: &str) -> anyhow::Result<()> {
        let application = self.folder.join(version);
        fs::create_dir(&application)?;
        let start = application.join("start");
        let script = format!(
            "#!/bin/sh\necho {version} > /run/soak.application\ntrap 'kill $!; exit 0' TERM\nsleep 2147483647 &\nwait\n"
        );
        fs::write(&start, script)?;
        fs::set_permissions(&start, fs::Permissions::from_mode(0o755))?;
        let packed = Command::new("mksquashfs")
            .arg(&application)
            .arg(self.folder.join(format!("{version}.squashfs")))
            .args(["-noappend", "-all-root", "-quiet", "-no-progress"])
            .status()?;
        ensure!(packed.success(), "mksquashfs: {packed}");
        let recipe = self.folder.join(format!("{version}.toml"));
        fs::write(
            &recipe,
            format!(
                "product = \"vestal-image\"\nrevisions = [\"x86_64\"]\nversion = \"{version}\"\n\
                 [components.application]\nimage = \"{version}.squashfs\"\nversion = \"{version}\"\nrollback-index = 0\n"
            ),
        )?;
        let key = keys.join("bundle.key");
        let (recipe, key) = (text(&recipe)?, text(&key)?);
        self.ok(&["bundle", "create", recipe, "--key", key, "-o", &format!("{version}.vestal")])
    }

    fn vestal(&self, words: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.arg(PATIENCE).arg(binary("vestal")).args(words).current_dir(&self.folder);
        command.env("XDG_CONFIG_HOME", &self.folder).stdin(Stdio::null());
        command
    }

    fn ok(&self, words: &[&str]) -> anyhow::Result<()> {
        succeeded(&format!("vestal {}", words.join(" ")), &self.vestal(words).output()?)
    }

    /// Installs a version and waits until it is confirmed.
    pub(crate) fn push(&self, version: &str) -> anyhow::Result<()> {
        succeeded(&format!("push of {version}"), &self.begin_push(version)?.wait_with_output()?)
    }

    pub(crate) fn begin_push(&self, version: &str) -> anyhow::Result<Child> {
        let bundle = format!("{version}.vestal");
        let words = ["push", &bundle, &self.device, "--key", "operator.key", "--wait"];
        Ok(self.vestal(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
    }

    /// Goes back to what ran before.
    pub(crate) fn roll_back(&self) -> anyhow::Result<()> {
        self.ok(&["rollback", &self.device, "--key", "operator.key"])
    }
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("the scratch folder has a plain name")
}

fn succeeded(what: &str, output: &Output) -> anyhow::Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{what}: {}: {}", output.status, said.trim());
    Ok(())
}
