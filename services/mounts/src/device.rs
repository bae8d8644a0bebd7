//! From a line's first field to a device: a path as it is, `PARTLABEL=`, `LABEL=` and `UUID=` by looking at what there is.
//!
//! Where several devices match, the one on the disk of the root file system is taken, then the first by name: a stick that
//! happens to have a partition of that name doesn't take its place.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::superblock;

const BLOCK: &str = "/sys/class/block";
/// uevent files are a few lines.
const UEVENT_MAX: u64 = 4096;

/// What a first field means.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Source {
    /// A device, or whatever the file system takes for one.
    Plain(String),
    PartitionLabel(String),
    Label(String),
    Uuid(String),
}

/// Reads a first field.
pub(crate) fn source(field: &str) -> Result<Source, String> {
    let Some((tag, value)) = field.split_once('=').filter(|(tag, _)| !tag.contains('/')) else {
        return Ok(Source::Plain(field.to_owned()));
    };
    let value = value.trim_matches('"').to_owned();
    match tag {
        "PARTLABEL" => Ok(Source::PartitionLabel(value)),
        "LABEL" => Ok(Source::Label(value)),
        "UUID" => Ok(Source::Uuid(value)),
        "PARTUUID" | "ID" => {
            Err(format!("{tag}= is not known here: use PARTLABEL=, LABEL= or UUID="))
        }
        _ => Ok(Source::Plain(field.to_owned())),
    }
}

/// The device, if it is there by now.
pub(crate) fn find(source: &Source) -> Option<String> {
    match source {
        Source::Plain(path) => {
            (!path.starts_with("/dev/") || Path::new(path).exists()).then(|| path.clone())
        }
        Source::PartitionLabel(wanted) => {
            choose(|name| uevent(name, "PARTNAME").as_ref() == Some(wanted))
        }
        Source::Label(wanted) => {
            choose(|name| superblock_of(name).is_some_and(|it| it.label == *wanted))
        }
        Source::Uuid(wanted) => choose(|name| {
            superblock_of(name).is_some_and(|it| it.uuid.eq_ignore_ascii_case(wanted))
        }),
    }
}

fn choose(matches: impl Fn(&str) -> bool) -> Option<String> {
    let entries = fs::read_dir(BLOCK).ok()?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut found: Vec<String> = names.filter(|name| matches(name)).collect();
    let root = root_disk();
    found.sort_by_key(|name| {
        (root.is_none() || disk(&Path::new(BLOCK).join(name)) != root, name.clone())
    });
    let first = found.into_iter().next()?;
    let device = uevent(&first, "DEVNAME").unwrap_or(first);
    Some(format!("/dev/{device}"))
}

/// The disk that holds the root file system, if it is one's.
fn root_disk() -> Option<PathBuf> {
    let device = fs::metadata("/").ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    disk(Path::new(&format!("/sys/dev/block/{major}:{minor}")))
}

/// The disk of a partition, or the disk itself.
fn disk(link: &Path) -> Option<PathBuf> {
    let path = fs::canonicalize(link).ok()?;
    let is_partition = path.join("partition").exists();
    if is_partition { path.parent().map(Path::to_owned) } else { Some(path) }
}

fn uevent(name: &str, key: &str) -> Option<String> {
    let path = Path::new(BLOCK).join(name).join("uevent");
    let mut text = String::new();
    File::open(path).ok()?.take(UEVENT_MAX).read_to_string(&mut text).ok()?;
    let mut lines = text.lines().filter_map(|line| line.split_once('='));
    lines.find_map(|(found, value)| (found == key).then(|| value.to_owned()))
}

fn superblock_of(name: &str) -> Option<superblock::Superblock> {
    let sectors = fs::read_to_string(Path::new(BLOCK).join(name).join("size")).ok()?;
    // A loop device or card reader with nothing in it; opening some of these takes seconds.
    if sectors.trim() == "0" {
        return None;
    }
    let device = uevent(name, "DEVNAME")?;
    let mut start = [0; superblock::BYTES];
    File::open(Path::new("/dev").join(device)).ok()?.read_exact(&mut start).ok()?;
    superblock::read(&start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_told_from_a_path_and_from_a_name() {
        assert_eq!(source("PARTLABEL=data"), Ok(Source::PartitionLabel("data".to_owned())));
        assert_eq!(source("LABEL=\"my disk\""), Ok(Source::Label("my disk".to_owned())));
        assert_eq!(source("UUID=0ABB-0C0D"), Ok(Source::Uuid("0ABB-0C0D".to_owned())));
        for plain in ["/dev/by=it/a", "tmpfs", "host:/share=x", "overlay"] {
            assert_eq!(source(plain), Ok(Source::Plain(plain.to_owned())));
        }
        assert!(source("PARTUUID=1").unwrap_err().contains("use PARTLABEL="));
    }

    #[test]
    fn what_is_not_there_is_not_found_and_what_is_no_device_is_taken_as_it_is() {
        assert_eq!(find(&Source::Plain("/dev/none-such".to_owned())), None);
        assert_eq!(find(&Source::Plain("tmpfs".to_owned())), Some("tmpfs".to_owned()));
        assert_eq!(find(&Source::PartitionLabel("none such".to_owned())), None);
        assert_eq!(find(&Source::Label("none such".to_owned())), None);
        assert_eq!(find(&Source::Uuid("none such".to_owned())), None);
    }
}
