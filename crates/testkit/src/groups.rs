//! The cgroups that a device leaves behind when it is killed: nobody is left to remove them but the test.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use sha2::{Digest as _, Sha256};

use crate::within;

/// The folder of our own group in cgroup v2, below which a supervisor that we start makes its groups.
#[must_use]
pub fn own_group() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?.split(' ').nth(4)?;
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(mount).join(own))
}

/// All groups of the device at `run`, as the supervisor calls their common folder: by the SHA-256 of the path.
pub(crate) fn remove_groups_of(run: &Path) {
    let digest = Sha256::digest(run.as_os_str().as_encoded_bytes());
    let hash: String = digest.iter().take(8).map(|octet| format!("{octet:02x}")).collect();
    if let Some(own) = own_group() {
        remove_groups(&own.join(format!("vestal-{hash}")));
    }
}

/// Removes a group and all below it, as soon as the killed processes have left them.
pub fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    // A process that hangs in the kernel keeps its group; the test has said what it has to say.
    within(Duration::from_secs(5), || {
        let removed = fs::remove_dir(group);
        let gone =
            removed.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        (removed.is_ok() || gone).then_some(())
    });
}
