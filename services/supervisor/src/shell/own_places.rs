//! What a daemon of the suite finds when it starts, whoever it runs as: a folder in RUN_DIR, one in STATE_DIR, and its lock.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown},
    path::Path,
};

use anyhow::Context as _;
use daemon::places::Places;
use protocol::name::Name;
use rustix::{
    fs::{Mode, OFlags},
    process::{Gid, Uid},
};

use crate::settings::{Process, User};

/// Daemons whose folder in RUN_DIR holds a file for everybody: addresses, and digests.
const READ_BY_OTHERS: [&str; 3] = ["heartbeat", "upgrade", "config"];

/// Makes all of it that isn't there, and gives it to the daemon's user.
pub(crate) fn make(places: &Places, service: &Name, process: &Process) -> anyhow::Result<()> {
    // Whoever has a folder in it has to get there.
    make_folder(&places.state, 0o755)?;
    let is_read = READ_BY_OTHERS.contains(&service.as_str());
    let run_mode = if is_read { 0o755 } else { 0o750 };
    for (parent, mode) in [(&places.run, run_mode), (&places.state, 0o750)] {
        let folder = parent.join(service.escaped());
        make_folder(&folder, mode)?;
        if let Some(user) = &process.user {
            chown(&folder, Some(user.uid), Some(user.gid))
                .with_context(|| format!("give {} to user {}", folder.display(), user.uid))?;
        }
    }
    if let Some(user) = &process.user {
        let lock = places.run.join(format!("{service}.lock"));
        give_lock(&lock, user)
            .with_context(|| format!("give {} to user {}", lock.display(), user.uid))?;
    }
    Ok(())
}

/// The folder above the sockets that other users can't enter, if we are root and there is one: services with a user of
/// their own then reach nothing.
pub(crate) fn barred(run: &Path) -> Option<&Path> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let is_barred = |folder: &&Path| {
        fs::metadata(folder).is_ok_and(|about| about.permissions().mode() & 0o001 == 0)
    };
    run.ancestors().find(is_barred)
}

fn make_folder(folder: &Path, mode: u32) -> anyhow::Result<()> {
    let made = fs::DirBuilder::new().mode(mode).recursive(true).create(folder);
    made.with_context(|| format!("make {}", folder.display()))
}

/// Makes a daemon's lock for its user, who can't make a file beside the sockets. Only its owner may open it, because whoever
/// opens a file can lock it.
fn give_lock(lock: &Path, user: &User) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(lock, flags, Mode::RUSR | Mode::WUSR)?;
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    rustix::fs::fchown(&file, Some(uid), Some(gid))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    #[test]
    fn a_daemon_that_runs_as_somebody_else_can_take_its_lock_and_nobody_else_can() {
        let folder = tempfile::tempdir().unwrap();
        let (run, state) = (folder.path().join("run"), folder.path().join("state"));
        fs::create_dir(&run).unwrap();
        let places = Places { run: run.clone(), config: None, state: state.clone(), uci: None };
        // Root may give files away; anybody may give them to himself.
        let own = rustix::process::geteuid();
        let (uid, gid) = match own.is_root() {
            true => (54_321, 54_321),
            false => (own.as_raw(), rustix::process::getegid().as_raw()),
        };
        let user = User { name: None, group_name: None, uid, gid, groups: Vec::new() };
        let process = Process { user: Some(user), ..Process::default() };
        for _ in 0..2 {
            make(&places, &Name::new("heartbeat").unwrap(), &process).unwrap();
        }
        for (path, mode) in [
            (run.join("heartbeat.lock"), 0o600),
            (run.join("heartbeat"), 0o755),
            (state.join("heartbeat"), 0o750),
        ] {
            let found = fs::metadata(&path).unwrap();
            assert_eq!((found.uid(), found.gid()), (uid, gid), "{}", path.display());
            assert_eq!(found.permissions().mode() & 0o777, mode, "{}", path.display());
        }
        assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn a_folder_that_others_cannot_enter_is_named() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        fs::create_dir(&run).unwrap();
        fs::set_permissions(&run, fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(barred(&run), Some(folder.path()));
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(barred(&run), None);
    }
}
