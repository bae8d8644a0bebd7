//! `reload_config` of 100 packages with nothing, one, ten and all of them changed: ours, and a loop in the shell that shows every
//! package, compares it by `md5sum -c` and tells of each that differs, as OpenWrt's does.

use std::{fs, path::PathBuf};

use crate::{
    ground::{Cost, Ground, run},
    numbers::{Report, Rounds, Table},
    suite::{Place, Suite, script},
};

const PACKAGES: usize = 100;
const CPU_GOAL_MS: f64 = 10.0;
const STARTS_GOAL: f64 = 2.0;
/// With the same programs in both: our `uci` and `ubus`, busybox's shell and `md5sum`.
const LOOP: &str = r#"#!/bin/sh
rm -rf "$CHECK"
mkdir -p "$CHECK"
for file in "$CONFIG"/*; do
	name=${file##*/}
	uci -c "$CONFIG" show "$name" > "$CHECK/$name"
done
if [ -f "$DIGESTS" ]; then
	for failed in $(md5sum -c "$DIGESTS" 2>/dev/null | sed -n 's/: FAILED$//p'); do
		ubus call service event "{\"type\":\"config.change\",\"data\":{\"package\":\"${failed##*/}\"}}"
	done
fi
md5sum "$CHECK"/* > "$DIGESTS"
rm -rf "$CHECK"
"#;

/// OpenWrt's way.
pub(crate) struct Loop<'s> {
    suite: &'s Suite,
    script: PathBuf,
    digests: PathBuf,
}

impl<'s> Loop<'s> {
    pub(crate) fn new(suite: &'s Suite) -> anyhow::Result<Self> {
        let path = suite.device.folder().join("reload_config");
        script(&path, LOOP)?;
        Ok(Self { suite, script: path, digests: suite.device.run_dir().join("config.md5") })
    }

    /// The next run is the first one.
    pub(crate) fn forget(&self) -> anyhow::Result<()> {
        if self.digests.exists() {
            fs::remove_file(&self.digests)?;
        }
        Ok(())
    }

    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let mut command = self.suite.program("sh")?;
        command.arg(&self.script);
        command.env("CONFIG", self.suite.device.folder().join("config"));
        command.env("CHECK", self.suite.device.run_dir().join("config.check"));
        run(command.env("DIGESTS", &self.digests))
    }
}

pub(crate) fn measure(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let suite = Suite::start(ground, PACKAGES, "mode = \"manual\"\n", &[], &[], Place::Memory)?;
    let openwrt = Loop::new(&suite)?;
    openwrt.run()?;
    let cases = [("nothing", 0), ("one", 1), ("ten", 10), ("all", PACKAGES)];
    let mut rounds: [[Rounds; 2]; 4] = Default::default();
    let mut value = 0;
    for round in 0..ground.rounds() {
        for ((_, changed), [ours, loops]) in cases.iter().zip(&mut rounds) {
            value += 1;
            for package in 0..*changed {
                suite.edit(package, value)?;
            }
            // Each has its own memory of what was there, so that both see the same change; who is first takes turns.
            for first in [round % 2 == 0, round % 2 == 1] {
                if first {
                    let mut command = suite.program("reload_config")?;
                    ours.push(&ground.cost(&suite.daemons, || run(&mut command))?.figures());
                } else {
                    loops.push(&ground.cost(&suite.daemons, || openwrt.run())?.figures());
                }
            }
        }
    }
    suite.check()?;
    let mut table = Table::new("100 packages", &Cost::COLUMNS);
    for ((what, _), [ours, loops]) in cases.iter().zip(&rounds) {
        let figures = ours.medians();
        let goal = format!("reload_config, {what} of 100 packages changed");
        report.goal(format!("{goal}: CPU ms"), CPU_GOAL_MS, figures[0]);
        if ground.is_inside() {
            report.goal(format!("{goal}: process starts"), STARTS_GOAL, figures[2]);
        }
        table.row(format!("{what} changed, `reload_config`"), &figures);
        table.row(format!("{what} changed, the shell's loop"), &loops.medians());
    }
    report.add(&table);
    Ok(())
}
