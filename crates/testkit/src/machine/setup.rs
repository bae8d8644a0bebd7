//! What kind of machine a test wants, and the words by which QEMU is told.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Image, Machine};

/// U-Boot's build for this machine, of Debian's u-boot-qemu: 32 bits, for the other one can't start a kernel.
const U_BOOT: &str = "/usr/lib/u-boot/qemu-x86/u-boot.rom";
/// What the loaders of the image tell the kernel too.
const WORDS: &str = "console=ttyS0 panic=1 quiet no_timer_check rootfstype=squashfs";

/// Who starts the kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Start {
    /// QEMU itself, with the root file system of this letter.
    Direct(char),
    /// The image's own loader, from the disk.
    Loader,
}

/// A machine that is not switched on yet.
pub struct Setup<'image> {
    image: &'image Image,
    start: Start,
    words: Vec<String>,
    memory: u32,
    reboots: bool,
    kernel: &'static str,
    disk: Option<fn(&Path, &Path) -> Vec<OsString>>,
    contents: Vec<(String, PathBuf)>,
    forwards: Vec<(&'static str, u16)>,
    more: Vec<OsString>,
}

impl<'image> Setup<'image> {
    /// A machine that QEMU starts at the kernel: quicker than a loader, and nothing is counted down.
    #[must_use]
    pub fn direct(image: &'image Image) -> Self {
        Self {
            image,
            start: Start::Direct('A'),
            words: Vec::new(),
            memory: 256,
            reboots: true,
            kernel: "vmlinux",
            disk: None,
            contents: Vec::new(),
            forwards: vec![("tcp", 7421)],
            more: Vec::new(),
        }
    }

    /// A machine that starts as a device does: its loader chooses the slot, at every boot.
    #[must_use]
    pub fn loader(image: &'image Image) -> Self {
        Self { start: Start::Loader, ..Self::direct(image) }
    }

    /// Starts the kernel with the root file system of this letter; not by a loader, which chooses itself.
    #[must_use]
    pub fn slot(mut self, letter: char) -> Self {
        self.start = Start::Direct(letter);
        self
    }

    /// Adds a word to the kernel's command line, where no loader writes it; of several that say the same the last one counts.
    #[must_use]
    pub fn word(mut self, word: &str) -> Self {
        self.words.push(word.to_owned());
        self
    }

    /// So many MiB.
    #[must_use]
    pub fn memory(mut self, mebibytes: u32) -> Self {
        self.memory = mebibytes;
        self
    }

    /// A reboot ends QEMU, as a power-off does.
    #[must_use]
    pub fn without_reboots(mut self) -> Self {
        self.reboots = false;
        self
    }

    /// The kernel is started by firmware, as it is packed: this takes seconds longer, but after a suspend the machine wakes up, which
    /// else boots again. Not with [`Setup::without_reboots`]: a wake-up is a reset, too.
    #[must_use]
    pub fn packed_kernel(mut self) -> Self {
        self.kernel = "vmlinuz";
        self
    }

    /// The words that give the machine its disk, from the copy's path and the scratch folder; instead of a plain virtio drive.
    #[must_use]
    pub fn disk(mut self, words: fn(&Path, &Path) -> Vec<OsString>) -> Self {
        self.disk = Some(words);
        self
    }

    /// This file's content lies at the start of that partition.
    #[must_use]
    pub fn content(mut self, partition: &str, file: &Path) -> Self {
        self.contents.push((partition.to_owned(), file.to_owned()));
        self
    }

    /// A port of the guest, `tcp` or `udp`, that the test can reach by [`Machine::port`]. The upgrade agent's is reachable always.
    #[must_use]
    pub fn forward(mut self, protocol: &'static str, port: u16) -> Self {
        self.forwards.push((protocol, port));
        self
    }

    /// More words for QEMU.
    #[must_use]
    pub fn args<I: Into<OsString>>(mut self, words: impl IntoIterator<Item = I>) -> Self {
        self.more.extend(words.into_iter().map(Into::into));
        self
    }

    /// A watchdog that resets the machine: only the full kernel has its driver.
    #[must_use]
    pub fn watchdog(self) -> Self {
        self.args(["-device", "i6300esb", "-action", "watchdog=reset"])
    }

    /// Switches it on, with a copy of the image's disk.
    ///
    /// # Panics
    /// Where QEMU can't be started.
    #[must_use]
    pub fn start(self) -> Machine {
        let disk = self.image.disk();
        self.start_with(&disk)
    }

    /// Switches it on, with what another machine has left on its disk.
    ///
    /// # Panics
    /// Where QEMU can't be started.
    #[must_use]
    pub fn start_with(self, disk: &Path) -> Machine {
        let folder = scratch();
        let copied = folder.path().join("disk.img");
        copy(disk, &copied);
        for (partition, file) in &self.contents {
            self.image.write_partition(&copied, partition, file);
        }
        Machine::start(&self, folder)
    }

    pub(super) fn command(&self, folder: &Path) -> Command {
        let mut qemu = Command::new("qemu-system-x86_64");
        // KVM is not asked for: where it is there it may still be unusable, and time is not measured here.
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1", "-machine"]);
        // The watchdog was tried on q35 only, U-Boot on the older one.
        qemu.arg(if self.by_u_boot() { "pc" } else { "q35" });
        qemu.arg("-m").arg(self.memory.to_string());
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        if !self.reboots {
            qemu.arg("-no-reboot");
        }
        for name in super::LINES {
            let path = folder.join(name);
            qemu.arg("-chardev").arg(format!("socket,id={name},path={}", path.display()));
        }
        qemu.args(["-serial", "chardev:console", "-serial", "chardev:lab"]);
        qemu.args(["-mon", "chardev=monitor,mode=control"]);
        let disk = folder.join("disk.img");
        match self.disk {
            Some(words) => qemu.args(words(&disk, folder)),
            None => qemu
                .arg("-drive")
                .arg(format!("file={},if=virtio,format=raw,cache=writeback", disk.display())),
        };
        let forwards: String = self
            .forwards
            .iter()
            .map(|(protocol, port)| format!(",hostfwd={protocol}:127.0.0.1:0-:{port}"))
            .collect();
        qemu.arg("-netdev").arg(format!("user,id=net{forwards}"));
        qemu.args(["-device", "virtio-net-pci,netdev=net,romfile="]);
        self.start_words(&mut qemu);
        qemu.args(&self.more);
        qemu
    }

    fn by_u_boot(&self) -> bool {
        self.start == Start::Loader && self.image.loader() == "uboot"
    }

    fn start_words(&self, qemu: &mut Command) {
        let slot = match (self.start, self.image.loader()) {
            (Start::Direct(letter), _) => {
                let part = letter.to_ascii_lowercase();
                format!("root=PARTLABEL=rootfs-{part} vestal.slot={letter}")
            }
            (Start::Loader, "uboot") => {
                qemu.args(["-bios", U_BOOT]);
                return;
            }
            (Start::Loader, "own") => "vestal.loader=own".to_owned(),
            // The firmware starts what is on the disk.
            (Start::Loader, _) => return,
        };
        let words = self.words.iter().map(|word| format!(" {word}")).collect::<String>();
        qemu.arg("-kernel").arg(self.image.path(self.kernel));
        qemu.arg("-initrd").arg(self.image.path("initramfs.gz"));
        qemu.arg("-append").arg(format!("{WORDS} {slot}{words}"));
    }
}

fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("vm").tempdir_in("/tmp").expect("/tmp is writable")
}

/// A copy without the holes.
fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp")
        .args(["--sparse=always", "--reflink=auto"])
        .args([from, to])
        .status()
        .expect("cp is there");
    assert!(status.success(), "{} can't be copied", from.display());
    // An image may be read-only; its copy is the machine's disk.
    let mut mode = fs::metadata(to).expect("it was just copied").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o644);
    fs::set_permissions(to, mode).expect("it was just copied");
}
