//! The program itself, in a mount namespace of its own (root only): folders bound and filled, a tmpfs where something is
//! missing, a disk that was not put away, and the end.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_vestal-mounts");

/// A folder with a table, and the program run on it where no other process sees what it mounts.
struct Scratch {
    folder: TempDir,
}

impl Scratch {
    /// `None`, said: only root may mount.
    fn new(what: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("{what}: not tried, only root may mount");
            return None;
        }
        Some(Self { folder: tempfile::tempdir().unwrap() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Mounts a table, in which `@` is the folder, and runs a script with what is there then: `$0` is the folder.
    fn run(&self, table: &str, script: &str) -> Output {
        self.run_with("--fstab", table, script)
    }

    fn run_with(&self, option: &str, table: &str, script: &str) -> Output {
        let folder = self.folder.path().to_str().unwrap();
        self.write("fstab", &table.replace('@', folder));
        let script =
            format!("\"$1\" {option} \"$0/fstab\"; echo \"code $?\"\nset -e\ncd /\n{script}");
        Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script, folder, PROGRAM])
            .stdin(Stdio::null())
            .output()
            .expect("util-linux is there")
    }
}

fn out(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    (out, err)
}

#[test]
fn a_folder_is_filled_once_and_bound_over_where_it_came_from() {
    let Some(scratch) = Scratch::new("binds") else { return };
    scratch.write("etc/config/network", "as shipped");
    let table = "none @/data tmpfs size=1m,noexec 0 0\n\
        @/data/config @/etc/config none bind,ro,nosuid,x-vestal.fill 0 0\n";
    let script = "cat $0/etc/config/network; echo
        echo changed > $0/data/config/network
        cat $0/etc/config/network
        if touch $0/etc/config/new 2>/dev/null; then echo 'not read-only'; fi
        grep -c \"$0/data .*noexec.* - tmpfs none .*size=1024k\" /proc/self/mountinfo
        $1 --fstab $0/fstab; grep -c \"$0\" /proc/self/mountinfo";
    let (text, errors) = out(&scratch.run(table, script));
    assert_eq!((text.as_str(), errors.as_str()), ("code 0\nas shipped\nchanged\n1\n2\n", ""));
    assert!(!scratch.path("data/config").exists(), "it was mounted for the script only");
}

#[test]
fn what_can_t_be_mounted_is_told_and_a_tmpfs_takes_its_place_where_that_is_wanted() {
    let Some(scratch) = Scratch::new("the fall-back") else { return };
    scratch.write("config/a", "as shipped");
    let table = "none @/data no-such-type x-vestal.fallback=tmpfs\n\
        @/data/config @/config none bind,x-vestal.fill\n\
        @/none @/other none bind\n\
        broken\n\
        PARTLABEL=no-such-label @/never ext4 noauto\n";
    let (text, errors) = out(&scratch.run(table, "cat $0/config/a $0/data/config/a"));
    assert_eq!(text, "code 1\nas shippedas shipped");
    for told in [
        "data: no-such-type on none can't be mounted: No such device",
        "ATTENTION: a tmpfs is in its place",
        "other: ",
        "line 4: 1 of at least 3 fields",
    ] {
        assert!(errors.contains(told), "{told:?} in {errors}");
    }
    assert_eq!(errors.lines().count(), 4, "{errors}");
}

#[test]
fn after_a_run_that_was_killed_no_device_is_touched_and_everything_else_is_there() {
    let Some(scratch) = Scratch::new("the fall-back after a hang") else { return };
    scratch.write("config/a", "as shipped");
    let table = "PARTLABEL=no-such-label @/data ext4 x-vestal.fallback=tmpfs 0 2\n\
        @/data/config @/config none bind,x-vestal.fill\n\
        none @/more tmpfs size=1m\n\
        /dev/null @/never ext4\n\
        /dev/null none swap sw\n\
        PARTLABEL=no-such-label / ext4 rw\n";
    // The second time it is all there already.
    let script = "cat $0/data/config/a; echo; grep -c \"$0\" /proc/self/mountinfo
        $1 --fallback $0/fstab 2>/dev/null || grep -c \"$0\" /proc/self/mountinfo";
    let (text, errors) = out(&scratch.run_with("--fallback", table, script));
    assert_eq!(text, "code 1\nas shipped\n3\n3\n");
    let lines: Vec<_> = errors.lines().collect();
    assert_eq!(lines.len(), 3, "{errors}");
    assert!(lines[0].contains("/data: left out"), "{errors}");
    assert!(lines[1].contains("ATTENTION: a tmpfs is in its place"), "{errors}");
    assert!(lines[2].contains("/never: left out"), "{errors}");
}

#[test]
fn a_device_that_never_appears_is_waited_for_once_and_told() {
    let Some(scratch) = Scratch::new("waiting") else { return };
    // Two of them: the second has had its time while the first was waited for.
    let table = "PARTLABEL=no-such-label @/a ext4\nUUID=0000-0000 @/b vfat\n";
    let (text, errors) = out(&scratch.run(table, ""));
    assert_eq!(text, "code 1\n");
    assert!(errors.contains("PARTLABEL=no-such-label is not there after 10 s"), "{errors}");
    assert!(errors.contains("UUID=0000-0000 is not there after 10 s; only ext2"), "{errors}");
}

#[test]
fn a_table_that_is_not_there_is_no_failure_and_one_that_is_no_table_is() {
    let status = |args: &[&str]| Command::new(PROGRAM).args(args).output().unwrap().status.code();
    assert_eq!(status(&["--fstab", "/none/fstab"]), Some(0));
    assert_eq!(status(&["--check", "/none/fstab"]), Some(1));
    assert_eq!(status(&["--check", "/dev/zero"]), Some(1));
    assert_eq!(status(&["--check", "/dev/null"]), Some(0));
    assert_eq!(status(&["--of"]), Some(2));
}

/// A file with an ext4 on a loop device, where there can be one.
struct Disk {
    device: String,
}

impl Disk {
    fn new(file: &Path) -> Option<Self> {
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-F", "-L", "vestal-test", "-U", "7e57ab1e-0000-4000-8000-000000000001"])
            .arg(file)
            .arg("4M")
            .output();
        let attached = made.ok().filter(|made| made.status.success()).and_then(|_| {
            let attached = Command::new("losetup").args(["--find", "--show"]).arg(file).output();
            attached.ok().filter(|attached| attached.status.success())
        });
        let Some(attached) = attached else {
            println!("a disk: not tried, there are no loop devices or no mkfs.ext4 here");
            return None;
        };
        Some(Self { device: String::from_utf8(attached.stdout).unwrap().trim().to_owned() })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.device]).status();
    }
}

#[test]
fn a_disk_that_was_not_put_away_is_found_checked_mounted_and_put_away() {
    let Some(scratch) = Scratch::new("a disk") else { return };
    let file = scratch.path("disk");
    let Some(_disk) = Disk::new(&file) else { return };
    // As if the plug had been pulled: it is not marked as clean.
    let damage = ["-w", "-R", "set_super_value state 0"];
    let damaged = Command::new("debugfs").args(damage).arg(&file).output().unwrap();
    assert!(damaged.status.success());
    let table = "UUID=7e57ab1e-0000-4000-8000-000000000001 @/data ext4 noatime 0 2\n";
    let script = "echo kept > $0/data/file
        grep -c \"$0/data .*noatime.* - ext4 \" /proc/self/mountinfo
        $1 --off $0; grep -c \"$0/data\" /proc/self/mountinfo || true
        $1 --fstab $0/fstab; cd $0/data; $1 --off $0 || echo busy
        if touch $0/data/new 2>/dev/null; then echo 'not read-only'; fi";
    let (text, errors) = out(&scratch.run(table, script));
    assert!(text.contains("was not cleanly unmounted, check forced"), "{text}\n{errors}");
    assert!(text.contains("code 0\n1\n0\n"), "{text}\n{errors}");
    assert!(text.ends_with("\nbusy\n"), "{text}\n{errors}");
    assert!(errors.contains("made read-only instead"), "{text}\n{errors}");
}

#[test]
fn only_pid_one_puts_the_whole_machine_away() {
    // The parent is this test, which is no PID 1: nothing may happen.
    let refused = Command::new(PROGRAM).arg("--off").output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8(refused.stderr).unwrap().contains("only PID 1"));
}
