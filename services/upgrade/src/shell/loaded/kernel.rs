//! The kernel, as far as live patches go: modules go in and out, and sysfs says how far a patch is. Decides nothing, and never
//! writes to `force`.

use std::{
    ffi::CString,
    fs, io,
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, open},
    system::{delete_module, finit_module, uname},
};

use super::Roots;

/// Most bytes of a file of sysfs or procfs that is looked at.
const FILE_MAX: u64 = 16 << 10;
/// Most tasks that are named.
const TASKS_MAX: usize = 4;
/// Lines of a task's stack that are told.
const FRAMES: usize = 3;
/// The letters of `taint`, from its first bit on; `Documentation/admin-guide/tainted-kernels.rst` explains them.
const TAINTS: &[u8; 19] = b"PFSRMBUDAWCIOELKXTN";

/// How far a patch is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum State {
    /// It is not loaded, or its module is loaded and patches nothing.
    Absent,
    /// All tasks use it.
    On,
    /// No task uses it.
    Off,
    /// Tasks go over to it, or leave it.
    Changing { to: bool },
}

/// What is done to the kernel.
pub(crate) trait Kernel: Send + Sync {
    fn roots(&self) -> &Roots;
    /// Which one it is, as `uname -r` says.
    fn release(&self) -> String;
    /// Loads a module; its patch begins to be used.
    ///
    /// # Errors
    /// As `finit_module`(2).
    fn load(&self, module: BorrowedFd<'_>) -> io::Result<()>;
    /// Takes a module out that nothing uses.
    ///
    /// # Errors
    /// As `delete_module`(2).
    fn unload(&self, name: &str) -> io::Result<()>;

    /// It can be patched at all.
    fn can_patch(&self) -> bool {
        self.patches().is_dir()
    }

    /// # Errors
    /// What sysfs can't be asked.
    fn state(&self, patch: &str) -> Result<State, String> {
        let folder = self.patches().join(patch);
        let flag = |name: &str| match read(&folder.join(name)) {
            Ok(text) => Ok(Some(text.trim() == "1")),
            // It goes away between two looks, or while it is read.
            Err(error) if gone(&error) => Ok(None),
            Err(error) => Err(format!("{}: {error}", folder.join(name).display())),
        };
        Ok(match (flag("enabled")?, flag("transition")?) {
            (Some(to), Some(true)) => State::Changing { to },
            (Some(true), _) => State::On,
            (Some(false), _) => State::Off,
            (None, _) => State::Absent,
        })
    }

    /// The module is there, whatever it does.
    fn has_module(&self, name: &str) -> bool {
        self.roots().sys.join("module").join(name).is_dir()
    }

    /// Takes a patch out of use; where tasks are going over to it they go back.
    ///
    /// # Errors
    /// As write(2).
    fn disable(&self, patch: &str) -> io::Result<()> {
        match fs::write(self.patches().join(patch).join("enabled"), "0") {
            Err(error) if gone(&error) => Ok(()),
            written => written,
        }
    }

    fn patches(&self) -> PathBuf {
        self.roots().sys.join("kernel/livepatch")
    }

    /// What the kernel says of its own trustworthiness.
    fn taint(&self) -> u64 {
        let text = read(&self.roots().proc.join("sys/kernel/tainted"));
        text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// The tasks that have not gone over to (`to`), or not left, the patch that is changing: name, number, where they are.
    fn stuck(&self, to: bool) -> String {
        let wanted = if to { "1" } else { "0" };
        let (mut told, mut more) = (Vec::new(), 0_usize);
        for task in tasks(&self.roots().proc) {
            let state = read(&task.join("patch_state")).unwrap_or_default();
            if state.trim().is_empty() || [wanted, "-1"].contains(&state.trim()) {
                continue;
            }
            if told.len() == TASKS_MAX {
                more += 1;
                continue;
            }
            told.push(describe(&task));
        }
        match (told.is_empty(), more) {
            (true, _) => "no task says that it is the one".to_owned(),
            (false, 0) => told.join(", "),
            (false, more) => format!("{} and {more} more", told.join(", ")),
        }
    }
}

/// The real one.
#[derive(Debug, Default)]
pub(crate) struct Linux(Roots);

impl Kernel for Linux {
    fn roots(&self) -> &Roots {
        &self.0
    }

    fn release(&self) -> String {
        uname().release().to_string_lossy().into_owned()
    }

    fn load(&self, module: BorrowedFd<'_>) -> io::Result<()> {
        // A file that is open for writing is not taken.
        let number = std::os::fd::AsRawFd::as_raw_fd(&module);
        let path = format!("/proc/self/fd/{number}");
        let module = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(finit_module(module.as_fd(), c"", 0)?)
    }

    fn unload(&self, name: &str) -> io::Result<()> {
        let name = CString::new(name)?;
        let flags = OFlags::NONBLOCK.bits();
        Ok(delete_module(&name, i32::try_from(flags).map_err(io::Error::other)?)?)
    }
}

/// As numbers change, with the letters that are known.
pub(crate) fn taint_change(before: u64, after: u64) -> Option<String> {
    let new = after & !before;
    let letters = TAINTS.iter().enumerate().filter(|(bit, _)| new >> bit & 1 == 1);
    let letters: String = letters.map(|(_, letter)| char::from(*letter)).collect();
    (before != after)
        .then(|| format!("the kernel's taint went from {before} to {after} ({letters})"))
}

fn describe(task: &Path) -> String {
    let number = task.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let name = read(&task.join("comm")).unwrap_or_default();
    let stack = read(&task.join("stack")).unwrap_or_default();
    // "[<0>] do_nanosleep+0x6f/0x160"
    let frames = stack.lines().filter_map(|line| line.split_whitespace().nth(1)).take(FRAMES);
    let frames: Vec<_> = frames.collect();
    let place =
        if frames.is_empty() { String::new() } else { format!(" in {}", frames.join(" < ")) };
    format!("{} (task {number}{place})", name.trim())
}

fn tasks(proc: &Path) -> impl Iterator<Item = PathBuf> {
    let numbered = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        name.as_encoded_bytes().first().is_some_and(u8::is_ascii_digit)
    };
    let processes = entries(proc).filter(numbered);
    processes.flat_map(|process| entries(&process.join("task")))
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = fs::File::open(path)?;
    io::Read::read_to_string(&mut io::Read::take(file, FILE_MAX), &mut text)?;
    Ok(text)
}

fn gone(error: &io::Error) -> bool {
    let unplugged = error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error());
    error.kind() == io::ErrorKind::NotFound || unplugged
}
