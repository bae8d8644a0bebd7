//! What `system board` and `system info` tell, from /proc and os-release, in procd's shapes.

use std::{collections::BTreeMap, path::Path};

use protocol::system::{Board, Info, Memory, Release, Space, Swap};
use rustix::{fs::statvfs, system::uname};

use crate::settings::files;

/// More is not read of any of these files: `/tmp` is everybody's, and /proc/cpuinfo repeats itself for each processor.
const TEXT_MAX: u64 = 64 * 1024;

/// `system board`: kernel, host, processor, model and release; what isn't known is left out.
pub(crate) fn board() -> Board {
    let names = uname();
    let os_release = first_of(&["/usr/lib/os-release", "/etc/os-release"]).unwrap_or_default();
    Board {
        kernel: Some(names.release().to_string_lossy().into_owned()),
        hostname: Some(names.nodename().to_string_lossy().into_owned()),
        system: processor(&read("/proc/cpuinfo")),
        model: first_of(&["/tmp/sysinfo/model", "/proc/device-tree/model"]),
        board_name: first_of(&["/tmp/sysinfo/board_name"]).or_else(compatible),
        rootfs_type: rootfs_type(&read("/proc/self/mountinfo")),
        release: Some(release(&os_release)),
    }
}

/// `system info`: clock, load and memory. Load is in 65536ths, memory in bytes, file systems in KiB, as with procd.
pub(crate) fn info() -> Info {
    let meminfo = read("/proc/meminfo");
    let memory = memory(&meminfo);
    let bytes = |key: &str| memory.get(key).copied().unwrap_or(0);
    let uptime = read("/proc/uptime").split('.').next().and_then(|text| text.parse().ok());
    Info {
        localtime: i64::try_from(daemon::clock::wall().as_secs()).unwrap_or(i64::MAX),
        uptime: uptime.unwrap_or(0),
        load: load(&read("/proc/loadavg")),
        memory: Memory {
            total: bytes("MemTotal"),
            free: bytes("MemFree"),
            shared: bytes("Shmem"),
            buffered: bytes("Buffers"),
            available: bytes("MemAvailable"),
            cached: bytes("Cached"),
        },
        root: file_system("/"),
        tmp: file_system("/tmp"),
        swap: Swap { total: bytes("SwapTotal"), free: bytes("SwapFree") },
    }
}

fn read(path: &str) -> String {
    files::read_beginning(Path::new(path), TEXT_MAX).unwrap_or_default()
}

/// The text of the first file that is there; device-tree texts end with a NUL.
fn first_of(paths: &[&str]) -> Option<String> {
    let text =
        paths.iter().find_map(|path| files::read_beginning(Path::new(path), TEXT_MAX).ok())?;
    Some(text.trim_end_matches(['\0', '\n']).to_owned())
}

/// The most specific name of the device tree's list.
fn compatible() -> Option<String> {
    first_of(&["/proc/device-tree/compatible"])?.split('\0').next().map(str::to_owned)
}

/// The processor's name as /proc/cpuinfo of this architecture calls it.
fn processor(cpuinfo: &str) -> Option<String> {
    ["system type", "Processor", "cpu", "model name"].iter().find_map(|wanted| {
        cpuinfo.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == *wanted).then(|| value.trim().to_owned())
        })
    })
}

/// The type of the file system at `/`, from proc_pid_mountinfo(5).
fn rootfs_type(mountinfo: &str) -> Option<String> {
    let of_root = |line: &&str| line.split(' ').nth(4) == Some("/");
    let (_, right) = mountinfo.lines().rfind(of_root)?.split_once(" - ")?;
    right.split(' ').next().map(|kind| if kind == "rootfs" { "initramfs" } else { kind }.to_owned())
}

fn release(os_release: &str) -> Release {
    let values: BTreeMap<&str, &str> = os_release
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key, value.trim_matches(['"', '\''])))
        .collect();
    let value = |key: &str| values.get(key).map(|value| (*value).to_owned());
    Release {
        distribution: value("NAME"),
        version: value("VERSION"),
        revision: value("BUILD_ID"),
        codename: value("VERSION_CODENAME"),
        target: value("OPENWRT_BOARD"),
        description: value("OPENWRT_RELEASE"),
        builddate: value("OPENWRT_BUILD_DATE"),
        firmware_url: value("FIRMWARE_URL"),
    }
}

/// Three averages as 65536ths; `/proc/loadavg` has them with two decimals.
fn load(loadavg: &str) -> [u64; 3] {
    let mut load = [0; 3];
    for (value, text) in load.iter_mut().zip(loadavg.split(' ')) {
        let (whole, hundredths) = text.split_once('.').unwrap_or((text, "0"));
        let number = |text: &str| text.parse::<u64>().unwrap_or(0).min(1 << 32);
        *value = (number(whole) * 100 + number(hundredths)) * 65_536 / 100;
    }
    load
}

/// `/proc/meminfo`, in bytes.
fn memory(meminfo: &str) -> BTreeMap<&str, u64> {
    meminfo
        .lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(':')?;
            let kibibytes: u64 = value.trim().trim_end_matches(" kB").parse().ok()?;
            Some((key, kibibytes.saturating_mul(1024)))
        })
        .collect()
}

fn file_system(path: &str) -> Space {
    let Ok(found) = statvfs(path) else { return Space::default() };
    let kibibytes = |blocks: u64| blocks.saturating_mul(found.f_frsize) / 1024;
    Space {
        total: kibibytes(found.f_blocks),
        free: kibibytes(found.f_bfree),
        used: kibibytes(found.f_blocks.saturating_sub(found.f_bfree)),
        avail: kibibytes(found.f_bavail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_in_65536ths_as_sysinfo_gives_it() {
        assert_eq!(load("0.50 1.00 2.25 1/100 99"), [32_768, 65_536, 147_456]);
        assert_eq!(load("nonsense"), [0, 0, 0]);
    }

    #[test]
    fn release_has_procds_keys_and_leaves_out_what_is_not_there() {
        let text = "NAME=\"Debian GNU/Linux\"\nVERSION='12'\nID=debian\n";
        let json = r#"{"distribution":"Debian GNU/Linux","version":"12"}"#;
        assert_eq!(serde_json::to_string(&release(text)).unwrap(), json);
    }

    #[test]
    fn memory_is_in_bytes() {
        assert_eq!(memory("MemTotal:  2 kB\nHugePages: x\n")["MemTotal"], 2048);
    }

    #[test]
    fn the_root_file_system_is_the_last_mount_there() {
        let text = "1 1 0:1 / / rw - rootfs rootfs rw\n27 1 254:0 / / rw - ext4 /dev/vda rw\n";
        assert_eq!(rootfs_type(text).as_deref(), Some("ext4"));
    }
}
