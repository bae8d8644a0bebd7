//! The test of these tests, in a guest: a file that is replaced is whole after every cut, and one that is overwritten is not.

use testkit::machine::Machine;

use crate::support::{cut, history, is_whole, mark_defined, recorded};

/// How often each file is changed.
const CHANGES: usize = 25;
/// Bytes of a version: several blocks, so that half of it can be there.
const LENGTH: usize = 3 * 4096;

/// Changes both files again and again, and says after each change that it is safe now.
fn change(machine: &Machine) {
    let script = format!(
        "set -e; cd /data
        {}
        fill() {{ yes \"version $1\" | head -c {LENGTH}; }}
        fill 0 > renamed; fill 0 > overwritten; sync; mark 'renamed 0'; mark 'overwritten 0'
        n=0; while [ $n -lt {CHANGES} ]; do
            n=$((n+1))
            fill $n > .renamed.new; sync .renamed.new; mv .renamed.new renamed; sync .; mark \"renamed $n\"
            fill $n | dd of=overwritten conv=notrunc bs={LENGTH} iflag=fullblock 2>/dev/null; sync overwritten
            mark \"overwritten $n\"
        done",
        mark_defined()
    );
    machine.ok(&script);
}

/// What the shell's `yes "version N" | head -c LENGTH` makes.
fn versions() -> Vec<Vec<u8>> {
    let version = |number| format!("version {number}\n").bytes().cycle().take(LENGTH).collect();
    (0..=CHANGES).map(version).collect()
}

#[test]
fn a_file_that_is_replaced_by_rename_is_whole_after_every_cut_and_one_overwritten_in_place_is_not()
{
    let Some((image, mut machine)) = recorded() else { return };
    change(&machine);
    machine.send("sync; poweroff -f");
    machine.until_off();
    let history = history(&image, &machine);
    assert_eq!(history.marks().count(), 2 * CHANGES + 2);

    let versions = versions();
    // The control: the same replay must see what is unsafe.
    let mut torn = 0;
    let report = cut(&history, |cut| {
        let data = cut.files("data")?;
        if let Err(error) = is_whole(cut, &data.join("overwritten"), "overwritten", &versions) {
            torn += usize::from(error.to_string().contains("is torn"));
        }
        is_whole(cut, &data.join("renamed"), "renamed", &versions)
    });
    assert_eq!(report.faults, []);
    assert!(report.cuts > 4 * CHANGES && report.losses > 4 * CHANGES, "{report}");
    assert!(torn >= CHANGES, "the file that was overwritten was torn {torn} times only");
}
