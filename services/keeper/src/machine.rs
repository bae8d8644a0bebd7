//! What PID 1 of a whole machine does before it starts anything and after everything has ended: the kernel's file systems, the
//! console, ctrl-alt-del, `vestal-mounts`.
//!
//! Nothing here parses, and nothing here stops the boot: what fails is said, and the boot goes on. In a container, and in a
//! test's namespace, none of it happens: whoever made those has mounted what they need.

use std::{
    ffi::{CStr, CString},
    os::{fd::AsFd as _, unix::ffi::OsStringExt as _},
    path::Path,
    sync::atomic::AtomicU32,
    time::Duration,
};

use rustix::{
    fs::{FileType, Mode, OFlags, makedev},
    io::Errno,
    mount::{MountFlags, UnmountFlags},
};

use crate::{
    pid1::PidOne,
    proc,
    say::say,
    sys::{self, Side},
};

/// `PROC_PID_INIT_INO`: the number of the pid namespace that the kernel itself made.
const FIRST_PID_NAMESPACE: &[u8] = b"pid:[4026531836]";
/// Checking a big disk takes minutes; whoever waits for this device doesn't wait for longer.
const MOUNT_TIME: Duration = Duration::from_secs(180);
/// Nothing waits for a disk then.
const FALLBACK_TIME: Duration = Duration::from_secs(10);
const UNMOUNT_TIME: Duration = Duration::from_secs(10);
/// What was killed may wait for a disk that doesn't answer; then it is left alone.
const KILLED_TIME: Duration = Duration::from_secs(2);

/// A file system that has no device.
struct Fixed {
    kind: &'static CStr,
    place: &'static CStr,
    /// What it is mounted in: on another device than `place` where something is mounted there already.
    parent: &'static CStr,
    flags: MountFlags,
    data: Option<&'static CStr>,
}

const CLOSED: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
const FILES: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

const PROC: Fixed =
    Fixed { kind: c"proc", place: c"/proc", parent: c"/", flags: CLOSED, data: None };
/// In this order: some lie within others.
const FIXED: [Fixed; 7] = [
    Fixed { kind: c"sysfs", place: c"/sys", parent: c"/", flags: CLOSED, data: None },
    Fixed {
        kind: c"devtmpfs",
        place: c"/dev",
        parent: c"/",
        flags: MountFlags::NOSUID,
        data: Some(c"mode=0755"),
    },
    Fixed {
        kind: c"devpts",
        place: c"/dev/pts",
        parent: c"/dev",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        data: Some(c"mode=0620,gid=5,ptmxmode=0666"),
    },
    Fixed {
        kind: c"tmpfs",
        place: c"/dev/shm",
        parent: c"/dev",
        flags: FILES,
        data: Some(c"mode=1777"),
    },
    Fixed { kind: c"tmpfs", place: c"/run", parent: c"/", flags: FILES, data: Some(c"mode=0755") },
    Fixed { kind: c"tmpfs", place: c"/tmp", parent: c"/", flags: FILES, data: Some(c"mode=1777") },
    Fixed {
        kind: c"cgroup2",
        place: c"/sys/fs/cgroup",
        parent: c"/sys/fs",
        flags: CLOSED,
        data: None,
    },
];
/// What programs expect in `/dev` beside the devices.
const LINKS: [(&CStr, &CStr); 4] = [
    (c"/proc/self/fd", c"/dev/fd"),
    (c"/proc/self/fd/0", c"/dev/stdin"),
    (c"/proc/self/fd/1", c"/dev/stdout"),
    (c"/proc/self/fd/2", c"/dev/stderr"),
];

/// The whole machine is ours: PID 1, and of the namespace that the kernel began with.
#[derive(Debug)]
pub(crate) struct Machine {
    /// `vestal-mounts`, if it can be told where.
    mounts: Option<CString>,
}

impl Machine {
    /// The only way to get one. Needs `/proc`; where that is not mounted yet, it is afterwards if the machine is ours.
    pub(crate) fn prove(_: PidOne) -> Option<Self> {
        let mounted = !is_mounted(&PROC) && mount(&PROC).is_ok();
        let mut name = [0; 32];
        let ours = rustix::fs::readlinkat_raw(rustix::fs::CWD, c"/proc/self/ns/pid", &mut name[..])
            .is_ok_and(|length| name[..length] == *FIRST_PID_NAMESPACE);
        if ours {
            return Some(Self { mounts: None });
        }
        if mounted {
            // It was ours a moment ago, and nobody else runs yet.
            let _ = rustix::mount::unmount(PROC.place, UnmountFlags::DETACH);
        }
        None
    }

    /// The program that mounts what `/etc/fstab` names lies beside this one.
    pub(crate) fn beside(mut self, keeper: &Path) -> Self {
        let path = keeper.with_file_name("vestal-mounts").into_os_string().into_vec();
        self.mounts = CString::new(path).ok();
        self
    }

    /// Everything that must be there before the run directory is made.
    pub(crate) fn begin(&self) {
        for fixed in &FIXED {
            if is_mounted(fixed) {
                continue;
            }
            if let Err(error) = mount(fixed) {
                let (kind, place) = (text(fixed.kind), text(fixed.place));
                say!("{place}: {kind} can't be mounted: {error}; going on without");
            }
        }
        for (target, link) in LINKS {
            // One that is there is as good, and a /dev that can't be written to has said so already.
            let _ = rustix::fs::symlink(target, link);
        }
        open_console();
        if let Err(error) = sys::take_ctrl_alt_del() {
            say!("ctrl-alt-del resets the machine at once: {error}");
        }
        if !self.run_mounts(None, MOUNT_TIME) {
            // Without what should have been mounted memory is better than a root that can't be written to.
            self.run_mounts(Some(c"--fallback"), FALLBACK_TIME);
        }
    }

    /// Everything that was mounted from a disk is put away. Nothing but this process is left.
    pub(crate) fn end(&self) {
        self.run_mounts(Some(c"--off"), UNMOUNT_TIME);
    }

    /// Runs `vestal-mounts` to its end. Where there is none, there is nothing to mount. `false`: it did not come to its end.
    fn run_mounts(&self, option: Option<&'static CStr>, limit: Duration) -> bool {
        let Some(program) = self.mounts.as_deref() else { return true };
        if rustix::fs::access(program, rustix::fs::Access::EXEC_OK).is_err() {
            return true;
        }
        let unused = AtomicU32::new(0);
        let (pid, pidfd) = match sys::clone_process(&unused, None) {
            Ok(Side::Child) => {
                sys::reset_signals();
                crate::oom::restore();
                let argv = [Some(c"vestal-mounts"), option];
                let env = [c"PATH=/usr/sbin:/usr/bin:/sbin:/bin"];
                sys::exec(program, argv.into_iter().flatten(), env.into_iter());
                sys::exit_now(127)
            }
            Ok(Side::Parent { pid, pidfd, .. }) => (pid, pidfd),
            Err(error) => {
                say!("vestal-mounts can't be started: {error}");
                return false;
            }
        };
        let ended = |limit| pidfd.as_ref().is_none_or(|pidfd| proc::wait_end(pidfd, limit));
        if !ended(limit) {
            let seconds = limit.as_secs();
            say!(
                "vestal-mounts has not ended after {seconds} s: it is killed, and the rest goes on"
            );
            // An unreaped child: the pid is its own.
            let _ = sys::kill(pid, libc::SIGKILL);
            if !ended(KILLED_TIME) {
                return false;
            }
        }
        let code = sys::wait_for(pid);
        match code {
            Some(0) => {}
            // It has said what it could not do.
            Some(1) if option == Some(c"--off") => {
                say!("not everything was unmounted as it should be");
            }
            Some(1) => say!("not everything was mounted as it should be"),
            Some(code) => say!("vestal-mounts ended with exit code {code}"),
            None => say!("vestal-mounts was killed"),
        }
        matches!(code, Some(0 | 1))
    }
}

/// Something else than the parent's file system is at the place.
fn is_mounted(fixed: &Fixed) -> bool {
    let device = |path| rustix::fs::stat(path).map(|stat| stat.st_dev);
    match (device(fixed.place), device(fixed.parent)) {
        (Ok(place), Ok(parent)) => place != parent,
        _ => false,
    }
}

fn mount(fixed: &Fixed) -> rustix::io::Result<()> {
    match rustix::fs::mkdir(fixed.place, Mode::from_raw_mode(0o755)) {
        // On a root that can't be written to it is there, or the mount says that it is not.
        Ok(()) | Err(Errno::EXIST | Errno::ROFS) => {}
        Err(error) => return Err(error),
    }
    rustix::mount::mount(fixed.kind, fixed.place, fixed.kind, fixed.flags, fixed.data)
}

/// A kernel that found no console leaves its first process without descriptors, and `std` puts the null device in their place.
fn open_console() {
    let null = makedev(1, 3);
    let is_null = rustix::fs::fstat(rustix::stdio::stderr()).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == null
    });
    if !is_null {
        return;
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    // A machine without any console has nobody to tell.
    let Ok(console) = rustix::fs::open(c"/dev/console", flags, Mode::empty()) else { return };
    for target in 0..3 {
        if let Err(error) = sys::place(console.as_fd(), target) {
            say!("/dev/console can't be descriptor {target}: {error}");
        }
    }
}

fn text(name: &CStr) -> &str {
    name.to_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_within_another_place_is_mounted_after_it() {
        for (at, fixed) in FIXED.iter().enumerate() {
            let (place, parent) = (text(fixed.place), text(fixed.parent));
            assert!(place.starts_with(parent) && place != parent, "{place}");
            let later = FIXED[at..].iter().any(|other| other.place == fixed.parent);
            assert!(!later, "{place} before {parent}");
        }
    }

    #[test]
    fn a_program_for_the_mounts_that_hangs_is_killed_and_the_rest_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let (keeper, pid) = (folder.path().join("vestal-keeper"), folder.path().join("pid"));
        let machine = Machine { mounts: None }.beside(&keeper);
        // Where there is none, there is nothing to wait for.
        assert!(machine.run_mounts(None, Duration::from_secs(1000)));
        let program = folder.path().join("vestal-mounts");
        let script = format!("#!/bin/sh\necho $$ > {}\nexec sleep 60\n", pid.display());
        std::fs::write(&program, script).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).unwrap();
        let told = || std::fs::read_to_string(&pid).ok()?.trim().parse().ok();
        // On a busy machine it may be killed before it has said who it is.
        let limits = (0..9).map(|shift| Duration::from_millis(100 << shift));
        let hung: Option<i32> = limits
            .map(|limit| {
                assert!(!machine.run_mounts(None, limit), "it never ends by itself");
                told()
            })
            .find(Option::is_some)
            .flatten();
        assert!(!proc::lives(hung.expect("it was started")));
    }

    #[test]
    fn a_place_with_a_file_system_of_its_own_is_told_from_a_mere_folder() {
        assert!(is_mounted(&PROC), "tests run where /proc is");
        let folder = Fixed { place: c"/proc/self", parent: c"/proc", ..PROC };
        assert!(!is_mounted(&folder));
        let absent = Fixed { place: c"/proc/none", parent: c"/proc", ..PROC };
        assert!(!is_mounted(&absent));
    }
}
