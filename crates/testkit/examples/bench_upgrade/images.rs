//! The images: ext4 of 256 MiB with programs and libraries of this machine, and two more in which some files were replaced.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::Context as _;
use testkit::binary;

pub(crate) const SIZE: u64 = 256 << 20;
/// Bytes of files of the first image: what ext4 needs beside them has room.
const CONTENT: u64 = 216 << 20;
/// Bytes of files that are replaced by others from one image to the next.
const CHANGED: u64 = 32 << 20;
/// A file may be as long as this.
const FILE: u64 = 8 << 20;
const SOURCES: [&str; 3] = ["/usr/bin", "/usr/lib", "/usr/share"];
/// Each image differs from the others only by its files.
const UUID: &str = "5d0b9c3e-6a0f-4a52-9c7f-0d6f6c1f7a11";

/// Images, and bundles of them.
pub(crate) struct Images {
    folder: PathBuf,
    /// Bytes of the files that were replaced in the second image, all of them packed as one.
    pub(crate) changed: u64,
}

impl Images {
    /// Makes `count` of each.
    pub(crate) fn make(folder: &Path, count: usize) -> anyhow::Result<Self> {
        let mut images = Self { folder: folder.to_owned(), changed: 0 };
        let (mut tree, mut spare) = images.gather()?;
        tree.sort_by_key(|(path, _)| path.clone());
        spare.sort_by_key(|(_, length)| *length);
        run(Command::new(binary("vestal")).arg("keygen").arg("--dev").arg(images.keys()))?;
        for number in 1..=count {
            if number > 1 {
                let replaced = replace(&tree, &mut spare, number)?;
                if number == 2 {
                    images.changed = packed(folder, &replaced)?;
                }
            }
            let image = images.image(number);
            let mut command = program("mke2fs");
            command.args(["-q", "-t", "ext4", "-b", "4096", "-O", "^has_journal", "-U", UUID]);
            command.args(["-E", &format!("hash_seed={UUID}"), "-d"]).arg(folder.join("tree"));
            run(command.env("E2FSPROGS_FAKE_TIME", "1700000000").arg(&image).arg("256M"))?;
            images.pack(number)?;
        }
        fs::remove_dir_all(folder.join("tree"))?;
        Ok(images)
    }

    pub(crate) fn image(&self, number: usize) -> PathBuf {
        self.folder.join(format!("{number}.img"))
    }

    pub(crate) fn bundle(&self, number: usize) -> PathBuf {
        self.folder.join(format!("{number}.vestal"))
    }

    pub(crate) fn keys(&self) -> PathBuf {
        self.folder.join("keys")
    }

    fn pack(&self, number: usize) -> anyhow::Result<()> {
        pack(&self.folder, &self.keys(), &number.to_string(), &self.image(number))
    }

    /// Copies files into the tree; they, and further ones that may replace them.
    fn gather(&self) -> anyhow::Result<(Vec<Sized>, Vec<Sized>)> {
        let mut found = Vec::new();
        for source in SOURCES {
            walk(Path::new(source), &mut found);
        }
        let folder = self.folder.join("tree");
        fs::create_dir_all(&folder)?;
        let (mut tree, mut spare) = (Vec::new(), Vec::new());
        let (mut taken, mut left) = (0, 0);
        for (at, (path, length)) in found.into_iter().enumerate() {
            if taken + length <= CONTENT {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let part = folder.join(format!("{:03}", at / 100));
                fs::create_dir_all(&part)?;
                let copy = part.join(format!("{at:05}-{name}"));
                fs::copy(&path, &copy).with_context(|| format!("copy {}", path.display()))?;
                taken += length;
                tree.push((copy, length));
            } else if left < 4 * CHANGED {
                left += length;
                spare.push((path, length));
            }
        }
        anyhow::ensure!(
            left >= 3 * CHANGED,
            "{SOURCES:?} have {} bytes in files of at most {FILE}: too few for the images",
            taken + left
        );
        Ok((tree, spare))
    }
}

/// A bundle of one component.
pub(crate) fn pack(folder: &Path, keys: &Path, version: &str, image: &Path) -> anyhow::Result<()> {
    let recipe = folder.join(format!("{version}.toml"));
    let text = format!(
        "product = \"bench\"\nrevisions = [\"*\"]\nversion = \"{version}.0.0\"\n[components.application]\n\
         image = {image:?}\nrollback-index = 1\n"
    );
    fs::write(&recipe, text)?;
    let mut command = Command::new(binary("vestal"));
    command.args(["bundle", "create"]).arg(&recipe).arg("--key").arg(keys.join("bundle.key"));
    run(command.arg("-o").arg(folder.join(format!("{version}.vestal"))))
}

type Sized = (PathBuf, u64);

/// Regular files below, by name, each once.
fn walk(folder: &Path, found: &mut Vec<Sized>) {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    entries.sort();
    for path in entries {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.is_dir() {
            walk(&path, found);
        } else if meta.is_file() && meta.nlink() == 1 && (1..=FILE).contains(&meta.len()) {
            found.push((path, meta.len()));
        }
    }
}

/// Puts other files in the place of some, none longer than what was there.
fn replace(tree: &[Sized], spare: &mut Vec<Sized>, number: usize) -> anyhow::Result<Vec<PathBuf>> {
    let (mut changed, mut replaced) = (0, Vec::new());
    for (path, length) in tree.iter().skip(number).step_by(7) {
        let fitting = spare.partition_point(|(_, spare)| spare <= length);
        if changed >= CHANGED || fitting == 0 {
            continue;
        }
        let (other, _) = spare.remove(fitting - 1);
        fs::copy(&other, path).with_context(|| format!("copy {}", other.display()))?;
        changed += length;
        replaced.push(path.clone());
    }
    anyhow::ensure!(changed >= CHANGED / 2, "only {changed} bytes of files were replaced");
    Ok(replaced)
}

/// How long these files are, packed as one.
fn packed(folder: &Path, files: &[PathBuf]) -> anyhow::Result<u64> {
    let joined = folder.join("changed");
    let mut bytes = Vec::new();
    for file in files {
        bytes.extend(fs::read(file)?);
    }
    fs::write(&joined, bytes)?;
    run(program("zstd").args(["-q", "-9", "--rm"]).arg(&joined))?;
    Ok(fs::metadata(joined.with_extension("zst"))?.len())
}

/// A program of the system; some are where ordinary users don't look.
pub(crate) fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
    command.stdout(Stdio::null());
    command
}

/// Runs a program to its end, which must be a good one.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("start {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{command:?} ended with {}: {said}", output.status);
    Ok(())
}
