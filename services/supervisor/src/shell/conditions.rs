//! Whether a service's conditions hold, looked at when it is to be started.

use std::{fs, path::Path};

use crate::settings::Condition;

/// `Err` names the first condition that does not hold.
pub(crate) fn check(conditions: &[Condition]) -> Result<(), String> {
    conditions.iter().try_for_each(|condition| {
        let (holds, negate, text) = match condition {
            Condition::PathExists { path, negate } => {
                (path.exists(), *negate, format!("path {}", path.display()))
            }
            Condition::KernelArgument { argument, negate } => {
                let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
                (has_argument(&line, argument), *negate, format!("kernel argument {argument:?}"))
            }
            Condition::Virtualization { kind, negate } => {
                (virtualization().matches(kind), *negate, format!("virtualization {kind:?}"))
            }
        };
        match (holds, negate) {
            (true, false) | (false, true) => Ok(()),
            (false, false) => Err(format!("{text} is not there")),
            (true, true) => Err(format!("{text} is there")),
        }
    })
}

/// `name` holds for `name` and `name=...`, `name=value` only for just that.
fn has_argument(line: &str, wanted: &str) -> bool {
    line.split_whitespace().any(|argument| {
        argument == wanted
            || argument.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('='))
    })
}

/// What the machine runs in, as far as it can be told without privileges.
#[derive(Debug, PartialEq)]
enum Virtualization {
    None,
    Machine(String),
    Container(String),
}

impl Virtualization {
    fn matches(&self, wanted: &str) -> bool {
        match self {
            Self::None => wanted == "none",
            Self::Machine(name) => wanted == "vm" || wanted == name,
            Self::Container(name) => wanted == "container" || wanted == name,
        }
    }
}

/// A container says so in PID 1's environment or in `/run`; a virtual machine by its DMI vendor or the processor's flag.
fn virtualization() -> Virtualization {
    let container = ["/run/systemd/container", "/run/container"]
        .iter()
        .find_map(|path| fs::read_to_string(path).ok())
        .or_else(|| std::env::var("container").ok())
        .or_else(|| Path::new("/.dockerenv").exists().then(|| "docker".to_owned()))
        .or_else(|| Path::new("/run/.containerenv").exists().then(|| "podman".to_owned()));
    if let Some(name) = container {
        return Virtualization::Container(name.trim().to_owned());
    }
    let vendor = fs::read_to_string("/sys/class/dmi/id/sys_vendor").unwrap_or_default();
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    match machine(&vendor, &flags) {
        Some(name) => Virtualization::Machine(name.to_owned()),
        None => Virtualization::None,
    }
}

fn machine(vendor: &str, cpuinfo: &str) -> Option<&'static str> {
    let vendors = [
        ("QEMU", "qemu"),
        ("KVM", "kvm"),
        ("Amazon EC2", "amazon"),
        ("VMware", "vmware"),
        ("innotek GmbH", "oracle"),
        ("Xen", "xen"),
        ("Microsoft Corporation", "microsoft"),
        ("Google", "google"),
    ];
    let known = vendors.iter().find(|(text, _)| vendor.starts_with(text)).map(|(_, name)| *name);
    let hypervisor = cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| line.split_whitespace().any(|flag| flag == "hypervisor"));
    known.or(hypervisor.then_some("vm-other"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_does_not_hold_is_named() {
        let path = |path: &str, negate| Condition::PathExists { path: path.into(), negate };
        assert_eq!(check(&[path("/", false), path("/no/such", true)]), Ok(()));
        assert_eq!(check(&[path("/no/such", false)]), Err("path /no/such is not there".to_owned()));
        assert_eq!(check(&[path("/", true)]), Err("path / is there".to_owned()));
    }

    #[test]
    fn a_kernel_argument_matches_with_and_without_a_value() {
        assert!(has_argument("quiet root=/dev/sda ro", "root"));
        assert!(has_argument("quiet root=/dev/sda ro", "root=/dev/sda"));
        assert!(!has_argument("quiet rootwait", "root"));
    }

    #[test]
    fn a_hypervisor_is_seen_without_a_known_vendor() {
        assert_eq!(machine("QEMU\n", ""), Some("qemu"));
        assert_eq!(machine("ACME", "flags : fpu hypervisor sse"), Some("vm-other"));
        assert_eq!(machine("ACME", "flags : fpu"), None);
    }
}
