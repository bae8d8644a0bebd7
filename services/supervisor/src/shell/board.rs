//! What `system board` and `system info` tell, from /proc and os-release, in procd's shapes.

use std::{collections::BTreeMap, fs, path::Path};

use rustix::{fs::statvfs, system::uname};
use serde_json::{Map, Value, json};

/// `system board`: kernel, host, processor, model and release; what isn't known is left out.
pub(crate) fn board() -> Value {
    let names = uname();
    let mut board = Map::new();
    let mut put = |key: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            board.insert(key.to_owned(), value.into());
        }
    };
    put("kernel", Some(names.release().to_string_lossy().into_owned()));
    put("hostname", Some(names.nodename().to_string_lossy().into_owned()));
    put("system", processor(&read("/proc/cpuinfo")));
    put("model", first_of(&["/tmp/sysinfo/model", "/proc/device-tree/model"]));
    put("board_name", first_of(&["/tmp/sysinfo/board_name"]).or_else(compatible));
    put("rootfs_type", rootfs_type(&read("/proc/self/mountinfo")));
    let os_release = first_of(&["/usr/lib/os-release", "/etc/os-release"]).unwrap_or_default();
    board.insert("release".to_owned(), release(&os_release));
    Value::Object(board)
}

/// `system info`: clock, load and memory. Load is in 65536ths, memory in bytes, file systems in KiB, as with procd.
pub(crate) fn info() -> Value {
    let meminfo = read("/proc/meminfo");
    let memory = memory(&meminfo);
    let bytes = |key: &str| memory.get(key).copied().unwrap_or(0);
    let uptime = read("/proc/uptime").split('.').next().and_then(|text| text.parse::<u64>().ok());
    json!({
        "localtime": daemon::clock::wall().as_secs(),
        "uptime": uptime.unwrap_or(0),
        "load": load(&read("/proc/loadavg")),
        "memory": {
            "total": bytes("MemTotal"),
            "free": bytes("MemFree"),
            "shared": bytes("Shmem"),
            "buffered": bytes("Buffers"),
            "available": bytes("MemAvailable"),
            "cached": bytes("Cached"),
        },
        "root": file_system("/"),
        "tmp": file_system("/tmp"),
        "swap": { "total": bytes("SwapTotal"), "free": bytes("SwapFree") },
    })
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The text of the first file that is there; device-tree texts end with a NUL.
fn first_of(paths: &[&str]) -> Option<String> {
    let text = paths.iter().find_map(|path| fs::read_to_string(Path::new(path)).ok())?;
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

fn release(os_release: &str) -> Value {
    let known = [
        ("distribution", "NAME"),
        ("version", "VERSION"),
        ("revision", "BUILD_ID"),
        ("codename", "VERSION_CODENAME"),
        ("target", "OPENWRT_BOARD"),
        ("description", "OPENWRT_RELEASE"),
        ("builddate", "OPENWRT_BUILD_DATE"),
        ("firmware_url", "FIRMWARE_URL"),
    ];
    let values: BTreeMap<&str, &str> = os_release
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key, value.trim_matches(['"', '\''])))
        .collect();
    let found = known.iter().filter_map(|(key, name)| Some((*key, *values.get(name)?)));
    Value::Object(found.map(|(key, value)| (key.to_owned(), value.into())).collect())
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

fn file_system(path: &str) -> Value {
    let Ok(found) = statvfs(path) else { return json!({}) };
    let kibibytes = |blocks: u64| blocks.saturating_mul(found.f_frsize) / 1024;
    json!({
        "total": kibibytes(found.f_blocks),
        "free": kibibytes(found.f_bfree),
        "used": kibibytes(found.f_blocks.saturating_sub(found.f_bfree)),
        "avail": kibibytes(found.f_bavail),
    })
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
        assert_eq!(release(text), json!({ "distribution": "Debian GNU/Linux", "version": "12" }));
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
