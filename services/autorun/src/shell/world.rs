//! Where the machine's own files are, and what may be done to it. A test has a folder in the place of the machine: files in it
//! stand for `/dev`, `/etc`, `/proc` and `/sys`, and what would be done to the kernel is told to a program of the test.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use daemon::{clock, files::read_text};

use crate::machine::Samples;

/// Names the folder that stands for the machine, for tests only.
pub(crate) const FAKE: &str = "VESTAL_AUTORUN_FAKE";
/// Files of `/proc` and `/sys` that are read whole.
pub(super) const TEXT_MAX: u64 = 1 << 20;
const LABELS: &str = "/dev/disk/by-partlabel";
const BLOCK: &str = "/sys/class/block";
const CLOCK: &str = "/sys/class/rtc/rtc0/since_epoch";

/// The machine, or a folder that stands for it.
#[derive(Clone, Debug, Default)]
pub(crate) struct World(Option<PathBuf>);

impl World {
    pub(crate) fn find() -> Self {
        let fake = std::env::var_os(FAKE).filter(|folder| !folder.is_empty());
        Self(fake.map(PathBuf::from))
    }

    pub(super) fn is_fake(&self) -> bool {
        self.0.is_some()
    }

    /// Where a path of the machine is.
    pub(super) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        let machines = ["/dev", "/proc", "/sys", "/etc"].iter().any(|root| path.starts_with(root));
        match (&self.0, path.strip_prefix("/")) {
            (Some(fake), Ok(rest)) if machines => fake.join(rest),
            _ => path.to_owned(),
        }
    }

    /// Where a device is. A partition's label is looked for in `/sys` where nobody makes the links of `/dev/disk`.
    pub(super) fn device(&self, path: &Path) -> PathBuf {
        let at = self.at(path);
        let label = path.strip_prefix(LABELS).ok().and_then(Path::to_str);
        let Some(label) = label.filter(|_| !at.exists()) else { return at };
        let label = format!("PARTNAME={label}");
        for entry in fs::read_dir(self.at(BLOCK)).into_iter().flatten().flatten() {
            let text = read_text(&entry.path().join("uevent"), TEXT_MAX).unwrap_or_default();
            let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="));
            if let Some(name) = name.filter(|_| text.lines().any(|line| line == label)) {
                return self.at(Path::new("/dev").join(name));
            }
        }
        at
    }

    /// A text of the kernel's, without its last newline.
    pub(super) fn text(&self, path: &str) -> io::Result<String> {
        let mut text = read_text(&self.at(path), TEXT_MAX)?;
        text.truncate(text.trim_end().len());
        Ok(text)
    }

    /// Where something of the kernel's is written to: a test's folder has another file for it, NAME.written.
    pub(super) fn written(&self, path: &str) -> PathBuf {
        match self.0 {
            Some(_) => self.at(format!("{path}.written")),
            None => PathBuf::from(path),
        }
    }

    /// Does it to the machine; a test's folder has a program `hook` that is told what would be done. Where that fails, what it
    /// prints is why.
    pub(super) fn act(&self, what: &str, real: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let Some(fake) = &self.0 else { return real() };
        let told = Command::new(fake.join("hook")).args(what.split(' ')).output()?;
        match String::from_utf8_lossy(&told.stdout).trim() {
            _ if told.status.success() => Ok(()),
            "EBUSY" => Err(rustix::io::Errno::BUSY.into()),
            why => Err(io::Error::other(why.to_owned())),
        }
    }

    /// Everything that is to be written is, on the machine; a test's has no disks.
    pub(super) fn sync(&self) {
        if !self.is_fake() {
            rustix::fs::sync();
        }
    }

    pub(crate) fn samples(&self) -> Samples {
        if let Some(samples) = self.told_samples() {
            return samples;
        }
        let monotonic = Duration::from_nanos(clock::now().0);
        Samples { boottime: monotonic + clock::suspended(), monotonic, rtc: self.rtc() }
    }

    /// Seconds since 1970, by the clock that has a battery.
    pub(super) fn rtc(&self) -> Option<i64> {
        self.text(CLOCK).ok()?.parse().ok()
    }

    /// `clocks` of a test: milliseconds of BOOTTIME and of MONOTONIC.
    fn told_samples(&self) -> Option<Samples> {
        let text = fs::read_to_string(self.0.as_ref()?.join("clocks")).ok()?;
        let mut words = text.split_whitespace().map(str::parse);
        let (Some(Ok(boottime)), Some(Ok(monotonic))) = (words.next(), words.next()) else {
            return None;
        };
        let (boottime, monotonic) =
            (Duration::from_millis(boottime), Duration::from_millis(monotonic));
        Some(Samples { boottime, monotonic, rtc: self.rtc() })
    }
}
