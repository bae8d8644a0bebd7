//! What a kernel module says of itself, as far as it must be known before the kernel sees it: that it is a live patch, its name,
//! and for which kernel it was built. Whatever the bytes are, this ends in an answer or a refusal.

use object::{Object as _, ObjectSection as _};

/// Longest name of a module: the kernel's limit.
const NAME_MAX: usize = 55;
/// Most bytes of what a module says of itself.
const INFO_MAX: usize = 64 << 10;

/// A live patch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Module {
    pub(crate) name: String,
    /// The release of the kernel that it was built for.
    pub(crate) release: String,
}

impl Module {
    /// # Errors
    /// What it is not.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let file = object::File::parse(bytes)
            .map_err(|error| format!("is no kernel module: no ELF file: {error}"))?;
        if file.kind() != object::ObjectKind::Relocatable {
            return Err("is no kernel module: build one with the kernel's own make".to_owned());
        }
        let section = file.section_by_name(".modinfo");
        let section = section.ok_or("is no kernel module: it has no .modinfo")?;
        let info = section.data().map_err(|error| format!("its .modinfo: {error}"))?;
        if info.len() > INFO_MAX {
            return Err(format!("its .modinfo has {} bytes, at most {INFO_MAX}", info.len()));
        }
        let value = |key: &str| {
            let mut lines = info.split(|byte| *byte == 0);
            let found =
                lines.find_map(|line| line.strip_prefix(key.as_bytes())?.strip_prefix(b"="));
            std::str::from_utf8(found?).ok()
        };
        if value("livepatch") != Some("Y") {
            return Err(
                "is a kernel module and no live patch: it lacks MODULE_INFO(livepatch, \"Y\")"
                    .to_owned(),
            );
        }
        let name = value("name").ok_or("its .modinfo names no module")?;
        // It becomes part of paths.
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(allowed) {
            return Err(format!("{name:?} is not the name of a module"));
        }
        let release = value("vermagic").and_then(|magic| magic.split(' ').next());
        let release = release.ok_or("its .modinfo names no kernel (vermagic)")?;
        // The kernel knows it with underscores, whatever its file is called.
        Ok(Self { name: name.replace('-', "_"), release: release.to_owned() })
    }
}

/// The smallest module that a parser takes: for tests.
#[cfg(test)]
pub(crate) fn sample(info: &[&str]) -> Vec<u8> {
    let info: Vec<u8> = info.iter().flat_map(|line| [line.as_bytes(), b"\0"].concat()).collect();
    let names = b"\0.modinfo\0.shstrtab\0";
    let mut bytes = vec![0; 64];
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    bytes[16] = 1; // ET_REL
    bytes[18] = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    bytes[20] = 1;
    let (info_at, names_at) = (64, 64 + info.len());
    bytes.extend(&info);
    bytes.extend(names);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    let table = bytes.len() as u64;
    bytes[40..48].copy_from_slice(&table.to_le_bytes());
    bytes[52] = 64;
    bytes[58] = 64;
    bytes[60] = 3;
    bytes[62] = 2;
    let mut section = |name: u32, kind: u32, at: usize, size: usize| {
        let mut row = [0; 64];
        row[..4].copy_from_slice(&name.to_le_bytes());
        row[4..8].copy_from_slice(&kind.to_le_bytes());
        row[24..32].copy_from_slice(&(at as u64).to_le_bytes());
        row[32..40].copy_from_slice(&(size as u64).to_le_bytes());
        bytes.extend(row);
    };
    section(0, 0, 0, 0);
    section(1, 1, info_at, info.len());
    section(10, 3, names_at, names.len());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: [&str; 4] = [
        "livepatch=Y",
        "depends=",
        "name=fix-one",
        "vermagic=6.1.0-9-amd64 SMP preempt mod_unload ",
    ];

    #[test]
    fn a_live_patch_says_its_name_and_its_kernel() {
        let module = Module::parse(&sample(&INFO)).unwrap();
        assert_eq!((module.name.as_str(), module.release.as_str()), ("fix_one", "6.1.0-9-amd64"));
    }

    #[test]
    fn what_is_no_live_patch_is_refused_with_what_it_lacks() {
        let told = |info: &[&str]| Module::parse(&sample(info)).unwrap_err();
        assert!(told(&INFO[1..]).contains("no live patch"));
        assert!(told(&[INFO[0], INFO[3]]).contains("names no module"));
        assert!(told(&INFO[..3]).contains("names no kernel"));
        assert!(told(&[INFO[0], "name=../../x", INFO[3]]).contains("not the name"));
        assert!(Module::parse(b"\x7fELF").unwrap_err().contains("no ELF file"));
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert!(Module::parse(&own).unwrap_err().contains("no kernel module"));
    }

    #[test]
    fn every_change_of_a_good_module_ends_in_an_answer() {
        let good = sample(&INFO);
        for at in 0..good.len() {
            for change in [1, 0x80, 0xff] {
                let mut bytes = good.clone();
                bytes[at] ^= change;
                let _ = Module::parse(&bytes);
            }
            let _ = Module::parse(&good[..at]);
        }
    }
}
