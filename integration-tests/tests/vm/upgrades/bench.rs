//! A host with the image's keys, and what it makes for a device: other root file systems, kernels, bundles.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;
use testkit::{
    binary, children_of,
    machine::{Image, Machine},
};

use crate::support::succeeds;

/// The device's port.
const PORT: u16 = 7421;
/// A device that boots four times before it is known what becomes of an upgrade, on a busy machine.
const PUSH_LIMIT_S: &str = "600";

/// Images, recipes, bundles and known devices are files in its folder.
pub(crate) struct Host<'image> {
    pub(super) image: &'image Image,
    folder: TempDir,
}

/// `vestal` beside the test.
pub(crate) struct Begun(Option<Child>);

impl<'image> Host<'image> {
    pub(crate) fn new(image: &'image Image) -> Self {
        let folder = tempfile::Builder::new().prefix("vh").tempdir_in("/tmp").unwrap();
        Self { image, folder }
    }

    /// One of its files.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn key(&self, role: &str) -> PathBuf {
        self.image.path(&format!("keys/{role}.key"))
    }

    /// The image's root file system as another version, changed.
    pub(super) fn rootfs(&self, version: &str, change: impl FnOnce(&Path)) -> PathBuf {
        let packed = self.path(&format!("rootfs-{version}"));
        self.image.pack_rootfs(&packed, |root| {
            let release =
                format!("NAME=Vestal\nID=vestal\nVERSION={version}\nBUILD_ID={version}\n");
            fs::write(root.join("etc/os-release"), release).unwrap();
            change(root);
        });
        packed
    }

    /// The image's kernel, with an initramfs that says this on the console.
    pub(super) fn kernel(&self, says: &str) -> PathBuf {
        // Of two archives one after the other the second one counts where both have a file.
        let folder = self.path("initramfs");
        fs::create_dir(&folder).unwrap();
        let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let init = fs::read_to_string(project.join("image/initramfs/init")).unwrap();
        let (head, rest) = init.split_once("\nfor word in").unwrap();
        let init = format!("{head}\necho '{says}' > /dev/console\nfor word in{rest}");
        fs::write(folder.join("init"), init).unwrap();
        let (whole, more) = (self.path("initrd.gz"), self.path("more.cpio"));
        let archive = "chmod 755 init && echo init | cpio -o -H newc --quiet -R 0:0 > ../more.cpio";
        succeeds(Command::new("sh").args(["-c", archive]).current_dir(&folder));
        let mut initramfs = fs::read(self.image.path("initramfs.gz")).unwrap();
        // Archives begin at a multiple of 4.
        initramfs.resize(initramfs.len().next_multiple_of(4), 0);
        initramfs.extend(fs::read(more).unwrap());
        fs::write(&whole, initramfs).unwrap();
        let kernel = self.path("kernel");
        fs::copy(self.image.path("kernel.img"), &kernel).unwrap();
        let copy = ["-o", "-i"].map(Into::into).into_iter().chain([kernel.clone(), whole]);
        succeeds(Command::new("mcopy").args(copy).arg("::initrd.gz"));
        kernel
    }

    /// A signed bundle of these components.
    pub(crate) fn bundle(&self, version: &str, index: u64, images: &[(&str, &Path)]) -> PathBuf {
        let mut recipe = format!(
            "product = \"vestal-image\"\nrevisions = [\"x86_64\"]\nversion = \"{version}\"\n"
        );
        for (component, image) in images {
            recipe += &format!(
                "[components.{component}]\nimage = {image:?}\nversion = \"{version}\"\nrollback-index = {index}\n"
            );
        }
        let (written, bundle) = (self.path("recipe.toml"), self.path(&format!("{version}.vestal")));
        fs::write(&written, recipe).unwrap();
        let mut create = self.vestal(&["bundle", "create", "--level", "1"]);
        create.arg(written).arg("--key").arg(self.key("bundle")).arg("-o").arg(&bundle);
        succeeds(&mut create);
        bundle
    }

    fn vestal(&self, words: &[&str]) -> Command {
        let mut command = Command::new(binary("vestal"));
        command.args(words).env_clear().env("XDG_CONFIG_HOME", self.path("config"));
        command
    }

    /// The device shows its key on its console; the host believes that one.
    #[track_caller]
    pub(crate) fn trust(&self, machine: &Machine) {
        let identity = machine.json("vestalctl --json upgrade identity");
        let fingerprint = identity["fingerprint"].as_str().unwrap();
        succeeds(&mut self.vestal(&[
            "trust",
            "add",
            &address(machine),
            "--fingerprint",
            fingerprint,
        ]));
    }

    /// Begins to push, until it is known what becomes of it.
    pub(crate) fn push(&self, bundle: &Path, machine: &Machine) -> Begun {
        let mut push = self.vestal(&["--json", "push", "--wait", "--timeout", PUSH_LIMIT_S]);
        push.arg(bundle).arg(address(machine)).arg("--key").arg(self.key("operator"));
        push.stdout(Stdio::piped()).stderr(Stdio::piped());
        Begun(Some(push.spawn().unwrap()))
    }

    /// U-Boot's own tool, on the device's disk.
    pub(super) fn fw(&self, tool: &str, words: &[&str], disk: &Path) -> String {
        let config = self.path("fw_env.config");
        let start = self.image.partition("env").start;
        fs::write(&config, format!("{} {start:#x} 0x200\n", disk.display())).unwrap();
        let mut command = Command::new(tool);
        command.arg("-c").arg(&config).args(words).current_dir(self.folder.path());
        let text = succeeds(&mut command);
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        lines.join(" ")
    }

    /// What the loader goes by, as U-Boot's tool reads it.
    pub(super) fn loader(&self, disk: &Path) -> String {
        self.fw("fw_printenv", &[], disk)
    }
}

impl Begun {
    /// Whether it succeeded, the last line of its output as JSON, and what it complained about.
    #[track_caller]
    pub(crate) fn ended(mut self) -> (bool, Value, String) {
        let child = self.0.take().expect("it is taken once");
        let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
        let said = String::from_utf8(stdout).unwrap();
        let last = said.lines().last().and_then(|line| serde_json::from_str(line).ok());
        let complaint = String::from_utf8_lossy(&stderr).into_owned();
        (status.success(), last.unwrap_or_default(), complaint)
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn address(machine: &Machine) -> String {
    format!("127.0.0.1:{}", machine.port("tcp", PORT))
}

/// A folder as a squashfs.
pub(super) fn pack(folder: &Path, to: &Path) {
    let words = ["-noappend", "-all-root", "-quiet", "-no-progress"];
    succeeds(Command::new("mksquashfs").args([folder, to]).args(words));
}

/// One line: how many boots the device has begun, and how much processor time its machine took.
pub(super) fn tell_costs(scenario: &str, boots: usize, machine: &Machine) {
    let folder = machine.folder().display().to_string();
    let own = i32::try_from(std::process::id()).expect("the kernel gives positive numbers");
    let ours = |pid: &i32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains(&folder)
    };
    let stat = children_of(own).into_iter().find(ours).and_then(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Behind the name, which may have blanks in it, the first field is the third one.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(ticks(14)? + ticks(15)?)
    });
    let seconds = stat.map_or("?".to_owned(), |ticks| (ticks / 100).to_string());
    eprintln!("{scenario}: {boots} boots, {seconds} s of processor time");
}
