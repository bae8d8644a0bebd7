//! What `scripts/image` has built: where it is, and where the parts of its disk are.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// A sector, in octets.
const SECTOR: u64 = 512;
/// A partition that is copied out is at most this long.
const PARTITION_MAX: u64 = 1 << 30;

/// A built image.
pub struct Image {
    folder: PathBuf,
    described: Value,
}

/// Where a partition lies on the disk, in octets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Partition {
    pub start: u64,
    pub length: u64,
}

impl Image {
    /// The image that the environment variable names, absolute or from the project's folder; without it a line is printed,
    /// and the test has nothing to do.
    ///
    /// # Panics
    /// Where it is named, but isn't a built image: whoever names one wants it tested.
    #[must_use]
    pub fn from_env(variable: &str) -> Option<Self> {
        let Some(named) = std::env::var_os(variable) else {
            eprintln!("{variable} names no built image (scripts/image --help): not tried");
            return None;
        };
        let kit = Path::new(env!("CARGO_MANIFEST_DIR"));
        let project = kit.ancestors().nth(2).expect("the kit is in crates/");
        Some(Self::open(&project.join(named)))
    }

    /// # Panics
    /// Where there is no built image.
    #[must_use]
    pub fn open(folder: &Path) -> Self {
        let path = folder.join("image.json");
        let text = fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}; run scripts/image", path.display()));
        let described = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{}: {error}; run scripts/image", path.display()));
        Self { folder: folder.to_owned(), described }
    }

    /// One of its files.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// `uboot`, `grub` or `own`.
    #[must_use]
    pub fn loader(&self) -> &str {
        self.described["loader"].as_str().expect("image.json names the loader")
    }

    /// The version of its kernel.
    #[must_use]
    pub fn kernel(&self) -> &str {
        self.described["kernel"].as_str().expect("image.json names the kernel")
    }

    /// The disk that its loader boots from.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.path(match self.loader() {
            "uboot" => "disk.img",
            "grub" => "disk-grub.img",
            "own" => "disk-own.img",
            other => panic!("image.json: the loader {other:?} is none that we know"),
        })
    }

    /// A partition of the disk.
    ///
    /// # Panics
    /// Where there is none of that name.
    #[must_use]
    pub fn partition(&self, name: &str) -> Partition {
        let partitions = self.described["partitions"].as_array().expect("image.json lists them");
        let found = partitions
            .iter()
            .find(|partition| partition["name"] == name)
            .unwrap_or_else(|| panic!("the image has no partition {name}"));
        let octets = |key: &str| {
            let sectors = found[key].as_u64().expect("image.json gives sectors");
            sectors.checked_mul(SECTOR).expect("image.json gives sectors of a small disk")
        };
        Partition { start: octets("start"), length: octets("sectors") }
    }

    /// What is in a partition of a copy of this image's disk.
    ///
    /// # Panics
    /// Where the copy is shorter.
    #[must_use]
    pub fn read_partition(&self, disk: &Path, name: &str) -> Vec<u8> {
        let Partition { start, length } = self.partition(name);
        assert!(length <= PARTITION_MAX, "{name}: {length} octets are too many to copy");
        let mut content = vec![0; usize::try_from(length).expect("it was just limited")];
        let file = fs::File::open(disk).expect("the disk was copied by us");
        file.read_exact_at(&mut content, start).expect("the partition lies on the disk");
        content
    }

    /// Puts a file's content at the start of a partition of a copy of this image's disk.
    ///
    /// # Panics
    /// Where it is longer than the partition.
    pub fn write_partition(&self, disk: &Path, name: &str, content: &Path) {
        let Partition { start, length } = self.partition(name);
        let content =
            fs::read(content).unwrap_or_else(|error| panic!("{}: {error}", content.display()));
        assert!(content.len() as u64 <= length, "{name}: {length} octets are too few");
        let file = fs::OpenOptions::new().write(true).open(disk).expect("the copy is ours");
        file.write_all_at(&content, start).expect("the partition lies on the disk");
    }

    /// Another root file system than the image's: a copy that `change` may change, packed into `to`.
    ///
    /// # Panics
    /// Where it can't be copied or packed.
    pub fn pack_rootfs(&self, to: &Path, change: impl FnOnce(&Path)) {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let root = folder.path().join("root");
        self.copy_rootfs(&root);
        change(&root);
        // For a test: packed quickly, not small.
        let packed = Command::new("mksquashfs")
            .args([&root, to])
            .args(["-noappend", "-all-root", "-quiet", "-no-progress"])
            .args(["-comp", "zstd", "-Xcompression-level", "1"])
            .status()
            .expect("mksquashfs is installed: squashfs-tools");
        assert!(packed.success(), "{} can't be packed", root.display());
    }

    /// A copy of the root folder. It belongs to whoever runs the test.
    ///
    /// # Panics
    /// Where it can't be copied.
    pub fn copy_rootfs(&self, to: &Path) {
        let copied = Command::new("cp")
            .args(["-r", "--no-dereference", "--preserve=mode,links,timestamps", "--reflink=auto"])
            .args([self.path("rootfs").as_path(), to])
            .status()
            .expect("cp is there");
        assert!(copied.success(), "{} can't be copied", self.path("rootfs").display());
    }
}
