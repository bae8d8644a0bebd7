//! Hashes that outlive a process: which instance a slot belongs to, and which definition a process was made from.
//!
//! FNV-1a in 64 bits (Fowler, Noll, Vo), because both must be the same in every build of the suite.

use std::hash::Hasher;

use protocol::name::Name;

use crate::settings::{Listen, Process, ReadinessKind, UnixKind};

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// The keeper's name for an instance: a hash of `service NUL instance`.
#[must_use]
pub(crate) fn identity(service: &Name, instance: &Name) -> u64 {
    let mut hash = Fnv::default();
    hash.write(service.as_str().as_bytes());
    hash.write(&[0]);
    hash.write(instance.as_str().as_bytes());
    hash.finish()
}

/// A number for jitter that depends on nothing but its two arguments.
#[must_use]
pub(crate) fn scatter(slot: u32, count: u32) -> u64 {
    let mut hash = Fnv::default();
    hash.write(&slot.to_le_bytes());
    hash.write(&count.to_le_bytes());
    hash.finish()
}

/// A hash of everything in the definition whose change restarts the process. Keys at their default add nothing, so that a key which a
/// later version adds does not restart what runs.
#[must_use]
pub(crate) fn fingerprint(process: &Process) -> u64 {
    let mut hash = Fnv::default();
    let mut key = |name: &str, values: &mut dyn Iterator<Item = String>| {
        for value in values {
            hash.write(name.as_bytes());
            hash.write(&[0]);
            hash.write(value.as_bytes());
            hash.write(&[1]);
        }
    };
    let p = process;
    key("command", &mut p.command.iter().cloned());
    key("env", &mut p.env.iter().map(|(name, value)| format!("{name}={value}")));
    key(
        "env-file",
        &mut p.env_files.iter().map(|f| format!("{} {}", f.optional, f.path.display())),
    );
    key("directory", &mut std::iter::once(p.directory.display().to_string()));
    key("user", &mut p.user.iter().map(|u| format!("{} {} {:?}", u.uid, u.gid, u.groups)));
    key("capabilities", &mut p.capabilities.iter().map(u64::to_string));
    key("no-new-privileges", &mut flag(p.no_new_privileges));
    key("read-only-path", &mut p.read_only_paths.iter().map(|path| path.display().to_string()));
    key("umask", &mut p.umask.iter().map(u32::to_string));
    key(
        "limit",
        &mut p.limits.iter().map(|(number, (soft, hard))| format!("{number} {soft} {hard}")),
    );
    key("nice", &mut p.nice.iter().map(i32::to_string));
    key("oom-score-adj", &mut p.oom_score_adj.iter().map(i32::to_string));
    key("memory", &mut p.cgroup.memory.iter().map(u64::to_string));
    key("pids", &mut p.cgroup.pids.iter().map(u64::to_string));
    key("cpu", &mut p.cgroup.cpu_percent.iter().map(u32::to_string));
    key(
        "socket",
        &mut p.sockets.iter().map(|s| format!("{} {} {}", s.name, s.mode, listen(&s.listen))),
    );
    key("readiness", &mut readiness(&p.readiness.kind).into_iter());
    key("readiness-timeout", &mut p.readiness.timeout.iter().map(|t| t.as_millis().to_string()));
    key("fd-store", &mut Some(p.fd_store).filter(|count| *count > 0).iter().map(u32::to_string));
    key("oneshot", &mut flag(p.oneshot));
    key("watchdog", &mut p.watchdog.iter().map(|period| period.as_millis().to_string()));
    key("app-id", &mut p.app_id.iter().map(i32::to_string));
    key("stdout", &mut flag(p.stdout));
    key("stderr", &mut flag(p.stderr));
    key("pidfile", &mut p.pidfile.iter().map(|path| path.display().to_string()));
    hash.finish()
}

/// A hash of what the process was made with besides its definition: procd's `file` and `netdev`, whose contents and indices
/// are looked at whenever a definition is read. It is not part of [`fingerprint`], because the next supervisor reads the
/// remembered definitions again and sees today's contents: that alone must not restart what runs. So a take-over compares
/// only the fingerprint, and a message of today (`service set`) compares both with what the process was made from.
#[must_use]
pub(crate) fn inputs(process: &Process) -> u64 {
    let mut hash = Fnv::default();
    for (path, content) in &process.files {
        hash.write(path.as_os_str().as_encoded_bytes());
        hash.write(&[0]);
        hash.write(content);
    }
    for (device, index) in &process.netdevs {
        hash.write(device.as_bytes());
        hash.write(&[0]);
        hash.write(&index.to_le_bytes());
    }
    hash.finish()
}

fn flag(set: bool) -> impl Iterator<Item = String> {
    set.then(|| "true".to_owned()).into_iter()
}

fn listen(listen: &Listen) -> String {
    match listen {
        Listen::Unix { path, kind } => {
            let kind = match kind {
                UnixKind::Stream => "stream",
                UnixKind::Datagram => "datagram",
                UnixKind::SeqPacket => "seqpacket",
            };
            format!("unix {kind} {}", path.display())
        }
        Listen::Tcp(address) => format!("tcp {address}"),
        Listen::Udp(address) => format!("udp {address}"),
    }
}

fn readiness(kind: &ReadinessKind) -> Option<String> {
    match kind {
        ReadinessKind::Exec => None,
        ReadinessKind::Notify => Some("notify".to_owned()),
        ReadinessKind::Fd(fd) => Some(format!("fd {fd}")),
        ReadinessKind::Tcp(address) => Some(format!("tcp {address}")),
        ReadinessKind::Unix(path) => Some(format!("unix {}", path.display())),
        ReadinessKind::Object(object) => Some(format!("object {object}")),
        ReadinessKind::Command(command) => Some(format!("command {}", command.join("\0"))),
    }
}

struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(OFFSET)
    }
}

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(PRIME);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_the_published_hash() {
        // FNV-1a's own test vector for "foobar", fed in two writes.
        let mut hash = Fnv::default();
        hash.write(b"foo");
        hash.write(b"bar");
        assert_eq!(hash.finish(), 0x8594_4171_f739_67e8);
        let name = |text: &str| Name::new(text).unwrap();
        assert_ne!(identity(&name("ab"), &name("c")), identity(&name("a"), &name("bc")));
    }

    #[test]
    fn a_fingerprint_changes_with_what_restarts_a_process() {
        let plain = Process { command: vec!["/bin/a".to_owned()], ..Process::default() };
        let louder = Process { stdout: true, ..plain.clone() };
        let longer =
            Process { command: vec!["/bin/a".to_owned(), "b".to_owned()], ..plain.clone() };
        assert_eq!(fingerprint(&plain), fingerprint(&plain.clone()));
        assert_ne!(fingerprint(&plain), fingerprint(&louder));
        assert_ne!(fingerprint(&plain), fingerprint(&longer));
    }
}
