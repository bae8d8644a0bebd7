//! RAUC and SWUpdate of the system, with keys, a configuration and a message bus of their own.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::Context as _;
use testkit::until;

use crate::{
    images::{Images, program, run},
    suite::fill,
};

/// Certificate and key that both use.
fn keys(folder: &Path) -> anyhow::Result<()> {
    let mut command = program("openssl");
    command.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650"]);
    command.args(["-subj", "/CN=bench", "-keyout", "key.pem", "-out", "cert.pem"]);
    run(command.current_dir(folder))
}

/// Whether this program is there.
fn has(name: &str) -> bool {
    program(name).arg("--help").stderr(Stdio::null()).status().is_ok()
}

/// Ends with its owner.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// RAUC's service. Slot A is what runs, B is written.
pub(crate) struct Rauc {
    folder: PathBuf,
    processes: Vec<Process>,
}

impl Rauc {
    /// Nothing where it is not installed.
    pub(crate) fn start(images: &Images, folder: &Path) -> anyhow::Result<Option<Self>> {
        if !has("rauc") || !has("dbus-daemon") || !has("mksquashfs") {
            eprintln!("rauc, dbus-daemon or mksquashfs is not there: RAUC is left out");
            return Ok(None);
        }
        for name in ["mount", "data"] {
            fs::create_dir_all(folder.join(name))?;
        }
        keys(folder)?;
        let mut rauc = Self { folder: folder.to_owned(), processes: Vec::new() };
        rauc.pack(&images.image(1), "full", "")?;
        rauc.pack(&images.image(2), "small", "adaptive=block-hash-index\n")?;
        fs::copy(images.image(1), rauc.slot('a'))?;
        fill(&rauc.slot('b'))?;
        let here = folder.display();
        let mut settings = format!(
            "[system]\ncompatible=bench\nbootloader=noop\nmountprefix={here}/mount\n\
             data-directory={here}/data\nmax-bundle-download-size=1073741824\n\
             [keyring]\npath={here}/cert.pem\n"
        );
        for (at, letter) in ['a', 'b'].into_iter().enumerate() {
            settings += &format!(
                "[slot.rootfs.{at}]\ndevice={}\ntype=raw\nbootname={letter}\n",
                rauc.slot(letter).display()
            );
        }
        fs::write(folder.join("system.conf"), settings)?;
        let bus = format!(
            "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN\" \
             \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\"><busconfig><type>session</type>\
             <listen>unix:path={here}/bus</listen><auth>EXTERNAL</auth><policy context=\"default\">\
             <allow send_destination=\"*\" eavesdrop=\"true\"/><allow eavesdrop=\"true\"/><allow own=\"*\"/></policy></busconfig>"
        );
        fs::write(folder.join("bus.conf"), bus)?;
        let mut command = program("dbus-daemon");
        command.arg(format!("--config-file={here}/bus.conf")).arg("--nofork");
        rauc.begin(&mut command)?;
        until("the bus is there", || folder.join("bus").exists().then_some(()));
        let mut command = rauc.command();
        command.arg(format!("--conf={here}/system.conf"));
        rauc.begin(command.args(["--override-boot-slot=a", "service"]))?;
        until("RAUC answers", || {
            let status = rauc.command().arg("status").stderr(Stdio::null()).status();
            status.is_ok_and(|status| status.success()).then_some(())
        });
        Ok(Some(rauc))
    }

    pub(crate) fn slot(&self, letter: char) -> PathBuf {
        self.folder.join(format!("{letter}.img"))
    }

    pub(crate) fn bundle(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.raucb"))
    }

    /// Its service and the bus.
    pub(crate) fn daemons(&self) -> Vec<i32> {
        self.processes.iter().map(|process| process.0.id().cast_signed()).collect()
    }

    pub(crate) fn install(&self, name: &str) -> Command {
        let mut command = self.command();
        command.arg("install").arg(self.bundle(name)).stderr(Stdio::null());
        command
    }

    fn command(&self) -> Command {
        let mut command = program("rauc");
        let bus = format!("unix:path={}/bus", self.folder.display());
        command.env("DBUS_STARTER_BUS_TYPE", "session").env("DBUS_STARTER_ADDRESS", &bus);
        command.env("DBUS_SESSION_BUS_ADDRESS", bus);
        command
    }

    fn begin(&mut self, command: &mut Command) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(self.folder.join("log"))?;
        let child = command.stderr(log).spawn();
        self.processes.push(Process(child.with_context(|| format!("start {command:?}"))?));
        Ok(())
    }

    fn pack(&self, image: &Path, name: &str, adaptive: &str) -> anyhow::Result<()> {
        let content = self.folder.join(name);
        fs::create_dir_all(&content)?;
        fs::hard_link(image, content.join("rootfs.img"))?;
        let manifest = format!(
            "[update]\ncompatible=bench\nversion={name}\n[bundle]\nformat=plain\n\
             [image.rootfs]\nfilename=rootfs.img\n{adaptive}"
        );
        fs::write(content.join("manifest.raucm"), manifest)?;
        let mut command = program("rauc");
        command.args(["--cert=cert.pem", "--key=key.pem", "--keyring=cert.pem"]);
        command.arg("--mksquashfs-args=-comp zstd -Xcompression-level 9").arg("bundle");
        run(command.arg(content).arg(self.bundle(name)).current_dir(&self.folder))
    }
}

/// SWUpdate, which runs for one installation: a raw image in zstd, written while it comes.
pub(crate) struct Swupdate {
    folder: PathBuf,
}

impl Swupdate {
    /// Nothing where it is not installed. `packed` is the image in zstd.
    pub(crate) fn prepare(packed: &Path, folder: &Path) -> anyhow::Result<Option<Self>> {
        if !has("swupdate") || !has("cpio") {
            eprintln!("swupdate or cpio is not there: SWUpdate is left out");
            return Ok(None);
        }
        fs::create_dir_all(folder)?;
        keys(folder)?;
        let swupdate = Self { folder: folder.to_owned() };
        fill(&swupdate.slot())?;
        fs::hard_link(packed, folder.join("rootfs.zst"))?;
        let digest = program("sha256sum").arg(packed).stdout(Stdio::piped()).output()?;
        let digest = String::from_utf8_lossy(&digest.stdout).into_owned();
        let digest = digest.split(' ').next().unwrap_or_default();
        let description = format!(
            "software = {{ version = \"1.0\"; hardware-compatibility: [ \"1.0\" ];\n\
             images: ( {{ filename = \"rootfs.zst\"; device = {:?}; type = \"raw\"; compressed = \"zstd\"; \
             installed-directly = true; sha256 = \"{digest}\"; }} ); }}\n",
            swupdate.slot()
        );
        fs::write(folder.join("sw-description"), description)?;
        let mut command = program("openssl");
        command.args(["cms", "-sign", "-in", "sw-description", "-out", "sw-description.sig"]);
        command.args(["-signer", "cert.pem", "-inkey", "key.pem", "-outform", "DER"]);
        run(command.args(["-nosmimecap", "-binary"]).current_dir(folder))?;
        let mut command = program("sh");
        let line = "printf 'sw-description\\nsw-description.sig\\nrootfs.zst\\n' | cpio -o -H crc --quiet > bundle.swu";
        run(command.args(["-c", line]).current_dir(folder))?;
        Ok(Some(swupdate))
    }

    pub(crate) fn slot(&self) -> PathBuf {
        self.folder.join("b.img")
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        self.folder.join("bundle.swu")
    }

    pub(crate) fn install(&self) -> Command {
        let mut command = program("swupdate");
        command.args(["-M", "-m", "-H", "bench:1.0", "-k", "cert.pem", "-i", "bundle.swu"]);
        command.env("TMPDIR", &self.folder).current_dir(&self.folder).stderr(Stdio::null());
        command
    }
}
