//! One cgroup an instance, where cgroup v2 is there and we may write: `BASE/SERVICE/INSTANCE`.
//!
//! Nothing here is needed for a service to run: without a cgroup the keeper finds an instance's processes by session and
//! environment, and limits are reported as not enforced.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use protocol::name::Name;
use rustix::fs::{CWD, Mode, OFlags, openat};
use sha2::{Digest as _, Sha256};

use crate::settings::CgroupLimits;

/// A quota is given to the kernel as microseconds of this period (cgroup-v2.rst, `cpu.max`).
const CPU_PERIOD_US: u64 = 100_000;

/// Where the instances' groups are.
#[derive(Debug)]
pub(crate) struct Cgroups {
    base: PathBuf,
    /// The same, as the kernel calls it, without the mount point.
    inner: PathBuf,
}

impl Cgroups {
    /// Finds cgroup v2 and makes our own group in it; `None` where there is none or we may not.
    pub(crate) fn find(run_dir: &Path, pid_one: bool) -> Option<Self> {
        let mount = mount_point(&fs::read_to_string("/proc/self/mountinfo").ok()?)?;
        let own = own_group(&fs::read_to_string("/proc/self/cgroup").ok()?)?;
        let inner = own.clone();
        let own = mount.join(own.strip_prefix("/").unwrap_or(&own));
        let name = match pid_one {
            true => "services".to_owned(),
            false => format!("vestal-{}", hash_of(run_dir)),
        };
        let inner = inner.join(&name);
        let base = own.join(name);
        match fs::create_dir(&base) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(_) => return None,
        }
        let cgroups = Self { base, inner };
        for group in [&own, &cgroups.base] {
            enable_controllers(group);
        }
        cgroups.writable().then_some(cgroups)
    }

    fn writable(&self) -> bool {
        rustix::fs::access(&self.base, rustix::fs::Access::WRITE_OK).is_ok()
    }

    /// Makes the instance's group, writes its limits and opens it for the keeper. The texts are limits that are not enforced.
    pub(crate) fn prepare(
        &self,
        service: &Name,
        instance: &Name,
        second: bool,
        limits: &CgroupLimits,
    ) -> io::Result<(OwnedFd, Vec<String>)> {
        let group = self.path(service, instance, second);
        let fresh = make_anew(&group)?;
        let wanted = [
            // All of it or nothing: half a service after an out-of-memory kill is worse than a restart.
            ("memory.oom.group", limits.memory.map(|_| "1".to_owned()), "0"),
            ("memory.max", limits.memory.map(|bytes| bytes.to_string()), "max"),
            ("pids.max", limits.pids.map(|count| count.to_string()), "max"),
            ("cpu.max", limits.cpu_percent.map(cpu_max), "max"),
        ];
        if wanted.iter().any(|(_, value, _)| value.is_some()) {
            enable_controllers(&self.base.join(service.escaped()));
        }
        let mut missing = Vec::new();
        for (file, value, default) in wanted {
            if fresh && value.is_none() {
                continue;
            }
            // A limit that was taken out of a running instance's definition goes back to the kernel's default.
            let text = value.as_deref().unwrap_or(default);
            if let (Err(error), true) = (fs::write(group.join(file), text), value.is_some()) {
                missing.push(format!("{file} = {text} is not enforced: {error}"));
            }
        }
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        Ok((openat(CWD, &group, flags, Mode::empty())?, missing))
    }

    /// `SERVICE/INSTANCE`, as escaped, of a process that is in one of the instances' groups.
    pub(crate) fn group_of(&self, pid: i32) -> Option<String> {
        let group = own_group(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?)?;
        let mut parts = group.strip_prefix(&self.inner).ok()?.to_str()?.split('/');
        Some(format!("{}/{}", parts.next()?, parts.next()?))
    }

    /// Removes the instance's group, and the service's when it was the last; both only when empty.
    pub(crate) fn remove(&self, service: &Name, instance: &Name, second: bool) {
        let group = self.path(service, instance, second);
        if fs::remove_dir(&group).is_ok() {
            // Refused where another instance is left, which is right.
            let _ = fs::remove_dir(self.base.join(service.escaped()));
        }
    }

    /// Removes what is empty of all groups: everything has been stopped.
    pub(crate) fn remove_all(&self) {
        let folders = |path: &Path| {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            // The entry's own type: asking for each of a group's twenty files was most of a stop.
            let is_dir = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
            entries.filter(is_dir).map(|entry| entry.path()).collect::<Vec<_>>()
        };
        for service in folders(&self.base) {
            for group in folders(&service).iter().chain([&service]) {
                // One that isn't empty holds a process that can't be killed; it is said elsewhere.
                let _ = fs::remove_dir(group);
            }
        }
        let _ = fs::remove_dir(&self.base);
    }

    /// An instance that is being replaced has two groups, because each is killed as a whole. No escaped name has a `+`.
    pub(crate) fn path(&self, service: &Name, instance: &Name, second: bool) -> PathBuf {
        let end = if second { "+" } else { "" };
        self.base.join(service.escaped()).join(instance.escaped() + end)
    }
}

/// Makes an instance's group, in as few calls as a thousand services deserve; `false` where it is in use and stays.
fn make_anew(group: &Path) -> io::Result<bool> {
    if let Some(service) = group.parent()
        && let Err(error) = fs::create_dir(service)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(error);
    }
    match fs::create_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made.map(|()| true),
    }
    // A group that was once killed as a whole kills what is cloned into it later, too (seen on kernel 6.18), so an empty
    // one is made anew; one that isn't empty belongs to an instance that runs, and can't be removed.
    match fs::remove_dir(group) {
        Ok(()) => fs::create_dir(group).map(|()| true),
        Err(_) => Ok(false),
    }
}

/// Eight octets of the SHA-256 of the run directory's path: two copies of the suite never share a group.
fn hash_of(run_dir: &Path) -> String {
    let digest = Sha256::digest(run_dir.as_os_str().as_encoded_bytes());
    digest.iter().take(8).map(|octet| format!("{octet:02x}")).collect()
}

fn cpu_max(percent: u32) -> String {
    format!("{} {CPU_PERIOD_US}", u64::from(percent) * CPU_PERIOD_US / 100)
}

/// Each controller by itself: one that is missing doesn't keep the others away.
fn enable_controllers(group: &Path) {
    for controller in ["+memory", "+pids", "+cpu"] {
        // Refused where the kernel or our parent doesn't give it; `prepare` says so when a limit needs it.
        let _ = fs::write(group.join("cgroup.subtree_control"), controller);
    }
}

/// The mount point of cgroup2, from proc_pid_mountinfo(5): the fifth field, with the type after the lone dash.
fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        right.starts_with("cgroup2 ").then(|| left.split(' ').nth(4).map(unescape))?
    })
}

/// Our own group in cgroup v2: the line `0::/path` of `/proc/self/cgroup` (cgroups(7)).
fn own_group(cgroup: &str) -> Option<PathBuf> {
    cgroup.lines().find_map(|line| line.strip_prefix("0::")).map(PathBuf::from)
}

/// Blanks in mount points are written as `\040`.
fn unescape(field: &str) -> PathBuf {
    PathBuf::from(field.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_hierarchy_is_found_beside_version_one() {
        let text = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                    41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point(text), Some("/sys/fs/cgroup/uni fied".into()));
        assert_eq!(mount_point("32 31 0:29 / /x rw - tmpfs tmpfs rw\n"), None);
        assert_eq!(own_group("9:name=systemd:/\n0::/a/b\n"), Some("/a/b".into()));
    }

    #[test]
    fn an_empty_group_is_made_anew_and_one_in_use_stays() {
        let base = tempfile::tempdir().unwrap();
        let group = base.path().join("service/instance");
        assert!(make_anew(&group).unwrap());
        assert!(make_anew(&group).unwrap());
        // What is in a plain folder keeps it from being removed, as a process does with a group.
        fs::create_dir(group.join("used")).unwrap();
        assert!(!make_anew(&group).unwrap());
    }

    #[test]
    fn a_share_of_a_core_becomes_a_quota() {
        assert_eq!(cpu_max(50), "50000 100000");
        assert_eq!(cpu_max(250), "250000 100000");
    }
}
