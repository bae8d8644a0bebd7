//! A guest whose disk is recorded: what it writes, what it says it has written, and what is there after each cut.

use anyhow::{Context as _, ensure};
use testkit::{
    cuts::{self, Cut, History, Layout, MARK_SECTOR, Plan, Report},
    machine::{Image, Machine, Setup},
};

/// How often each file is changed.
const CHANGES: usize = 25;
/// Bytes of a version: several blocks, so that half of it can be there.
const LENGTH: usize = 3 * 4096;

/// The image under test, started at the kernel, its disk recorded.
fn recorded() -> Option<(Image, Machine)> {
    let image = Image::from_env("VESTAL_IMAGE")?;
    let machine = Setup::direct(&image).disk(cuts::record).start();
    machine.until_lab();
    Some((image, machine))
}

/// Ends the guest in order, and reads what it did. All of that together must give the disk that it left.
fn ended(image: &Image, mut machine: Machine) -> History {
    machine.send("sync; poweroff -f");
    machine.until_off();
    let layout = Layout::of_image(&image.path("image.json")).unwrap();
    let history = cuts::recorded(machine.folder(), layout).unwrap();
    let replayed = machine.folder().join("replayed.img");
    history.replay(&replayed).unwrap();
    for name in ["env", "kernel-a", "kernel-b", "rootfs-a", "rootfs-b", "data"] {
        let [left, again] =
            [machine.disk(), replayed.clone()].map(|disk| image.read_partition(&disk, name));
        assert!(left == again, "{name} is not what was written to it");
    }
    history
}

fn cut(history: &History, check: impl FnMut(&mut Cut<'_, '_>) -> anyhow::Result<()>) -> Report {
    let (writes, flushes) = history.counts();
    let report = cuts::run(history, Plan::default(), check).unwrap();
    eprintln!("{writes} pieces written, {flushes} flushes; {report}");
    report
}

/// What the shell's `yes "version N" | head -c LENGTH` makes.
fn versions() -> Vec<Vec<u8>> {
    let version = |number| format!("version {number}\n").bytes().cycle().take(LENGTH).collect();
    (0..=CHANGES).map(version).collect()
}

/// The last number that the guest said about this.
fn said(cut: &Cut<'_, '_>, what: &str) -> Option<usize> {
    let numbers = cut.marks().filter_map(|mark| mark.strip_prefix(what)?.trim().parse().ok());
    numbers.last()
}

/// The file has a version, and one that is no older than what the guest said it had made safe.
fn is_whole(cut: &mut Cut<'_, '_>, name: &str, versions: &[Vec<u8>]) -> anyhow::Result<()> {
    let found = cuts::state::version(&cut.files("data")?.join(name), versions)?;
    let Some(safe) = said(cut, name) else { return Ok(()) };
    let found = found.with_context(|| format!("{name} is gone; version {safe} was safe"))?;
    ensure!(found >= safe, "{name} has version {found}; {safe} was safe");
    Ok(())
}

#[test]
fn a_file_that_is_replaced_by_rename_is_whole_after_every_cut_and_one_overwritten_in_place_is_not()
{
    let Some((image, machine)) = recorded() else { return };
    let script = format!(
        "set -e; cd /data
        mark() {{ printf 'MARK %s\\n' \"$1\" | dd of=/dev/vda bs=512 seek={MARK_SECTOR} conv=sync,notrunc oflag=direct 2>/dev/null; }}
        fill() {{ yes \"version $1\" | head -c {LENGTH}; }}
        fill 0 > renamed; fill 0 > overwritten; sync; mark 'renamed 0'; mark 'overwritten 0'
        n=0; while [ $n -lt {CHANGES} ]; do
            n=$((n+1))
            fill $n > .renamed.new; sync .renamed.new; mv .renamed.new renamed; sync .; mark \"renamed $n\"
            fill $n | dd of=overwritten conv=notrunc bs={LENGTH} iflag=fullblock 2>/dev/null; sync overwritten
            mark \"overwritten $n\"
        done"
    );
    machine.ok(&script);
    let history = ended(&image, machine);
    assert_eq!(history.marks().count(), 2 * CHANGES + 2);

    let versions = versions();
    // The control: the same replay must see what is unsafe.
    let mut torn = 0;
    let report = cut(&history, |cut| {
        if let Err(error) = is_whole(cut, "overwritten", &versions) {
            torn += usize::from(error.to_string().contains("overwritten is torn"));
        }
        is_whole(cut, "renamed", &versions)
    });
    assert_eq!(report.faults, []);
    assert!(report.cuts > 8 * CHANGES && report.losses > 8 * CHANGES, "{report}");
    assert!(torn >= CHANGES, "the file that was overwritten was torn {torn} times only");
}
