//! Scenarios on a clock that the test owns. [`world`] is the device, whose power, programs and journal fail as they are told.

mod arming;
mod clocks;
mod kills;
mod lives;
mod order;
mod random;
mod world;

use crate::settings::{Settings, tests::folder};

/// A television: a logo that is to be there first, a user interface that half works after a resume, a recorder.
pub(super) fn television() -> Settings {
    device(&[
        ("autorun.d/logo.toml", "phase = \"early\"\ncommand = [\"/bin/logo\"]\n"),
        (
            "autorun.d/ui.toml",
            "phase = \"ui\"\nservice = \"ui\"\non-resume = \"restart-if-broken\"\nbefore-image = \"freeze\"\n\
             probe = { file = \"/run/ui/frames\" }\n",
        ),
        (
            "autorun.d/recorder.toml",
            "service = \"recorder\"\nidempotent = true\non-any-wake = true\nretries = 1\n",
        ),
    ])
}

/// With everything that can be prepared.
pub(super) fn device(targets: &[(&str, &str)]) -> Settings {
    let own = "journal = \"/dev/autorun\"\nunmount = [\"/data\"]\nguard = [\"/dev/sda1\"]\nswapoff = [\"/dev/sdb1\"]\n\
               network = [[\"/sbin/udhcpc\"]]\nlinger = \"stay\"\nparallel = 64\n";
    let mut files = vec![("autorun.toml", own)];
    files.extend(targets);
    folder(&files).unwrap()
}
