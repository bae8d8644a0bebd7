//! What actions of init scripts cost with the scripts of `configs/openwrt`, under busybox's ash and under dash.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

use crate::{
    ground::{Cost, Ground, run},
    numbers::{Report, Rounds, Table},
    suite::{Place, Suite, script},
};

const CPU_GOAL_MS: f64 = 10.0;
const STARTS_GOAL: f64 = 5.0;
const SHELLS: [&str; 2] = ["ash", "dash"];
const MINIMAL: &str = "#!/bin/sh /etc/rc.common
USE_PROCD=1
START=50
start_service() {
	procd_open_instance
	procd_set_param command /bin/busybox sleep 100000
	procd_close_instance
}
";
/// With everything that the document's script has.
const FULL: &str = "#!/bin/sh /etc/rc.common
USE_PROCD=1
START=51
check() { uci_validate_section vestal_bench_0000 rule section0 'value:uinteger(0:100000)'; }
start_service() {
	check || return 1
	procd_open_instance
	procd_set_param command /bin/busybox sleep 100000
	procd_set_param respawn
	procd_close_instance
}
service_triggers() { procd_add_reload_trigger vestal_bench_0000; }
reload_service() { stop; start; }
";
/// In this order each action finds the service as it is named.
const ACTIONS: [(&str, &str); 9] = [
    ("start", "start"),
    ("start", "start, unchanged"),
    ("reload", "reload"),
    ("restart", "restart"),
    ("running", "running"),
    ("status", "status"),
    ("enable", "enable"),
    ("enabled", "enabled"),
    ("stop", "stop"),
];

pub(crate) fn measure(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let suite = Suite::start(ground, 1, "mode = \"manual\"\n", &[], &[], Place::Memory)?;
    let root = suite.device.folder().join("root");
    for folder in ["etc/init.d", "etc/rc.d", "var/lock"] {
        fs::create_dir_all(root.join(folder))?;
    }
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/openwrt");
    for library in ["lib", "usr"] {
        symlink(configs.join(library), root.join(library))?;
    }
    for (name, text) in [("minimal", MINIMAL), ("full", FULL)] {
        script(&root.join("etc/init.d").join(name), text)?;
    }
    let callers = Callers { suite: &suite, root, common: configs.join("etc/rc.common") };
    let mut table = Table::new("an action", &COLUMNS);
    for name in ["minimal", "full"] {
        let mut rounds: [[Rounds; 9]; 2] = Default::default();
        for _ in 0..ground.rounds() {
            for (shell, rounds) in SHELLS.iter().zip(&mut rounds) {
                for ((action, what), rounds) in ACTIONS.iter().zip(rounds) {
                    let mut command = callers.command(shell, name, action)?;
                    let cost = ground.cost(&suite.daemons, || run(&mut command));
                    let cost = cost.with_context(|| format!("{shell}: {name} {what}"))?;
                    let Cost { wall_ms, callers_ms, daemons_ms, starts } = cost;
                    rounds.push(&[callers_ms, daemons_ms, starts, wall_ms]);
                }
            }
        }
        suite.check()?;
        for (shell, rounds) in SHELLS.iter().zip(&rounds) {
            for ((_, what), rounds) in ACTIONS.iter().zip(rounds) {
                table.row(format!("{shell}: {name} {what}"), &rounds.medians());
            }
        }
        if name == "minimal" {
            let figures = rounds[0][0].medians();
            report.goal("start of a minimal init script: caller's CPU ms", CPU_GOAL_MS, figures[0]);
            if ground.is_inside() {
                // Its own program isn't counted.
                let what = "start of a minimal init script: process starts";
                report.goal(what, STARTS_GOAL, figures[2] - 1.0);
            }
        }
    }
    report.add(&table);
    Ok(())
}

const COLUMNS: [&str; 4] =
    ["caller's CPU ms", "daemons' CPU ms", "process starts, its program's among them", "wall ms"];

struct Callers<'s> {
    suite: &'s Suite,
    root: PathBuf,
    common: PathBuf,
}

impl Callers<'_> {
    /// As the kernel starts a script of which `#!/bin/sh /etc/rc.common` is the first line.
    fn command(&self, shell: &str, name: &str, action: &str) -> anyhow::Result<Command> {
        let mut command = self.suite.program(shell)?;
        command.arg(&self.common).arg(self.root.join("etc/init.d").join(name)).arg(action);
        command.env("IPKG_INSTROOT", &self.root);
        Ok(command)
    }
}
