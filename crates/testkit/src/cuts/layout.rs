//! The partitions of a disk, and in what pieces a power cut may tear a write to each.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

const SECTOR: u64 = 512;
/// Pieces of a slot between two cuts.
const SLOT_STEP: usize = 64;

/// What a partition is, as far as cuts are concerned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Records that are a sector each: cut at every sector.
    Records,
    /// A file system that is mounted: cut at every block of 4 KiB.
    Data,
    /// An image that is written as a whole: its first, its last and every 64th block.
    Slot,
}

/// A partition. Bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Region {
    pub name: String,
    pub start: u64,
    pub length: u64,
    pub kind: Kind,
}

/// All of them, in their order on the disk.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Layout(Vec<Region>);

#[derive(Deserialize)]
struct Image {
    partitions: Vec<Partition>,
}

#[derive(Deserialize)]
struct Partition {
    name: String,
    start: u64,
    sectors: u64,
}

impl Kind {
    /// By the name that `scripts/image` gave the partition.
    fn of(name: &str) -> Self {
        match name {
            "env" | "record" | "autorun" | "grubenv" => Self::Records,
            "data" => Self::Data,
            _ => Self::Slot,
        }
    }

    /// Bytes that a power cut leaves whole.
    pub(super) fn piece(self) -> u64 {
        match self {
            Self::Records => SECTOR,
            Self::Data | Self::Slot => 4096,
        }
    }

    /// Pieces of one burst between two cuts.
    pub(super) fn step(self) -> usize {
        match self {
            Self::Records | Self::Data => 1,
            Self::Slot => SLOT_STEP,
        }
    }
}

impl Layout {
    /// # Errors
    /// Partitions that overlap.
    pub fn new(mut regions: Vec<Region>) -> Result<Self> {
        regions.sort_by_key(|region| region.start);
        for pair in regions.windows(2) {
            let end = pair[0].start.checked_add(pair[0].length);
            let apart = end.is_some_and(|end| end <= pair[1].start);
            ensure!(apart, "partition {:?} reaches into {:?}", pair[0].name, pair[1].name);
        }
        Ok(Self(regions))
    }

    /// As `image.json`, beside a built image, tells it.
    ///
    /// # Errors
    /// A file that can't be read, or tells something else.
    pub fn of_image(json: &Path) -> Result<Self> {
        let named = || json.display().to_string();
        let text = fs::read_to_string(json).with_context(named)?;
        let image: Image = serde_json::from_str(&text).with_context(named)?;
        let regions = image.partitions.into_iter().map(|partition| {
            let bytes = |sectors: u64| sectors.checked_mul(SECTOR).context("no disk is so long");
            Ok(Region {
                kind: Kind::of(&partition.name),
                name: partition.name,
                start: bytes(partition.start)?,
                length: bytes(partition.sectors)?,
            })
        });
        Self::new(regions.collect::<Result<_>>()?).with_context(named)
    }

    /// # Errors
    /// There is none of this name.
    pub fn region(&self, name: &str) -> Result<&Region> {
        let found = self.0.iter().find(|region| region.name == name);
        found.with_context(|| format!("the disk has no partition {name:?}"))
    }

    pub(super) fn number(&self, name: &str) -> Result<usize> {
        let found = self.0.iter().position(|region| region.name == name);
        found.with_context(|| format!("the disk has no partition {name:?}"))
    }

    pub(super) fn regions(&self) -> &[Region] {
        &self.0
    }

    /// The partition in which a byte lies, and how far whatever lies there (a partition, or the gap before the next) goes on.
    pub(super) fn place(&self, at: u64) -> (Option<usize>, u64) {
        let next = self.0.partition_point(|region| region.start <= at);
        let inside = next.checked_sub(1).filter(|number| {
            let region = &self.0[*number];
            at - region.start < region.length
        });
        let end = match inside {
            Some(number) => self.0[number].start + self.0[number].length,
            None => self.0.get(next).map_or(u64::MAX, |region| region.start),
        };
        (inside, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(name: &str, start: u64, length: u64) -> Region {
        Region { name: name.to_owned(), start, length, kind: Kind::of(name) }
    }

    #[test]
    fn an_image_tells_its_partitions_and_each_byte_has_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let json = folder.path().join("image.json");
        let text = r#"{"loader": "uboot", "partitions": [
            {"name": "data", "start": 16, "sectors": 8}, {"name": "env", "start": 4, "sectors": 2}]}"#;
        fs::write(&json, text).unwrap();
        let layout = Layout::of_image(&json).unwrap();
        assert_eq!(layout.regions(), [region("env", 2048, 1024), region("data", 8192, 4096)]);
        assert_eq!(layout.place(0), (None, 2048));
        assert_eq!(layout.place(2048), (Some(0), 3072));
        assert_eq!(layout.place(3071), (Some(0), 3072));
        assert_eq!(layout.place(3072), (None, 8192));
        assert_eq!(layout.place(8192), (Some(1), 12_288));
        assert_eq!(layout.place(12_288), (None, u64::MAX));
        assert!(layout.region("rootfs-a").unwrap_err().to_string().contains("rootfs-a"));
    }

    #[test]
    fn partitions_that_overlap_are_refused() {
        let overlapping = vec![region("env", 1024, 1024), region("data", 1536, 512)];
        assert!(Layout::new(overlapping).unwrap_err().to_string().contains("reaches into"));
    }
}
