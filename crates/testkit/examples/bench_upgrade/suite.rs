//! A device with the agent, that believes the benchmark's keys.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use testkit::{Device, processes_of, until};

use crate::images::{SIZE, run};

/// A device that runs.
pub(crate) struct Suite {
    pub(crate) device: Device,
    /// The agent's two processes.
    pub(crate) daemons: Vec<i32>,
}

impl Suite {
    /// `component` is what else `upgrade.toml` says of the application, `definitions` are further services.
    pub(crate) fn start(
        keys: &Path,
        component: &str,
        definitions: &[(String, String)],
        environment: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let mut device = Device::with_core();
        for name in ["log", "heartbeat", "config", "driver", "autorun"] {
            device.define(name, "command = [\"off\"]\nenabled = false\n");
        }
        for (name, text) in definitions {
            device.define(name, text);
        }
        for (name, value) in environment {
            device.set_env(name, value);
        }
        let folder = device.folder().to_owned();
        let slots = ["a.img", "b.img"].map(|name| folder.join(name));
        let settings = format!(
            "product = \"bench\"\nrevision = \"a1\"\nhealth = {{ timeout = \"1m\", stable = \"0s\" }}\n\
             [components.application]\nslots = {slots:?}\nactivate = \"restart\"\n{component}"
        );
        fs::write(folder.join("etc/upgrade.toml"), settings)?;
        device.start();
        device.ctl_ok(&["wait-for", "service", "upgrade"]);
        let keyring = keys.join("keyring.json");
        run(device.command("vestalctl").args(["upgrade", "keyring", "install"]).arg(keyring))?;
        let agent = processes_of(&device.run_dir());
        let agent = agent.into_iter().filter(|one| one.command.contains("/vestal-upgrade"));
        let daemons: Vec<i32> = agent.map(|process| process.pid).collect();
        anyhow::ensure!(daemons.len() == 2, "the agent's processes are {daemons:?}, not two");
        Ok(Self { device, daemons })
    }

    /// Where a slot lies.
    pub(crate) fn slot(&self, letter: char) -> PathBuf {
        self.device.folder().join(format!("{letter}.img"))
    }

    /// `vestalctl upgrade install`.
    pub(crate) fn install(&self, bundle: &Path) -> Command {
        let mut command = self.device.command("vestalctl");
        command.args(["upgrade", "install"]).arg(bundle);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Waits until what was installed is known to be good.
    pub(crate) fn confirmed(&self) {
        until("the upgrade is confirmed", || {
            (self.device.json(&["upgrade", "status"])["state"] == "confirmed").then_some(())
        });
    }
}

/// Writes a slot full of ones, as erased flash is: each block has its place on the disk then, and nothing is there already.
pub(crate) fn fill(path: &Path) -> anyhow::Result<()> {
    let ones = vec![0xff; 1 << 20];
    let mut file = File::create(path)?;
    for _ in 0..SIZE / (1 << 20) {
        file.write_all(&ones)?;
    }
    Ok(file.sync_all()?)
}
