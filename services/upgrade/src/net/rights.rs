//! Gives up what the network side doesn't need: it becomes the user `vestal-upgrade`, without groups, without capabilities,
//! and can't get any of it back. Before anything of a network was read, and while there is but one thread: the kernel keeps
//! all of this for each thread.

use std::{env, fs, os::unix::fs::chown, path::Path};

use anyhow::{Context as _, bail, ensure};
use daemon::{accounts, files};
use rustix::{
    process::{Gid, Uid, geteuid, getuid},
    thread::{
        CapabilitySet, CapabilitySets, clear_ambient_capability_set, set_capabilities,
        set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};

/// Whom the network side becomes.
const USER: &str = "vestal-upgrade";
/// Longest `/etc/passwd` and `/etc/group` that are read.
const ACCOUNTS_MAX: u64 = 1 << 20;

/// Gives up root. `false`: we are not root, and stay who we are.
///
/// # Errors
/// Where anything of it doesn't work; then the process must end.
pub(super) fn give_up() -> anyhow::Result<bool> {
    set_no_new_privs(true).context("give up new privileges")?;
    if !geteuid().is_root() && !getuid().is_root() {
        return Ok(false);
    }
    let (uid, gid) = user()?;
    ensure!(
        uid != 0 && gid != 0,
        "the user {USER} is root in /etc/passwd; give it a number of its own"
    );
    let threads = fs::read_dir("/proc/self/task").context("count the own threads")?.count();
    ensure!(threads == 1, "{threads} threads run, and rights are given up for one at a time");
    keep_notify_socket(uid, gid);
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_thread_groups(&[]).context("give up groups")?;
    set_thread_res_gid(gid, gid, gid).context("give up the group")?;
    set_thread_res_uid(uid, uid, uid).context("give up root")?;
    // The kernel has cleared them with the user; whatever kept them, they go.
    clear_ambient_capability_set().context("give up capabilities")?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, sets).context("give up capabilities")?;
    let root = Uid::ROOT;
    if getuid() != uid || geteuid() != uid || set_thread_res_uid(root, root, root).is_ok() {
        bail!("rights were given up and are still there");
    }
    Ok(true)
}

fn user() -> anyhow::Result<(u32, u32)> {
    let read = |path: &str| match files::read_text(Path::new(path), ACCOUNTS_MAX) {
        Ok(text) => text,
        Err(error) => {
            tracing::warn!("{path}: {error}; {USER} gets its fixed number");
            String::new()
        }
    };
    let known = accounts::Accounts::parse(&read("/etc/passwd"), &read("/etc/group"));
    if let Some(account) = known.user(USER) {
        return Ok((account.uid, account.gid));
    }
    let number = accounts::built_in(USER).context("the user vestal-upgrade has no number")?;
    Ok((number, number))
}

/// The supervisor made it for root alone, and we have to say how we are.
fn keep_notify_socket(uid: u32, gid: u32) {
    let path =
        env::var_os("NOTIFY_SOCKET").filter(|path| path.as_encoded_bytes().starts_with(b"/"));
    let Some(path) = path else { return };
    if let Err(error) = chown(&path, Some(uid), Some(gid)) {
        tracing::warn!("give {} to {USER}: {error}", Path::new(&path).display());
    }
}
