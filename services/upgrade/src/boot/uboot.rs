//! U-Boot's environment, as `fw_printenv` and `fw_setenv` read and write it: a CRC-32 (and, where there are two copies, one octet
//! that counts up), then `name=value` and a zero octet for each variable, then another zero octet and padding.
//!
//! With two copies the older one is written, so a loss of power costs nothing. With one, our variables are kept in front and
//! only sectors that differ are written: as long as they fit into the first sector, that is one write of one sector.

use std::io;

use super::Names;
use crate::{
    disk::{Disk, read_exact, write_all},
    engine::{choice::Choice, contract::BootControl},
};

/// Largest environment.
pub(crate) const SIZE_MAX: usize = 1 << 20;
const SECTOR: usize = 512;

/// Where the environment is.
pub(crate) struct UBoot<D> {
    /// One copy or two, and where each begins.
    copies: Vec<(D, u64)>,
    size: usize,
    names: Names,
}

/// A line of `fw_env.config`: a copy of the environment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Place {
    pub(crate) device: String,
    pub(crate) offset: u64,
    pub(crate) size: usize,
}

/// Reads `fw_env.config` in its classic form: device, offset, size; a sector size and count may follow. One line or two.
///
/// # Errors
/// The line, and what it should be.
pub(crate) fn places(text: &str) -> Result<Vec<Place>, String> {
    let mut places = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [device, offset, size, ..] = words[..] else {
            if words.is_empty() {
                continue;
            }
            return Err(format!("line {}: write device, offset and size", at + 1));
        };
        let number =
            |word: &str| number(word).ok_or(format!("line {}: {word:?} is no number", at + 1));
        let (offset, size) = (number(offset)?, number(size)?);
        let size = usize::try_from(size).ok().filter(|size| (16..=SIZE_MAX).contains(size));
        let size =
            size.ok_or(format!("line {}: the size must be 16 to {SIZE_MAX} bytes", at + 1))?;
        places.push(Place { device: device.to_owned(), offset, size });
    }
    match &places[..] {
        [] => Err("names no environment; write device, offset and size".to_owned()),
        [_] => Ok(places),
        [first, second] if first.size == second.size => Ok(places),
        [_, _] => Err("the two copies have different sizes".to_owned()),
        _ => Err(format!(
            "names {} environments; there can be one, or two copies of it",
            places.len()
        )),
    }
}

fn number(word: &str) -> Option<u64> {
    match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    }
}

/// A copy that is valid.
struct Env {
    place: usize,
    /// Counts up; 0 where there is one copy.
    flags: u8,
    bytes: Vec<u8>,
    variables: Vec<(String, String)>,
}

impl<D: Disk> UBoot<D> {
    /// # Errors
    /// Where a disk is too short.
    pub(crate) fn new(copies: Vec<(D, u64)>, size: usize, names: Names) -> io::Result<Self> {
        for (disk, offset) in &copies {
            if offset.checked_add(size as u64).is_none_or(|end| end > disk.len()) {
                let text = format!(
                    "the environment ends behind the device: {size} bytes from {offset} on, it has {}",
                    disk.len()
                );
                return Err(io::Error::other(text));
            }
        }
        Ok(Self { copies, size, names })
    }

    #[cfg(test)]
    pub(super) fn copies(&self) -> &[(D, u64)] {
        &self.copies
    }

    #[cfg(test)]
    pub(super) fn into_copies(self) -> Vec<(D, u64)> {
        self.copies
    }

    /// Bytes before the variables.
    fn head(&self) -> usize {
        if self.copies.len() == 2 { 5 } else { 4 }
    }

    fn newest(&mut self) -> io::Result<Env> {
        let mut newest: Option<Env> = None;
        for place in 0..self.copies.len() {
            let mut bytes = vec![0; self.size];
            let (disk, offset) = &mut self.copies[place];
            read_exact(disk, *offset, &mut bytes)?;
            let Some(env) = decode(place, bytes, self.head()) else { continue };
            if newest.as_ref().is_none_or(|known| is_newer(env.flags, known.flags)) {
                newest = Some(env);
            }
        }
        newest.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "no copy of U-Boot's environment is valid; save it once in U-Boot, or make one with fw_setenv -f",
            )
        })
    }
}

impl<D: Disk> BootControl for UBoot<D> {
    fn load(&mut self) -> io::Result<Choice> {
        let env = self.newest()?;
        let value = |name: &str| {
            env.variables.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
        };
        Ok(self.names.read(value))
    }

    fn store(&mut self, choice: &Choice) -> io::Result<()> {
        let mut env = self.newest()?;
        let ours = self.names.write(choice);
        if self.copies.len() == 2 {
            for (name, value) in ours {
                match env.variables.iter_mut().find(|(known, _)| *known == name) {
                    Some(known) => known.1 = value,
                    None => env.variables.push((name, value)),
                }
            }
        } else {
            env.variables.retain(|(known, _)| !ours.iter().any(|(name, _)| name == known));
            env.variables.splice(..0, ours);
        }
        let flags = (self.copies.len() == 2).then(|| env.flags.wrapping_add(1));
        let bytes = encode(&env.variables, flags, self.size)?;
        let two = self.copies.len() == 2;
        let place = if two { 1 - env.place } else { env.place };
        let (disk, offset) = &mut self.copies[place];
        if two {
            write_all(disk, *offset, &bytes)?;
        } else {
            write_changed(disk, *offset, &env.bytes, &bytes)?;
        }
        disk.flush()
    }
}

/// Writes the sectors that differ, the last one first: the first one holds the checksum, and mostly all that changed.
pub(super) fn write_changed<D: Disk>(
    disk: &mut D,
    offset: u64,
    old: &[u8],
    new: &[u8],
) -> io::Result<()> {
    for (at, sector) in new.chunks(SECTOR).enumerate().rev() {
        let start = at * SECTOR;
        if old.get(start..start + sector.len()) != Some(sector) {
            write_all(disk, offset + start as u64, sector)?;
        }
    }
    Ok(())
}

/// The octet counts up and wraps.
fn is_newer(flags: u8, than: u8) -> bool {
    let ahead = flags.wrapping_sub(than);
    (1..128).contains(&ahead)
}

fn decode(place: usize, bytes: Vec<u8>, head: usize) -> Option<Env> {
    let crc = u32::from_le_bytes(*bytes.first_chunk()?);
    let data = bytes.get(head..)?;
    if crc32fast::hash(data) != crc {
        return None;
    }
    let flags = if head == 5 { *bytes.get(4)? } else { 0 };
    let mut variables = Vec::new();
    for entry in data.split(|octet| *octet == 0) {
        if entry.is_empty() {
            break;
        }
        // U-Boot's values are octets; what is no UTF-8 can't be kept, so nothing is.
        let entry = std::str::from_utf8(entry).ok()?;
        let (name, value) = entry.split_once('=')?;
        variables.push((name.to_owned(), value.to_owned()));
    }
    Some(Env { place, flags, bytes, variables })
}

fn encode(variables: &[(String, String)], flags: Option<u8>, size: usize) -> io::Result<Vec<u8>> {
    let mut data = Vec::new();
    for (name, value) in variables {
        data.extend_from_slice(name.as_bytes());
        data.push(b'=');
        data.extend_from_slice(value.as_bytes());
        data.push(0);
    }
    data.push(0);
    let room = size - 4 - flags.iter().len();
    if data.len() > room {
        let text = format!("the variables need {} bytes, the environment has {room}", data.len());
        return Err(io::Error::other(text));
    }
    data.resize(room, 0);
    let mut bytes = crc32fast::hash(&data).to_le_bytes().to_vec();
    bytes.extend(flags);
    bytes.extend(data);
    Ok(bytes)
}
