//! GRUB's environment block, as `grub-editenv` and `save_env` read and write it: 1,024 octets, a first line that says what it is,
//! then `name=value` lines, then `#` to the end. It has no checksum and no second copy; so our variables stand in front, and
//! only sectors that differ are written: as long as they fit into the first sector, that is one write of one sector.

use std::io;

use super::{Names, uboot::write_changed};
use crate::{
    disk::{Disk, read_exact},
    engine::{choice::Choice, contract::BootControl},
};

/// Bytes of the block.
pub(crate) const LENGTH: usize = 1024;
const HEAD: &str = "# GRUB Environment Block\n";

/// The block on its disk.
pub(crate) struct Grub<D> {
    disk: D,
    offset: u64,
    names: Names,
}

impl<D: Disk> Grub<D> {
    /// # Errors
    /// Where the disk is too short.
    pub(crate) fn new(disk: D, offset: u64, names: Names) -> io::Result<Self> {
        if offset.checked_add(LENGTH as u64).is_none_or(|end| end > disk.len()) {
            let text = format!("GRUB's block ends behind the device, which has {}", disk.len());
            return Err(io::Error::other(text));
        }
        Ok(Self { disk, offset, names })
    }

    fn read(&mut self) -> io::Result<[u8; LENGTH]> {
        let mut bytes = [0; LENGTH];
        read_exact(&mut self.disk, self.offset, &mut bytes)?;
        Ok(bytes)
    }
}

impl<D: Disk> BootControl for Grub<D> {
    fn load(&mut self) -> io::Result<Choice> {
        let variables = decode(&self.read()?)?;
        let value = |name: &str| {
            variables.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
        };
        Ok(self.names.read(value))
    }

    fn store(&mut self, choice: &Choice) -> io::Result<()> {
        let old = self.read()?;
        let mut variables = decode(&old)?;
        let ours = self.names.write(choice);
        variables.retain(|(known, _)| !ours.iter().any(|(name, _)| name == known));
        variables.splice(..0, ours);
        let new = encode(&variables)?;
        write_changed(&mut self.disk, self.offset, &old, &new)?;
        self.disk.flush()
    }
}

/// Names and values, these as they stand there: with a backslash before a backslash and before a line's end.
fn decode(bytes: &[u8]) -> io::Result<Vec<(String, String)>> {
    let wrong = |text| io::Error::new(io::ErrorKind::InvalidData, text);
    let text = std::str::from_utf8(bytes).map_err(|_| wrong("GRUB's block is no text"))?;
    let mut rest = text.strip_prefix(HEAD).ok_or_else(|| {
        wrong("there is no GRUB environment block; make one with grub-editenv FILE create")
    })?;
    let mut variables = Vec::new();
    while !rest.is_empty() {
        let end = line_end(rest).unwrap_or(rest.len());
        let line = &rest[..end];
        rest = rest.get(end + 1..).unwrap_or_default();
        // The padding, or a comment; GRUB skips both.
        if line.starts_with('#') {
            continue;
        }
        if let Some((name, value)) = line.split_once('=') {
            variables.push((name.to_owned(), value.to_owned()));
        }
    }
    Ok(variables)
}

/// Where a line ends: at the first line end without a backslash before it.
fn line_end(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|octet| {
        let ends = octet == b'\n' && !escaped;
        escaped = octet == b'\\' && !escaped;
        ends
    })
}

fn encode(variables: &[(String, String)]) -> io::Result<Vec<u8>> {
    let mut text = HEAD.to_owned();
    for (name, value) in variables {
        text.push_str(&format!("{name}={value}\n"));
    }
    if text.len() > LENGTH {
        let text = format!("the variables need {} bytes, GRUB's block has {LENGTH}", text.len());
        return Err(io::Error::other(text));
    }
    let mut bytes = text.into_bytes();
    bytes.resize(LENGTH, b'#');
    Ok(bytes)
}
