//! Slots as files in a scratch folder, and, where root may make them, as loop devices.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use super::*;
use crate::disk::{read_exact, write_all};

const MIB: u64 = 1 << 20;

fn target(path: &Path, offset: u64, size: Option<u64>) -> Target {
    Target { path: path.to_owned(), offset, size }
}

fn why(opened: io::Result<Device>) -> String {
    match opened {
        Ok(_) => panic!("it was opened"),
        Err(error) => error.to_string(),
    }
}

/// Writes and reads pieces that no block boundary likes, through buffers that are not aligned.
fn exercise(disk: &mut Device) {
    let length = usize::try_from(disk.len().min(MIB)).unwrap();
    let bytes: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
    write_all(disk, 0, &bytes).unwrap();
    disk.flush().unwrap();
    for (from, to) in [(0, length), (1, length - 1), (4095, 4097), (4096, 70_000.min(length))] {
        let mut read = vec![0; to - from + 1];
        let aligned = &mut read[1..];
        read_exact(disk, from as u64, aligned).unwrap();
        assert!(*aligned == bytes[from..to], "{from} to {to}");
    }
    write_all(disk, 8192 + 512, &[7; 512]).unwrap();
    disk.flush().unwrap();
    let mut read = [0; 1024];
    read_exact(disk, 8192 + 256, &mut read).unwrap();
    assert_eq!(read[256..768], [7; 512]);
    assert_eq!(read[..256], bytes[8192 + 256..8192 + 512]);
    let end = disk.len();
    assert_eq!(disk.read_at(end, &mut read).unwrap(), 0);
    assert_eq!(disk.write_at(end, &read).unwrap(), 0, "nothing is written behind the slot");
}

#[test]
fn a_file_is_written_and_read_back_in_whatever_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("slot");
    fs::write(&path, vec![0; 100_000]).unwrap();
    let mut opener = Opener::default();
    exercise(&mut opener.open(&target(&path, 0, None), Access::Write).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().len(), 100_000);
}

#[test]
fn a_part_of_a_file_leaves_the_rest_alone_and_is_made_where_its_size_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("slots");
    let mut opener = Opener::default();
    let mut a = opener.open(&target(&path, 4096, Some(16 * 4096)), Access::Write).unwrap();
    let mut b = opener.open(&target(&path, 17 * 4096, Some(16 * 4096)), Access::Write).unwrap();
    exercise(&mut a);
    exercise(&mut b);
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes.len(), 33 * 4096);
    assert!(bytes[..4096].iter().all(|octet| *octet == 0));
}

#[test]
fn what_is_written_is_had_by_one_and_read_by_anybody() {
    let folder = tempfile::tempdir().unwrap();
    let slot = target(&folder.path().join("slot"), 0, Some(MIB));
    let mut first = Opener::default();
    let held = first.open(&slot, Access::Write).unwrap();
    let told = why(Opener::default().open(&slot, Access::Write));
    assert!(told.contains("slot: is locked by another program"), "{told}");
    Opener::default().open(&slot, Access::Read).unwrap();
    drop(held);
    Opener::default().open(&slot, Access::Write).unwrap();
}

#[test]
fn what_can_not_be_a_slot_is_refused_with_the_cure() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let mut opener = Opener::default();
    let told = why(opener.open(&target(&missing, 0, None), Access::Write));
    assert!(told.contains("missing: is not there; make it"), "{told}");
    let told = why(opener.open(&target(&missing, 0, Some(4096)), Access::Read));
    assert!(told.contains("is not there"), "{told}");
    let told = why(opener.open(&target(folder.path(), 0, None), Access::Write));
    assert!(told.contains("kind = \"directory\""), "{told}");
    let told = why(opener.open(&target(Path::new("/dev/full"), 0, None), Access::Write));
    assert!(told.contains("neither a file nor a block device"), "{told}");
    let small = folder.path().join("small");
    fs::write(&small, vec![0; 8192]).unwrap();
    let told = why(opener.open(&target(&small, 8192, None), Access::Write));
    assert!(told.contains("has 8192 bytes"), "{told}");
    fs::write(folder.path().join("empty"), "").unwrap();
    why(opener.open(&target(&folder.path().join("empty"), 0, None), Access::Write));
}

#[test]
fn a_growing_file_reads_as_zeros_where_nothing_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("slot.tar");
    let mut opener = Opener::default();
    let mut disk = opener.open_growing(&target(&path, 0, Some(MIB)), Access::Write).unwrap();
    let mut read = [1; 5000];
    read_exact(&mut disk, 100_000, &mut read).unwrap();
    assert_eq!(read, [0; 5000]);
    write_all(&mut disk, 4096, &[5; 4096]).unwrap();
    disk.flush().unwrap();
    let mut read = [1; 12_288];
    read_exact(&mut disk, 0, &mut read).unwrap();
    assert_eq!((read[0], read[4096], read[8191], read[8192]), (0, 5, 5, 0));
    assert_eq!(fs::metadata(&path).unwrap().len(), 8192);
}

/// Undone at the end, whatever happens.
struct Undo(Vec<String>);

impl Drop for Undo {
    fn drop(&mut self) {
        let _ = Command::new(&self.0[0]).args(&self.0[1..]).status();
    }
}

/// What a command prints; nothing where it fails, which is said.
fn run(words: &[&str]) -> Option<String> {
    let output = Command::new(words[0]).args(&words[1..]).output().ok()?;
    if !output.status.success() {
        eprintln!("left out: {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

fn loop_device(file: &Path, options: &[&str]) -> Option<(PathBuf, Undo)> {
    let words = [&["losetup", "-f", "--show"], options, &[file.to_str().unwrap()]].concat();
    let device = run(&words)?;
    let undo = Undo(["losetup", "-d", &device].map(str::to_owned).to_vec());
    Some((PathBuf::from(device), undo))
}

#[test]
fn a_block_device_is_had_exclusively_and_never_while_it_is_mounted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("disk");
    // Not made of whole blocks.
    fs::write(&file, vec![0; 8 << 20]).unwrap();
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len((8 << 20) + 512).unwrap();
    let Some((device, _undo)) = loop_device(&file, &[]) else { return };
    let slot = target(&device, 0, None);
    let mut opener = Opener::default();
    let mut disk = opener.open(&slot, Access::Write).unwrap();
    exercise(&mut disk);
    let last = disk.len() - 512;
    assert_eq!(last % 4096, 0);
    write_all(&mut disk, last, &[3; 512]).unwrap();
    disk.flush().unwrap();
    let mut read = [0; 600];
    read_exact(&mut disk, last - 88, &mut read).unwrap();
    assert_eq!((read[88], read[599]), (3, 3));
    let told = why(Opener::default().open(&slot, Access::Write));
    assert!(told.contains("unmount it, and end what has it open"), "{told}");
    drop(disk);
    let told = why(opener.open(&target(&file, 0, None), Access::Write));
    assert!(told.contains(&format!("losetup -d {}", device.display())), "{told}");

    let text = device.to_str().unwrap();
    let place = folder.path().join("mounted");
    fs::create_dir(&place).unwrap();
    if run(&["mkfs.ext4", "-q", text]).is_none() {
        return;
    }
    let Some(_) = run(&["mount", text, place.to_str().unwrap()]) else { return };
    let _unmount = Undo(["umount", place.to_str().unwrap()].map(str::to_owned).to_vec());
    let told = why(opener.open(&slot, Access::Write));
    assert!(told.contains("is mounted on") && told.contains("unmount it"), "{told}");
    opener.open(&slot, Access::Read).unwrap();
}

#[test]
fn a_read_only_device_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("disk");
    fs::write(&file, vec![0; 1 << 20]).unwrap();
    let Some((device, _undo)) = loop_device(&file, &["-r"]) else { return };
    let told = why(Opener::default().open(&target(&device, 0, None), Access::Write));
    assert!(told.contains("read-only"), "{told}");
}

#[test]
fn a_full_disk_is_told_with_the_cure() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    if run(&["mount", "-t", "tmpfs", "-o", "size=64k", "none", place]).is_none() {
        return;
    }
    let _unmount = Undo(["umount", place].map(str::to_owned).to_vec());
    let told =
        why(Opener::default().open(&target(&folder.path().join("a"), 0, Some(MIB)), Access::Write));
    assert!(told.contains("free some space"), "{told}");
    fs::remove_file(folder.path().join("a")).unwrap();
    let slot = target(&folder.path().join("slot"), 0, Some(MIB));
    let mut disk = Opener::default().open_growing(&slot, Access::Write).unwrap();
    let told = write_all(&mut disk, 0, &vec![1; 1 << 20]).unwrap_err().to_string();
    assert!(told.contains("free some space"), "{told}");
}
