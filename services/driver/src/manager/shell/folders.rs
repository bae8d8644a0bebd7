//! Who a host runs as, and the folder in the run directory that is its own: the journal of handles, the last state.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown},
    path::Path,
};

use daemon::{
    accounts::{Accounts, number},
    files::read_text,
};

/// Who hosts run as where driver.toml doesn't say.
const USER: &str = "vestal-driver";
/// Its number where `/etc/passwd` doesn't have it.
const NUMBER: u32 = 875;
/// Bytes read of `/etc/passwd` and `/etc/group`.
const FILE_MAX: u64 = 1 << 20;

/// A user, as a definition names it and as the kernel does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// Who the host of a driver runs as. `None` without root: then nobody can be somebody else.
///
/// # Errors
/// Where the settings name a user that isn't there.
pub(super) fn user(wanted: Option<&str>) -> Result<Option<User>, String> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let read = |path| read_text(Path::new(path), FILE_MAX).unwrap_or_default();
    resolve(wanted, &Accounts::parse(&read("/etc/passwd"), &read("/etc/group"))).map(Some)
}

fn resolve(wanted: Option<&str>, accounts: &Accounts) -> Result<User, String> {
    let name = wanted.unwrap_or(USER);
    if let Some(account) = accounts.user(name) {
        return Ok(User { name: name.to_owned(), uid: account.uid, gid: account.gid });
    }
    let fall_back = wanted.is_none().then_some(NUMBER);
    let Some(uid) = fall_back.or_else(|| number(name)) else {
        return Err(format!(
            "user {name:?} is not in /etc/passwd; add it there, or name another one in driver.toml"
        ));
    };
    let gid = accounts.user_of(uid).map_or(uid, |account| account.gid);
    Ok(User { name: uid.to_string(), uid, gid })
}

/// Makes `RUN_DIR/driver/NAME` for the host alone. One of another user is emptied first: what is in it was written by somebody
/// who is not the host any more.
pub(super) fn make(folder: &Path, user: Option<&User>) -> io::Result<()> {
    if let Some(parent) = folder.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
        // Hosts have to get through; the supervisor made it for us alone.
        fs::set_permissions(parent, fs::Permissions::from_mode(0o755))?;
    }
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let about = fs::symlink_metadata(folder)?;
    if !about.is_dir() {
        return Err(io::Error::other("it is not a folder; remove it"));
    }
    let (uid, gid) = match user {
        Some(user) => (user.uid, user.gid),
        None => (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
    };
    if about.uid() != uid {
        empty(folder)?;
    }
    if (about.uid(), about.gid()) != (uid, gid) {
        chown(folder, Some(uid), Some(gid))?;
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
}

/// Removes what the host has written: its handles and its state are gone.
pub(super) fn empty(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_runs_as_the_user_of_the_settings_or_as_the_suites_own() {
        let accounts = Accounts::parse("root:x:0:0::/:\nweb:x:33:34::/:\n", "");
        let user = |wanted| resolve(wanted, &accounts).map(|user| (user.name, user.uid, user.gid));
        assert_eq!(user(Some("web")), Ok(("web".to_owned(), 33, 34)));
        assert_eq!(user(Some("33")), Ok(("33".to_owned(), 33, 34)));
        assert_eq!(user(Some("4242")), Ok(("4242".to_owned(), 4242, 4242)));
        assert_eq!(user(None), Ok(("875".to_owned(), 875, 875)));
        assert!(user(Some("nobody-here")).unwrap_err().contains("add it there"));
        let own = Accounts::parse("vestal-driver:x:900:901::/:\n", "");
        assert_eq!(resolve(None, &own).unwrap().name, USER);
    }

    #[test]
    fn the_folder_is_the_hosts_alone_and_what_is_in_it_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("driver/can0");
        make(&folder, None).unwrap();
        fs::write(folder.join("handles"), "x").unwrap();
        make(&folder, None).unwrap();
        assert!(folder.join("handles").exists());
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(
            fs::metadata(folder.with_file_name("")).unwrap().permissions().mode() & 0o777,
            0o755
        );
        empty(&folder).unwrap();
        assert!(!folder.join("handles").exists());
    }

    #[test]
    fn what_another_user_left_is_not_handed_on() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("driver/can0");
        let user = |uid: u32| User { name: uid.to_string(), uid, gid: uid };
        make(&folder, Some(&user(4242))).unwrap();
        fs::write(folder.join("handles"), "x").unwrap();
        make(&folder, Some(&user(4243))).unwrap();
        assert!(!folder.join("handles").exists());
        assert_eq!(fs::metadata(&folder).unwrap().uid(), 4243);
    }
}
