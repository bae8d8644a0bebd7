//! What the suite's daemons keep: copies of definitions, configuration that is committed, tried and taken back, the log on the
//! disk while its oldest part goes. (The registry keeps nothing on the disk; it is used and restarted meanwhile all the same.)

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use testkit::{
    cuts::{self, Cut},
    machine::{Machine, Setup},
};

use crate::support::{ALL_READY, Sample, cut, done, history, is_full, is_whole, recorded, said};

/// How often each of them is changed.
const EDITS: usize = 6;
/// Cut disks that are booted.
const BOOTS: usize = 1;
const BOOTS_FULL: usize = 8;

fn definition(edit: usize) -> String {
    format!("# Version {edit}.\ncommand = [\"/bin/sleep\", \"{edit}000\"]\n")
}

/// As `uci commit` writes it.
fn package(edit: usize) -> String {
    format!("\nconfig edited 'it'\n\toption version '{edit}'\n\n")
}

/// For `printf`.
fn shown(text: &str) -> String {
    text.replace('\n', "\\n").replace('\t', "\\t").replace('\'', "'\\''")
}

/// The root is read-only: what is edited lies over it. The log is so short that its oldest part has to go.
fn prepare(machine: &Machine) {
    machine
        .ok("mkdir /tmp/etc && cp -a /etc/vestal/. /tmp/etc && mount --bind /tmp/etc /etc/vestal");
    machine.ok(
        "printf 'store = \"disk\"\\nsize = \"512KiB\"\\nrate = \"off\"\\n' > /etc/vestal/log.toml",
    );
    machine.ok("vestalctl service restart log");
    let first = format!(
        "cd /etc/config && printf '{}' > .edited && sync .edited && mv .edited edited && sync .",
        shown(&package(0))
    );
    done(machine, &first, "config 0");
    machine.until("uci -q get edited.it.version");
}

/// One change of everything.
fn edit(machine: &Machine, edit: usize) {
    let text = shown(&definition(edit));
    let place = "/etc/vestal/services.d/edited.toml";
    let reread = format!("printf '{text}' > {place}; vestalctl service reread");
    done(machine, &reread, &format!("definition {edit}"));

    let commit = format!("uci set edited.it.version={edit}; uci commit edited");
    let commit = match edit % 2 {
        0 => commit,
        _ => format!("vestalctl config apply --confirm 600; {commit}; vestalctl config confirm"),
    };
    done(machine, &commit, &format!("config {edit}"));

    machine.ok(
        "yes 'a line of the log, as long as lines are' | head -c 100000 | /usr/bin/logger -t cuts",
    );
    machine.ok("echo broken | /usr/bin/logger -t cuts -p user.err");
    let newest = machine.json("vestalctl --json log -p err -g broken -n 1");
    assert_eq!(newest["text"], "broken", "{newest}");
    done(machine, ":", &format!("log {}", newest["sequence"]));

    machine.ok("vestalctl service restart registry");
    machine.until("ubus list | grep -q '^upgrade$'");
}

/// A change that nobody confirms.
fn try_in_vain(machine: &Machine) {
    let edit = EDITS + 1;
    machine.ok(&format!(
        "vestalctl config apply --confirm 10; uci set edited.it.version={edit}; uci commit edited"
    ));
    let version = format!("[ \"$(uci get edited.it.version)\" = {EDITS} ]");
    machine.until(&version);
    machine.until("! vestalctl --json config status | grep -q left_ms");
    done(machine, &version, "back 1");
}

/// All of it is old or new, and what the guest said it had made safe is there.
fn check(cut: &mut Cut<'_, '_>, network: &[u8]) -> Result<()> {
    let data = cut.files("data")?;
    let state = data.join("vestal");
    cuts::state::suite(&state)?;
    let versions: Vec<String> = (0..=EDITS + 1).map(package).collect();
    is_whole(cut, &data.join("config/edited"), "config", &versions)?;
    if said(cut, "back").is_some() {
        let found = cuts::state::version(&data.join("config/edited"), &versions)?;
        ensure!(found == Some(EDITS), "version {found:?} is there, which nobody confirmed");
    }
    let versions: Vec<String> = (0..=EDITS).map(definition).collect();
    let copy = state.join("supervisor/last-good/edited.toml");
    is_whole(cut, &copy, "definition", &versions)?;
    if let Some(safe) = said(cut, "log") {
        let next = usize::try_from(cuts::state::logged(&state.join("log"))?)?;
        ensure!(next > safe, "the log ends before {next}; {safe} was safe");
    }
    is_filled(&data, network)
}

/// What the first boot lays down is there as a whole or not at all.
fn is_filled(data: &Path, network: &[u8]) -> Result<()> {
    if !data.join("config").exists() {
        return Ok(());
    }
    let found = fs::read(data.join("config/network")).context("config was filled by half")?;
    ensure!(found == network, "config was filled with something else");
    Ok(())
}

#[test]
fn what_the_daemons_keep_is_whole_after_every_cut_of_a_first_boot_of_edits_and_of_a_full_log() {
    let Some((image, mut machine)) = recorded() else { return };
    machine.until(ALL_READY);
    prepare(&machine);
    (1..=EDITS).for_each(|number| edit(&machine, number));
    try_in_vain(&machine);
    let log = machine.json("vestalctl --json call log status");
    assert!(log["first_sequence"].as_u64() > Some(1), "nothing of the log had to go: {log}");
    machine.send("vestalctl system poweroff");
    machine.until_off();

    let history = history(&image, &machine);
    drop(machine);
    let network = fs::read(image.path("rootfs/etc/config/network")).unwrap();
    let mut sample = Sample::of(&history, if is_full() { BOOTS_FULL } else { BOOTS });
    let report = cut(&history, |cut| {
        check(cut, &network)?;
        sample.look(cut, ())
    });
    assert_eq!(report.faults, [], "{report}");
    for (disk, ()) in sample.kept() {
        let mut machine = Setup::direct(&image).start_with(disk);
        machine.until_lab();
        machine.until(ALL_READY);
        machine.ok("vestalctl status && uci show network && grep ' /data ext4 ' /proc/mounts");
        machine.pull_the_plug();
    }
}
